package store

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/alertmedic/alertmedic/internal/guard"
)

// Apply makes one transition of a claimed run and returns the run as stored. The
// error wraps ErrFenced when the claim was lost, or is a *LockedError when a key
// is held by another run; nothing is written then.
//
// AdmittedAt and IntentAt are set once and never taken back. A run that ends
// gives back its lease, locks and reservations, and its open approval is void.
func (s *Store) Apply(ctx context.Context, tr Transition) (Run, error) {
	var out Run
	err := s.inTx(ctx, "apply the transition", func(t *txn) error {
		run, err := t.lockRun(ctx, tr.Fence)
		if err != nil {
			return err
		}
		out, err = t.apply(ctx, run, tr)
		return err
	})
	if err != nil {
		return Run{}, err
	}
	return out, nil
}

// Admit decides about a run while nobody else can decide in the same scopes: it
// checks the fence, locks the scopes, reads the ledger, asks decide, and applies
// its transition in the same transaction. decide must be pure but for what it
// returns: it may be asked more than once, and its error undoes everything. Errors
// are those of Apply.
func (s *Store) Admit(ctx context.Context, q guard.Query, f Fence, decide func(guard.Ledger) (Transition, error)) (Run, error) {
	var out Run
	err := s.inTx(ctx, "admit", func(t *txn) error {
		run, err := t.lockRun(ctx, f)
		if err != nil {
			return err
		}
		if err := t.lockScopes(ctx, q.Scopes); err != nil {
			return err
		}
		ledger, err := t.s.ledger(ctx, t, q, t.now)
		if err != nil {
			return err
		}
		tr, err := decide(ledger)
		if err != nil {
			return fmt.Errorf("decide: %w", err)
		}
		if tr.Fence != f {
			return fmt.Errorf("%w: the transition is fenced as run %s and the admission as run %s", ErrInvalid, tr.Fence.RunID, f.RunID)
		}
		out, err = t.apply(ctx, run, tr)
		return err
	})
	if err != nil {
		return Run{}, err
	}
	return out, nil
}

// lockScopes locks the names that stand for what admission counts in, until the
// transaction ends.
func (t *txn) lockScopes(ctx context.Context, scopes []string) error {
	if t.s.dialect.lockNames == "" || len(scopes) == 0 {
		return nil // the one writer of SQLite holds everything
	}
	if err := t.exec(ctx, t.s.dialect.lockNames, scopes); err != nil {
		return fmt.Errorf("lock the scopes of the guards: %w", err)
	}
	return t.tick(ctx)
}

// nobodyJoined refuses with ErrJoined when more candidates have joined a run than
// its worker knows of.
func (t *txn) nobodyJoined(ctx context.Context, run string, known int) error {
	var joined int
	if err := t.QueryRowContext(ctx, "SELECT COUNT(*) FROM candidates WHERE run_id = $1 AND run_id <> '' AND outcome = 'joined'", run).Scan(&joined); err != nil {
		return fmt.Errorf("count the candidates: %w", err)
	}
	if joined > known {
		return fmt.Errorf("run %s: %w", run, ErrJoined)
	}
	return nil
}

// apply writes a transition; the run's row is locked and its fence checked.
func (t *txn) apply(ctx context.Context, old Run, tr Transition) (Run, error) {
	if err := t.takeLocks(ctx, old.ID, tr.Locks); err != nil {
		return Run{}, err
	}
	done := tr.Run.Phase == Done
	if done && tr.Known > 0 && len(tr.Steps) == 0 {
		// Joining locks the run's row as well: who is not here yet finds it ended.
		if err := t.nobodyJoined(ctx, old.ID, tr.Known); err != nil {
			return Run{}, err
		}
	}
	due, err := t.dueAfter(ctx, tr)
	if err != nil {
		return Run{}, err
	}
	ended := int64(0)
	if done {
		ended = micros(cmpTime(tr.Run.EndedAt, t.now))
	}
	owner, until, lost := old.Lease.Owner, "CAST($18 AS BIGINT) + lease_ttl", old.WorkersLost
	if done || tr.Release {
		owner, until = "", "CAST($18 AS BIGINT) * 0"
		if !tr.StillLost {
			lost = 0
		}
	}
	r := tr.Run
	run, err := scanRun(t.QueryRowContext(ctx, `UPDATE runs SET phase = $1, wait = $2, outcome = $3, reason = $4, message = $5, remedy = $6, step = $7,
			disruptive = $8, state = $9, due_at = $10, expires_at = $11,
			admitted_at = CASE WHEN admitted_at = 0 THEN $12 ELSE admitted_at END,
			intent_at = CASE WHEN intent_at = 0 THEN $13 ELSE intent_at END,
			ended_at = $14, lease_owner = $15, taken_over = 0, workers_lost = $19, lease_until = `+until+`
		WHERE id = $16 AND lease_epoch = $17 RETURNING `+runColumns,
		string(r.Phase), string(r.Wait), string(r.Outcome), text(r.Reason), text(r.Message), int64(r.Remedy), int64(r.Step),
		flag(r.Disruptive), string(r.State), micros(due), micros(cmpTime(r.ExpiresAt, old.ExpiresAt)),
		micros(r.AdmittedAt), micros(r.IntentAt), ended, owner, old.ID, old.Lease.Epoch, micros(t.now), int64(lost)))
	if err != nil {
		return Run{}, fmt.Errorf("write the run: %w", err)
	}
	if err := t.writeSteps(ctx, old.ID, tr.Steps); err != nil {
		return Run{}, err
	}
	for _, res := range tr.Reserve {
		if err := t.exec(ctx, `INSERT INTO reservations (run_id, scope, target_key, weight, created_at) VALUES ($1, $2, $3, $4, $5)
			ON CONFLICT (run_id, scope, target_key) DO UPDATE SET released_at = 0, weight = excluded.weight, created_at = excluded.created_at`,
			old.ID, res.Scope, res.TargetKey, int64(res.Weight), micros(cmpTime(res.Created, t.now))); err != nil {
			return Run{}, fmt.Errorf("reserve: %w", err)
		}
	}
	if err := t.keepGuards(ctx, tr); err != nil {
		return Run{}, err
	}
	if tr.Approval != nil {
		if err := t.writeApproval(ctx, old.ID, *tr.Approval); err != nil {
			return Run{}, err
		}
	}
	if err := t.append(ctx, tr.Entries...); err != nil {
		return Run{}, err
	}
	if err := t.post(ctx, old.ID, tr.Outbox); err != nil {
		return Run{}, err
	}
	if done {
		if err := t.releaseAll(ctx, old.ID, "the run ended"); err != nil {
			return Run{}, err
		}
		if err := t.observe(ctx, tr.Observed); err != nil {
			return Run{}, err
		}
		if err := t.requeue(ctx, old.ID, tr.RequeueAt); err != nil {
			return Run{}, err
		}
	}
	if done || tr.Release || len(tr.Outbox) > 0 {
		t.wakes = true
	}
	return run, nil
}

