package pod

import (
	"context"
	"fmt"
	"time"

	"github.com/alertmedic/alertmedic/internal/action"
	"github.com/alertmedic/alertmedic/k8sactions/contract"
)

// EvictParams are the parameters of pod.evict.
type EvictParams struct {
	GracePeriod    *action.Duration `json:"gracePeriod,omitempty" jsonschema:"description=How long the pod may take to end. Default: what the pod itself says. At least 1s."`
	AllowUnmanaged bool             `json:"allowUnmanaged,omitempty" jsonschema:"description=Also evict a pod that no controller will replace.,default=false"`
}

// Validate implements the check that a schema cannot make.
func (p *EvictParams) Validate() error { return contract.CheckGrace(p.GracePeriod) }

// Evict is the action pod.evict.
type Evict struct{}

// Spec implements contract.Action.
func (Evict) Spec() action.Spec {
	return action.Spec{
		Name:    "pod.evict",
		Summary: "Evict the pod, as far as its PodDisruptionBudget lets it go",
		Description: `Evicts the pod that the alert named through the eviction API, by name and UID. ` +
			`While its PodDisruptionBudget says no, the step is blocked and is tried again until its timeout; the reason names the budget. ` +
			`A pod under several budgets can never be evicted and is refused. The step is done when that pod is gone. ` +
			`Refuses static (mirror) pods, pods that are already terminating and, unless allowUnmanaged is set, pods without a controller. Cannot be reverted.`,
		Kinds:     []action.Kind{action.KindPod, action.KindWorkload},
		NewParams: func() any { return &EvictParams{} },
		RBAC: []action.Rule{
			{APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: []string{"get"}},
			{APIGroups: []string{""}, Resources: []string{"pods/eviction"}, Verbs: []string{"create"}},
		},
		Disruptive: true, Mutating: true, Replay: action.Observable,
		DefaultTimeout: 10 * time.Minute,
		Example:        "{name: move, action: pod.evict, timeout: 5m}",
	}
}

// Plan implements contract.Action.
func (Evict) Plan(ctx context.Context, s contract.Session, r action.Request) (action.Plan, error) {
	p, err := contract.Params(r.Params, &EvictParams{})
	if err != nil {
		return action.Plan{}, err
	}
	return plan(ctx, s, r, "evict", p.GracePeriod, p.AllowUnmanaged)
}

// Apply implements contract.Action.
func (Evict) Apply(ctx context.Context, s contract.Session, c contract.Call) (action.Result, error) {
	params, err := contract.Params(c.Plan.Request.Params, &EvictParams{})
	if err != nil {
		return action.Result{}, err
	}
	ref, err := target(c)
	if err != nil {
		return action.Result{}, err
	}
	p, err := get(ctx, s, ref)
	if err != nil {
		return action.Result{}, err
	}
	if p == nil {
		return gone(ref), nil
	}
	if p.DeletionTimestamp != nil {
		return wait(ref, p), nil
	}
	if err := refuse(p, ref, params.AllowUnmanaged); err != nil {
		return action.Result{}, err
	}
	e := Eviction{Pod: ref, Grace: contract.GraceSeconds(params.GracePeriod), DryRun: c.Plan.Request.DryRun}
	switch err := e.Send(ctx, s); {
	case isGone(err):
		return gone(ref), nil
	case err != nil:
		return action.Result{}, err
	case e.DryRun:
		return action.Result{Done: true, Message: fmt.Sprintf("the API server would evict pod %s/%s", ref.Namespace, ref.Name)}, nil
	}
	return wait(ref, p), nil
}

// Observe implements contract.Action.
func (Evict) Observe(ctx context.Context, s contract.Session, c contract.Call) (action.Observation, error) {
	return observe(ctx, s, c)
}
