package workload

import (
	"context"
	"errors"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/alertmedic/alertmedic/internal/action"
	"github.com/alertmedic/alertmedic/internal/kube"
	"github.com/alertmedic/alertmedic/k8sactions/contract"
	"github.com/alertmedic/alertmedic/k8sactions/live"
)

// ScaleParams are the parameters of workload.scale.
type ScaleParams struct {
	To  *int64 `json:"to,omitempty" jsonschema:"minimum=0,description=The number of replicas to set. Give this or by."`
	By  *int64 `json:"by,omitempty" jsonschema:"description=How many replicas to add; negative takes away. Give this or to."`
	Min *int64 `json:"min,omitempty" jsonschema:"minimum=0,description=Never go below this many. Default 1; only an explicit 0 allows scaling to zero.,default=1"`
	Max *int64 `json:"max,omitempty" jsonschema:"minimum=1,description=Never go above this many. Needed when by adds replicas."`
}

// Validate implements the checks that a schema cannot make.
func (p *ScaleParams) Validate() error {
	switch {
	case p.To == nil && p.By == nil:
		return errors.New("give to, the number of replicas, or by, how many to add")
	case p.To != nil && p.By != nil:
		return errors.New("give to or by, not both")
	case p.By != nil && *p.By == 0:
		return errors.New("by is 0: that changes nothing")
	case p.By != nil && *p.By > 0 && p.Max == nil:
		return errors.New("by adds replicas every time it runs: give max, the ceiling")
	case p.Min != nil && *p.Min < 0:
		return fmt.Errorf("min is %d: it cannot be negative", *p.Min)
	case p.Max != nil && *p.Max < p.floor():
		return fmt.Errorf("max is %d and min is %d: nothing lies between", *p.Max, p.floor())
	case p.To != nil && *p.To < p.floor() && *p.To == 0:
		return errors.New("to is 0 and takes everything down: say min: 0 as well if that is meant")
	case p.To != nil && *p.To < p.floor():
		return fmt.Errorf("to is %d, below min, %d", *p.To, p.floor())
	case p.To != nil && p.Max != nil && *p.To > *p.Max:
		return fmt.Errorf("to is %d, above max, %d", *p.To, *p.Max)
	}
	return nil
}

func (p *ScaleParams) floor() int64 {
	if p.Min == nil {
		return 1
	}
	return *p.Min
}

// wish returns the number of replicas to set on a workload that has current.
// A floor or ceiling never moves the workload against the wished direction.
func (p *ScaleParams) wish(current int64) (int64, error) {
	if p.To != nil {
		return *p.To, nil
	}
	want := current + *p.By
	switch {
	case *p.By > 0 && current >= *p.Max:
		return 0, fmt.Errorf("it has %d replicas and max is %d: the ceiling is reached", current, *p.Max)
	case *p.By < 0 && current <= p.floor():
		return 0, fmt.Errorf("it has %d replicas and min is %d: the floor is reached", current, p.floor())
	case *p.By > 0:
		return min(want, *p.Max), nil
	}
	return max(want, p.floor()), nil
}

// Scale is the action workload.scale.
type Scale struct{}

var replicasPath = []string{"spec", "replicas"}

// Spec implements contract.Action.
func (Scale) Spec() action.Spec {
	return action.Spec{
		Name:    "workload.scale",
		Summary: "Set or change the number of replicas, between a floor and a ceiling",
		Description: `Sets spec.replicas to a number (to) or changes it by one (by), never below min or above max; a change that has reached its bound is refused, ` +
			`so that the next remedy gets its turn. Refuses workloads whose replicas a HorizontalPodAutoscaler owns, DaemonSets, ReplicaSets of a Deployment and, ` +
			`without an explicit min: 0, scaling to zero. Reverting restores the prior number if nobody has changed it since.`,
		Kinds:     []action.Kind{action.KindWorkload, action.KindDeployment, action.KindStatefulSet, action.KindReplicaSet},
		NewParams: func() any { return &ScaleParams{} },
		RBAC: patching([]action.Kind{action.KindDeployment, action.KindStatefulSet, action.KindReplicaSet},
			action.Rule{APIGroups: []string{"autoscaling"}, Resources: []string{"horizontalpodautoscalers"}, Verbs: []string{"list"}}),
		Disruptive: true, Mutating: true, Reversible: true, WritesSpec: true, Replay: action.Observable,
		DefaultTimeout: time.Minute,
		Example:        "{name: scale-up, action: workload.scale, with: {by: 2, max: 10}}",
	}
}

type scaleBefore struct {
	Replicas int64 `json:"replicas"`
	To       int64 `json:"to"`
}

