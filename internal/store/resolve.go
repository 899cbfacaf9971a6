package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/alertmedic/alertmedic/internal/journal"
)

// deferral is how long a candidate waits for one of higher precedence that is
// not resolved yet. The resolution of that one wakes it at once.
const deferral = 2 * time.Second

// Resolution is what a worker found out about a candidate: exactly one of Run,
// Outcome and RetryAt is set.
type Resolution struct {
	// Run is the template of the run to create if there is none to join: target,
	// keys, playbook snapshot, state and expiry. ID, CreatedAt, Phase and lease are
	// the store's. Its TargetKey and Playbook say which live run is joined.
	Run *Run
	// Outcome ends the candidate.
	Outcome Outcome
	Reason  string
	// Message explains the outcome, or how the target was found, in the journal.
	Message string
	// RetryAt postpones the candidate.
	RetryAt time.Time
	// Entries go into the same transaction, before the store's own.
	Entries []journal.Entry
}

// ResolveResult is what became of a candidate.
type ResolveResult struct {
	RunID    string
	Created  bool // the run is new
	Attached bool // the run had sent its first intent: evidence only
	Deferred bool // one of higher precedence is not resolved yet: asked again soon
	// Superseded says that a playbook of higher precedence has the target; Winner
	// names it.
	Superseded bool
	Winner     string
	// EndedRuns are queued runs of lower precedence that this one superseded.
	EndedRuns []string
}

// ResolveCandidate turns a claimed candidate into a run, lets it join one, ends
// it or postpones it, in one transaction, and writes the entries about that
// (run.created, run.joined, run.attached, candidate.ended). The error wraps
// ErrFenced when the claim was lost.
func (s *Store) ResolveCandidate(ctx context.Context, c Candidate, r Resolution) (ResolveResult, error) {
	var res ResolveResult
	if err := r.valid(); err != nil {
		return res, s.wrap("resolve the candidate", err)
	}
	err := s.inTx(ctx, "resolve the candidate", func(t *txn) error {
		res = ResolveResult{}
		// The episode's row first: the candidates of one episode are resolved one
		// after the other, or two could both believe to be the only one.
		if _, err := s.episode(ctx, t, c.EpisodeID, s.dialect.forUpdate); err != nil {
			return err
		}
		live, err := t.candidate(ctx, c.ID, s.dialect.forUpdate)
		if err != nil {
			return err
		}
		if err := live.fencedBy(c.Lease); err != nil {
			return err
		}
		if err := t.tick(ctx); err != nil {
			return err
		}
		if err := t.append(ctx, r.Entries...); err != nil {
			return err
		}
		switch {
		case !r.RetryAt.IsZero():
			return t.postpone(ctx, live, r.RetryAt, true)
		case r.Outcome != "":
			return t.endCandidate(ctx, live, r.Outcome, r.Reason, r.Message)
		}
		return t.resolve(ctx, live, r, &res)
	})
	if err != nil {
		return ResolveResult{}, err
	}
	return res, nil
}

func (r Resolution) valid() error {
	n := 0
	for _, set := range []bool{r.Run != nil, r.Outcome != "", !r.RetryAt.IsZero()} {
		if set {
			n++
		}
	}
	if n != 1 {
		return fmt.Errorf("%w: a resolution is a run, an outcome or a time to retry, and this one is %d of them", ErrInvalid, n)
	}
	if r.Run == nil {
		return nil
	}
	if r.Run.TargetKey == "" || r.Run.AttemptKey == "" || r.Run.Playbook == "" {
		return fmt.Errorf("%w: the run's template needs playbook, target key and attempt key", ErrInvalid)
	}
	return validTarget(r.Run.Target)
}

// sibling is another candidate of the same episode with the run it went to.
type sibling struct {
	Candidate
	run Run // zero without one
}

