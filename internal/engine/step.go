package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/alertmedic/alertmedic/internal/action"
	"github.com/alertmedic/alertmedic/internal/guard"
	"github.com/alertmedic/alertmedic/internal/journal"
	"github.com/alertmedic/alertmedic/internal/kube"
	"github.com/alertmedic/alertmedic/internal/store"
	"github.com/alertmedic/alertmedic/playbooks"
)

// maxReplans bounds how often a remedy is planned anew because the object
// changed between plan and call.
const maxReplans = 3

// step carries on with the first step of the remedy that is not over.
func (w *work) step(ctx context.Context) error {
	for _, i := range w.order() {
		s := w.steps[i]
		switch s.Status {
		case store.StepPlanned, store.StepWaiting:
			spec, _ := w.e.Actions.Lookup(s.Action)
			if !s.StartedAt.IsZero() && !s.StartedAt.Add(w.stepTimeout(s, spec)).After(w.now) {
				return w.failStep(ctx, s, action.ReasonTimeout, fmt.Sprintf("not done within %s: %s", w.stepTimeout(s, spec), s.Message))
			}
			if s.Status == store.StepPlanned && !w.heldUntil().After(w.now) {
				return w.expireAt(ctx, s)
			}
			w.run.Step = i
			if skip, err := w.skipped(ctx, s); skip || err != nil {
				return err
			}
			return w.admit(ctx, i, false)
		}
	}
	return w.startVerify(ctx)
}

// skipped looks at the condition of a step once more before it begins: what was
// true when the remedy was planned may no longer be, because of the steps before
// it or of time. A false one skips the step.
func (w *work) skipped(ctx context.Context, s store.Step) (bool, error) {
	def := w.stepDef(s)
	if def == nil || def.When == nil || s.Status != store.StepPlanned {
		return false, nil
	}
	vars, err := w.vars(ctx)
	if err != nil {
		return false, err
	}
	ok, err := def.When.Eval(ctx, vars)
	if ok && err == nil {
		return false, nil
	}
	if err != nil {
		return true, w.failStep(ctx, s, action.ReasonRefused, "when: "+err.Error())
	}
	var plan action.Plan
	if err := unmarshal(s.Plan, &plan); err != nil {
		return false, err
	}
	plan.Noop = true // nothing was sent, so nothing is to be reverted
	s.Plan = encode(plan)
	return true, w.stepDone(ctx, s, action.Result{Done: true, Message: "skipped: when is false: " + def.When.String()})
}

// call sends the change whose intent has just been recorded and records what
// became of it.
func (w *work) call(ctx context.Context, s store.Step) error {
	var plan action.Plan
	if err := unmarshal(s.Plan, &plan); err != nil {
		return err
	}
	if plan.Noop {
		return w.stepDone(ctx, s, action.Result{Done: true, Message: "already as wished: " + plan.Summary})
	}
	plan.Request.Deadline = s.StartedAt.Add(w.stepTimeoutOf(s))
	calls, err := w.e.leases.sure(w.held)
	if err != nil {
		return w.callFailed(ctx, s, action.Result{}, action.Errorf(action.ReasonUnavailable, "nothing was sent: %w", err))
	}
	cctx, cancel := context.WithTimeout(kube.WithReading(calls, w.read.Reading), s.CallDeadline.Sub(w.now))
	defer cancel()
	began := time.Now()
	res, err := w.e.Actions.Apply(cctx, plan, s.State)
	w.e.m.actionSeconds.WithLabelValues(s.Action).Observe(time.Since(began).Seconds())
	w.now, _ = w.e.clock(ctx, w.now)
	recorded := w.called(ctx, s, res, err)
	if errors.Is(recorded, store.ErrFenced) {
		w.late(ctx, s, err)
	}
	return recorded
}

// called records what became of a call.
func (w *work) called(ctx context.Context, s store.Step, res action.Result, err error) error {
	switch {
	case err != nil:
		return w.callFailed(ctx, s, res, err)
	case res.Done:
		return w.stepDone(ctx, s, res)
	}
	return w.stepWaits(ctx, s, res)
}

