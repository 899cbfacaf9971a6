package store

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/alertmedic/alertmedic/internal/guard"
	"github.com/alertmedic/alertmedic/internal/journal"
)

const pauseQuery = "SELECT scope, value, by_whom, why, at FROM pauses ORDER BY at, scope, value"

func scanPause(sc scanner) (guard.Pause, error) {
	var p guard.Pause
	var at int64
	err := sc.Scan(&p.Scope, &p.Value, &p.By, &p.Why, &at)
	p.At = fromMicros(at)
	return p, err
}

// Pauses returns the standing pauses, the oldest first.
func (s *Store) Pauses(ctx context.Context) ([]guard.Pause, error) {
	out, err := collect(ctx, s.read, scanPause, pauseQuery)
	return out, s.wrap("read the pauses", err)
}

// SetPause holds runs back until ClearPause. One that stands already is replaced.
// A zero At is the store's clock.
func (s *Store) SetPause(ctx context.Context, p guard.Pause) error {
	if err := validPause(p.Scope, p.Value, p.By); err != nil {
		return s.wrap("pause", err)
	}
	return s.inTx(ctx, "pause", func(t *txn) error {
		p := p
		p.At = cmpTime(p.At, t.now)
		if err := t.exec(ctx, `INSERT INTO pauses (scope, value, by_whom, why, at) VALUES ($1, $2, $3, $4, $5)
			ON CONFLICT (scope, value) DO UPDATE SET by_whom = excluded.by_whom, why = excluded.why, at = excluded.at`,
			string(p.Scope), text(p.Value), text(p.By), text(p.Why), micros(p.At)); err != nil {
			return fmt.Errorf("write the pause: %w", err)
		}
		return t.pauseEntry(ctx, journal.PauseSet, p.Scope, p.Value, p.By, p.Why)
	})
}

// ClearPause lifts a pause and wakes the runs that a guard holds back. The error
// wraps ErrNotFound when there is no such pause.
func (s *Store) ClearPause(ctx context.Context, scope guard.PauseScope, value, by, why string) error {
	if err := validPause(scope, value, by); err != nil {
		return s.wrap("resume", err)
	}
	return s.inTx(ctx, "resume", func(t *txn) error {
		n, err := t.affected(ctx, "DELETE FROM pauses WHERE scope = $1 AND value = $2", string(scope), text(value))
		if err != nil {
			return fmt.Errorf("delete the pause: %w", err)
		}
		if n == 0 {
			return fmt.Errorf("there is no such pause (%s): %w", strings.TrimSpace(string(scope)+" "+value), ErrNotFound)
		}
		if err := t.exec(ctx, "UPDATE runs SET due_at = $1 WHERE phase <> 'done' AND wait = 'guard' AND due_at > $1", micros(t.now)); err != nil {
			return fmt.Errorf("wake the runs: %w", err)
		}
		return t.pauseEntry(ctx, journal.PauseCleared, scope, value, by, why)
	})
}

func (t *txn) pauseEntry(ctx context.Context, kind journal.Kind, scope guard.PauseScope, value, by, why string) error {
	data, err := json.Marshal(map[string]string{"scope": string(scope), "value": value})
	if err != nil {
		return fmt.Errorf("encode the pause: %w", err)
	}
	e := journal.Entry{Kind: kind, At: t.now, Actor: by, Message: why, Data: data}
	if scope == guard.PausePlaybook {
		e.Playbook = value
	}
	return t.append(ctx, e)
}

func validPause(scope guard.PauseScope, value, by string) error {
	switch {
	case scope != guard.PauseGlobal && scope != guard.PausePlaybook && scope != guard.PauseNamespace:
		return fmt.Errorf("%w: the scope %q is not global, playbook or namespace", ErrInvalid, scope)
	case (scope == guard.PauseGlobal) != (value == ""):
		return fmt.Errorf("%w: a pause of a playbook or namespace names it, a global one names nothing", ErrInvalid)
	case by == "":
		return fmt.Errorf("%w: it must say who", ErrInvalid)
	}
	return nil
}
