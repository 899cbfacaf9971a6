package pod

import (
	"context"
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
	return take(ctx, s, c, "evict", params.AllowUnmanaged, func(ref action.Ref) error {
		return Eviction{Pod: ref, Grace: contract.GraceSeconds(params.GracePeriod), DryRun: c.Plan.Request.DryRun}.Send(ctx, s)
	})
}

// Observe implements contract.Action.
func (Evict) Observe(ctx context.Context, s contract.Session, c contract.Call) (action.Observation, error) {
	return observe(ctx, s, c)
}
