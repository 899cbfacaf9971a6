package kube

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/alertmedic/alertmedic/internal/action"
)

// neighbours reads what the pods of a node belong to. One by one these are two
// requests for each workload, and a node may have pods of a hundred: more than the
// limit of requests allows in the time that evidence may take. So a kind of which
// several are asked for in a namespace is listed there, and the namespaces are
// listed once. Only metadata is fetched by a list, which is all that opting out
// needs.
//
// It is for one gathering, and not safe for concurrent use.
type neighbours struct {
	c       *Client
	several map[place]bool
	asked   map[place]bool
	lists   map[place]map[string]*unstructured.Unstructured
}

// place is a kind in a namespace.
type place struct {
	kind      action.Kind
	namespace string
}

// kindNamespace is read, and never a target.
const kindNamespace action.Kind = "Namespace"

func newNeighbours(c *Client, pods []corev1.Pod) *neighbours {
	n := &neighbours{c: c, several: map[place]bool{}, asked: map[place]bool{}, lists: map[place]map[string]*unstructured.Unstructured{}}
	first := map[place]string{}
	note := func(at place, name string) {
		if other, ok := first[at]; ok && other != name {
			n.several[at] = true
		}
		first[at] = name
	}
	for i := range pods {
		note(place{kind: kindNamespace}, pods[i].Namespace)
		if owner, ok := controllerOf(&pods[i]); ok && readable(owner) {
			note(place{owner.Kind, owner.Namespace}, owner.Name)
		}
	}
	return n
}

// get is a getter. A second object of a kind in a namespace, such as the
// Deployments of several ReplicaSets, tells of more.
func (n *neighbours) get(ctx context.Context, kind action.Kind, namespace, name string) (*unstructured.Unstructured, error) {
	at := place{kind, namespace}
	gvr, ok := Resource(kind)
	above := kind == action.KindDeployment && n.several[place{action.KindReplicaSet, namespace}]
	if !ok || namespace == "" || !n.several[at] && !n.asked[at] && !above {
		n.asked[at] = true
		return n.c.get(ctx, kind, namespace, name)
	}
	return n.listed(ctx, at, gvr, name)
}

// namespace reads one namespace.
func (n *neighbours) namespace(ctx context.Context, name string) (metav1.Object, error) {
	at := place{kind: kindNamespace}
	if !n.several[at] {
		return n.c.namespace(ctx, name)
	}
	return n.listed(ctx, at, schema.GroupVersionResource{Version: "v1", Resource: "namespaces"}, name)
}

func (n *neighbours) listed(ctx context.Context, at place, gvr schema.GroupVersionResource, name string) (*unstructured.Unstructured, error) {
	objects, ok := n.lists[at]
	if !ok {
		list, err := n.c.own.metadata.Resource(gvr).Namespace(at.namespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			return nil, err
		}
		objects = make(map[string]*unstructured.Unstructured, len(list.Items))
		for i := range list.Items {
			meta := &list.Items[i]
			object := &unstructured.Unstructured{}
			object.SetGroupVersionKind(gvr.GroupVersion().WithKind(string(at.kind)))
			object.SetNamespace(meta.Namespace)
			object.SetName(meta.Name)
			object.SetUID(meta.UID)
			object.SetAnnotations(meta.Annotations)
			object.SetOwnerReferences(meta.OwnerReferences)
			objects[meta.Name] = object
		}
		n.lists[at] = objects
	}
	object, ok := objects[name]
	if !ok {
		return nil, apierrors.NewNotFound(gvr.GroupResource(), name)
	}
	return object, nil
}
