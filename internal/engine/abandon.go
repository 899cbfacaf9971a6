package engine

import (
	"context"
	"fmt"
	"runtime/debug"

	"github.com/alertmedic/alertmedic/internal/action"
	"github.com/alertmedic/alertmedic/internal/journal"
	"github.com/alertmedic/alertmedic/internal/store"
)

// maxLost is how many workers in a row may be lost to a run before they could
// record anything. The store lets more and more time pass between them, so that it
// is some three minutes before the run is given up.
const maxLost = 10

// abandon ends a run that this program cannot work on, and calls a person. It
// relies on nothing that may be what is broken: neither on the run's state nor on
// its playbook. A change that may still be on its way is waited for; whether it
// was made is then not known, and said to be so.
func (w *work) abandon(ctx context.Context, reason, why string) error {
	now, err := w.e.Store.Now(ctx)
	if err != nil {
		return fmt.Errorf("read the clock: %w", err)
	}
	w.now = now
	if w.cands, err = w.e.Store.RunCandidates(ctx, w.run.ID); err != nil {
		return fmt.Errorf("read the candidates: %w", err)
	}
	steps, err := w.e.Store.Steps(ctx, w.run.ID)
	if err != nil {
		return fmt.Errorf("read the steps: %w", err)
	}
	w.steps = map[int]store.Step{}
	run := w.saved
	run.Phase, run.Wait, run.Outcome, run.Reason, run.EndedAt = store.Done, store.WaitNone, store.Escalated, reason, now
	run.Message = why + "; a person must look at " + run.Target.String()
	t := store.Transition{Fence: run.Fence(), Entries: w.queued, Release: true}
	for _, s := range steps {
		if s.Status != store.StepIntended && (!s.Reverting || s.CallDeadline.IsZero()) {
			continue
		}
		if settled := s.CallDeadline.Add(w.e.ServerTimeout); settled.After(now) {
			waiting := w.saved
			waiting.DueAt, waiting.Wait = settled, store.WaitRetry
			return w.commit(ctx, store.Transition{Fence: run.Fence(), Run: waiting, Entries: w.queued, Release: true, StillLost: true})
		}
		s.Status, s.EndedAt = store.StepUnknown, now
		s.Reason, s.Message = string(action.ReasonUnclear), why
		en := w.stepEntry(journal.StepUnknown, s)
		en.Outcome, en.Reason, en.Message = "unknown", s.Reason, why
		w.e.m.action(w.run.Playbook, s.Action, "unknown", s.Reason)
		t.Steps, t.Entries = append(t.Steps, s), append(t.Entries, en)
		run.Outcome, run.Reason = store.OutcomeUnknown, string(action.ReasonUnclear)
		run.Message = fmt.Sprintf("step %s (%s) may or may not have been applied: %s; a person must look at %s", s.Name, s.Action, why, run.Target)
	}
	en := w.entry(journal.RunEnded)
	en.Outcome, en.Reason, en.Message = string(run.Outcome), run.Reason, run.Message
	t.Run, t.Entries = run, append(t.Entries, en)
	t.Outbox = w.bareReport(run, steps)
	return w.commit(ctx, t)
}

// bareReport makes the messages about an abandoned run, or none when making them
// is what cannot be done: the log and the metrics still tell of it.
func (w *work) bareReport(run store.Run, steps []store.Step) (out []store.Message) {
	if w.e.Reporter == nil {
		return nil
	}
	defer func() {
		if p := recover(); p != nil {
			w.e.m.panics.Inc()
			w.e.Logger.Error("panic while writing the messages about a run that is given up", "run", run.ID, "panic", p, "stack", string(debug.Stack()))
			out = nil
		}
	}()
	return w.e.Reporter.Messages(Report{Run: run, Playbook: w.pb, Alerts: w.alerts(), Steps: steps, Event: journal.RunEnded, Message: run.Message, At: w.now})
}
