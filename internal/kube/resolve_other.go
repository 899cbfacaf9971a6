package kube

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/alertmedic/alertmedic/internal/action"
)

func groupOf(apiVersion string) string {
	gv, err := schema.ParseGroupVersion(apiVersion)
	if err != nil {
		return ""
	}
	return gv.Group
}

// node resolves a playbook's kind Node. Namespace, pod, container and instance
// of an exporter of cluster state are never looked at.
func (v *resolver) node(ctx context.Context) (Resolved, *ResolveError) {
	name, label, byAddress := v.r.Name, "target.name", false
	if name == "" {
		name, label, byAddress = v.l.nodeName()
		label = "label " + label
	}
	if name == "" {
		return Resolved{}, refuse(MissingLabel, "the alert has no node label, nor the instance of a kubelet or node-exporter; keep node in the rule's expression, or set target.name in the playbook")
	}
	object, err := v.readNode(ctx, name, label, byAddress)
	if err != nil {
		return Resolved{}, err
	}
	ref := refOf(object)
	target := action.Target{Ref: ref, Top: ref, NodePool: nodePool(object.GetLabels()), Zone: nodeZone(object.GetLabels())}
	v.podOnNode(ctx, object.GetName(), &target)
	return Resolved{Target: target, Object: object}, nil
}

func (v *resolver) readNode(ctx context.Context, name, label string, byAddress bool) (*unstructured.Unstructured, *ResolveError) {
	if net.ParseIP(name) == nil {
		if err := v.valid(action.KindNode, name, label); err != nil {
			return nil, err
		}
		object, err := v.c.get(ctx, action.KindNode, "", name)
		if err == nil {
			v.note("%s names %s", label, refOf(object))
			return object, nil
		}
		if !apierrors.IsNotFound(err) || (!byAddress && label != "label nodename") {
			return nil, v.failed(ctx, err, action.KindNode, "", name)
		}
	}
	nodes, err := v.c.own.dynamic.Resource(resources[action.KindNode]).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, v.failed(ctx, err, action.KindNode, "", "")
	}
	var found []*unstructured.Unstructured
	for i := range nodes.Items {
		if hasAddress(&nodes.Items[i], name) {
			found = append(found, &nodes.Items[i])
		}
	}
	switch len(found) {
	case 0:
		return nil, refuse(Gone, "%s: no node has the address %s", label, name)
	case 1:
		v.note("%s is an address of %s", label, refOf(found[0]))
		return found[0], nil
	}
	return nil, refuse(Ambiguous, "%s: nodes %s and %s both have the address %s", label, found[0].GetName(), found[1].GetName(), name)
}

func hasAddress(node *unstructured.Unstructured, address string) bool {
	addresses, _, _ := unstructured.NestedSlice(node.Object, "status", "addresses")
	return slices.ContainsFunc(addresses, func(a any) bool {
		m, ok := a.(map[string]any)
		return ok && m["address"] == address
	})
}

// podOnNode fills in the pod that a cAdvisor alert names, when it really runs
// on the node. The target does not depend on it, so failures are only noted.
func (v *resolver) podOnNode(ctx context.Context, node string, target *action.Target) {
	if !v.l.kubelet() || v.l.pod() == "" || v.l.namespace() == "" ||
		validName(action.KindPod, v.l.pod()) != "" || validName("Namespace", v.l.namespace()) != "" {
		return
	}
	object, err := v.c.get(ctx, action.KindPod, v.l.namespace(), v.l.pod())
	if err != nil {
		v.note("the alert's pod is left out: %v", err)
		return
	}
	if on, _, _ := unstructured.NestedString(object.Object, "spec", "nodeName"); on != node {
		v.note("the alert's pod is left out: it runs on node %q", on)
		return
	}
	ref := refOf(object)
	target.Pod = &ref
	target.Container = v.containerOf(object)
}

// service resolves a playbook's kind Service.
func (v *resolver) service(ctx context.Context) (Resolved, *ResolveError) {
	namespace, err := v.namespace()
	if err != nil {
		return Resolved{}, err
	}
	name, label := v.r.Name, "target.name"
	if name == "" {
		name, label = v.l.service()
		label = "label " + label
	}
	if name != "" {
		return v.itself(v.read(ctx, action.KindService, namespace, name, label))
	}
	if v.l.pod() == "" {
		return Resolved{}, refuse(MissingLabel, "the alert has no label that names a service (service, or endpoint of kube-state-metrics; that of a kubelet or an exporter does not count); keep it in the rule's expression, or set target.name in the playbook")
	}
	pod, err := v.read(ctx, action.KindPod, namespace, v.l.pod(), "label pod")
	if err != nil {
		return Resolved{}, err
	}
	services, listErr := v.c.own.dynamic.Resource(resources[action.KindService]).Namespace(namespace).List(ctx, metav1.ListOptions{})
	if listErr != nil {
		return Resolved{}, v.failed(ctx, listErr, action.KindService, namespace, "")
	}
	return v.itself(v.only("service that selects "+refOf(pod).String(), services, func(s *unstructured.Unstructured) bool {
		selector, ok := selectorOf(s)
		return ok && selector.Matches(labels.Set(pod.GetLabels()))
	}))
}

