package workload

import (
	"context"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/alertmedic/alertmedic/internal/action"
	"github.com/alertmedic/alertmedic/k8sactions/contract"
	"github.com/alertmedic/alertmedic/k8sactions/live"
)

// RestartParams are the parameters of workload.restart: none.
type RestartParams struct{}

// Restart is the action workload.restart.
type Restart struct{}

// restartPath is the annotation whose change makes a controller roll out.
var restartPath = []string{"spec", "template", "metadata", "annotations", contract.AnnotationRestart}

// Spec implements contract.Action.
func (Restart) Spec() action.Spec {
	return action.Spec{
		Name:    "workload.restart",
		Summary: "Restart all pods of the workload by a rollout, within its own update strategy",
		Description: `Sets an annotation of the pod template to a value made of run and step, so that the controller replaces all pods ` +
			`as its update strategy allows and a repeated step does not restart twice. Done when the controller has seen the change; ` +
			`whether the rollout succeeds is for the verification to tell. Refuses paused Deployments, the OnDelete strategy and bare ReplicaSets. Cannot be reverted.`,
		Kinds:      kinds,
		NewParams:  func() any { return &RestartParams{} },
		RBAC:       patching([]action.Kind{action.KindDeployment, action.KindStatefulSet, action.KindDaemonSet}),
		Disruptive: true, Mutating: true, Replay: action.Observable,
		DefaultTimeout: 2 * time.Minute,
		Example:        "{name: restart, action: workload.restart}",
	}
}

// RestartBefore is what a restart relies on: the annotation's prior value.
type RestartBefore struct {
	Annotation *string `json:"annotation"`
}

// BeforeRestart reads the prior value of the restart annotation.
func BeforeRestart(obj *unstructured.Unstructured) RestartBefore {
	if v, ok := live.Value(obj.Object, restartPath...).(string); ok {
		return RestartBefore{Annotation: &v}
	}
	return RestartBefore{}
}

func (b RestartBefore) value() any {
	if b.Annotation == nil {
		return nil
	}
	return *b.Annotation
}

// RestartChange is the restart of the workload as a plan shows it.
func RestartChange(ref action.Ref, obj *unstructured.Unstructured, r action.Request) (action.FieldChange, string) {
	before, after := BeforeRestart(obj).value(), contract.Signature(r)
	return live.Change(ref, before, after, restartPath...), live.Diff(ref, before, after, restartPath...)
}

// Restarted reports whether the step has restarted the workload already.
func Restarted(obj *unstructured.Unstructured, c contract.Call) bool {
	return live.Value(obj.Object, restartPath...) == c.Signature()
}

// SendRestart restarts the workload, which was just read, unless somebody else
// of alertmedic did since the plan was made.
func SendRestart(ctx context.Context, s contract.Session, c contract.Call, ref action.Ref, obj *unstructured.Unstructured, before RestartBefore) (*unstructured.Unstructured, error) {
	if err := RefuseRollout(ref, obj); err != nil {
		return nil, err
	}
	if now := BeforeRestart(obj).value(); now != before.value() {
		return nil, action.Errorf(action.ReasonDrift, "%s was restarted by %v since the plan was made", ref, now)
	}
	return live.Patch(ctx, s, c, ref, obj, live.Set(c.Signature(), restartPath...))
}

// Plan implements contract.Action.
func (Restart) Plan(ctx context.Context, s contract.Session, r action.Request) (action.Plan, error) {
	if _, err := contract.Params(r.Params, &RestartParams{}); err != nil {
		return action.Plan{}, err
	}
	obj, err := get(ctx, s, r.Target)
	if err != nil {
		return action.Plan{}, err
	}
	ref := r.Target.Ref
	if err := RefuseRollout(ref, obj); err != nil {
		return action.Plan{}, err
	}
	change, diff := RestartChange(ref, obj, r)
	return action.Plan{
		Summary:   fmt.Sprintf("restart the %d pods of %s", Pods(ref, obj), where(ref)),
		Changes:   []action.FieldChange{change},
		Diff:      diff,
		Before:    contract.Encode(BeforeRestart(obj)),
		Displaces: Pods(ref, obj),
	}, nil
}

// Apply implements contract.Action.
func (Restart) Apply(ctx context.Context, s contract.Session, c contract.Call) (action.Result, error) {
	ref := c.Plan.Request.Target.Ref
	obj, err := get(ctx, s, c.Plan.Request.Target)
	if err != nil {
		return action.Result{}, err
	}
	if !Restarted(obj, c) {
		var before RestartBefore
		if err := contract.Decode(c.Plan.Before, &before); err != nil {
			return action.Result{}, err
		}
		if obj, err = SendRestart(ctx, s, c, ref, obj, before); err != nil {
			return action.Result{}, err
		}
	}
	if c.Plan.Request.DryRun {
		return action.Result{Done: true, Message: "the API server would restart " + where(ref)}, nil
	}
	if !Seen(obj) {
		return action.Result{Again: time.Second, State: contract.Encode(map[string]int64{"generation": obj.GetGeneration()}),
			Message: "restart of " + where(ref) + " is sent, its controller has not seen it yet"}, nil
	}
	return action.Result{Done: true, Message: where(ref) + " is rolling out a restart"}, nil
}

// Observe implements contract.Action.
func (Restart) Observe(ctx context.Context, s contract.Session, c contract.Call) (action.Observation, error) {
	obj, err := live.Get(ctx, s, c.Plan.Request.Target.Ref)
	if err != nil {
		return action.Undetermined, err
	}
	if Restarted(obj, c) {
		return action.Applied, nil
	}
	return action.NotApplied, nil
}