// dueAfter is the run's next due time. A run that goes to wait for a decision
// which came in the meantime is due at once: the decision has woken the row
// before this transition overwrites its due time.
func (t *txn) dueAfter(ctx context.Context, tr Transition) (time.Time, error) {
	due := cmpTime(tr.Run.DueAt, t.now)
	if tr.Run.Wait != WaitApproval || tr.Approval != nil || tr.Run.Phase == Done {
		return due, nil
	}
	pending, err := exists(ctx, t, "SELECT 1 FROM approvals WHERE run_id = $1 AND status = 'pending'", tr.Fence.RunID)
	if err != nil {
		return due, fmt.Errorf("look for the approval: %w", err)
	}
	if !pending && due.After(t.now) {
		due = t.now
	}
	return due, nil
}

func (t *txn) writeSteps(ctx context.Context, runID string, steps []Step) error {
	for _, st := range steps {
		st.RunID = runID
		doc, err := json.Marshal(st)
		if err != nil {
			return fmt.Errorf("%w: encode step %s: %w", ErrInvalid, st.Name, err)
		}
		if err := t.exec(ctx, `INSERT INTO steps (run_id, remedy, step, status, doc) VALUES ($1, $2, $3, $4, $5)
			ON CONFLICT (run_id, remedy, step) DO UPDATE SET status = excluded.status, doc = excluded.doc`,
			runID, int64(st.Remedy), int64(st.Step), string(st.Status), string(doc)); err != nil {
			return fmt.Errorf("write step %s: %w", st.Name, err)
		}
	}
	return nil
}

// takeLocks takes every key or none: the transaction is undone by the error.
func (t *txn) takeLocks(ctx context.Context, runID string, keys []string) error {
	for _, key := range slices.Compact(slices.Sorted(slices.Values(keys))) {
		if key == "" {
			return fmt.Errorf("%w: a lock key is empty", ErrInvalid)
		}
		if err := t.exec(ctx, "INSERT INTO run_locks (lock_key, run_id, taken_at) VALUES ($1, $2, $3) ON CONFLICT (lock_key) DO NOTHING",
			key, runID, micros(t.now)); err != nil {
			return fmt.Errorf("lock %s: %w", key, err)
		}
		var holder string
		if err := t.QueryRowContext(ctx, "SELECT run_id FROM run_locks WHERE lock_key = $1", key).Scan(&holder); err != nil {
			// It was held by a run that ended between the two statements.
			return fmt.Errorf("lock %s: %w: %w", key, errRace, err)
		}
		if holder != runID {
			return &LockedError{Key: key, HolderRun: holder}
		}
	}
	return nil
}

// releaseAll gives back what an ended run held and wakes the runs that waited
// for its locks.
func (t *txn) releaseAll(ctx context.Context, runID, why string) error {
	if err := t.exec(ctx, `UPDATE runs SET due_at = $1, wait = '' WHERE phase <> 'done' AND wait = 'lock' AND due_at > $1 AND lease_owner = ''
		AND lock_key IN (SELECT lock_key FROM run_locks WHERE run_id = $2)`, micros(t.now), runID); err != nil {
		return fmt.Errorf("wake the runs that waited: %w", err)
	}
	if err := t.exec(ctx, "DELETE FROM run_locks WHERE run_id = $1", runID); err != nil {
		return fmt.Errorf("release the locks: %w", err)
	}
	if err := t.exec(ctx, "UPDATE reservations SET released_at = $1 WHERE run_id = $2 AND released_at = 0", micros(t.now), runID); err != nil {
		return fmt.Errorf("release the reservations: %w", err)
	}
	if err := t.exec(ctx, "UPDATE approvals SET status = 'void', decided_at = $1, why = $2 WHERE run_id = $3 AND status = 'pending'",
		micros(t.now), why, runID); err != nil {
		return fmt.Errorf("void the approval: %w", err)
	}
	t.wakes = true
	return nil
}
