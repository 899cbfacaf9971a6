package store

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/alertmedic/alertmedic/internal/journal"
)

const candidateColumns = `c.id, c.episode_id, c.playbook, c.playbook_hash, c.priority, c.exclusive, c.phase, c.outcome, c.reason, c.run_id,
	c.attached, c.attempts, c.requeues, c.requeued_at, c.created_at, c.due_at, c.expires_at, c.lease_owner, c.lease_epoch, c.lease_until,
	e.id, e.source, e.fingerprint, e.cluster, e.alert, e.is_open, e.opened_at, e.closed_at, e.last_seen`

func scanCandidate(sc scanner) (Candidate, error) {
	var c Candidate
	var exclusive, attached, requeued, created, due, expires, until int64
	var ep episodeRow
	if err := sc.Scan(append([]any{&c.ID, &c.EpisodeID, &c.Playbook, &c.PlaybookHash, &c.Priority, &exclusive, &c.Phase, &c.Outcome, &c.Reason, &c.RunID,
		&attached, &c.Attempts, &c.Requeues, &requeued, &created, &due, &expires, &c.Lease.Owner, &c.Lease.Epoch, &until}, ep.fields()...)...); err != nil {
		return c, err
	}
	c.Exclusive, c.Attached = exclusive != 0, attached != 0
	c.RequeuedAt, c.CreatedAt, c.DueAt, c.ExpiresAt, c.Lease.Until = fromMicros(requeued), fromMicros(created), fromMicros(due), fromMicros(expires), fromMicros(until)
	var err error
	c.Episode, err = ep.value()
	return c, err
}

