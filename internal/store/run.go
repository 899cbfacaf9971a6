package store

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/alertmedic/alertmedic/internal/action"
)

const runColumns = `id, playbook, playbook_hash, priority, exclusive, source, target, target_key, attempt_key, alertname,
	phase, wait, outcome, reason, message, remedy, step, disruptive, state,
	created_at, due_at, expires_at, admitted_at, intent_at, ended_at, fired_at,
	lease_owner, lease_epoch, lease_until, taken_over, workers_lost`

func scanRun(sc scanner) (Run, error) {
	var r Run
	var target, state string
	var exclusive, disruptive int64
	var created, due, expires, admitted, intent, ended, fired, until, takenOver int64
	if err := sc.Scan(&r.ID, &r.Playbook, &r.PlaybookHash, &r.Priority, &exclusive, &r.Source, &target, &r.TargetKey, &r.AttemptKey, &r.AlertName,
		&r.Phase, &r.Wait, &r.Outcome, &r.Reason, &r.Message, &r.Remedy, &r.Step, &disruptive, &state,
		&created, &due, &expires, &admitted, &intent, &ended, &fired,
		&r.Lease.Owner, &r.Lease.Epoch, &until, &takenOver, &r.WorkersLost); err != nil {
		return r, err
	}
	if err := json.Unmarshal([]byte(target), &r.Target); err != nil {
		return r, fmt.Errorf("decode the target of run %s: %w", r.ID, err)
	}
	if state != "" {
		r.State = json.RawMessage(state)
	}
	r.Exclusive, r.Disruptive, r.TakenOver = exclusive != 0, disruptive != 0, takenOver != 0
	r.CreatedAt, r.DueAt, r.ExpiresAt = fromMicros(created), fromMicros(due), fromMicros(expires)
	r.AdmittedAt, r.IntentAt, r.EndedAt, r.FiredAt = fromMicros(admitted), fromMicros(intent), fromMicros(ended), fromMicros(fired)
	r.Lease.Until = fromMicros(until)
	return r, nil
}

func (s *Store) run(ctx context.Context, q querier, id, suffix string) (Run, error) {
	r, err := scanRun(q.QueryRowContext(ctx, "SELECT "+runColumns+" FROM runs WHERE id = $1"+suffix, id))
	if err != nil {
		return r, notFound(err, "run %s", id)
	}
	return r, nil
}

// Run returns one run; the error wraps ErrNotFound.
func (s *Store) Run(ctx context.Context, id string) (Run, error) {
	r, err := s.run(ctx, s.read, text(id), "")
	return r, s.wrap("read the run", err)
}

// FindRun returns the run whose ID begins with prefix. The error wraps
// ErrNotFound, or ErrAmbiguous and names some of those that match.
func (s *Store) FindRun(ctx context.Context, prefix string) (Run, error) {
	if prefix == "" {
		return Run{}, s.wrap("find the run", fmt.Errorf("%w: give the beginning of its ID", ErrInvalid))
	}
	prefix = text(strings.ToLower(prefix))
	const few = 4
	runs, err := collect(ctx, s.read, scanRun, "SELECT "+runColumns+fmt.Sprintf(" FROM runs WHERE substr(id, 1, $1) = $2 ORDER BY id LIMIT %d", few), len([]rune(prefix)), prefix)
	switch {
	case err != nil:
		return Run{}, s.wrap("find the run", err)
	case len(runs) == 0:
		return Run{}, s.wrap("find the run", fmt.Errorf("no run has an ID that begins with %q: %w", prefix, ErrNotFound))
	case len(runs) > 1 && runs[0].ID != prefix:
		ids := make([]string, len(runs))
		for i, r := range runs {
			ids[i] = r.ID
		}
		return Run{}, s.wrap("find the run", fmt.Errorf("%w: %q is the beginning of %s; give more of it", ErrAmbiguous, prefix, strings.Join(ids, ", ")))
	}
	return runs[0], nil
}