// late tells of a call that ended after another worker had taken the run over:
// this process stood still, or could not reach the database. The new owner looks
// for the change before it does anything; nothing is decided here.
func (w *work) late(ctx context.Context, s store.Step, err error) {
	en := w.stepEntry(journal.StepLate, s)
	en.Outcome, en.Message = "answered", "the call was answered after another worker had taken the run over, which looks for the change itself"
	if err != nil {
		en.Outcome, en.Reason = "failed", string(action.ReasonOf(err))
		en.Message = "the call ended after another worker had taken the run over, which looks for the change itself: " + err.Error()
	}
	log := w.e.Logger.With("run", w.run.ID, "step", s.Name, "action", s.Action)
	log.Warn("a call ended after another worker had taken the run over; its change, if it was made, is for that one to find", "err", err)
	if err := w.e.Store.Append(ctx, en); err != nil {
		log.Error("write about the late call to the journal", "err", err)
	}
}

// clock reads the store's clock, and falls back on the time before: an outcome
// must be recorded even when its time is a little early.
func (e *Engine) clock(ctx context.Context, before time.Time) (time.Time, error) {
	now, err := e.Store.Now(ctx)
	if err != nil {
		return before, err
	}
	return now, nil
}

// stepEntry starts an entry about a step.
func (w *work) stepEntry(kind journal.Kind, s store.Step) journal.Entry {
	en := w.entry(kind)
	en.Step, en.Action = s.Name, s.Action
	en.Remedy = s.RemedyName // a revert is of its own, not of the one the run has come to
	return en
}

func (w *work) stepDone(ctx context.Context, s store.Step, res action.Result) error {
	w.touch(&s)
	s.Status, s.EndedAt, s.State, s.Message, s.Reason = store.StepDone, w.now, res.State, res.Message, ""
	s.Result = encode(res)
	w.steps[s.Step] = s
	en := w.stepEntry(journal.StepDone, s)
	en.Message, en.Outcome, en.Data = res.Message, "done", evidenceOf(res)
	w.e.m.action(w.run.Playbook, s.Action, "done", "")
	t := w.transition(en)
	t.Steps = []store.Step{s}
	return w.commit(ctx, t)
}

// stepWaits lets go of the run until the action wishes to be called again.
func (w *work) stepWaits(ctx context.Context, s store.Step, res action.Result) error {
	again := res.Again
	if again <= 0 {
		again = 5 * time.Second
	}
	w.touch(&s)
	changed := s.Message != res.Message
	s.Status, s.State, s.Message, s.Result = store.StepWaiting, res.State, res.Message, encode(res)
	w.steps[s.Step] = s
	w.run.DueAt, w.run.Wait, w.run.Message = w.now.Add(again), store.WaitStep, res.Message
	var entries []journal.Entry
	if changed {
		en := w.stepEntry(journal.StepProgress, s)
		en.Message, en.Data = res.Message, evidenceOf(res)
		entries = append(entries, en)
	}
	t := w.transition(entries...)
	t.Steps, t.Release = []store.Step{s}, true
	return w.commit(ctx, t)
}

func evidenceOf(res action.Result) json.RawMessage {
	if len(res.Evidence) == 0 {
		return nil
	}
	return res.Evidence
}

// seen is what the last call of a step returned as evidence, for the entry about
// its failure: which pods a drain could not move, say.
func seen(s store.Step) json.RawMessage {
	var res action.Result
	if len(s.Result) == 0 || unmarshal(s.Result, &res) != nil {
		return nil
	}
	return evidenceOf(res)
}

// callFailed sorts a failed call: sure that nothing was applied and worth
// another try, fate unclear, drifted from its plan, or failed. What the action
// returned along with its error is kept: the state for its next tick, and the
// evidence for the journal.
func (w *work) callFailed(ctx context.Context, s store.Step, res action.Result, err error) error {
	var ae *action.Error
	if !errors.As(err, &ae) {
		ae = action.Errorf(action.ReasonInternal, "%w", err)
	}
	if len(res.State) > 0 {
		s.State = res.State
	}
	if len(res.Evidence) > 0 {
		s.Result = encode(res)
	}
	if len(s.State) > 0 || ae.Reason == action.ReasonInternal { // a panic may have come after a call
		w.touch(&s)
	}
	switch {
	case ae.Reason == action.ReasonUnclear:
		return w.unclear(ctx, s, ae.Error())
	case ae.Reason.Retryable():
		return w.retryStep(ctx, s, ae)
	case ae.Reason == action.ReasonDrift && s.State == nil && w.st.Replans < maxReplans:
		return w.replan(ctx, s, ae)
	}
	return w.failStep(ctx, s, ae.Reason, ae.Message)
}

