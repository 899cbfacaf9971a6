package kube

import (
	"context"
	"errors"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/alertmedic/alertmedic/internal/action"
)

// DefaultProtectedPods selects the pods whose nodes are protected when
// ProtectConfig names none: what alertmedic needs to see and to remember.
const DefaultProtectedPods = "app.kubernetes.io/name in (prometheus, alertmanager, alertmedic, postgresql)"

// ProtectConfig says what is never touched.
type ProtectConfig struct {
	// Namespaces are protected; nil means kube-system.
	Namespaces []string
	// Named are protected namespaces that the playbook names explicitly, which
	// lifts their protection; control-plane pods stay protected.
	Named []string
	// PodSelectors are label selectors of pods, in any namespace, that protect
	// the node they run on; nil means DefaultProtectedPods.
	PodSelectors []string
	// ControlPlane lets nodes of the control plane pass, for the guard that knows
	// about their quorum.
	ControlPlane bool
	// NodeSelectors are label selectors of further protected nodes.
	NodeSelectors []string
}

// Validate checks the selectors, all of them.
func (p ProtectConfig) Validate() error {
	_, podErr := selectors(p.PodSelectors)
	_, nodeErr := selectors(p.NodeSelectors)
	return errors.Join(podErr, nodeErr)
}

func selectors(texts []string) ([]labels.Selector, error) {
	var out []labels.Selector
	var problems []error
	for _, text := range texts {
		selector, err := labels.Parse(text)
		switch {
		case err != nil:
			problems = append(problems, fmt.Errorf("label selector %q: %w", text, err))
		case selector.Empty():
			problems = append(problems, fmt.Errorf("label selector %q is empty and would protect everything", text))
		default:
			out = append(out, selector)
		}
	}
	return out, errors.Join(problems...)
}

// controlPlaneKeys mark a node of the control plane, as label or taint.
var controlPlaneKeys = []string{"node-role.kubernetes.io/control-plane", "node-role.kubernetes.io/master"}

// controlPlanePod is what kubeadm and its kind put on their static pods.
const controlPlanePod = "tier=control-plane"

func (g *gathering) protection(ctx context.Context, object, pod *unstructured.Unstructured, owners chain) {
	if g.r.Target.Kind == action.KindNode {
		g.out.Target.Protected = g.protectedNode(ctx, object)
		return
	}
	g.out.Target.Protected = g.protectedObject(pod, owners)
}

// protectedObject says why an object in a namespace is protected.
func (g *gathering) protectedObject(pod *unstructured.Unstructured, owners chain) string {
	namespace, self := g.r.Target.Namespace, g.c.options.Self
	protected := g.r.Protect.Namespaces
	if protected == nil {
		protected = []string{metav1.NamespaceSystem}
	}
	switch {
	case self.Namespace != "" && namespace == self.Namespace:
		return "alertmedic's own namespace " + namespace
	case slices.Contains(protected, namespace) && !slices.Contains(g.r.Protect.Named, namespace):
		return "namespace " + namespace + " is protected unless the playbook names it"
	case pod != nil && mirror(pod) && pod.GetLabels()["tier"] == "control-plane":
		return "pod " + pod.GetName() + " is part of the control plane"
	case owners.top().Kind == action.KindNode:
		return "pod " + g.r.Target.Name + " is a static pod of its node: the API server cannot restart it"
	}
	return ""
}

func mirror(pod *unstructured.Unstructured) bool {
	_, ok := pod.GetAnnotations()[corev1.MirrorPodAnnotationKey]
	return ok
}

// protectedNode says why a node is protected: by itself, or by what runs on it.
func (g *gathering) protectedNode(ctx context.Context, object *unstructured.Unstructured) string {
	node, err := typed[corev1.Node](object)
	if err != nil {
		g.fail("reading node "+object.GetName(), err)
		return ""
	}
	nodeSelectors, err := selectors(g.r.Protect.NodeSelectors)
	if err != nil {
		g.fail("protected nodes", err)
	}
	controlPlane := g.r.Protect.ControlPlane && controlPlaneMark(node) != ""
	if why := protectedByItself(node, nodeSelectors, g.c.options.Self); why != "" && (!controlPlane || why != ofControlPlane(node)) {
		return why
	}
	texts := g.r.Protect.PodSelectors
	if texts == nil {
		texts = []string{DefaultProtectedPods}
	}
	texts = slices.Clone(texts)
	if !controlPlane {
		texts = append(texts, controlPlanePod)
	}
	podSelectors, err := selectors(texts)
	if err != nil {
		g.fail("protected pods", err)
	}
	pods, err := g.c.own.typed.CoreV1().Pods(metav1.NamespaceAll).List(ctx, metav1.ListOptions{
		FieldSelector: fields.OneTermEqualSelector("spec.nodeName", node.Name).String(),
	})
	if err != nil {
		g.fail("listing the pods on node "+node.Name, err)
		return ""
	}
	return protectedByPods(node.Name, pods.Items, podSelectors, g.c.options.Self)
}

func protectedByItself(node *corev1.Node, nodeSelectors []labels.Selector, self Self) string {
	if self.Node != "" && node.Name == self.Node {
		return "alertmedic runs on node " + node.Name
	}
	if controlPlaneMark(node) != "" {
		return ofControlPlane(node)
	}
	for _, selector := range nodeSelectors {
		if selector.Matches(labels.Set(node.Labels)) {
			return "node " + node.Name + " is protected by selector " + selector.String()
		}
	}
	return ""
}

func ofControlPlane(node *corev1.Node) string {
	return "node " + node.Name + " is of the control plane: " + controlPlaneMark(node)
}

func protectedByPods(node string, pods []corev1.Pod, podSelectors []labels.Selector, self Self) string {
	for i := range pods {
		pod := &pods[i]
		if ended(pod) {
			continue
		}
		if self.Pod != "" && pod.Namespace == self.Namespace && pod.Name == self.Pod {
			return "alertmedic runs on node " + node
		}
		for _, selector := range podSelectors {
			if selector.Matches(labels.Set(pod.Labels)) {
				return "node " + node + " hosts pod " + pod.Namespace + "/" + pod.Name + ", which is protected by selector " + selector.String()
			}
		}
	}
	return ""
}
