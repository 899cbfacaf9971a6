package engine

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/alertmedic/alertmedic/internal/action"
)

// Only what must find a place elsewhere is asked for one: a rollout replaces the
// pods of a workload itself, and a rollback must not be held because the bad
// revision fits nowhere. A drain that names nothing must not slip through.
func TestDisplaced(t *testing.T) {
	t.Parallel()
	pod := action.Ref{Kind: action.KindPod, Namespace: "shop", Name: "web-1", UID: "u1"}
	node := action.Ref{Kind: action.KindNode, Name: "n1"}
	workload := action.Ref{Kind: action.KindDeployment, Namespace: "shop", Name: "web"}
	gone := action.FieldChange{Object: pod, Before: json.RawMessage(`"Running"`)}
	annotated := action.FieldChange{Object: pod, Path: "/metadata/annotations"}
	cordon := action.FieldChange{Object: node, Path: "/spec/unschedulable"}
	template := action.FieldChange{Object: workload, Path: "/spec/template"}
	for name, row := range map[string]struct {
		target action.Ref
		plan   action.Plan
		want   int
		pods   []action.Ref
	}{
		"drain":               {node, action.Plan{Displaces: 1, Changes: []action.FieldChange{cordon, gone}}, 1, []action.Ref{pod}},
		"drain without names": {node, action.Plan{Displaces: 1, Changes: []action.FieldChange{cordon}}, 1, nil},
		"cordon":              {node, action.Plan{Changes: []action.FieldChange{cordon}}, 0, nil},
		"evict":               {workload, action.Plan{Displaces: 1, Changes: []action.FieldChange{gone}}, 1, []action.Ref{pod}},
		"rollback":            {workload, action.Plan{Displaces: 4, Changes: []action.FieldChange{template}}, 0, nil},
		"annotate":            {workload, action.Plan{Changes: []action.FieldChange{annotated}}, 0, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, row.want, displaces(row.plan, action.Target{Ref: row.target}))
			require.Equal(t, row.pods, displaced(row.plan))
		})
	}
}
