package workload

import (
	"fmt"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/alertmedic/alertmedic/internal/action"
	"github.com/alertmedic/alertmedic/k8sactions/live"
)

// RolledOut reports whether every pod of the workload runs the latest template
// and is available, and otherwise what is missing.
func RolledOut(ref action.Ref, obj *unstructured.Unstructured) (bool, string) {
	if !Seen(obj) {
		return false, "its controller has not seen the change yet"
	}
	count := func(field string) int64 {
		n, _ := live.Int(obj.Object, "status", field)
		return n
	}
	want := Wanted(ref, obj)
	var updated, total, available int64
	switch ref.Kind {
	case action.KindDeployment:
		updated, total, available = count("updatedReplicas"), count("replicas"), count("availableReplicas")
	case action.KindStatefulSet:
		updated, total, available = count("updatedReplicas"), count("replicas"), count("availableReplicas")
		if partition, ok := live.Int(obj.Object, "spec", "updateStrategy", "rollingUpdate", "partition"); ok && partition > 0 {
			// Pods below the partition keep the old template on purpose.
			updated += min(partition, want)
		}
		if live.String(obj.Object, "status", "updateRevision") == live.String(obj.Object, "status", "currentRevision") {
			updated = want
		}
	case action.KindDaemonSet:
		updated, total, available = count("updatedNumberScheduled"), want, count("numberAvailable")
	default:
		return false, "its kind has no rollout"
	}
	switch {
	case updated < want:
		return false, fmt.Sprintf("%d of %d pods are updated", updated, want)
	case total > want:
		return false, fmt.Sprintf("%d old pods are still there", total-want)
	case available < want:
		return false, fmt.Sprintf("%d of %d pods are available", available, want)
	}
	return true, ""
}
