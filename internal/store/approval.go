package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/alertmedic/alertmedic/internal/journal"
)

const approvalColumns = "run_id, remedy, plan_hash, target_uid, status, asked_at, decided_at, by_whom, why"

func scanApproval(sc scanner) (Approval, error) {
	var a Approval
	var asked, decided int64
	err := sc.Scan(&a.RunID, &a.Remedy, &a.PlanHash, &a.TargetUID, &a.Status, &asked, &decided, &a.By, &a.Why)
	a.AskedAt, a.DecidedAt = fromMicros(asked), fromMicros(decided)
	return a, err
}

// Approval returns the latest approval of a rung of a run, whatever its status;
// the error wraps ErrNotFound.
func (s *Store) Approval(ctx context.Context, runID string, remedy int) (Approval, error) {
	a, err := scanApproval(s.read.QueryRowContext(ctx, "SELECT "+approvalColumns+` FROM approvals WHERE run_id = $1 AND remedy = $2
		ORDER BY CASE WHEN status = 'pending' THEN 0 ELSE 1 END, asked_at DESC, decided_at DESC LIMIT 1`, text(runID), int64(remedy)))
	return a, s.wrap("read the approval", notFound(err, "an approval of run %s", runID))
}

// PendingApproval returns the question that a run waits for; the error wraps
// ErrNoApproval.
func (s *Store) PendingApproval(ctx context.Context, runID string) (Approval, error) {
	a, err := pendingApproval(ctx, s.read, text(runID))
	return a, s.wrap("read the approval", err)
}

func pendingApproval(ctx context.Context, q querier, runID string) (Approval, error) {
	a, err := scanApproval(q.QueryRowContext(ctx, "SELECT "+approvalColumns+" FROM approvals WHERE run_id = $1 AND status = 'pending'", runID))
	if err == nil {
		return a, nil
	}
	if err = notFound(err, "run %s", runID); !errors.Is(err, ErrNotFound) {
		return a, err
	}
	last, lerr := scanApproval(q.QueryRowContext(ctx, "SELECT "+approvalColumns+" FROM approvals WHERE run_id = $1 ORDER BY decided_at DESC LIMIT 1", runID))
	switch {
	case lerr != nil && !errors.Is(notFound(lerr, ""), ErrNotFound):
		return a, lerr
	case lerr != nil:
		return a, fmt.Errorf("run %s: %w: it did not ask for one", runID, ErrNoApproval)
	case last.Status == ApprovalVoid:
		return a, fmt.Errorf("run %s: %w: the last one is void since %s: %s", runID, ErrNoApproval, last.DecidedAt.Format(time.RFC3339), last.Why)
	}
	return a, fmt.Errorf("run %s: %w: %s has %s it at %s: %s", runID, ErrNoApproval, last.By, last.Status, last.DecidedAt.Format(time.RFC3339), last.Why)
}

// Approvals returns the approvals of a status, "" of all, the oldest question
// first.
func (s *Store) Approvals(ctx context.Context, status ApprovalStatus) ([]Approval, error) {
	out, err := collect(ctx, s.read, scanApproval, "SELECT "+approvalColumns+" FROM approvals WHERE ($1 = '' OR status = $1) ORDER BY asked_at, run_id", string(status))
	return out, s.wrap("read the approvals", err)
}

// Decide records a person's answer, journals it and makes the run due, in one
// transaction. The error wraps ErrNoApproval, which says who decided when
// someone did, or ErrPlanChanged when the answer is about another plan.
func (s *Store) Decide(ctx context.Context, d Decision) (Approval, error) {
	var out Approval
	if d.By == "" {
		return out, s.wrap("decide", fmt.Errorf("%w: a decision must say who made it", ErrInvalid))
	}
	err := s.inTx(ctx, "decide", func(t *txn) error {
		// The run's row first, as every transition does: a worker that puts the run
		// back to wait either sees this decision or is overtaken by it.
		run, err := s.run(ctx, t, text(d.RunID), s.dialect.forUpdate)
		if err != nil {
			return err
		}
		if err := t.tick(ctx); err != nil {
			return err
		}
		a, err := pendingApproval(ctx, t, run.ID)
		if err != nil {
			return err
		}
		if d.PlanHash != "" && d.PlanHash != a.PlanHash {
			return fmt.Errorf("run %s: %w: it is %s and the answer is about %s; look at it and answer again", run.ID, ErrPlanChanged, a.PlanHash, d.PlanHash)
		}
		a.Status, a.DecidedAt, a.By, a.Why = ApprovalRejected, t.now, text(d.By), text(d.Why)
		if d.Approve {
			a.Status = ApprovalApproved
		}
		if err := t.exec(ctx, "UPDATE approvals SET status = $1, decided_at = $2, by_whom = $3, why = $4 WHERE run_id = $5 AND remedy = $6 AND plan_hash = $7",
			string(a.Status), micros(a.DecidedAt), a.By, a.Why, a.RunID, int64(a.Remedy), a.PlanHash); err != nil {
			return fmt.Errorf("write the decision: %w", err)
		}
		if err := t.exec(ctx, "UPDATE runs SET due_at = $1 WHERE id = $2 AND due_at > $1", micros(t.now), run.ID); err != nil {
			return fmt.Errorf("wake the run: %w", err)
		}
		data, err := json.Marshal(map[string]string{"planHash": a.PlanHash, "targetUID": a.TargetUID})
		if err != nil {
			return fmt.Errorf("encode the decision: %w", err)
		}
		out = a
		return t.append(ctx, journal.Entry{Kind: journal.ApprovalDecided, At: t.now, Cluster: run.Target.Cluster, Source: run.Source, AlertName: run.AlertName,
			RunID: run.ID, Playbook: run.Playbook, Target: &run.Target, Outcome: string(a.Status), Message: d.Why, Actor: d.By, Data: data})
	})
	if err != nil {
		return Approval{}, err
	}
	return out, nil
}

// writeApproval asks for an approval, which voids an older question of the run,
// or records that one is void. A rejection is never undone.
func (t *txn) writeApproval(ctx context.Context, runID string, a Approval) error {
	if a.Status == ApprovalPending {
		if err := t.exec(ctx, "UPDATE approvals SET status = 'void', decided_at = $1, why = 'another plan is asked about' WHERE run_id = $2 AND status = 'pending'",
			micros(t.now), runID); err != nil {
			return fmt.Errorf("void the older approval: %w", err)
		}
	}
	if err := t.exec(ctx, `INSERT INTO approvals (run_id, remedy, plan_hash, target_uid, status, asked_at, decided_at, by_whom, why)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
		ON CONFLICT (run_id, remedy, plan_hash) DO UPDATE SET target_uid = excluded.target_uid, status = excluded.status,
			asked_at = CASE WHEN excluded.asked_at = 0 THEN approvals.asked_at ELSE excluded.asked_at END,
			decided_at = excluded.decided_at,
			by_whom = CASE WHEN excluded.status = 'void' AND excluded.by_whom = '' THEN approvals.by_whom ELSE excluded.by_whom END,
			why = excluded.why
		WHERE excluded.status = 'pending' OR approvals.status <> 'rejected'`,
		runID, int64(a.Remedy), a.PlanHash, text(a.TargetUID), string(a.Status), micros(cmpTime(a.AskedAt, t.now)), micros(a.DecidedAt), text(a.By), text(a.Why)); err != nil {
		return fmt.Errorf("write the approval: %w", err)
	}
	return nil
}
