package workload

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/alertmedic/alertmedic/internal/action"
	"github.com/alertmedic/alertmedic/k8sactions/contract"
	"github.com/alertmedic/alertmedic/k8sactions/live"
	"github.com/alertmedic/alertmedic/k8sactions/redact"
)

// AnnotationRolledBackFrom lists what alertmedic has rolled back from, the latest
// last: the hash of each template and the number that its revision had, as
// hash@number, with commas between them.
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
			`By default it takes the newest revision that differs from what runs now, and never one that alertmedic has rolled back from, unless it was deployed again since. ` +
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
		switch {
		case r.hash == current:
		case fledFrom(rolledBackFrom, r):
			skipped = true
		default:
			return r, nil
		}
	}
	if skipped {
		return Revision{}, action.Errorf(action.ReasonRefused, "alertmedic has rolled back from every other revision of %s: somebody must fix it", ref)
	}
	return Revision{}, action.Errorf(action.ReasonRefused, "%s has no earlier revision that differs from what it runs", ref)
}

// maxMarks bounds how many revisions the annotation names.
const maxMarks = 10

// mark adds a revision to those that were rolled back from. Without its number it
// counts whatever number it comes to have.
func mark(marks, hash string, number int64) string {
	if number > 0 {
		hash += "@" + strconv.FormatInt(number, 10)
	}
	if marks == "" {
		return hash
	}
	all := append(strings.Split(marks, ","), hash)
	return strings.Join(all[max(0, len(all)-maxMarks):], ",")
}

// fledFrom reports whether alertmedic has rolled back from a revision. Deployed
// again it has a higher number, and is as good as any.
func fledFrom(marks string, r Revision) bool {
	return slices.ContainsFunc(strings.Split(marks, ","), func(m string) bool {
		hash, at, numbered := strings.Cut(m, "@")
		if hash != r.hash {
			return false
		}
		number, err := strconv.ParseInt(at, 10, 64)
		return !numbered || err != nil || r.Number <= number
	})
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
		live.Set(mark(b.Marker, b.From, b.FromRevision), "metadata", "annotations", AnnotationRolledBackFrom))
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
