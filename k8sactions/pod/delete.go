package pod

import (
	"context"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/alertmedic/alertmedic/internal/action"
	"github.com/alertmedic/alertmedic/k8sactions/contract"
)

// DeleteParams are the parameters of pod.delete.
type DeleteParams struct {
	GracePeriod    *action.Duration `json:"gracePeriod,omitempty" jsonschema:"description=How long the pod may take to end. Default: what the pod itself says. At least 1s."`
	AllowUnmanaged bool             `json:"allowUnmanaged,omitempty" jsonschema:"description=Also delete a pod that no controller will replace.,default=false"`
}

// Validate implements the check that a schema cannot make.
func (p *DeleteParams) Validate() error { return contract.CheckGrace(p.GracePeriod) }

// Delete is the action pod.delete.
type Delete struct{}

// Spec implements contract.Action.
func (Delete) Spec() action.Spec {
	return action.Spec{
		Name:    "pod.delete",
		Summary: "Delete the pod so that its controller makes a new one",
		Description: `Deletes the pod that the alert named, by name and UID: a replacement of the same name is never touched. ` +
			`The step is done when that pod is gone. PodDisruptionBudgets do not apply to a deletion; use pod.evict where they should. ` +
			`Refuses static (mirror) pods, pods that are already terminating and, unless allowUnmanaged is set, pods without a controller. ` +
			`Never deletes by force. Cannot be reverted.`,
		Kinds:     []action.Kind{action.KindPod, action.KindWorkload},
		NewParams: func() any { return &DeleteParams{} },
		RBAC: []action.Rule{
			{APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: []string{"get", "delete"}},
		},
		Disruptive: true, Mutating: true, Replay: action.Observable,
		DefaultTimeout: 3 * time.Minute,
		Example:        "{name: restart, action: pod.delete, timeout: 2m, with: {gracePeriod: 30s}}",
	}
}

// Plan implements contract.Action.
func (Delete) Plan(ctx context.Context, s contract.Session, r action.Request) (action.Plan, error) {
	p, err := contract.Params(r.Params, &DeleteParams{})
	if err != nil {
		return action.Plan{}, err
	}
	return plan(ctx, s, r, "delete", p.GracePeriod, p.AllowUnmanaged)
}

// Apply implements contract.Action.
func (Delete) Apply(ctx context.Context, s contract.Session, c contract.Call) (action.Result, error) {
	params, err := contract.Params(c.Plan.Request.Params, &DeleteParams{})
	if err != nil {
		return action.Result{}, err
	}
	return take(ctx, s, c, "delete", params.AllowUnmanaged, func(ref action.Ref) error {
		uid := types.UID(ref.UID)
		err := s.Typed().CoreV1().Pods(ref.Namespace).Delete(ctx, ref.Name, metav1.DeleteOptions{
			GracePeriodSeconds: contract.GraceSeconds(params.GracePeriod),
			Preconditions:      &metav1.Preconditions{UID: &uid},
			DryRun:             c.DryRun(),
		})
		if err != nil {
			// Ended, or replaced, between our two calls is as good as deleted; any
			// other conflict says nothing of the kind.
			return refusal(ref, err, !c.Plan.Request.DryRun)
		}
		return nil
	})
}

// Observe implements contract.Action.
func (Delete) Observe(ctx context.Context, s contract.Session, c contract.Call) (action.Observation, error) {
	return observe(ctx, s, c)
}