func (t *txn) siblings(ctx context.Context, c Candidate) ([]sibling, error) {
	cands, err := collect(ctx, t, scanCandidate, "SELECT "+candidateColumns+` FROM candidates c JOIN episodes e ON e.id = c.episode_id
		WHERE c.episode_id = $1 AND c.id <> $2 ORDER BY c.priority DESC, c.playbook`, c.EpisodeID, c.ID)
	if err != nil {
		return nil, fmt.Errorf("read the other candidates: %w", err)
	}
	out := make([]sibling, len(cands))
	for i, o := range cands {
		out[i].Candidate = o
		if o.RunID == "" {
			continue
		}
		if out[i].run, err = t.s.run(ctx, t, o.RunID, t.s.dialect.forUpdate); err != nil {
			return nil, fmt.Errorf("read the run of the other candidate: %w", err)
		}
	}
	return out, nil
}

func (t *txn) resolve(ctx context.Context, c Candidate, r Resolution, res *ResolveResult) error {
	others, err := t.siblings(ctx, c)
	if err != nil {
		return err
	}
	for _, o := range others {
		if !c.Exclusive || !o.Exclusive || !o.precedes(c) {
			continue
		}
		if o.Phase != Done {
			res.Deferred = true
			return t.postpone(ctx, c, t.now.Add(deferral), false)
		}
		if o.run.ID != "" && o.run.TargetKey == r.Run.TargetKey && (o.run.Phase != Done || o.run.Outcome == Healed || !o.run.AdmittedAt.IsZero()) {
			res.Superseded, res.Winner = true, o.Playbook
			return t.endCandidate(ctx, c, Superseded, o.Playbook, "playbook "+o.Playbook+" has precedence on the same target; see run "+o.run.ID)
		}
	}
	if err := t.joinOrCreate(ctx, c, r, res); err != nil {
		return err
	}
	if !c.Exclusive {
		return nil
	}
	for _, o := range others {
		if o.Exclusive && c.precedes(o.Candidate) && o.run.ID != res.RunID && o.run.TargetKey == r.Run.TargetKey {
			if err := t.supersede(ctx, o.run, c, res); err != nil {
				return err
			}
		}
	}
	return nil
}

func (t *txn) joinOrCreate(ctx context.Context, c Candidate, r Resolution, res *ResolveResult) error {
	run, err := scanRun(t.QueryRowContext(ctx, "SELECT "+runColumns+" FROM runs WHERE playbook = $1 AND target_key = $2 AND phase <> 'done'"+t.s.dialect.forUpdate,
		r.Run.Playbook, r.Run.TargetKey))
	kind := journal.RunJoined
	switch {
	case errors.Is(err, sql.ErrNoRows):
		kind = journal.RunCreated
		run = *r.Run
		if run.ID, err = newID(); err != nil {
			return err
		}
		run.Phase, run.CreatedAt = Queued, t.now
		run.DueAt = cmpTime(run.DueAt, t.now)
		run.ExpiresAt = cmpTime(run.ExpiresAt, c.ExpiresAt)
		run.FiredAt = cmpTime(run.FiredAt, c.Episode.OpenedAt)
		if err := t.insertRun(ctx, run); err != nil {
			return err
		}
		res.Created = true
	case err != nil:
		return fmt.Errorf("look for a run to join: %w", err)
	default:
		if !run.IntentAt.IsZero() {
			res.Attached, kind = true, journal.RunAttached
		}
		if !res.Attached && run.Target.Pod == nil && r.Run.Target.Pod != nil {
			// The alert before named the workload alone: this one says which pod is ill.
			run.Target.Pod, run.Target.Container = r.Run.Target.Pod, r.Run.Target.Container
			target, err := json.Marshal(run.Target)
			if err != nil {
				return fmt.Errorf("encode the target: %w", err)
			}
			if err := t.exec(ctx, "UPDATE runs SET target = $1 WHERE id = $2", string(target), run.ID); err != nil {
				return fmt.Errorf("name the run's pod: %w", err)
			}
		}
		if opened := c.Episode.OpenedAt; opened.Before(run.FiredAt) {
			if err := t.exec(ctx, "UPDATE runs SET fired_at = $1 WHERE id = $2", micros(opened), run.ID); err != nil {
				return fmt.Errorf("move the run's first firing: %w", err)
			}
		}
	}
	res.RunID = run.ID
	if err := t.exec(ctx, `UPDATE candidates SET phase = 'done', outcome = 'joined', reason = '', run_id = $1, attached = $2, attempts = attempts + 1,
		deferred = 0, lease_owner = '', lease_until = 0 WHERE id = $3`, run.ID, flag(res.Attached), c.ID); err != nil {
		return fmt.Errorf("join the run: %w", err)
	}
	e := c.entry(kind, t.now)
	e.RunID, e.Target, e.Message = run.ID, &run.Target, r.Message
	t.wakes = true
	if err := t.append(ctx, e); err != nil {
		return err
	}
	return t.wakeDeferred(ctx, c)
}

