package engine

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/alertmedic/alertmedic/internal/action"
	"github.com/alertmedic/alertmedic/internal/journal"
	"github.com/alertmedic/alertmedic/internal/store"
	"github.com/alertmedic/alertmedic/playbooks"
)

// plan chooses the next remedy that applies and plans its steps from the live
// objects. Nothing is sent; what is planned is recorded with the first
// admission, so a delayed run is planned anew when it is due again.
func (w *work) plan(ctx context.Context) error {
	if !w.heldUntil().After(w.now) {
		return w.expire(ctx)
	}
	vars, err := w.planVars(ctx)
	if err != nil && action.ReasonOf(err) == action.ReasonGone {
		return w.end(ctx, w.without(store.Suppressed), string(action.ReasonGone), fmt.Sprintf("%s is not there any more", w.run.Target))
	} else if err != nil {
		return err
	}
	for ; w.remedy() != nil; w.nextRemedy() {
		r := w.remedy()
		if r.When == nil {
			break
		}
		vars.Run = w.runData()
		ok, err := r.When.Eval(ctx, vars)
		if ok && err == nil {
			break
		}
		en := w.entry(journal.RemedyFailed)
		en.Outcome, en.Reason, en.Message = "skipped", "condition", "when is false: "+r.When.String()
		if err != nil {
			en.Reason, en.Message = "condition-error", "when: "+err.Error()
		}
		w.queued = append(w.queued, en)
		w.st.Rungs = append(w.st.Rungs, rung{Name: r.Name, Result: "skipped", Reason: en.Reason})
	}
	r := w.remedy()
	if r == nil {
		return w.exhausted(ctx)
	}
	steps, err := w.planSteps(ctx, r, vars)
	if err != nil {
		return w.planFailed(ctx, err)
	}
	if len(steps) == 0 {
		return w.failRemedy(ctx, "condition", "every step's condition is false", false)
	}
	w.steps = steps
	w.st.PlanHash = planHash(steps)
	w.run.Step = 0
	return w.admit(ctx, w.order()[0], true)
}

// planVars reads what conditions look at, unless there is none: those reads are
// half of the requests of a run. A run that has changed something reads them
// all the same, to end at once when its target is gone.
func (w *work) planVars(ctx context.Context) (playbooks.Vars, error) {
	conditional := func(r playbooks.Remedy) bool {
		return r.When != nil || slices.ContainsFunc(r.Steps, func(s playbooks.Step) bool { return s.When != nil })
	}
	if !w.st.Mutated && !slices.ContainsFunc(w.pb.Remedies[min(w.run.Remedy, len(w.pb.Remedies)):], conditional) {
		return playbooks.Vars{}, nil
	}
	return w.vars(ctx)
}

// planSteps plans every step whose condition holds, after checking that the
// ServiceAccount may do what the steps need: a run that would stop half-way for
// want of a permission does not begin.
func (w *work) planSteps(ctx context.Context, r *playbooks.Remedy, vars playbooks.Vars) (map[int]store.Step, error) {
	data := templateData(w.firstAlert(), w.runData())
	out := map[int]store.Step{}
	var rules []action.Rule
	for i, s := range r.Steps {
		if s.When != nil {
			ok, err := s.When.Eval(ctx, vars)
			if err != nil {
				return nil, action.Errorf(action.ReasonRefused, "step %s: when: %w", s.Name, err)
			}
			if !ok {
				continue
			}
		}
		spec, ok := w.e.Actions.Lookup(s.Action)
		if !ok {
			return nil, action.Errorf(action.ReasonUnsupported, "step %s: this version has no action %s", s.Name, s.Action)
		}
		rules = append(rules, spec.Rules(w.pb.Target.Kind)...)
		params, err := s.With.RenderFor(spec, data)
		if err != nil {
			return nil, action.Errorf(action.ReasonRefused, "step %s: %w", s.Name, err)
		}
		out[i] = store.Step{RunID: w.run.ID, Remedy: w.run.Remedy, Step: i, RemedyName: r.Name, Name: s.Name, Action: s.Action,
			Status: store.StepPlanned, Plan: encode(action.Plan{Request: action.Request{Action: s.Action, Params: params}})}
	}
	missing, err := w.e.Cluster.CheckRules(ctx, w.serviceAccount(), w.run.Target.Namespace, rules)
	if err != nil {
		return nil, fmt.Errorf("check the permissions of ServiceAccount %s: %w", w.serviceAccount(), err)
	}
	if len(missing) > 0 {
		return nil, action.Errorf(action.ReasonForbidden, "ServiceAccount %s may not %s; `alertmedic actions describe` lists the rights that an action needs",
			w.serviceAccount(), strings.Join(missing, ", "))
	}
	for i, s := range out {
		var p action.Plan
		if err := unmarshal(s.Plan, &p); err != nil {
			return nil, err
		}
		plan, err := w.e.Actions.Plan(ctx, w.request(s, p.Request.Params))
		if err != nil {
			return nil, fmt.Errorf("plan step %s: %w", s.Name, err)
		}
		s.Plan = encode(plan)
		out[i] = s
	}
	return out, nil
}

