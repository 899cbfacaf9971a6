package engine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/alertmedic/alertmedic/internal/action"
	"github.com/alertmedic/alertmedic/internal/journal"
	"github.com/alertmedic/alertmedic/internal/store"
)

// ask records the plan and waits for a person. The run holds its locks from
// here on, so that nobody else changes the target under the plan.
func (w *work) ask(entries []journal.Entry) store.Transition {
	w.run.Phase, w.run.Wait = store.Active, store.WaitApproval
	if w.run.AdmittedAt.IsZero() {
		w.run.AdmittedAt = w.now
	}
	w.st.Stage, w.st.AskedAt, w.st.Approved = stageApproval, w.now, ""
	steps, planned := w.planned(store.StepPlanned)
	locks := []string{w.run.Target.LockKey()}
	for _, s := range steps {
		var p action.Plan
		if unmarshal(s.Plan, &p) == nil {
			locks = append(locks, p.Locks...)
		}
	}
	w.run.DueAt = w.approvalEnds()
	w.run.Message = "waits for approval: " + w.planText()
	en := w.entry(journal.ApprovalRequested)
	en.Message = w.run.Message
	en.Data = encode(map[string]any{"planHash": w.st.PlanHash, "targetUID": w.run.Target.UID, "expiresAt": w.run.DueAt})
	w.tell(journal.ApprovalRequested, w.run.Message)
	w.report.PlanHash = w.st.PlanHash
	t := w.transition(append(entries, planned, en)...)
	t.Steps, t.Locks, t.Release = steps, locks, true
	t.Approval = &store.Approval{RunID: w.run.ID, Remedy: w.run.Remedy, PlanHash: w.st.PlanHash, TargetUID: w.run.Target.UID,
		Status: store.ApprovalPending, AskedAt: w.now}
	return t
}

// approvalEnds is when nobody's answer counts any more: the run's expiry, or as
// long again after the question when a later rung asks.
func (w *work) approvalEnds() time.Time {
	if w.st.Mutated {
		return w.st.AskedAt.Add(w.e.ExpireAfter(w.pb))
	}
	return w.run.ExpiresAt
}

// awaitApproval acts on a decision, or on the lack of one.
func (w *work) awaitApproval(ctx context.Context) error {
	ap, err := w.e.Store.Approval(ctx, w.run.ID, w.run.Remedy)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return fmt.Errorf("read the approval: %w", err)
	}
	bound := err == nil && ap.PlanHash == w.st.PlanHash && ap.TargetUID == w.run.Target.UID
	switch {
	case bound && ap.Status == store.ApprovalRejected:
		return w.end(ctx, w.without(store.Cancelled), "rejected", fmt.Sprintf("rejected by %s: %s", ap.By, ap.Why))
	case bound && ap.Status == store.ApprovalApproved:
		return w.approved(ctx, ap)
	case !w.approvalEnds().After(w.now):
		return w.end(ctx, w.without(store.Expired), "approval-expired", "nobody decided before "+w.approvalEnds().UTC().Format(time.RFC3339))
	case bound && ap.Status == store.ApprovalPending:
		return w.release(ctx, w.approvalEnds(), store.WaitApproval)
	}
	// The question is gone or about another plan: plan and ask again.
	w.st.Stage = stagePlan
	return w.commit(ctx, w.transition())
}

// approved plans once more and compares: a person approved this change to this
// object, and nothing else.
func (w *work) approved(ctx context.Context, ap store.Approval) error {
	if done, err := w.healedMeanwhile(ctx); done || err != nil {
		return err
	}
	if !w.approvalEnds().Add(w.e.ExpireAfter(w.pb)).After(w.now) {
		return w.expire(ctx) // it could not even be planned for so long: what was approved is history
	}
	vars, err := w.vars(ctx)
	if err != nil && action.ReasonOf(err) != action.ReasonGone {
		return err
	}
	if err != nil {
		return w.end(ctx, w.without(store.Suppressed), string(action.ReasonGone), fmt.Sprintf("%s is not there any more", w.run.Target))
	}
	steps, err := w.planSteps(ctx, w.remedy(), vars)
	if err != nil {
		return w.planFailed(ctx, err)
	}
	if hash := planHash(steps); hash != ap.PlanHash {
		en := w.entry(journal.ApprovalVoided)
		en.Reason, en.Actor = "drift", ap.By
		en.Message = fmt.Sprintf("the plan that %s approved (%s) is not the plan of now (%s); asking again", ap.By, ap.PlanHash, hash)
		w.st.Stage = stagePlan
		t := w.transition(en)
		t.Approval = &ap
		t.Approval.Status, t.Approval.Why = store.ApprovalVoid, "the plan drifted"
		return w.commit(ctx, t)
	}
	// Steps that only looked have been carried out before the question.
	for i, old := range w.steps {
		if _, planned := steps[i]; planned && old.Status == store.StepDone {
			steps[i] = old
		}
	}
	w.steps = steps
	w.st.Approved = ap.PlanHash
	w.st.Stage = stageStep
	for _, i := range w.order() {
		if steps[i].Status == store.StepPlanned {
			return w.admit(ctx, i, true)
		}
	}
	return w.startVerify(ctx) // nothing is left to do
}
