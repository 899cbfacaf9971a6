package store

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"time"

	"github.com/alertmedic/alertmedic/internal/action"
	"github.com/alertmedic/alertmedic/internal/guard"
)

// Ledger reads what admission would count, without locking anything: for
// explaining, never for deciding.
func (s *Store) Ledger(ctx context.Context, q guard.Query) (guard.Ledger, error) {
	now, err := s.Now(ctx)
	if err != nil {
		return guard.Ledger{}, err
	}
	l, err := s.ledger(ctx, s.read, q, now)
	return l, s.wrap("read the ledger", err)
}

func (s *Store) ledger(ctx context.Context, q querier, query guard.Query, now time.Time) (guard.Ledger, error) {
	l := guard.Ledger{Now: now}
	var err error
	if l.Pauses, err = collect(ctx, q, scanPause, pauseQuery); err != nil {
		return l, fmt.Errorf("read the pauses: %w", err)
	}
	if l.Active, err = collect(ctx, q, scanActive, `SELECT id, playbook, namespace, target_key, attempt_key, disruptive, target
		FROM runs WHERE phase = 'active' AND intent_at > 0 AND wait <> 'approval' AND id <> $1 ORDER BY id`, query.RunID); err != nil {
		return l, fmt.Errorf("read the active runs: %w", err)
	}
	// A run that was suppressed after an intent had all its calls refused.
	if l.Past, err = collect(ctx, q, scanPast, `SELECT id, playbook, outcome, intent_at, ended_at FROM runs
		WHERE attempt_key = $1 AND intent_at > 0 AND phase = 'done' AND outcome <> 'suppressed' AND ended_at >= $2 AND id <> $3 ORDER BY ended_at DESC, id DESC`,
		query.AttemptKey, micros(query.PastSince), query.RunID); err != nil {
		return l, fmt.Errorf("read the past attempts: %w", err)
	}
	if l.Reservations, err = collect(ctx, q, scanReservation, `SELECT run_id, scope, target_key, weight, created_at, released_at FROM reservations
		WHERE released_at = 0 OR released_at >= $1 OR created_at >= $2 ORDER BY created_at, run_id, scope, target_key`,
		micros(query.Since), micros(cmpTime(query.ReservedSince, now.Add(time.Second)))); err != nil {
		return l, fmt.Errorf("read the reservations: %w", err)
	}
	if len(query.Scopes) > 0 {
		scopes := make([]any, len(query.Scopes))
		for i, scope := range query.Scopes {
			scopes[i] = scope
		}
		if l.Buckets, err = collect(ctx, q, scanBucket, "SELECT scope, tokens, at FROM guard_buckets WHERE scope"+in(0, len(scopes))+" ORDER BY scope", scopes...); err != nil {
			return l, fmt.Errorf("read the token buckets: %w", err)
		}
		if l.Storms, err = collect(ctx, q, scanStorm, "SELECT scope, since, last_seen FROM guard_storms WHERE scope"+in(0, len(scopes))+" ORDER BY scope", scopes...); err != nil {
			return l, fmt.Errorf("read the storms: %w", err)
		}
	}
	if query.StormLimit > 0 {
		var n int64
		if err := q.QueryRowContext(ctx, fmt.Sprintf("SELECT count(*) FROM (SELECT 1 FROM runs WHERE created_at >= $1 LIMIT %d) AS recent", query.StormLimit+1),
			micros(query.StormSince)).Scan(&n); err != nil {
			return l, fmt.Errorf("count the new runs: %w", err)
		}
		l.NewRuns = int(n)
	}
	return l, nil
}

// keepGuards writes what admission will count by next time.
func (t *txn) keepGuards(ctx context.Context, tr Transition) error {
	for _, b := range tr.Buckets {
		if err := t.exec(ctx, `INSERT INTO guard_buckets (scope, tokens, at) VALUES ($1, $2, $3)
			ON CONFLICT (scope) DO UPDATE SET tokens = excluded.tokens, at = excluded.at`, b.Scope, int64(math.Floor(b.Tokens*1e6)), micros(b.At)); err != nil {
			return fmt.Errorf("draw from bucket %s: %w", b.Scope, err)
		}
	}
	for _, scope := range tr.Storms {
		// A storm that is long over is not the same one as that which begins now.
		if err := t.exec(ctx, `INSERT INTO guard_storms (scope, since, last_seen) VALUES ($1, $2, $2)
			ON CONFLICT (scope) DO UPDATE SET last_seen = excluded.last_seen,
				since = CASE WHEN guard_storms.last_seen < $3 THEN excluded.since ELSE guard_storms.since END`,
			scope, micros(t.now), micros(t.now.Add(-stormGap))); err != nil {
			return fmt.Errorf("record the storm %s: %w", scope, err)
		}
	}
	return nil
}

// stormGap is how long after its last sign a storm is called another one.
const stormGap = time.Hour

func scanBucket(sc scanner) (guard.Bucket, error) {
	var b guard.Bucket
	var tokens, at int64
	if err := sc.Scan(&b.Scope, &tokens, &at); err != nil {
		return b, err
	}
	b.Tokens, b.At = float64(tokens)/1e6, fromMicros(at)
	return b, nil
}

func scanStorm(sc scanner) (guard.Storm, error) {
	var s guard.Storm
	var since, last int64
	if err := sc.Scan(&s.Scope, &since, &last); err != nil {
		return s, err
	}
	s.Since, s.LastSeen = fromMicros(since), fromMicros(last)
	return s, nil
}

func scanActive(sc scanner) (guard.Active, error) {
	var a guard.Active
	var disruptive int64
	var doc string
	if err := sc.Scan(&a.RunID, &a.Playbook, &a.Namespace, &a.TargetKey, &a.AttemptKey, &disruptive, &doc); err != nil {
		return a, err
	}
	var target action.Target
	if err := json.Unmarshal([]byte(doc), &target); err != nil {
		return a, fmt.Errorf("decode the target of run %s: %w", a.RunID, err)
	}
	a.Disruptive, a.Kind, a.NodePool, a.Zone = disruptive != 0, target.Kind, target.NodePool, target.Zone
	return a, nil
}

func scanPast(sc scanner) (guard.Past, error) {
	var p guard.Past
	var started, ended int64
	if err := sc.Scan(&p.RunID, &p.Playbook, &p.Outcome, &started, &ended); err != nil {
		return p, err
	}
	p.Healed, p.Started, p.Ended = p.Outcome == string(Healed), fromMicros(started), fromMicros(ended)
	return p, nil
}

func scanReservation(sc scanner) (guard.Reservation, error) {
	var r guard.Reservation
	var weight, created, released int64
	if err := sc.Scan(&r.RunID, &r.Scope, &r.TargetKey, &weight, &created, &released); err != nil {
		return r, err
	}
	r.Weight = int(weight)
	r.Created = fromMicros(created)
	if released != 0 {
		at := fromMicros(released)
		r.Released = &at
	}
	return r, nil
}