// only picks the one object of a list that matches.
func (v *resolver) only(what string, list *unstructured.UnstructuredList, match func(*unstructured.Unstructured) bool) (*unstructured.Unstructured, *ResolveError) {
	var found []*unstructured.Unstructured
	var names []string
	for i := range list.Items {
		if match(&list.Items[i]) {
			found = append(found, &list.Items[i])
			names = append(names, list.Items[i].GetName())
		}
	}
	switch len(found) {
	case 0:
		return nil, refuse(Gone, "there is no %s", what)
	case 1:
		v.note("%s is the only %s", refOf(found[0]), what)
		return found[0], nil
	}
	return nil, refuse(Ambiguous, "there is more than one %s: %s; set target.name in the playbook", what, strings.Join(names, ", "))
}

func (v *resolver) itself(object *unstructured.Unstructured, err *ResolveError) (Resolved, *ResolveError) {
	if err != nil {
		return Resolved{}, err
	}
	ref := refOf(object)
	return Resolved{Target: action.Target{Ref: ref, Top: ref}, Object: object}, nil
}

// claim resolves a playbook's kind PersistentVolumeClaim. Its top controller is
// that of the pods that mount it, so that it shares their lock.
func (v *resolver) claim(ctx context.Context) (Resolved, *ResolveError) {
	namespace, err := v.namespace()
	if err != nil {
		return Resolved{}, err
	}
	name, label := v.r.Name, "target.name"
	if name == "" {
		name, label = v.l.value("persistentvolumeclaim"), "label persistentvolumeclaim"
	}
	if name == "" {
		return Resolved{}, refuse(MissingLabel, "the alert has no persistentvolumeclaim label; keep it in the rule's expression, or set target.name in the playbook")
	}
	out, err := v.itself(v.read(ctx, action.KindPersistentVolumeClaim, namespace, name, label))
	if err != nil {
		return Resolved{}, err
	}
	owners, listErr := v.c.ownersOfPods(ctx, namespace, mounts(name))
	if listErr != nil && !errors.Is(listErr, errTooMany) {
		return Resolved{}, v.failed(ctx, listErr, action.KindPod, namespace, "")
	}
	if len(owners) == 1 {
		out.Target.Top = owners[0].top()
	} else {
		v.note("not exactly one controller mounts the claim: it is locked by itself")
	}
	return out, nil
}

func (v *resolver) autoscalerName() string {
	if name := v.l.value("horizontalpodautoscaler"); name != "" {
		return name
	}
	return v.l.value("hpa")
}

// autoscaler resolves a playbook's kind HorizontalPodAutoscaler. Its top
// controller is that of what it scales, so that it shares its lock.
func (v *resolver) autoscaler(ctx context.Context) (Resolved, *ResolveError) {
	namespace, err := v.namespace()
	if err != nil {
		return Resolved{}, err
	}
	var out Resolved
	name, label := v.r.Name, "target.name"
	if name == "" {
		name, label = v.autoscalerName(), "label horizontalpodautoscaler"
	}
	if name != "" {
		out, err = v.itself(v.read(ctx, action.KindHPA, namespace, name, label))
	} else {
		out, err = v.autoscalerOfWorkload(ctx, namespace)
	}
	if err != nil {
		return Resolved{}, err
	}
	scaled := scaledBy(out.Object)
	if !readable(scaled) || validName(scaled.Kind, scaled.Name) != "" {
		out.Target.Top = scaled
		return out, nil
	}
	workload, getErr := v.c.get(ctx, scaled.Kind, namespace, scaled.Name)
	if apierrors.IsNotFound(getErr) {
		out.Target.Top = scaled
		return out, nil
	}
	if getErr != nil {
		return Resolved{}, v.failed(ctx, getErr, scaled.Kind, namespace, scaled.Name)
	}
	owners, err := v.walk(ctx, workload)
	if err != nil {
		return Resolved{}, err
	}
	out.Target.Top = owners.top()
	return out, nil
}

// autoscalerOfWorkload finds the one autoscaler of the workload that the labels name.
func (v *resolver) autoscalerOfWorkload(ctx context.Context, namespace string) (Resolved, *ResolveError) {
	hints := v.l.hints()
	if len(hints) != 1 {
		return Resolved{}, refuse(MissingLabel, "the alert has no horizontalpodautoscaler label, nor one label that names a workload; keep it in the rule's expression, or set target.name in the playbook")
	}
	h := hints[0]
	list, err := v.c.own.dynamic.Resource(resources[action.KindHPA]).Namespace(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return Resolved{}, v.failed(ctx, err, action.KindHPA, namespace, "")
	}
	return v.itself(v.only("autoscaler of "+string(h.kind)+" "+h.name, list, func(o *unstructured.Unstructured) bool {
		scaled := scaledBy(o)
		return scaled.Kind == h.kind && scaled.Name == h.name && readable(scaled)
	}))
}