// supersede ends a run of lower precedence that was not admitted yet, unless an
// alert of another episode needs it.
func (t *txn) supersede(ctx context.Context, run Run, winner Candidate, res *ResolveResult) error {
	if run.Phase != Queued || !run.AdmittedAt.IsZero() || !run.IntentAt.IsZero() {
		return nil
	}
	needed, err := exists(ctx, t, "SELECT 1 FROM candidates WHERE run_id = $1 AND run_id <> '' AND episode_id <> $2 AND outcome = 'joined' LIMIT 1", run.ID, winner.EpisodeID)
	if err != nil {
		return fmt.Errorf("look who needs the run: %w", err)
	}
	if needed {
		return nil
	}
	message := "playbook " + winner.Playbook + " has precedence on the same target; see run " + res.RunID
	// The epoch moves on, so that a worker which holds the run is fenced off.
	if err := t.exec(ctx, `UPDATE runs SET phase = 'done', wait = '', outcome = $1, reason = $2, message = $3, ended_at = $4,
		lease_owner = '', lease_until = 0, lease_epoch = lease_epoch + 1 WHERE id = $5`,
		string(Superseded), winner.Playbook, message, micros(t.now), run.ID); err != nil {
		return fmt.Errorf("supersede run %s: %w", run.ID, err)
	}
	if err := t.releaseAll(ctx, run.ID, "superseded"); err != nil {
		return err
	}
	res.EndedRuns = append(res.EndedRuns, run.ID)
	return t.append(ctx, journal.Entry{Kind: journal.RunEnded, At: t.now, Cluster: run.Target.Cluster, Source: run.Source, AlertName: run.AlertName,
		EpisodeID: winner.EpisodeID, RunID: run.ID, Playbook: run.Playbook, Target: &run.Target, Outcome: string(Superseded), Reason: winner.Playbook,
		Message: message, Actor: winner.Lease.Owner})
}

// postpone gives the claim back until at.
func (t *txn) postpone(ctx context.Context, c Candidate, at time.Time, attempt bool) error {
	if err := t.exec(ctx, `UPDATE candidates SET due_at = $1, attempts = attempts + $2, deferred = $3, lease_owner = '', lease_until = 0 WHERE id = $4`,
		micros(at), flag(attempt), flag(!attempt), c.ID); err != nil {
		return fmt.Errorf("postpone the candidate: %w", err)
	}
	return nil
}

func (t *txn) endCandidate(ctx context.Context, c Candidate, o Outcome, reason, message string) error {
	if err := t.exec(ctx, `UPDATE candidates SET phase = 'done', outcome = $1, reason = $2, attempts = attempts + 1, deferred = 0,
		lease_owner = '', lease_until = 0 WHERE id = $3`, string(o), text(reason), c.ID); err != nil {
		return fmt.Errorf("end the candidate: %w", err)
	}
	e := c.entry(journal.CandidateEnded, t.now)
	e.Outcome, e.Reason, e.Message = string(o), reason, message
	if err := t.append(ctx, e); err != nil {
		return err
	}
	return t.wakeDeferred(ctx, c)
}

// wakeDeferred makes the candidates due that waited for c.
func (t *txn) wakeDeferred(ctx context.Context, c Candidate) error {
	if err := t.exec(ctx, "UPDATE candidates SET due_at = $1, deferred = 0 WHERE episode_id = $2 AND phase = 'queued' AND deferred = 1 AND due_at > $1",
		micros(t.now), c.EpisodeID); err != nil {
		return fmt.Errorf("wake the candidates that waited: %w", err)
	}
	return nil
}
