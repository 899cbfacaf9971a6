package kube

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/alertmedic/alertmedic/internal/action"
)

// kindCronJob is no target, but it is the top controller of its Jobs.
const kindCronJob action.Kind = "CronJob"

// resources are the kinds that this package reads.
var resources = map[action.Kind]schema.GroupVersionResource{
	action.KindPod:                   {Version: "v1", Resource: "pods"},
	action.KindNode:                  {Version: "v1", Resource: "nodes"},
	action.KindService:               {Version: "v1", Resource: "services"},
	action.KindPersistentVolumeClaim: {Version: "v1", Resource: "persistentvolumeclaims"},
	action.KindDeployment:            {Group: "apps", Version: "v1", Resource: "deployments"},
	action.KindStatefulSet:           {Group: "apps", Version: "v1", Resource: "statefulsets"},
	action.KindDaemonSet:             {Group: "apps", Version: "v1", Resource: "daemonsets"},
	action.KindReplicaSet:            {Group: "apps", Version: "v1", Resource: "replicasets"},
	action.KindJob:                   {Group: "batch", Version: "v1", Resource: "jobs"},
	kindCronJob:                      {Group: "batch", Version: "v1", Resource: "cronjobs"},
	action.KindHPA:                   {Group: "autoscaling", Version: "v2", Resource: "horizontalpodautoscalers"},
}

// Resource returns the resource that holds live objects of the kind, false for
// a kind that this package does not read.
func Resource(kind action.Kind) (schema.GroupVersionResource, bool) {
	gvr, ok := resources[kind]
	return gvr, ok
}

// readable reports whether ref is of a kind, and of its right group, that this
// package reads: a custom resource may be called Deployment too.
func readable(ref action.Ref) bool {
	gvr, ok := resources[ref.Kind]
	return ok && gvr.Group == ref.Group
}

// get reads one object as alertmedic's own identity. The error is the API's.
func (c *Client) get(ctx context.Context, kind action.Kind, namespace, name string) (*unstructured.Unstructured, error) {
	gvr, ok := resources[kind]
	if !ok {
		return nil, fmt.Errorf("kind %q is not one that alertmedic reads", kind)
	}
	if name == "" || (namespace == "" && kind != action.KindNode) {
		// An empty name would list; an empty namespace would mean all of them.
		return nil, fmt.Errorf("a %s needs a name and its namespace, got %q in %q", kind, name, namespace)
	}
	if kind == action.KindNode {
		return c.own.dynamic.Resource(gvr).Get(ctx, name, metav1.GetOptions{})
	}
	return c.own.dynamic.Resource(gvr).Namespace(namespace).Get(ctx, name, metav1.GetOptions{})
}

func refOf(object *unstructured.Unstructured) action.Ref {
	gvk := object.GroupVersionKind()
	return action.Ref{
		Group: gvk.Group, Kind: action.Kind(gvk.Kind),
		Namespace: object.GetNamespace(), Name: object.GetName(), UID: string(object.GetUID()),
	}
}

// controllerOf returns the reference to the object's controller.
func controllerOf(object metav1.Object) (action.Ref, bool) {
	owner := metav1.GetControllerOfNoCopy(object)
	if owner == nil {
		return action.Ref{}, false
	}
	gv, err := schema.ParseGroupVersion(owner.APIVersion)
	if err != nil {
		return action.Ref{}, false
	}
	ref := action.Ref{
		Group: gv.Group, Kind: action.Kind(owner.Kind),
		Namespace: object.GetNamespace(), Name: owner.Name, UID: string(owner.UID),
	}
	if ref.Kind == action.KindNode && ref.Group == "" {
		ref.Namespace = "" // a static pod's mirror belongs to its node
	}
	return ref, true
}

// typed converts a raw object to its typed form.
func typed[T any](object *unstructured.Unstructured) (*T, error) {
	out := new(T)
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(object.Object, out); err != nil {
		return nil, fmt.Errorf("%s %s/%s: %w", object.GetKind(), object.GetNamespace(), object.GetName(), err)
	}
	return out, nil
}

// poolLabels name a node's pool, the first that is set winning.
var poolLabels = []string{
	"alertmedic.io/node-pool",
	"karpenter.sh/nodepool",
	"cloud.google.com/gke-nodepool",
	"eks.amazonaws.com/nodegroup",
	"kubernetes.azure.com/agentpool",
	"node.kubernetes.io/node-pool",
	"node.kubernetes.io/pool",
}

func nodePool(labels map[string]string) string {
	for _, l := range poolLabels {
		if labels[l] != "" {
			return labels[l]
		}
	}
	return ""
}

func nodeZone(labels map[string]string) string {
	if zone := labels[corev1.LabelTopologyZone]; zone != "" {
		return zone
	}
	return labels[corev1.LabelFailureDomainBetaZone]
}