// ClaimCandidates takes up to limit queued candidates that are due and not
// leased, the oldest due first. Those that came with one webhook are due at the same
// time, ten thousand of them at times: they are taken in any order, or each claim
// would have to sort them all. Of those taken an episode's have the highest priority
// first; one of lower priority that is taken before them waits for them.
func (s *Store) ClaimCandidates(ctx context.Context, owner string, ttl time.Duration, limit int) ([]Candidate, error) {
	now, err := s.Now(ctx)
	if err != nil {
		return nil, err
	}
	// Looking costs nothing; an empty claim would cost a write transaction.
	due, err := exists(ctx, s.read, "SELECT 1 FROM candidates WHERE phase = 'queued' AND due_at <= $1 AND (lease_owner = '' OR lease_until <= $1) LIMIT 1", micros(now))
	if err != nil || !due || limit < 1 {
		return nil, s.wrap("claim candidates", err)
	}
	var out []Candidate
	err = s.claimTx(ctx, "claim candidates", func(t *txn) error {
		ids, err := collect(ctx, t, scanString, `WITH due AS MATERIALIZED (
				SELECT id FROM candidates WHERE phase = 'queued' AND due_at <= $1 AND (lease_owner = '' OR lease_until <= $1)
				ORDER BY due_at LIMIT $2`+s.dialect.skipLocked+`)
			UPDATE candidates SET lease_owner = $3, lease_epoch = lease_epoch + 1, lease_until = $4
			WHERE id IN (SELECT id FROM due) RETURNING id`, micros(t.now), int64(limit), owner, micros(t.now.Add(ttl)))
		if err != nil {
			return err
		}
		out = out[:0]
		for _, id := range ids {
			c, err := t.candidate(ctx, id, "")
			if err != nil {
				return err
			}
			out = append(out, c)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(out, claimOrder)
	return out, nil
}

// ReleaseCandidate gives a claim back that its worker cannot carry on with: the
// candidate can be claimed again at once. The error wraps ErrFenced when the
// claim was lost, or the candidate has met its fate.
func (s *Store) ReleaseCandidate(ctx context.Context, c Candidate) error {
	return s.inTx(ctx, "give the candidate back", func(t *txn) error {
		t.wakes = true
		n, err := t.affected(ctx, "UPDATE candidates SET lease_owner = '', lease_until = 0 WHERE id = $1 AND phase = 'queued' AND lease_owner = $2 AND lease_epoch = $3 AND lease_owner <> ''",
			c.ID, c.Lease.Owner, c.Lease.Epoch)
		if err == nil && n == 0 {
			return fmt.Errorf("candidate %s: %w", c.ID, ErrFenced)
		}
		return err
	})
}

func claimOrder(a, b Candidate) int {
	if c := a.DueAt.Compare(b.DueAt); c != 0 {
		return c
	}
	if a.EpisodeID != b.EpisodeID {
		if a.EpisodeID < b.EpisodeID {
			return -1
		}
		return 1
	}
	if a.precedes(b) {
		return -1
	}
	return 1
}

// precedes orders the candidates of an episode: the higher priority, then the
// smaller name.
func (c Candidate) precedes(o Candidate) bool {
	if c.Priority != o.Priority {
		return c.Priority > o.Priority
	}
	return c.Playbook < o.Playbook
}

func scanString(sc scanner) (string, error) {
	var v string
	return v, sc.Scan(&v)
}

func (t *txn) candidate(ctx context.Context, id, suffix string) (Candidate, error) {
	c, err := scanCandidate(t.QueryRowContext(ctx, "SELECT "+candidateColumns+" FROM candidates c JOIN episodes e ON e.id = c.episode_id WHERE c.id = $1"+suffix, id))
	if err != nil {
		return c, notFound(err, "candidate %s", id)
	}
	return c, nil
}

// RunCandidates returns the candidates that joined a run or were attached to it,
// the oldest first, each with its episode as it is now.
func (s *Store) RunCandidates(ctx context.Context, runID string) ([]Candidate, error) {
	out, err := collect(ctx, s.read, scanCandidate, "SELECT "+candidateColumns+` FROM candidates c JOIN episodes e ON e.id = c.episode_id
		WHERE c.run_id = $1 AND c.run_id <> '' AND c.outcome = 'joined' ORDER BY c.created_at, c.id`, text(runID))
	return out, s.wrap("read the candidates of the run", err)
}

// EpisodeCandidates returns the candidates of an episode, the highest priority
// first, so that a reader sees what became of every playbook that matched.
func (s *Store) EpisodeCandidates(ctx context.Context, episodeID string) ([]Candidate, error) {
	out, err := collect(ctx, s.read, scanCandidate, "SELECT "+candidateColumns+` FROM candidates c JOIN episodes e ON e.id = c.episode_id
		WHERE c.episode_id = $1 ORDER BY c.priority DESC, c.playbook`, text(episodeID))
	return out, s.wrap("read the candidates of the episode", err)
}

// MaxRequeues bounds how often a candidate is queued again because what it was
// resolved to is not there any more.
const MaxRequeues = 8

// requeue queues the candidates of a run that ends again, unless at is zero. The
// run's row is locked.
func (t *txn) requeue(ctx context.Context, runID string, at time.Time) error {
	if at.IsZero() {
		return nil
	}
	cands, err := collect(ctx, t, scanCandidate, "SELECT "+candidateColumns+` FROM candidates c JOIN episodes e ON e.id = c.episode_id
		WHERE c.run_id = $1 AND c.run_id <> '' AND c.outcome = 'joined' AND c.expires_at > $2 AND c.requeues < $3 AND e.is_open = 1 ORDER BY c.created_at, c.id`,
		runID, micros(at), int64(MaxRequeues))
	if err != nil {
		return fmt.Errorf("read the candidates: %w", err)
	}
	for _, c := range cands {
		if err := t.exec(ctx, `UPDATE candidates SET phase = 'queued', outcome = '', reason = '', run_id = '', attached = 0, deferred = 0,
			attempts = 0, requeues = requeues + 1, requeued_at = $1, due_at = $1, lease_owner = '', lease_until = 0, lease_epoch = lease_epoch + 1 WHERE id = $2`, micros(at), c.ID); err != nil {
			return fmt.Errorf("queue the candidate again: %w", err)
		}
		e := c.entry(journal.CandidateRequeued, t.now)
		e.Message = "the target is looked for anew"
		if err := t.append(ctx, e); err != nil {
			return err
		}
	}
	return nil
}

// entry starts a journal entry about a candidate.
func (c Candidate) entry(kind journal.Kind, at time.Time) journal.Entry {
	e := c.Episode.entry(kind, at)
	e.CandidateID, e.Playbook, e.RunID, e.Actor = c.ID, c.Playbook, c.RunID, c.Lease.Owner
	return e
}

// NextDue returns when the next run or candidate can be claimed, which may be in
// the past, and false when nothing waits.
func (s *Store) NextDue(ctx context.Context) (time.Time, bool, error) {
	const free = "MIN(CASE WHEN lease_owner = '' OR lease_until <= due_at THEN due_at ELSE lease_until END)"
	var us int64
	err := s.read.QueryRowContext(ctx, `SELECT COALESCE(MIN(due), 0) FROM (
		SELECT `+free+` AS due FROM runs WHERE phase <> 'done' UNION ALL
		SELECT `+free+` AS due FROM candidates WHERE phase = 'queued') AS waiting`).Scan(&us)
	if err != nil {
		return time.Time{}, false, s.wrap("look for the next due time", err)
	}
	return fromMicros(us), us != 0, nil
}

func (c Candidate) fencedBy(lease Lease) error {
	if c.Phase != Queued || c.Lease.Owner != lease.Owner || c.Lease.Epoch != lease.Epoch || lease.Owner == "" {
		return fmt.Errorf("candidate %s: %w", c.ID, ErrFenced)
	}
	return nil
}