// retryStep tries the same call again after a while, for as long as the step
// may take.
func (w *work) retryStep(ctx context.Context, s store.Step, ae *action.Error) error {
	s.Status, s.Retries, s.Reason = store.StepWaiting, s.Retries+1, string(ae.Reason)
	changed := s.Message != ae.Message
	s.Message = ae.Message
	w.steps[s.Step] = s
	delay := max(ae.RetryAfter, w.e.backoff(s.Retries-1))
	w.run.DueAt, w.run.Wait, w.run.Message = w.now.Add(delay), store.WaitRetry, ae.Message
	var entries []journal.Entry
	if changed {
		en := w.stepEntry(journal.StepProgress, s)
		en.Reason, en.Message = string(ae.Reason), ae.Message
		data := map[string]any{"retry": s.Retries, "dueAt": w.run.DueAt}
		if ev := seen(s); ev != nil {
			data["evidence"] = ev
		}
		en.Data = encode(data)
		entries = append(entries, en)
	}
	w.e.m.action(w.run.Playbook, s.Action, "retried", string(ae.Reason))
	t := w.transition(entries...)
	t.Steps, t.Release = []store.Step{s}, true
	return w.commit(ctx, t)
}

// replan goes back to planning because the object is no longer as planned; the
// call was refused as a whole. Steps that are done stay done: only a remedy
// that has not changed anything is planned anew, others fail.
func (w *work) replan(ctx context.Context, s store.Step, ae *action.Error) error {
	for _, i := range w.order() {
		if i != s.Step && w.steps[i].Status == store.StepDone && w.mutates(w.steps[i]) {
			return w.failStep(ctx, s, ae.Reason, ae.Message)
		}
	}
	en := w.stepEntry(journal.StepFailed, s)
	en.Outcome, en.Reason, en.Message = "replan", string(ae.Reason), ae.Message+"; the remedy is planned again"
	en.Data = seen(s)
	s.Status, s.Reason, s.Message = store.StepPlanned, string(ae.Reason), ae.Message
	w.steps[s.Step] = s
	w.st.Replans++
	w.st.Stage, w.st.Approved = stagePlan, ""
	w.e.m.action(w.run.Playbook, s.Action, "replanned", string(ae.Reason))
	t := w.transition(en)
	t.Steps = []store.Step{s}
	return w.commit(ctx, t)
}

// touch notes that a call of a step may have changed something.
func (w *work) touch(s *store.Step) {
	if w.mutates(*s) {
		s.Touched, w.st.Touched = true, true
	}
}

// mayHaveChanged says so of a step by what is recorded of it, for runs of versions
// that did not note it.
func (w *work) mayHaveChanged(s store.Step) bool {
	switch s.Status {
	case store.StepPlanned, store.StepSimulated:
		return false
	case store.StepDone, store.StepReverted, store.StepUnknown:
		return w.mutates(s)
	}
	return w.mutates(s) && (s.Touched || len(s.State) > 0 || s.Reason == string(action.ReasonUnclear))
}

func (w *work) mutates(s store.Step) bool {
	var p action.Plan
	if err := unmarshal(s.Plan, &p); err != nil || p.Noop {
		return err != nil
	}
	spec, ok := w.e.Actions.Lookup(s.Action)
	return !ok || spec.Mutating
}

// failStep records a failure whose fate is known, and what follows from it.
func (w *work) failStep(ctx context.Context, s store.Step, reason action.Reason, message string) error {
	s.Status, s.EndedAt, s.Reason, s.Message = store.StepFailed, w.now, string(reason), message
	w.steps[s.Step] = s
	en := w.stepEntry(journal.StepFailed, s)
	en.Outcome, en.Reason, en.Message = "failed", string(reason), message
	en.Data = seen(s)
	w.e.m.action(w.run.Playbook, s.Action, "failed", string(reason))
	if def := w.stepDef(s); def != nil && def.ContinueOnError {
		en.Message += "; continueOnError lets the remedy go on"
		t := w.transition(en)
		t.Steps = []store.Step{s}
		return w.commit(ctx, t)
	}
	w.queued = append(w.queued, en)
	return w.failRemedy(ctx, string(reason), fmt.Sprintf("step %s: %s", s.Name, message), true, s)
}

