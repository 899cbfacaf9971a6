// Package workload holds the actions on controllers of pods.
package workload

import (
	"context"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/alertmedic/alertmedic/internal/action"
	"github.com/alertmedic/alertmedic/k8sactions/contract"
	"github.com/alertmedic/alertmedic/k8sactions/live"
)

// kinds are what actions on workloads accept. Workload stands for a playbook
// that declares no narrower kind; what an action cannot do with the live kind
// it refuses in its plan.
var kinds = []action.Kind{action.KindWorkload, action.KindDeployment, action.KindStatefulSet, action.KindDaemonSet}

// get reads the workload that the target names, alive.
func get(ctx context.Context, s contract.Session, t action.Target) (*unstructured.Unstructured, error) {
	return live.GetAlive(ctx, s, t.Ref)
}

// controlled refuses a ReplicaSet that a Deployment owns: the Deployment would
// undo the change at once.
func controlled(ref action.Ref, obj *unstructured.Unstructured) error {
	if ref.Kind != action.KindReplicaSet {
		return nil
	}
	if o := metav1.GetControllerOf(obj); o != nil {
		return action.Errorf(action.ReasonRefused, "%s belongs to %s %s, which would undo the change: act on that", ref, o.Kind, o.Name)
	}
	return nil
}

// RefuseRollout says why a change of the pod template would not roll out.
func RefuseRollout(ref action.Ref, obj *unstructured.Unstructured) error {
	switch ref.Kind {
	case action.KindDeployment:
		if live.Bool(obj.Object, "spec", "paused") {
			return action.Errorf(action.ReasonRefused, "%s is paused: somebody is in the middle of something; `kubectl rollout resume` ends that", ref)
		}
	case action.KindStatefulSet, action.KindDaemonSet:
		if live.String(obj.Object, "spec", "updateStrategy", "type") == "OnDelete" {
			return action.Errorf(action.ReasonRefused, "%s has update strategy OnDelete: a new template reaches its pods only as they are deleted", ref)
		}
	default:
		return action.Errorf(action.ReasonRefused, "%s cannot roll out a new pod template; a Deployment, StatefulSet or DaemonSet can", ref)
	}
	return nil
}

// Pods is how many pods the workload runs now.
func Pods(ref action.Ref, obj *unstructured.Unstructured) int {
	path := []string{"status", "replicas"}
	if ref.Kind == action.KindDaemonSet {
		path = []string{"status", "currentNumberScheduled"}
	}
	n, _ := live.Int(obj.Object, path...)
	return int(n)
}

// Wanted is how many pods the workload should run.
func Wanted(ref action.Ref, obj *unstructured.Unstructured) int64 {
	if ref.Kind == action.KindDaemonSet {
		n, _ := live.Int(obj.Object, "status", "desiredNumberScheduled")
		return n
	}
	n, ok := live.Int(obj.Object, "spec", "replicas")
	if !ok {
		return 1
	}
	return n
}

// Seen reports whether the workload's controller has seen its latest spec.
func Seen(obj *unstructured.Unstructured) bool {
	observed, _ := live.Int(obj.Object, "status", "observedGeneration")
	return observed >= obj.GetGeneration()
}

// where names the object in a summary: "deployment shop/web".
func where(ref action.Ref) string {
	return strings.ToLower(string(ref.Kind)) + " " + ref.Namespace + "/" + ref.Name
}

// restorable decides about a revert of one field: restored says that there is
// nothing to do, an error that the field is no longer ours to restore. before and
// to are what the step found and set, now is the live value.
func restorable[T comparable](ref action.Ref, obj *unstructured.Unstructured, c contract.Call, before, to, now T, changed string, path ...string) (restored bool, err error) {
	switch {
	case live.SignedRevert(obj, c) || now == before:
		return true, nil
	case now != to:
		return false, action.Errorf(action.ReasonRevertConflict, "%s since; it is left as it is", changed)
	}
	return false, live.StillOurs(ref, obj, path...)
}
