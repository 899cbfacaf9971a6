package workload

import (
	"testing"

	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/alertmedic/alertmedic/internal/action"
)

func TestRolledOut(t *testing.T) {
	t.Parallel()
	type m = map[string]any
	object := func(spec, status m) *unstructured.Unstructured {
		status["observedGeneration"] = int64(2)
		return &unstructured.Unstructured{Object: m{"metadata": m{"generation": int64(2)}, "spec": spec, "status": status}}
	}
	n := func(v int) int64 { return int64(v) }
	unseen := object(m{"replicas": n(1)}, m{"replicas": n(1), "updatedReplicas": n(1), "availableReplicas": n(1)})
	unseen.SetGeneration(3)
	for name, row := range map[string]struct {
		kind    action.Kind
		obj     *unstructured.Unstructured
		missing string
	}{
		"done":          {action.KindDeployment, object(m{"replicas": n(2)}, m{"replicas": n(2), "updatedReplicas": n(2), "availableReplicas": n(2)}), ""},
		"none wanted":   {action.KindDeployment, object(m{"replicas": n(0)}, m{}), ""},
		"default one":   {action.KindDeployment, object(m{}, m{}), "0 of 1 pods are updated"},
		"unseen":        {action.KindDeployment, unseen, "its controller has not seen the change yet"},
		"not updated":   {action.KindDeployment, object(m{"replicas": n(3)}, m{"replicas": n(3), "updatedReplicas": n(1), "availableReplicas": n(3)}), "1 of 3 pods are updated"},
		"old ones left": {action.KindDeployment, object(m{"replicas": n(2)}, m{"replicas": n(3), "updatedReplicas": n(2), "availableReplicas": n(3)}), "1 old pods are still there"},
		"not available": {action.KindDeployment, object(m{"replicas": n(2)}, m{"replicas": n(2), "updatedReplicas": n(2), "availableReplicas": n(1)}), "1 of 2 pods are available"},
		"set done": {action.KindStatefulSet, object(m{"replicas": n(2)}, m{"replicas": n(2), "availableReplicas": n(2),
			"currentRevision": "a", "updateRevision": "a"}), ""},
		"set under way": {action.KindStatefulSet, object(m{"replicas": n(2)}, m{"replicas": n(2), "updatedReplicas": n(1), "availableReplicas": n(2),
			"currentRevision": "a", "updateRevision": "b"}), "1 of 2 pods are updated"},
		"set with a partition": {action.KindStatefulSet, object(m{"replicas": n(3), "updateStrategy": m{"rollingUpdate": m{"partition": n(2)}}},
			m{"replicas": n(3), "updatedReplicas": n(1), "availableReplicas": n(3), "currentRevision": "a", "updateRevision": "b"}), ""},
		"daemons done":      {action.KindDaemonSet, object(m{}, m{"desiredNumberScheduled": n(3), "updatedNumberScheduled": n(3), "numberAvailable": n(3)}), ""},
		"daemons under way": {action.KindDaemonSet, object(m{}, m{"desiredNumberScheduled": n(3), "updatedNumberScheduled": n(2), "numberAvailable": n(3)}), "2 of 3 pods are updated"},
		"replica set":       {action.KindReplicaSet, object(m{}, m{}), "its kind has no rollout"},
	} {
		done, missing := RolledOut(action.Ref{Kind: row.kind}, row.obj)
		require.Equal(t, row.missing, missing, name)
		require.Equal(t, row.missing == "", done, name)
	}
}
