package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/alertmedic/alertmedic/internal/action"
	"github.com/alertmedic/alertmedic/internal/guard"
	"github.com/alertmedic/alertmedic/internal/journal"
	"github.com/alertmedic/alertmedic/internal/store"
	"github.com/alertmedic/alertmedic/playbooks"
)

// revert takes the steps of a failed remedy back, last first. It restores only
// what is still ours; the action refuses the rest with revert-conflict, and the
// run goes on with the others and says so.
func (w *work) revert(ctx context.Context) error {
	for i := w.st.Revert.Next; i >= 0; i-- {
		s, ok := w.steps[i]
		if !ok || !w.takesBack(s) {
			continue
		}
		return w.revertStep(ctx, s)
	}
	if w.st.Revert.Healed {
		return w.undoBefore(ctx)
	}
	reason, failed := w.st.Revert.Reason, w.st.Revert.Failed
	if failed {
		return w.end(ctx, store.Escalated, string(action.ReasonRevertConflict), "the remedy failed ("+reason+") and could not be taken back whole: a person must look")
	}
	w.nextRemedy()
	return w.commit(ctx, w.transition())
}

// takesBack says whether a step has changed what can be restored. One that failed
// after its first call may have: a drain cordons before it evicts.
func (w *work) takesBack(s store.Step) bool {
	spec, ok := w.e.Actions.Lookup(s.Action)
	if !ok || !spec.Reversible || !w.mutates(s) {
		return false
	}
	return s.Status == store.StepDone || s.Status == store.StepFailed && (s.Touched || len(s.State) > 0)
}

func (w *work) sendRevert(ctx context.Context, plan action.Plan, state []byte) (action.Result, error) {
	calls, err := w.e.leases.sure(w.held)
	if err != nil {
		return action.Result{}, action.Errorf(action.ReasonUnavailable, "nothing was sent: %w", err)
	}
	cctx, cancel := context.WithTimeout(calls, w.e.CallTimeout)
	defer cancel()
	return w.e.Actions.Revert(cctx, plan, state) //nolint:wrapcheck // the contract's error
}

// revertStep asks the guards, writes the intent, sends the revert and records the
// outcome.
func (w *work) revertStep(ctx context.Context, s store.Step) error {
	var plan action.Plan
	if err := unmarshal(s.Plan, &plan); err != nil {
		return err
	}
	if s.Reverting && s.CallDeadline.After(w.now) {
		// A worker died in the middle of the call, which may still be on its way:
		// it must not arrive after the run has let go of its locks.
		return w.awaitCall(ctx, s.CallDeadline)
	}
	decision, err := w.admitRevert(ctx, s, plan)
	switch {
	case err != nil:
		return err
	case decision.Verdict == guard.Delay && w.alive:
		return w.revertFailed(ctx, s, string(decision.Reason), "it was held back until limits.expireAfter was over: "+decision.Message)
	case decision.Verdict == guard.Delay:
		return nil // until its time
	case decision.Verdict != guard.Admit:
		return w.revertFailed(ctx, s, string(decision.Reason), decision.Message)
	}
	s = w.steps[s.Step]
	res, err := w.sendRevert(ctx, plan, s.State)
	w.now, _ = w.e.clock(ctx, w.now)
	var ae *action.Error
	if !errors.As(err, &ae) || ae.Reason != action.ReasonUnclear {
		s.CallDeadline = time.Time{} // the call is over
	}
	switch {
	case err == nil && res.Done:
		return w.revertedStep(ctx, s, res.Message)
	case err == nil:
		s.State = res.State
		w.steps[s.Step] = s
		w.run.DueAt, w.run.Wait = w.now.Add(max(res.Again, w.e.VerifyEvery)), store.WaitStep
		t := w.transition()
		t.Steps, t.Release = []store.Step{s}, true
		return w.commit(ctx, t)
	case errors.As(err, &ae) && (ae.Reason.Retryable() || ae.Reason == action.ReasonUnclear) && s.Retries < 10:
		// A revert is a patch with tests on the values that are ours: sending it
		// again is harmless, so an unclear fate needs no observation.
		s.Retries++
		w.steps[s.Step] = s
		w.run.DueAt, w.run.Wait = w.now.Add(max(ae.RetryAfter, w.e.backoff(s.Retries))), store.WaitRetry
		t := w.transition()
		t.Steps, t.Release = []store.Step{s}, true
		return w.commit(ctx, t)
	}
	return w.revertFailed(ctx, s, string(action.ReasonOf(err)), fmt.Sprintf("%v", err))
}

// admitRevert asks the guards for reverts and, in the same transaction, records
// the intent, or that the run waits. A delay past the time that the run may be held
// is for the caller to end.
func (w *work) admitRevert(ctx context.Context, s store.Step, plan action.Plan) (guard.Decision, error) {
	spec, _ := w.e.Actions.Lookup(s.Action)
	subject := w.subject(s, spec, plan)
	subject.NeedsPod, subject.Displaces, subject.Removes = false, 0, 0
	evidence := w.gather(ctx, subject, plan)
	before := *w
	var decision guard.Decision
	var sent *store.Transition
	run, err := w.e.Store.Admit(ctx, w.query(subject, evidence), w.run.Fence(), func(l guard.Ledger) (store.Transition, error) {
		*w = before
		w.now = l.Now
		sent = nil
		decision, _ = guard.Decide(guard.ForReverts(w.e.Guards), guard.Input{Subject: subject, Evidence: evidence, Ledger: l, Config: w.e.GuardConfig})
		switch {
		case decision.Verdict == guard.Admit:
			sent = new(w.intendRevert(s, plan))
		case decision.Verdict == guard.Delay && w.heldUntil().After(w.now):
			sent = new(w.holdRevert(s, decision))
		default:
			return store.Transition{}, errRefused
		}
		return *sent, nil
	})
	if errors.Is(err, errRefused) {
		w.e.m.decision(w.run.Playbook, decision)
		return decision, nil
	}
	if err != nil {
		*w = before
		return decision, fmt.Errorf("admit the revert of step %s: %w", s.Name, err)
	}
	w.committed(run, *sent)
	w.e.m.decision(w.run.Playbook, decision)
	return decision, nil
}