func (w *work) request(s store.Step, params []byte) action.Request {
	return action.Request{Action: s.Action, Params: params, Target: w.run.Target, RunID: w.run.ID,
		StepID: s.RemedyName + "/" + s.Name, ServiceAccount: w.serviceAccount()}
}

func (w *work) serviceAccount() string {
	if w.pb.ServiceAccountName != "" {
		return w.pb.ServiceAccountName
	}
	return w.e.DefaultServiceAccount
}

// planFailed decides what a failure to plan means. Nothing of this remedy has
// been sent.
func (w *work) planFailed(ctx context.Context, err error) error {
	var ae *action.Error
	if !errors.As(err, &ae) {
		return err // the machinery failed: back off and try again
	}
	if ae.Reason.Retryable() || ae.Reason == action.ReasonUnclear {
		return err
	}
	if ae.Reason == action.ReasonGone && !w.st.Touched {
		return w.end(ctx, store.Suppressed, string(ae.Reason), err.Error())
	}
	return w.failRemedy(ctx, string(ae.Reason), err.Error(), false)
}

// planHash identifies what the steps would change, and nothing that varies
// between two readings of an unchanged world. An approval is bound to it.
func planHash(steps map[int]store.Step) string {
	h := sha256.New()
	for i := 0; i <= maxKey(steps); i++ {
		s, ok := steps[i]
		if !ok {
			continue
		}
		var p action.Plan
		if err := unmarshal(s.Plan, &p); err != nil {
			continue // a plan of our own encoding
		}
		p.Request.Deadline = time.Time{}
		h.Write(encode(struct {
			Step    int
			Action  string
			Params  any
			UID     string
			Pod     *action.Ref
			Changes []action.FieldChange
			Summary string
		}{i, s.Action, p.Request.Params, p.Request.Target.UID, p.Request.Target.Pod, p.Changes, p.Summary}))
	}
	return hex.EncodeToString(h.Sum(nil))[:16]
}

func maxKey(steps map[int]store.Step) int {
	out := -1
	for i := range steps {
		out = max(out, i)
	}
	return out
}

// nextRemedy moves the run to the next rung. The rows of the old rung stay.
func (w *work) nextRemedy() {
	w.run.Remedy++
	w.run.Step = 0
	w.steps = map[int]store.Step{}
	w.st.Stage, w.st.PlanHash, w.st.Approved, w.st.Replans, w.st.RemedyMutated = stagePlan, "", "", 0, false
	w.st.Verify, w.st.Revert = verifyState{}, revertState{}
}

// without chooses the outcome of a run that stops short: one that has changed
// something needs a person, one that has not may end quietly.
func (w *work) without(quiet store.Outcome) store.Outcome {
	if w.st.Touched {
		return store.Escalated
	}
	return quiet
}

// exhausted ends a run that has no rung left.
func (w *work) exhausted(ctx context.Context) error {
	if !w.st.Mutated {
		return w.end(ctx, store.Escalated, "no-remedy", "no remedy of the playbook could be carried out: a person must look")
	}
	for i := len(w.st.Rungs) - 1; i >= 0; i-- {
		if w.st.Rungs[i].Result == "not-healed" {
			return w.end(ctx, store.NotHealed, "ladder-exhausted", "every remedy was tried and the target is still not healthy: a person must look")
		}
	}
	return w.end(ctx, store.Escalated, "ladder-exhausted", "the remedies could not be carried out: a person must look")
}
