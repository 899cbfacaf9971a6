package node

import (
	"context"
	"fmt"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/alertmedic/alertmedic/internal/action"
	"github.com/alertmedic/alertmedic/k8sactions/contract"
	"github.com/alertmedic/alertmedic/k8sactions/live"
)

// UncordonParams are the parameters of node.uncordon.
type UncordonParams struct {
	Force bool `json:"force,omitempty" jsonschema:"description=Also uncordon a node that somebody else cordoned.,default=false"`
}

// Uncordon is the action node.uncordon.
type Uncordon struct{}

// Spec implements contract.Action.
func (Uncordon) Spec() action.Spec {
	return action.Spec{
		Name:    "node.uncordon",
		Summary: "Make the node schedulable again",
		Description: `Removes spec.unschedulable from a node that alertmedic cordoned, in this run or an earlier one. ` +
			`A node that somebody else cordoned, or cordoned anew, is refused unless force is set. A schedulable node is left as it is. ` +
			`Reverting cordons the node again.`,
		Kinds:     []action.Kind{action.KindNode},
		NewParams: func() any { return &UncordonParams{} },
		RBAC: []action.Rule{
			{APIGroups: []string{""}, Resources: []string{"nodes"}, Verbs: []string{"get", "patch"}, ClusterScoped: true},
		},
		Mutating: true, Reversible: true, Replay: action.Observable,
		DefaultTimeout: time.Minute,
		Example:        "{name: uncordon, action: node.uncordon}",
	}
}

// refuseUncordon says whose cordon it is when it is not ours.
func refuseUncordon(ref action.Ref, obj *unstructured.Unstructured, force bool) error {
	if force {
		return nil
	}
	if obj.GetAnnotations()[contract.AnnotationCordonedBy] == "" {
		return action.Errorf(action.ReasonRefused, "%s was not cordoned by alertmedic; force: true uncordons it all the same", ref)
	}
	if _, others := live.Owners(obj, unschedulablePath...); len(others) > 0 {
		return action.Errorf(action.ReasonRefused, "%s was cordoned anew by %s; force: true uncordons it all the same", ref, strings.Join(others, ", "))
	}
	return nil
}

// Plan implements contract.Action.
func (Uncordon) Plan(ctx context.Context, s contract.Session, r action.Request) (action.Plan, error) {
	p, err := contract.Params(r.Params, &UncordonParams{})
	if err != nil {
		return action.Plan{}, err
	}
	obj, err := get(ctx, s, r.Target)
	if err != nil {
		return action.Plan{}, err
	}
	ref, was := r.Target.Ref, beforeOf(obj)
	if !was.Unschedulable {
		return action.Plan{Summary: fmt.Sprintf("node %s is schedulable already", ref.Name), Before: contract.Encode(was), Noop: true}, nil
	}
	if err := refuseUncordon(ref, obj, p.Force); err != nil {
		return action.Plan{}, err
	}
	return action.Plan{
		Summary: fmt.Sprintf("uncordon node %s, cordoned %s", ref.Name, cordoner(was.CordonedBy)),
		Changes: []action.FieldChange{live.Change(ref, true, nil, unschedulablePath...)},
		Diff:    live.Diff(ref, true, nil, unschedulablePath...),
		Before:  contract.Encode(was),
	}, nil
}

// Apply implements contract.Action.
func (Uncordon) Apply(ctx context.Context, s contract.Session, c contract.Call) (action.Result, error) {
	p, err := contract.Params(c.Plan.Request.Params, &UncordonParams{})
	if err != nil {
		return action.Result{}, err
	}
	var was before
	if err := contract.Decode(c.Plan.Before, &was); err != nil {
		return action.Result{}, err
	}
	obj, err := get(ctx, s, c.Plan.Request.Target)
	if err != nil {
		return action.Result{}, err
	}
	ref := c.Plan.Request.Target.Ref
	done := action.Result{Done: true, Message: fmt.Sprintf("node %s is schedulable", ref.Name)}
	if live.Signed(obj, c) {
		return done, nil
	}
	if now := beforeOf(obj); now != was {
		return action.Result{}, action.Errorf(action.ReasonDrift, "the cordon of %s has changed since the plan was made", ref)
	}
	if err := refuseUncordon(ref, obj, p.Force); err != nil {
		return action.Result{}, err
	}
	_, err = live.Patch(ctx, s, c, ref, obj, live.Set(nil, unschedulablePath...), live.Set(nil, cordonedByPath...))
	if err != nil {
		return action.Result{}, err
	}
	if c.Plan.Request.DryRun {
		done.Message = fmt.Sprintf("the API server would uncordon node %s", ref.Name)
	}
	return done, nil
}

// Observe implements contract.Action.
func (Uncordon) Observe(ctx context.Context, s contract.Session, c contract.Call) (action.Observation, error) {
	return live.Observe(ctx, s, c)
}

// Revert implements contract.Reverter.
func (Uncordon) Revert(ctx context.Context, s contract.Session, c contract.Call) (action.Result, error) {
	var was before
	if err := contract.Decode(c.Plan.Before, &was); err != nil {
		return action.Result{}, err
	}
	obj, err := get(ctx, s, c.Plan.Request.Target)
	if err != nil {
		return action.Result{}, err
	}
	ref := c.Plan.Request.Target.Ref
	if unschedulable(obj) {
		return action.Result{Done: true, Message: fmt.Sprintf("node %s is cordoned already", ref.Name)}, nil
	}
	if !live.Signed(obj, c) {
		return action.Result{}, action.Errorf(action.ReasonRevertConflict, "%s was changed by another run since; it is left schedulable", ref)
	}
	var prior any
	if was.CordonedBy != "" {
		prior = was.CordonedBy
	}
	_, err = live.PatchBack(ctx, s, c, ref, obj, live.Set(true, unschedulablePath...), live.Set(prior, cordonedByPath...))
	if err != nil {
		return action.Result{}, err
	}
	return action.Result{Done: true, Message: fmt.Sprintf("node %s is cordoned again", ref.Name)}, nil
}