// errRefused undoes the transaction of a decision that is recorded by another.
var errRefused = errors.New("refused by a guard")

// intendRevert writes the intent to take a step back.
func (w *work) intendRevert(s store.Step, plan action.Plan) store.Transition {
	if !s.Reverting {
		s.Retries = 0 // those that follow are the revert's
	}
	s.Reverting, s.Ticks = true, s.Ticks+1
	s.CallDeadline = w.now.Add(w.e.CallTimeout)
	en := w.stepEntry(journal.StepIntent, s)
	en.Outcome, en.Message = "revert", "revert: "+plan.Summary
	w.steps[s.Step] = s
	w.st.LastMutation, w.st.LastGuard = w.now, ""
	w.run.Wait, w.run.Reason, w.run.Message = store.WaitNone, "", en.Message
	t := w.transition(en)
	t.Steps = []store.Step{s}
	return t
}

// holdRevert lets go of the run until the guard may admit the revert.
func (w *work) holdRevert(s store.Step, d guard.Decision) store.Transition {
	var entries []journal.Entry
	if d.Reason != w.st.LastGuard {
		en := w.stepEntry(journal.RunWaiting, s)
		en.Reason, en.Message = string(d.Reason), "what "+s.RemedyName+"/"+s.Name+" changed is not taken back yet: "+d.Message
		entries = append(entries, en)
	}
	w.st.LastGuard = d.Reason
	w.run.DueAt, w.run.Wait, w.run.Reason, w.run.Message = minTime(d.RetryAt, w.heldUntil()), store.WaitGuard, string(d.Reason), d.Message
	t := w.transition(entries...)
	t.Release = true
	return t
}

// revertFailed goes on with the other steps; the end of the run says that not
// everything could be taken back.
func (w *work) revertFailed(ctx context.Context, s store.Step, reason, message string) error {
	en := w.stepEntry(journal.StepRevertFailed, s)
	en.Outcome, en.Reason, en.Message = "failed", reason, message
	w.e.m.action(w.run.Playbook, s.Action, "revert-failed", reason)
	w.st.Revert.Failed = true
	w.st.Revert.Next = s.Step - 1
	t := w.transition(en)
	t.Steps = []store.Step{s}
	return w.commit(ctx, t)
}

func (w *work) revertedStep(ctx context.Context, s store.Step, message string) error {
	s.Status, s.EndedAt, s.Message = store.StepReverted, w.now, message
	w.steps[s.Step] = s
	en := w.stepEntry(journal.StepReverted, s)
	en.Outcome, en.Message = "reverted", message
	w.e.m.action(w.run.Playbook, s.Action, "reverted", "")
	w.st.Revert.Next = s.Step - 1
	w.st.Revert.Undone = append(w.st.Revert.Undone, s.RemedyName+"/"+s.Name)
	t := w.transition(en)
	t.Steps = []store.Step{s}
	return w.commit(ctx, t)
}

// undo begins to take back what the run changed, now that the target is well:
// onResolve asks for it. It does nothing for a run that has nothing to take back.
func (w *work) undo(ctx context.Context, entries ...journal.Entry) (bool, error) {
	steps, err := w.e.Store.Steps(ctx, w.run.ID)
	if err != nil {
		return false, fmt.Errorf("read the steps: %w", err)
	}
	if w.pb.OnResolve != playbooks.RevertOnResolve || !slices.ContainsFunc(steps, w.takesBack) {
		return false, nil
	}
	w.st.Stage = stageRevert
	w.st.Revert = revertState{Next: maxKey(w.steps), Reason: "healed", Healed: true, Remedy: w.run.Remedy}
	return true, w.commit(ctx, w.transition(entries...))
}

// undoBefore goes on with the remedy before, and ends the run after the first.
func (w *work) undoBefore(ctx context.Context) error {
	r := &w.st.Revert
	if r.Remedy == 0 {
		message := fmt.Sprintf("%s is healthy", w.run.Target)
		if len(r.Undone) > 0 {
			message += "; taken back: " + strings.Join(r.Undone, ", ")
		}
		if r.Failed {
			return w.end(ctx, store.Healed, string(action.ReasonRevertConflict), message+"; not everything could be taken back, see the log")
		}
		return w.end(ctx, store.Healed, "", message)
	}
	r.Remedy--
	steps, err := w.e.Store.Steps(ctx, w.run.ID)
	if err != nil {
		return fmt.Errorf("read the steps: %w", err)
	}
	w.steps = map[int]store.Step{}
	for _, s := range steps {
		if s.Remedy == r.Remedy {
			w.steps[s.Step] = s
		}
	}
	r.Next = maxKey(w.steps)
	return w.commit(ctx, w.transition())
}
