package workload

import (
	"context"
	"fmt"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/alertmedic/alertmedic/internal/action"
	"github.com/alertmedic/alertmedic/k8sactions/contract"
	"github.com/alertmedic/alertmedic/k8sactions/live"
	"github.com/alertmedic/alertmedic/k8sactions/redact"
)

// AnnotationRolledBackFrom holds the hash of the template that alertmedic last
// rolled back from. Without it a second rollback would go "back" to that very
// template, which is the previous one by then.
const AnnotationRolledBackFrom = "alertmedic.io/rolled-back-from"

// RollbackParams are the parameters of workload.rollback.
type RollbackParams struct {
	ToRevision int64 `json:"toRevision,omitempty" jsonschema:"minimum=0,description=The revision to restore. Default 0: the newest one that differs from what runs now and that alertmedic has not rolled back from.,default=0"`
}

// Validate implements the check that a schema cannot make.
func (p *RollbackParams) Validate() error {
	if p.ToRevision < 0 {
		return fmt.Errorf("toRevision is %d: revisions count from 1, and 0 means the previous one", p.ToRevision)
	}
	return nil
}

// Rollback is the action workload.rollback.
type Rollback struct{}

var templatePath = []string{"spec", "template"}

// Spec implements contract.Action.
func (Rollback) Spec() action.Spec {
	return action.Spec{
		Name:    "workload.rollback",
		Summary: "Restore the pod template of an earlier revision",
		Description: `Restores the whole pod template, and nothing else, from the ReplicaSet of a Deployment or the ControllerRevision of a StatefulSet or DaemonSet. ` +
			`By default it takes the newest revision that differs from what runs now, and never the one that alertmedic rolled back from last. ` +
			`Done when the change is accepted; the verification tells whether it rolls out. A StatefulSet with OrderedReady pods may need the broken pod deleted as the next step. ` +
			`Refuses paused Deployments, the OnDelete strategy, and a workload without an earlier, different revision. ` +
			`Reverting restores the template from before if nobody has changed it since.`,
		Kinds:     kinds,
		NewParams: func() any { return &RollbackParams{} },
		RBAC: patching([]action.Kind{action.KindDeployment, action.KindStatefulSet, action.KindDaemonSet},
			action.Rule{APIGroups: []string{"apps"}, Resources: []string{"replicasets"}, Verbs: []string{"list"}, Kinds: []action.Kind{action.KindDeployment}},
			action.Rule{APIGroups: []string{"apps"}, Resources: []string{"controllerrevisions"}, Verbs: []string{"list"},
				Kinds: []action.Kind{action.KindStatefulSet, action.KindDaemonSet}}),
		Disruptive: true, Mutating: true, Reversible: true, WritesSpec: true, Replay: action.Observable,
		DefaultTimeout: 2 * time.Minute,
		Example:        "{name: undo, action: workload.rollback}",
	}
}

// rollbackBefore names templates by hash. They are not kept here: a template
// may hold passwords in its environment, and a plan goes to the log. The
// cluster itself keeps them, in the workload and in its revisions.
type rollbackBefore struct {
	From         string `json:"from"` // hashes
	To           string `json:"to"`
	FromRevision int64  `json:"fromRevision,omitempty"`
	ToRevision   int64  `json:"toRevision"`
	Marker       string `json:"marker,omitempty"` // prior value of the annotation
}

// choose picks the revision to go back to.
func choose(ref action.Ref, revisions []Revision, current, rolledBackFrom string, wanted int64) (Revision, error) {
	if wanted > 0 {
		var known []string
		for _, r := range revisions {
			if r.Number == wanted && r.hash == current {
				return Revision{}, action.Errorf(action.ReasonRefused, "revision %d is what %s runs already", wanted, ref)
			}
			if r.Number == wanted {
				return r, nil
			}
			known = append(known, fmt.Sprint(r.Number))
		}
		return Revision{}, action.Errorf(action.ReasonRefused, "%s has no revision %d; it has %s", ref, wanted, strings.Join(known, ", "))
	}
	skipped := false
	for _, r := range revisions {
		switch r.hash {
		case current:
		case rolledBackFrom:
			skipped = true
		default:
			return r, nil
		}
	}
	if skipped {
		return Revision{}, action.Errorf(action.ReasonRefused, "the only other revision of %s is the one that alertmedic rolled back from: somebody must fix it", ref)
	}
	return Revision{}, action.Errorf(action.ReasonRefused, "%s has no earlier revision that differs from what it runs", ref)
}

