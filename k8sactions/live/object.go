// Package live reads live objects and changes them under preconditions: never
// an object of another UID, never a field whose value is not the one that the
// plan was made from, never a field that someone else has taken.
package live

import (
	"context"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"

	"github.com/alertmedic/alertmedic/internal/action"
	"github.com/alertmedic/alertmedic/internal/kube"
	"github.com/alertmedic/alertmedic/k8sactions/contract"
)

// resources maps the kinds that actions know to their API.
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
	action.KindHPA:                   {Group: "autoscaling", Version: "v2", Resource: "horizontalpodautoscalers"},
}

// Client returns the client of the kind's objects in the namespace ("" for
// those outside namespaces). Objects are read without a Go type so that fields
// newer than this program survive a comparison and a rollback.
func Client(s contract.Session, kind action.Kind, namespace string) (dynamic.ResourceInterface, error) {
	gvr, ok := resources[kind]
	if !ok {
		return nil, action.Errorf(action.ReasonUnsupported, "objects of kind %s are not known to this action", kind)
	}
	client := s.Dynamic().Resource(gvr)
	if namespace == "" {
		return client, nil
	}
	return client.Namespace(namespace), nil
}

// Get reads the object that ref names and insists on its UID.
func Get(ctx context.Context, s contract.Session, ref action.Ref) (*unstructured.Unstructured, error) {
	if ref.IsZero() || ref.UID == "" {
		return nil, action.Errorf(action.ReasonRefused, "the target is not complete (%q, UID %q): an empty target never stands for anything", ref, ref.UID)
	}
	if !ref.Kind.ClusterScoped() && ref.Namespace == "" {
		return nil, action.Errorf(action.ReasonRefused, "%s has no namespace", ref)
	}
	client, err := Client(s, ref.Kind, ref.Namespace)
	if err != nil {
		return nil, err
	}
	obj, err := client.Get(ctx, ref.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, action.Errorf(action.ReasonGone, "%s is not there any more", ref)
	}
	if err != nil {
		return nil, kube.Classify(err, false)
	}
	if uid := string(obj.GetUID()); uid != ref.UID {
		return nil, action.Errorf(action.ReasonGone, "%s was replaced: it had UID %s and has %s", ref, ref.UID, uid)
	}
	return obj, nil
}

// GetAlive is Get for an object that is about to be changed: one that is being
// deleted is refused.
func GetAlive(ctx context.Context, s contract.Session, ref action.Ref) (*unstructured.Unstructured, error) {
	obj, err := Get(ctx, s, ref)
	if err != nil {
		return nil, err
	}
	if at := obj.GetDeletionTimestamp(); at != nil {
		return nil, action.Errorf(action.ReasonTerminating, "%s is being deleted since %s", ref, at.UTC().Format("15:04:05"))
	}
	return obj, nil
}

// Value returns the value at path, nil when there is none.
func Value(obj map[string]any, path ...string) any {
	var v any = obj
	for _, key := range path {
		m, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		v = m[key]
	}
	return v
}

// Int returns the whole number at path, and whether there is one.
func Int(obj map[string]any, path ...string) (int64, bool) {
	switch n := Value(obj, path...).(type) {
	case int64:
		return n, true
	case float64:
		return int64(n), n == float64(int64(n))
	}
	return 0, false
}

// String returns the text at path, "" when there is none.
func String(obj map[string]any, path ...string) string {
	s, _ := Value(obj, path...).(string)
	return s
}

// Bool returns the truth value at path, false when there is none.
func Bool(obj map[string]any, path ...string) bool {
	b, _ := Value(obj, path...).(bool)
	return b
}
