package store

import (
	"context"
	"encoding/json"
	"fmt"
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
		FROM runs WHERE phase = 'active' AND wait <> 'approval' AND id <> $1 ORDER BY id`, query.RunID); err != nil {
		return l, fmt.Errorf("read the active runs: %w", err)
	}
	if l.Past, err = collect(ctx, q, scanPast, `SELECT id, playbook, outcome, intent_at, ended_at FROM runs
		WHERE attempt_key = $1 AND intent_at > 0 AND phase = 'done' AND ended_at >= $2 AND id <> $3 ORDER BY ended_at DESC, id DESC`,
		query.AttemptKey, micros(query.PastSince), query.RunID); err != nil {
		return l, fmt.Errorf("read the past attempts: %w", err)
	}
	if l.Reservations, err = collect(ctx, q, scanReservation, `SELECT run_id, scope, target_key, created_at, released_at FROM reservations
		WHERE released_at = 0 OR released_at >= $1 ORDER BY created_at, run_id, target_key`, micros(query.Since)); err != nil {
		return l, fmt.Errorf("read the reservations: %w", err)
	}
	return l, nil
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
	a.Disruptive, a.NodePool, a.Zone = disruptive != 0, target.NodePool, target.Zone
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
	var created, released int64
	if err := sc.Scan(&r.RunID, &r.Scope, &r.TargetKey, &created, &released); err != nil {
		return r, err
	}
	r.Created = fromMicros(created)
	if released != 0 {
		at := fromMicros(released)
		r.Released = &at
	}
	return r, nil
}