// Plan implements contract.Action.
func (Rollback) Plan(ctx context.Context, s contract.Session, r action.Request) (action.Plan, error) {
	p, err := contract.Params(r.Params, &RollbackParams{})
	if err != nil {
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
	template, current, err := templateOf(ref, obj)
	if err != nil {
		return action.Plan{}, err
	}
	revisions, err := Revisions(ctx, s, ref, obj)
	if err != nil {
		return action.Plan{}, err
	}
	marker := obj.GetAnnotations()[AnnotationRolledBackFrom]
	to, err := choose(ref, revisions, current, marker, p.ToRevision)
	if err != nil {
		return action.Plan{}, err
	}
	before := rollbackBefore{From: current, To: to.hash, ToRevision: to.Number, Marker: marker}
	for _, rev := range revisions {
		if rev.hash == current {
			before.FromRevision = rev.Number
			break
		}
	}
	shownBefore, shownAfter := redact.Object(template), redact.Object(to.template)
	return action.Plan{
		Summary: fmt.Sprintf("roll %s back to revision %d (%s), from %s", where(ref), to.Number,
			strings.Join(to.Images, ", "), strings.Join(images(template), ", ")),
		Changes:   []action.FieldChange{live.Change(ref, shownBefore, shownAfter, templatePath...)},
		Diff:      live.Diff(ref, shownBefore, shownAfter, templatePath...),
		Before:    contract.Encode(before),
		Displaces: Pods(ref, obj),
	}, nil
}

// restore finds the template with that hash among the revisions of the workload.
func restore(ctx context.Context, s contract.Session, ref action.Ref, obj *unstructured.Unstructured, hash string) (map[string]any, error) {
	revisions, err := Revisions(ctx, s, ref, obj)
	if err != nil {
		return nil, err
	}
	for _, r := range revisions {
		if r.hash == hash {
			return r.template, nil
		}
	}
	return nil, nil
}

// Apply implements contract.Action.
func (Rollback) Apply(ctx context.Context, s contract.Session, c contract.Call) (action.Result, error) {
	ref := c.Plan.Request.Target.Ref
	var b rollbackBefore
	if err := contract.Decode(c.Plan.Before, &b); err != nil {
		return action.Result{}, err
	}
	obj, err := get(ctx, s, c.Plan.Request.Target)
	if err != nil {
		return action.Result{}, err
	}
	done := action.Result{Done: true, Message: fmt.Sprintf("%s is rolling back to revision %d", where(ref), b.ToRevision)}
	if live.Signed(obj, c) {
		return done, nil
	}
	if err := RefuseRollout(ref, obj); err != nil {
		return action.Result{}, err
	}
	_, now, err := templateOf(ref, obj)
	if err != nil {
		return action.Result{}, err
	}
	if now != b.From {
		return action.Result{}, action.Errorf(action.ReasonDrift, "the pod template of %s has changed since the plan was made", ref)
	}
	template, err := restore(ctx, s, ref, obj, b.To)
	if err != nil {
		return action.Result{}, err
	}
	if template == nil {
		return action.Result{}, action.Errorf(action.ReasonDrift, "revision %d of %s is no longer kept by the cluster", b.ToRevision, ref)
	}
	_, err = live.Patch(ctx, s, c, ref, obj, live.Set(template, templatePath...),
		live.Set(b.From, "metadata", "annotations", AnnotationRolledBackFrom))
	if err != nil {
		return action.Result{}, err
	}
	if c.Plan.Request.DryRun {
		done.Message = fmt.Sprintf("the API server would roll %s back to revision %d", where(ref), b.ToRevision)
	}
	return done, nil
}

// Observe implements contract.Action.
func (Rollback) Observe(ctx context.Context, s contract.Session, c contract.Call) (action.Observation, error) {
	return live.Observe(ctx, s, c)
}

// Revert implements contract.Reverter.
func (Rollback) Revert(ctx context.Context, s contract.Session, c contract.Call) (action.Result, error) {
	ref := c.Plan.Request.Target.Ref
	var b rollbackBefore
	if err := contract.Decode(c.Plan.Before, &b); err != nil {
		return action.Result{}, err
	}
	obj, err := get(ctx, s, c.Plan.Request.Target)
	if err != nil {
		return action.Result{}, err
	}
	_, now, err := templateOf(ref, obj)
	if err != nil {
		return action.Result{}, err
	}
	done := action.Result{Done: true, Message: where(ref) + " has the pod template from before the rollback again"}
	restored, err := restorable(ref, obj, c, b.From, b.To, now, fmt.Sprintf("the pod template of %s was changed", ref), templatePath...)
	if err != nil {
		return action.Result{}, err
	}
	if restored {
		return done, nil
	}
	template, err := restore(ctx, s, ref, obj, b.From)
	if err != nil {
		return action.Result{}, err
	}
	if template == nil {
		return action.Result{}, action.Errorf(action.ReasonRevertConflict, "the template of %s from before the rollback (revision %d) is no longer kept by the cluster", ref, b.FromRevision)
	}
	var marker any
	if b.Marker != "" {
		marker = b.Marker
	}
	_, err = live.PatchBack(ctx, s, c, ref, obj, live.Set(template, templatePath...),
		live.Set(marker, "metadata", "annotations", AnnotationRolledBackFrom))
	if err != nil {
		return action.Result{}, err
	}
	return done, nil
}
