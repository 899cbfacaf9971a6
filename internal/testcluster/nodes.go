package testcluster

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// NodeOptions describe a node to add; the zero value is a roomy worker.
type NodeOptions struct {
	// Name is node-<random> when empty.
	Name string
	// Zone sets topology.kubernetes.io/zone.
	Zone string
	// Labels, Annotations and Taints are added as they are.
	Labels, Annotations map[string]string
	Taints              []corev1.Taint
	// Capacity replaces 32 cores, 256 GiB and 110 pods.
	Capacity corev1.ResourceList
	// Shared leaves the node open to every pod. Without it a node made by
	// [Cluster.Node] carries the taint medic-test/owner, so that on a shared
	// cluster no other test's pods land on a node that is about to break.
	Shared bool
}

// AddNode creates a node and waits until it is Ready.
func (c *Cluster) AddNode(ctx context.Context, opts NodeOptions) (*corev1.Node, error) {
	if opts.Name == "" {
		opts.Name = "node-" + randomSuffix()
	}
	node := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{
			Name:        opts.Name,
			Labels:      map[string]string{corev1.LabelHostname: opts.Name, corev1.LabelOSStable: "linux", corev1.LabelArchStable: "amd64"},
			Annotations: opts.Annotations,
		},
		Spec: corev1.NodeSpec{Taints: opts.Taints},
	}
	if opts.Zone != "" {
		node.Labels[corev1.LabelTopologyZone] = opts.Zone
	}
	for k, v := range opts.Labels {
		node.Labels[k] = v
	}
	if opts.Capacity != nil {
		capacity := corev1.ResourceList{corev1.ResourcePods: resource.MustParse("110")}
		for k, v := range opts.Capacity {
			capacity[k] = v
		}
		node.Status.Capacity, node.Status.Allocatable = capacity, capacity
	}
	created, err := c.client.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{})
	if err != nil {
		return nil, fmt.Errorf("add a node: %w", err)
	}
	if err := c.WaitNode(ctx, created.Name, func(n *corev1.Node) bool {
		return NodeReady(n) == corev1.ConditionTrue && !tainted(n, corev1.TaintNodeNotReady)
	}); err != nil {
		return nil, err
	}
	return c.client.CoreV1().Nodes().Get(ctx, created.Name, metav1.GetOptions{})
}

func tainted(n *corev1.Node, key string) bool {
	for _, taint := range n.Spec.Taints {
		if taint.Key == key {
			return true
		}
	}
	return false
}

// OwnerLabel is the key of the label and, unless Shared, the taint of a node
// made by [Cluster.Node]; its value is the node's name.
const OwnerLabel = "medic-test/owner"

// Node adds a node for the test alone and removes it, with its pods, at the
// end. A pod runs there when it has [OnNode]'s selector and toleration.
func (c *Cluster) Node(t testing.TB, opts NodeOptions) *corev1.Node {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if opts.Name == "" {
		opts.Name = "node-" + randomSuffix()
	}
	if !opts.Shared {
		labels := map[string]string{OwnerLabel: opts.Name}
		for k, v := range opts.Labels {
			labels[k] = v
		}
		opts.Labels = labels
		opts.Taints = append([]corev1.Taint{{Key: OwnerLabel, Value: labels[OwnerLabel], Effect: corev1.TaintEffectNoSchedule}}, opts.Taints...)
	}
	node, err := c.AddNode(ctx, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := c.RemoveNode(ctx, node.Name); err != nil {
			t.Errorf("remove node %s: %v", node.Name, err)
		}
	})
	return node
}

// OnNode binds a pod template to the nodes whose OwnerLabel has the value,
// usually the name of a node made by [Cluster.Node].
func OnNode(spec *corev1.PodSpec, owner string) {
	if spec.NodeSelector == nil {
		spec.NodeSelector = map[string]string{}
	}
	spec.NodeSelector[OwnerLabel] = owner
	spec.Tolerations = append(spec.Tolerations, corev1.Toleration{Key: OwnerLabel, Operator: corev1.TolerationOpEqual, Value: owner, Effect: corev1.TaintEffectNoSchedule})
}

// RemoveNode deletes the node and, at once, every pod on it, as if the machine
// were gone and its provider had said so. An absent node is no error.
func (c *Cluster) RemoveNode(ctx context.Context, name string) error {
	if err := c.client.CoreV1().Nodes().Delete(ctx, name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	now := int64(0)
	pods, err := c.client.CoreV1().Pods("").List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=" + name})
	if err != nil {
		return err
	}
	for _, pod := range pods.Items {
		err := c.client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{
			GracePeriodSeconds: &now, Preconditions: metav1.NewUIDPreconditions(string(pod.UID)),
		})
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			return err
		}
	}
	return nil
}

// annotate sets one annotation or label; an empty value removes it.
func (c *Cluster) annotate(ctx context.Context, resource, namespace, name, field, key, value string) error {
	var v any = value
	if value == "" {
		v = nil
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{field: map[string]any{key: v}}})
	if err != nil {
		return err
	}
	request := c.client.CoreV1().RESTClient().Patch(types.MergePatchType).Resource(resource).Name(name).Body(patch)
	if namespace != "" {
		request = request.Namespace(namespace)
	}
	if err := request.Do(ctx).Error(); err != nil {
		return fmt.Errorf("%s of %s %s: %w", field, resource, strings.TrimPrefix(namespace+"/"+name, "/"), err)
	}
	return nil
}