// Runs returns a page of runs in the order of their creation and the cursor of
// the next page, "" when there is none.
func (s *Store) Runs(ctx context.Context, f RunFilter, p Page) (items []Run, next string, err error) {
	w := &where{}
	for _, c := range [...]struct{ column, value string }{
		{"phase", f.Phase}, {"playbook", f.Playbook}, {"namespace", f.Namespace}, {"outcome", f.Outcome}, {"reason", f.Reason},
		{"wait", f.Wait}, {"alertname", f.AlertName}, {"target_name", f.TargetName}, {"target_kind", f.Kind},
	} {
		w.equal(c.column, c.value)
	}
	w.span("created_at", f.Since, f.Until)
	if p.Cursor != "" {
		c, err := decodeCursor(p.Cursor, cursorRuns, p.Descending)
		if err != nil {
			return nil, "", s.wrap("list the runs", err)
		}
		if p.Descending {
			w.add("(created_at, id) < ($%d, $%d)", c.n, c.id)
		} else {
			w.add("(created_at, id) > ($%d, $%d)", c.n, c.id)
		}
	}
	limit, order := p.limit(), desc(p.Descending)
	items, err = collect(ctx, s.read, scanRun, "SELECT "+runColumns+" FROM runs WHERE "+w.String()+
		" ORDER BY created_at"+order+", id"+order+fmt.Sprintf(" LIMIT %d", limit+1), w.args...)
	if err != nil {
		return nil, "", s.wrap("list the runs", err)
	}
	if len(items) <= limit {
		return items, "", nil
	}
	items = items[:limit]
	last := items[limit-1]
	return items, cursor{kind: cursorRuns, descending: p.Descending, n: micros(last.CreatedAt), id: last.ID}.encode(), nil
}

// RunCount is the key of CountRuns.
type RunCount struct {
	Phase    Phase
	Wait     Wait
	Reason   string // of the guard that holds it, "" for none
	Playbook string
}

// CountRuns counts the runs that have not ended.
func (s *Store) CountRuns(ctx context.Context) (map[RunCount]int, error) {
	out := map[RunCount]int{}
	_, err := collect(ctx, s.read, func(r scanner) (struct{}, error) {
		var k RunCount
		var n int
		err := r.Scan(&k.Phase, &k.Wait, &k.Reason, &k.Playbook, &n)
		out[k] = n
		return struct{}{}, err
	}, "SELECT phase, wait, reason, playbook, count(*) FROM runs WHERE phase <> 'done' GROUP BY phase, wait, reason, playbook")
	if err != nil {
		return nil, s.wrap("count the runs", err)
	}
	return out, nil
}

// Steps returns the steps of a run in the order of remedies and steps.
func (s *Store) Steps(ctx context.Context, runID string) ([]Step, error) {
	out, err := collect(ctx, s.read, func(r scanner) (Step, error) {
		var doc string
		var st Step
		if err := r.Scan(&doc); err != nil {
			return st, err
		}
		if err := json.Unmarshal([]byte(doc), &st); err != nil {
			return st, fmt.Errorf("decode a step of run %s: %w", runID, err)
		}
		return st, nil
	}, "SELECT doc FROM steps WHERE run_id = $1 ORDER BY remedy, step", text(runID))
	return out, s.wrap("read the steps", err)
}

// insertRun writes a new run from the engine's template.
func (t *txn) insertRun(ctx context.Context, r Run) error {
	target, err := json.Marshal(r.Target)
	if err != nil {
		return fmt.Errorf("encode the target: %w", err)
	}
	n, err := t.affected(ctx, `INSERT INTO runs (id, playbook, playbook_hash, priority, exclusive, source, target, target_key, attempt_key, lock_key,
			alertname, namespace, target_kind, target_name, phase, wait, outcome, reason, message, remedy, step, disruptive, state,
			created_at, due_at, expires_at, admitted_at, intent_at, ended_at, fired_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, 'queued', '', '', '', $15, $16, $17, $18, $19, $20, $21, $22, 0, 0, 0, $23)
		ON CONFLICT DO NOTHING`,
		r.ID, r.Playbook, r.PlaybookHash, int64(r.Priority), flag(r.Exclusive), text(r.Source), string(target), r.TargetKey, r.AttemptKey, r.Target.LockKey(),
		text(r.AlertName), r.Target.Namespace, string(r.Target.Kind), r.Target.Name, text(r.Message), int64(r.Remedy), int64(r.Step), flag(r.Disruptive), string(r.State),
		micros(r.CreatedAt), micros(r.DueAt), micros(r.ExpiresAt), micros(r.FiredAt))
	if err != nil {
		return fmt.Errorf("write the run: %w", err)
	}
	if n == 0 {
		return errRace // another candidate made the run a moment ago: join that one
	}
	return nil
}

func validTarget(t action.Target) error {
	if t.IsZero() || t.Cluster == "" {
		return fmt.Errorf("%w: the target %q of cluster %q is empty", ErrInvalid, t.Ref, t.Cluster)
	}
	return nil
}
