package node

import (
	"context"
	"fmt"
	"time"

	"github.com/alertmedic/alertmedic/internal/action"
	"github.com/alertmedic/alertmedic/k8sactions/contract"
	"github.com/alertmedic/alertmedic/k8sactions/live"
)

// CordonParams are the parameters of node.cordon: none.
type CordonParams struct{}

// Cordon is the action node.cordon.
type Cordon struct{}

// Spec implements contract.Action.
func (Cordon) Spec() action.Spec {
	return action.Spec{
		Name:    "node.cordon",
		Summary: "Mark the node unschedulable",
		Description: `Sets spec.unschedulable and notes the run in the annotation alertmedic.io/cordoned-by, which is what lets it be undone later. ` +
			`A node that is cordoned already is left as it is, and is left cordoned by a revert: an administrator's cordon stays. ` +
			`Beware that cordoning a node resolves KubeNodeNotReady; the alert's end proves nothing here.`,
		Kinds:     []action.Kind{action.KindNode},
		NewParams: func() any { return &CordonParams{} },
		RBAC: []action.Rule{
			{APIGroups: []string{""}, Resources: []string{"nodes"}, Verbs: []string{"get", "patch"}, ClusterScoped: true},
		},
		Disruptive: true, Mutating: true, Reversible: true, Replay: action.Observable,
		DefaultTimeout: time.Minute,
		Example:        "{name: cordon, action: node.cordon}",
	}
}

// Plan implements contract.Action.
func (Cordon) Plan(ctx context.Context, s contract.Session, r action.Request) (action.Plan, error) {
	if _, err := contract.Params(r.Params, &CordonParams{}); err != nil {
		return action.Plan{}, err
	}
	obj, err := get(ctx, s, r.Target)
	if err != nil {
		return action.Plan{}, err
	}
	ref, was := r.Target.Ref, beforeOf(obj)
	if was.Unschedulable {
		return action.Plan{Summary: fmt.Sprintf("node %s is cordoned already (%s)", ref.Name, cordoner(was.CordonedBy)),
			Before: contract.Encode(was), Noop: true}, nil
	}
	return action.Plan{
		Summary: "cordon node " + ref.Name,
		Changes: []action.FieldChange{live.Change(ref, nil, true, unschedulablePath...)},
		Diff:    live.Diff(ref, nil, true, unschedulablePath...),
		Before:  contract.Encode(was),
	}, nil
}

func cordoner(run string) string {
	if run == "" {
		return "not by alertmedic"
	}
	return "by run " + run
}

// Apply implements contract.Action.
func (Cordon) Apply(ctx context.Context, s contract.Session, c contract.Call) (action.Result, error) {
	obj, err := get(ctx, s, c.Plan.Request.Target)
	if err != nil {
		return action.Result{}, err
	}
	ref := c.Plan.Request.Target.Ref
	done := action.Result{Done: true, Message: fmt.Sprintf("node %s is cordoned", ref.Name)}
	if live.Signed(obj, c) {
		return done, nil
	}
	if unschedulable(obj) {
		return action.Result{}, action.Errorf(action.ReasonDrift, "%s was cordoned (%s) since the plan was made", ref, cordoner(beforeOf(obj).CordonedBy))
	}
	if err := cordon(ctx, s, c, obj); err != nil {
		return action.Result{}, err
	}
	if c.Plan.Request.DryRun {
		done.Message = fmt.Sprintf("the API server would cordon node %s", ref.Name)
	}
	return done, nil
}

// Observe implements contract.Action.
func (Cordon) Observe(ctx context.Context, s contract.Session, c contract.Call) (action.Observation, error) {
	return live.Observe(ctx, s, c)
}

// Revert implements contract.Reverter.
func (Cordon) Revert(ctx context.Context, s contract.Session, c contract.Call) (action.Result, error) {
	var was before
	if err := contract.Decode(c.Plan.Before, &was); err != nil {
		return action.Result{}, err
	}
	return uncordonBack(ctx, s, c, was)
}