func (w *work) stepDef(s store.Step) *playbooks.Step {
	r := w.remedy()
	if r == nil || s.Step >= len(r.Steps) {
		return nil
	}
	return &r.Steps[s.Step]
}

// stepTimeout bounds a step, all of its ticks included.
func (w *work) stepTimeout(s store.Step, spec action.Spec) time.Duration {
	if def := w.stepDef(s); def != nil && def.Timeout > 0 {
		return def.Timeout
	}
	if spec.DefaultTimeout > 0 {
		return spec.DefaultTimeout
	}
	return 5 * time.Minute
}

func (w *work) stepTimeoutOf(s store.Step) time.Duration {
	spec, _ := w.e.Actions.Lookup(s.Action)
	return w.stepTimeout(s, spec)
}

// failRemedy ends the current rung and does what onFailure says. A rung whose
// fate is unknown never comes here.
func (w *work) failRemedy(ctx context.Context, reason, message string, carried bool, changed ...store.Step) error {
	r := w.remedy()
	en := w.entry(journal.RemedyFailed)
	en.Outcome, en.Reason, en.Message = "failed", reason, message
	result := "failed"
	if reason == "not-healed" {
		result = "not-healed"
	}
	en.Outcome = result
	w.st.Rungs = append(w.st.Rungs, rung{Name: r.Name, Result: result, Reason: reason})
	w.run.Message = message
	if w.st.Mutated {
		w.tell(journal.RemedyFailed, message)
	}
	switch {
	case r.OnFailure == playbooks.Revert && w.st.RemedyMutated:
		w.st.Stage = stageRevert
		w.st.Revert = revertState{Next: maxKey(w.steps), Reason: reason}
	case r.OnFailure == playbooks.Stop && carried:
		t := w.ending(store.Escalated, reason, "onFailure: Stop: "+message, en)
		t.Steps = changed
		return w.commit(ctx, t)
	default:
		t := w.transitionAfter(changed, en)
		return w.commit(ctx, t)
	}
	t := w.transition(en)
	t.Steps = changed
	return w.commit(ctx, t)
}

// transitionAfter climbs to the next rung in one transition with the steps that
// changed on the old one.
func (w *work) transitionAfter(changed []store.Step, en journal.Entry) store.Transition {
	w.nextRemedy()
	t := w.transition(en)
	t.Steps = changed
	return t
}

// simulate carries the plans out with dryRun=All and ends the run: mode Observe
// shows what would have happened.
func (w *work) simulate(ctx context.Context) error {
	var steps []store.Step
	failed := ""
	for _, i := range w.order() {
		s := w.steps[i]
		var plan action.Plan
		if err := unmarshal(s.Plan, &plan); err != nil {
			return err
		}
		plan.Request.DryRun = true
		en := w.stepEntry(journal.StepSimulated, s)
		en.Outcome, en.Message = "would-apply", plan.Summary
		if !plan.Noop {
			cctx, cancel := context.WithTimeout(ctx, w.e.CallTimeout)
			res, err := w.e.Actions.Apply(cctx, plan, nil)
			cancel()
			if err != nil {
				en.Outcome, en.Reason, en.Message = "would-fail", string(action.ReasonOf(err)), err.Error()
				failed = err.Error()
			}
			en.Data = evidenceOf(res)
		}
		s.Status, s.EndedAt, s.Message, s.Reason = store.StepSimulated, w.now, en.Message, en.Reason
		w.steps[i] = s
		steps = append(steps, s)
		w.queued = append(w.queued, en)
		w.e.m.action(w.run.Playbook, s.Action, "simulated", en.Reason)
	}
	message := "mode Observe, nothing was sent: " + w.planText()
	if failed != "" {
		message += "; it would fail: " + failed
	}
	t := w.ending(store.Simulated, string(guard.ReasonObserve), message)
	t.Steps = steps
	return w.commit(ctx, t)
}
