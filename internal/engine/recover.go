package engine

import (
	"context"
	"fmt"
	"time"

	"github.com/alertmedic/alertmedic/internal/action"
	"github.com/alertmedic/alertmedic/internal/journal"
	"github.com/alertmedic/alertmedic/internal/store"
)

// recover finds out about a step whose intent is recorded and whose outcome is
// not: the process died between the two, or the call's fate was unclear. What
// may be done follows from the action's replay class.
func (w *work) recover(ctx context.Context, s store.Step) error {
	var plan action.Plan
	if err := unmarshal(s.Plan, &plan); err != nil {
		return err
	}
	spec, ok := w.e.Actions.Lookup(s.Action)
	if !ok {
		return w.unknown(ctx, s, "this version has no action "+s.Action)
	}
	if !spec.Mutating || plan.Noop {
		return w.resend(ctx, s, "it changes nothing")
	}
	switch spec.Replay {
	case action.Idempotent:
		// Two of the same change in flight do no harm, but the first must not
		// arrive after the run has let go of its locks.
		if s.CallDeadline.After(w.now) {
			return w.awaitCall(ctx, s.CallDeadline)
		}
		w.touch(&s) // it may have been made
		return w.resend(ctx, s, "the action is idempotent")
	case action.Observable:
		cctx, cancel := context.WithTimeout(ctx, w.e.CallTimeout)
		seen, err := w.e.Actions.Observe(cctx, plan, s.State)
		cancel()
		if err != nil {
			seen = action.Undetermined
		}
		settled := s.CallDeadline.Add(w.e.ServerTimeout)
		switch {
		case seen == action.Applied:
			return w.observed(ctx, s, plan)
		case settled.After(w.now):
			// The API server may still be working on the request.
			due := min(settled.Sub(w.now), w.e.VerifyEvery)
			return w.awaitCall(ctx, w.now.Add(due))
		case seen == action.NotApplied:
			s.Touched = len(s.State) > 0 // by the calls before
			return w.resend(ctx, s, fmt.Sprintf("the change is not there %s after its deadline", w.now.Sub(s.CallDeadline).Round(time.Second)))
		case err != nil && action.ReasonOf(err).Retryable() && settled.Add(w.stepTimeoutOf(s)).After(w.now):
			return w.awaitCall(ctx, w.now.Add(w.e.backoff(s.Retries)))
		}
		return w.unknown(ctx, s, fmt.Sprintf("the live object does not tell whether the change was made (%v)", err))
	default:
		return w.unknown(ctx, s, "the action must not be sent twice and cannot be observed")
	}
}

// unclear keeps the intent standing and looks again soon.
func (w *work) unclear(ctx context.Context, s store.Step, message string) error {
	w.touch(&s)
	s.Message, s.Reason = message, string(action.ReasonUnclear)
	w.steps[s.Step] = s
	en := w.stepEntry(journal.StepProgress, s)
	en.Reason, en.Message = string(action.ReasonUnclear), message+"; the change is looked for"
	en.Data = seen(s)
	w.e.m.action(w.run.Playbook, s.Action, "unclear", string(action.ReasonUnclear))
	w.run.DueAt, w.run.Wait, w.run.Message = w.now.Add(w.e.Backoff), store.WaitRetry, message
	t := w.transition(en)
	t.Steps, t.Release = []store.Step{s}, true
	return w.commit(ctx, t)
}

// observed goes on from a change that is seen to be there. The look may have
// taken a while in which the change arrived: the step ends now, not when the look
// began.
func (w *work) observed(ctx context.Context, s store.Step, plan action.Plan) error {
	w.now, _ = w.e.clock(ctx, w.now)
	en := w.stepEntry(journal.StepObserved, s)
	en.Outcome, en.Message = string(action.Applied), "the change is there: "+plan.Summary
	w.queued = append(w.queued, en)
	return w.stepDone(ctx, s, action.Result{Done: true, State: s.State, Message: "found applied: " + plan.Summary})
}

// resend lets the step be admitted again: the guards are asked once more.
func (w *work) resend(ctx context.Context, s store.Step, why string) error {
	en := w.stepEntry(journal.StepObserved, s)
	en.Outcome, en.Message = string(action.NotApplied), "sent again: "+why
	s.Status, s.Retries = store.StepWaiting, s.Retries+1
	w.steps[s.Step] = s
	t := w.transition(en)
	t.Steps = []store.Step{s}
	return w.commit(ctx, t)
}

// unknown hands the run to a person: what cannot be known is said to be so.
func (w *work) unknown(ctx context.Context, s store.Step, why string) error {
	s.Status, s.EndedAt, s.Reason, s.Message = store.StepUnknown, w.now, string(action.ReasonUnclear), why
	w.steps[s.Step] = s
	en := w.stepEntry(journal.StepUnknown, s)
	en.Outcome, en.Reason, en.Message = "unknown", string(action.ReasonUnclear), why
	w.e.m.action(w.run.Playbook, s.Action, "unknown", string(action.ReasonUnclear))
	t := w.ending(store.OutcomeUnknown, string(action.ReasonUnclear),
		fmt.Sprintf("step %s (%s) may or may not have been applied: %s; a person must look at %s", s.Name, s.Action, why, w.run.Target), en)
	t.Steps = []store.Step{s}
	return w.commit(ctx, t)
}
