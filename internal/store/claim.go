package store

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// lockPoll is how long a due run waits whose lock another run holds. The end of
// that run wakes it at once.
const lockPoll = 5 * time.Second

// Claimable runs are due, unfinished and leased by nobody; those whose lock is
// held by another run are passed over, unless they have expired without having
// sent anything, so that they end in time.
const (
	runFree   = "r.phase <> 'done' AND r.due_at <= $1 AND (r.lease_owner = '' OR r.lease_until <= $1)"
	runLocked = `EXISTS (SELECT 1 FROM run_locks l WHERE l.lock_key = r.lock_key AND l.run_id <> r.id)
		AND NOT (r.expires_at <= $1 AND r.intent_at = 0)`
)

// afterLost is how long a run waits for its next worker when this one is lost as
// well, after so many before it: not at all after the first two, then 2s, doubled
// up to a minute.
func afterLost(lost int) time.Duration {
	if lost < 3 {
		return 0
	}
	return min(time.Second<<min(lost-2, 6), time.Minute)
}

// claimTx is inTx for a claim: of a backlog it takes the few that are due longest.
// PostgreSQL counts on hardly any that wait, in a table of which nearly all rows are
// done and whose last statistics are from before the backlog; it then collects and
// sorts all that wait at each claim. Without bitmaps it reads as many as it takes.
func (s *Store) claimTx(ctx context.Context, what string, fn func(*txn) error) error {
	if s.dialect.inOrder == "" {
		return s.inTx(ctx, what, fn)
	}
	return s.inTimedTx(ctx, what, false, func(t *txn) error {
		var us int64
		var set string
		if err := t.QueryRowContext(ctx, "SELECT "+s.dialect.now+", "+s.dialect.inOrder).Scan(&us, &set); err != nil {
			return err
		}
		t.now = fromMicros(us)
		return fn(t)
	})
}

// ClaimRuns takes up to limit runs that are due, the longest due first (of those, the
// highest priority first where they are due at one time). A claim
// carries a new fencing token; Run.TakenOver tells that the worker before never
// gave its lease back, Run.WorkersLost how many did so in a row. Due runs whose lock is held are pushed back.
func (s *Store) ClaimRuns(ctx context.Context, owner string, ttl time.Duration, limit int) ([]Run, error) {
	now, err := s.Now(ctx)
	if err != nil {
		return nil, err
	}
	due, err := exists(ctx, s.read, "SELECT 1 FROM runs r WHERE "+runFree+" LIMIT 1", micros(now))
	if err != nil || !due || limit < 1 {
		return nil, s.wrap("claim runs", err)
	}
	var out []Run
	err = s.claimTx(ctx, "claim runs", func(t *txn) error {
		if err := t.exec(ctx, `WITH held AS MATERIALIZED (SELECT r.id FROM runs r WHERE `+runFree+` AND `+runLocked+` LIMIT 100`+s.dialect.skipLocked+`)
			UPDATE runs SET due_at = $2, wait = 'lock' WHERE id IN (SELECT id FROM held)`, micros(t.now), micros(t.now.Add(lockPoll))); err != nil {
			return fmt.Errorf("push back what is locked: %w", err)
		}
		var err error
		out, err = collect(ctx, t, scanRun, `WITH due AS MATERIALIZED (SELECT r.id FROM runs r WHERE `+runFree+` AND NOT (`+runLocked+`)
				ORDER BY r.due_at LIMIT $2`+s.dialect.skipLocked+`)
			UPDATE runs SET taken_over = CASE WHEN lease_owner = '' THEN 0 ELSE 1 END, workers_lost = workers_lost + CASE WHEN lease_owner = '' THEN 0 ELSE 1 END,
				lease_owner = $3, lease_epoch = lease_epoch + 1, lease_until = $4, lease_ttl = $5
			WHERE id IN (SELECT id FROM due) RETURNING `+runColumns, micros(t.now), int64(limit), owner, micros(t.now.Add(ttl)), ttl.Microseconds())
		if err != nil {
			return err
		}
		for _, r := range out {
			if wait := afterLost(r.WorkersLost); wait > 0 {
				if err := t.exec(ctx, "UPDATE runs SET due_at = $1 WHERE id = $2", micros(t.now.Add(wait)), r.ID); err != nil {
					return fmt.Errorf("slow down run %s: %w", r.ID, err)
				}
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(out, func(a, b Run) int {
		if c := a.DueAt.Compare(b.DueAt); c != 0 {
			return c
		}
		if a.Priority != b.Priority {
			return b.Priority - a.Priority
		}
		return compareText(a.ID, b.ID)
	})
	return out, nil
}

func compareText(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// lockRun locks a run's row and checks the fence.
func (t *txn) lockRun(ctx context.Context, f Fence) (Run, error) {
	run, err := t.s.run(ctx, t, f.RunID, t.s.dialect.forUpdate)
	if err != nil {
		return run, err
	}
	if f.Owner == "" || run.Lease.Owner != f.Owner || run.Lease.Epoch != f.Epoch || run.Phase == Done {
		return run, fmt.Errorf("run %s: %w", f.RunID, ErrFenced)
	}
	return run, t.tick(ctx)
}