// refuseScale says why the number of replicas is not ours to set.
func refuseScale(ctx context.Context, s contract.Session, ref action.Ref, obj *unstructured.Unstructured) error {
	switch ref.Kind {
	case action.KindDeployment, action.KindStatefulSet, action.KindReplicaSet:
	default:
		return action.Errorf(action.ReasonRefused, "%s has no number of replicas to set", ref)
	}
	if err := controlled(ref, obj); err != nil {
		return err
	}
	hpas, err := s.Typed().AutoscalingV2().HorizontalPodAutoscalers(ref.Namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return kube.Classify(err, false)
	}
	for _, h := range hpas.Items {
		if t := h.Spec.ScaleTargetRef; t.Kind == string(ref.Kind) && t.Name == ref.Name {
			return action.Errorf(action.ReasonRefused, "HorizontalPodAutoscaler %s/%s owns the replicas of %s and would undo the change: raise its bounds instead",
				h.Namespace, h.Name, ref)
		}
	}
	return nil
}

// Plan implements contract.Action.
func (Scale) Plan(ctx context.Context, s contract.Session, r action.Request) (action.Plan, error) {
	p, err := contract.Params(r.Params, &ScaleParams{})
	if err != nil {
		return action.Plan{}, err
	}
	obj, err := get(ctx, s, r.Target)
	if err != nil {
		return action.Plan{}, err
	}
	ref := r.Target.Ref
	if err := refuseScale(ctx, s, ref, obj); err != nil {
		return action.Plan{}, err
	}
	current := Wanted(ref, obj)
	to, err := p.wish(current)
	if err != nil {
		return action.Plan{}, action.Errorf(action.ReasonRefused, "%s: %w", ref, err)
	}
	return action.Plan{
		Summary:  fmt.Sprintf("scale %s from %d to %d replicas", where(ref), current, to),
		Changes:  []action.FieldChange{live.Change(ref, current, to, replicasPath...)},
		Diff:     live.Diff(ref, current, to, replicasPath...),
		Before:   contract.Encode(scaleBefore{Replicas: current, To: to}),
		Removes:  int(max(current-to, 0)),
		Replicas: int(current),
		Noop:     current == to,
	}, nil
}

// Apply implements contract.Action.
func (Scale) Apply(ctx context.Context, s contract.Session, c contract.Call) (action.Result, error) {
	ref := c.Plan.Request.Target.Ref
	var b scaleBefore
	if err := contract.Decode(c.Plan.Before, &b); err != nil {
		return action.Result{}, err
	}
	obj, err := get(ctx, s, c.Plan.Request.Target)
	if err != nil {
		return action.Result{}, err
	}
	done := action.Result{Done: true, Message: fmt.Sprintf("%s is scaled from %d to %d replicas", where(ref), b.Replicas, b.To)}
	if live.Signed(obj, c) {
		return done, nil
	}
	if now := Wanted(ref, obj); now != b.Replicas {
		return action.Result{}, action.Errorf(action.ReasonDrift, "%s had %d replicas when the plan was made and has %d", ref, b.Replicas, now)
	}
	if err := refuseScale(ctx, s, ref, obj); err != nil {
		return action.Result{}, err
	}
	if _, err := live.Patch(ctx, s, c, ref, obj, live.Set(b.To, replicasPath...)); err != nil {
		return action.Result{}, err
	}
	if c.Plan.Request.DryRun {
		done.Message = fmt.Sprintf("the API server would scale %s to %d replicas", where(ref), b.To)
	}
	return done, nil
}

// Observe implements contract.Action.
func (Scale) Observe(ctx context.Context, s contract.Session, c contract.Call) (action.Observation, error) {
	return live.Observe(ctx, s, c)
}

// Revert implements contract.Reverter.
func (Scale) Revert(ctx context.Context, s contract.Session, c contract.Call) (action.Result, error) {
	ref := c.Plan.Request.Target.Ref
	var b scaleBefore
	if err := contract.Decode(c.Plan.Before, &b); err != nil {
		return action.Result{}, err
	}
	obj, err := get(ctx, s, c.Plan.Request.Target)
	if err != nil {
		return action.Result{}, err
	}
	done := action.Result{Done: true, Message: fmt.Sprintf("%s has %d replicas again", where(ref), b.Replicas)}
	now := Wanted(ref, obj)
	restored, err := restorable(ref, obj, c, b.Replicas, b.To, now, fmt.Sprintf("%s was scaled to %d replicas", ref, now), replicasPath...)
	if err != nil {
		return action.Result{}, err
	}
	if restored {
		return done, nil
	}
	if err := refuseScale(ctx, s, ref, obj); err != nil {
		if action.ReasonOf(err).Retryable() {
			return action.Result{}, err
		}
		return action.Result{}, action.Errorf(action.ReasonRevertConflict, "%w", err)
	}
	if _, err := live.PatchBack(ctx, s, c, ref, obj, live.Set(b.Replicas, replicasPath...)); err != nil {
		return action.Result{}, err
	}
	return done, nil
}
