package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/alertmedic/alertmedic/internal/journal"
)

// Retention says for how long things are kept after they have ended; 0 is for
// ever.
type Retention struct {
	// Runs is for runs with their steps and approvals, episodes with their
	// candidates, signals, undelivered messages, unused playbook snapshots and token
	// buckets. It must not be shorter than the longest cooldown and window of
	// attempts, nor than any bucket takes to fill.
	Runs time.Duration
	// Journal is for the remediation log.
	Journal time.Duration
}

// Pruned counts the rows that were removed, by table.
type Pruned map[string]int64

const (
	// pruneBatch bounds the rows that one transaction removes, so that whoever
	// waits to accept waits for some milliseconds only.
	pruneBatch = 200
	// pruneRuns bounds the runs of one transaction: each has some rows in other
	// tables.
	pruneRuns = 25
	// pruneShare is how many times as long as a transaction took is waited before
	// the next: the rest of the time belongs to the work.
	pruneShare     = 4
	retentionLease = time.Minute
)

// errNotOurs ends a pass whose lease another replica holds.
var errNotOurs = errors.New("another replica applies the retention")

// Prune removes what is older than its retention, some rows at a time, and
// writes into the journal what it did. One owner at a time does it, by a lease;
// for the others it does nothing. Nothing that is live goes, nor what anything
// that stays refers to. It may be interrupted anywhere and called again.
func (s *Store) Prune(ctx context.Context, owner string, r Retention) (Pruned, error) {
	p := &pruner{s: s, owner: owner, out: Pruned{}}
	err := p.pass(ctx, r)
	if errors.Is(err, errNotOurs) {
		err = nil
	}
	if len(p.out) > 0 {
		// Also after an error: what is gone is gone.
		err = errors.Join(err, p.report(context.WithoutCancel(ctx), r))
	}
	return p.out, s.wrap("apply the retention", err)
}

type pruner struct {
	s     *Store
	owner string
	out   Pruned
}

func (p *pruner) pass(ctx context.Context, r Retention) error {
	now, err := p.s.Now(ctx)
	if err != nil {
		return err
	}
	if r.Runs > 0 {
		cutoff := now.Add(-max(r.Runs, 2*p.s.flapDwell)) // what may be reopened stays
		for _, stage := range []func(context.Context, int64) (int64, error){
			p.candidates, p.signals, p.orphans, p.episodes, p.runs, p.messages, p.snapshots, p.buckets,
		} {
			if err := p.repeat(ctx, func(ctx context.Context) (int64, error) { return stage(ctx, micros(cutoff)) }); err != nil {
				return err
			}
		}
	}
	if r.Journal > 0 {
		return p.journal(ctx, now.Add(-r.Journal))
	}
	return nil
}

// repeat calls a stage until nothing is left for it.
func (p *pruner) repeat(ctx context.Context, stage func(context.Context) (int64, error)) error {
	for {
		began := time.Now()
		n, err := stage(ctx)
		if err != nil || n == 0 {
			return err
		}
		rest := time.NewTimer(pruneShare * time.Since(began))
		select {
		case <-ctx.Done():
			rest.Stop()
			return ctx.Err()
		case <-rest.C:
		}
	}
}

// remove runs fn in a transaction of the one owner, and counts what it removed.
func (p *pruner) remove(ctx context.Context, fn func(*txn) (Pruned, error)) (int64, error) {
	var got Pruned
	err := p.s.inTx(ctx, "apply the retention", func(t *txn) error {
		held, err := t.affected(ctx, `INSERT INTO leases (name, owner, lease_until) VALUES ('retention', $1, $2)
			ON CONFLICT (name) DO UPDATE SET owner = excluded.owner, lease_until = excluded.lease_until
			WHERE leases.owner = excluded.owner OR leases.lease_until <= $3`, p.owner, micros(t.now.Add(retentionLease)), micros(t.now))
		if err != nil {
			return fmt.Errorf("take the lease: %w", err)
		}
		if held == 0 {
			return errNotOurs
		}
		got, err = fn(t)
		return err
	})
	if err != nil {
		return 0, err
	}
	var total int64
	for table, n := range got {
		if n > 0 {
			p.out[table] += n
			total += n
		}
	}
	return total, nil
}

// oldest reads the keys of what a stage removes, without holding anybody up.
func (p *pruner) oldest(ctx context.Context, query string, args ...any) ([]any, error) {
	return collect(ctx, p.s.read, func(r scanner) (any, error) {
		var id string
		return id, r.Scan(&id)
	}, query, args...)
}

// byKey removes rows by their keys, if they still are what they were.
func (p *pruner) byKey(ctx context.Context, table, key, still string, ids []any, args ...any) (int64, error) {
	if len(ids) == 0 {
		return 0, nil
	}
	return p.remove(ctx, func(t *txn) (Pruned, error) {
		n, err := t.affected(ctx, "DELETE FROM "+table+" WHERE "+still+" AND "+key+in(len(args), len(ids)), append(slices.Clone(args), ids...)...)
		if err != nil {
			return nil, fmt.Errorf("remove from %s: %w", table, err)
		}
		return Pruned{table: n}, nil
	})
}

// in is the condition of a key among n parameters after the first skip.
func in(skip, n int) string {
	var b strings.Builder
	b.WriteString(" IN (")
	for i := range n {
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "$%d", skip+i+1)
	}
	b.WriteString(")")
	return b.String()
}

// candidates goes first: they tie runs to episodes. A run is needed for as long
// as a candidate of an episode that stays names it.
func (p *pruner) candidates(ctx context.Context, cutoff int64) (int64, error) {
	ids, err := p.oldest(ctx, fmt.Sprintf(`SELECT c.id FROM episodes e JOIN candidates c ON c.episode_id = e.id
		WHERE e.is_open = 0 AND e.closed_at < $1 AND c.phase = 'done'
		AND NOT EXISTS (SELECT 1 FROM runs r WHERE r.id = c.run_id AND (r.phase <> 'done' OR r.ended_at >= $1)) LIMIT %d`, pruneBatch), cutoff)
	if err != nil {
		return 0, fmt.Errorf("look for old candidates: %w", err)
	}
	return p.byKey(ctx, "candidates", "id", "phase = 'done'", ids)
}

// signals removes those whose last episode goes: before it, because a report is
// folded into the episode that its signal names.
func (p *pruner) signals(ctx context.Context, cutoff int64) (int64, error) {
	return p.removeSignals(ctx, `FROM episodes e JOIN signals s ON s.source = e.source AND s.fingerprint = e.fingerprint AND s.episode_id = e.id
		WHERE e.is_open = 0 AND e.closed_at < $1 AND NOT EXISTS (SELECT 1 FROM candidates c WHERE c.episode_id = e.id)`, cutoff)
}

// orphans removes the signals that never had an episode, or have none any more.
func (p *pruner) orphans(ctx context.Context, cutoff int64) (int64, error) {
	return p.removeSignals(ctx, "FROM signals s WHERE s.episode_id = '' AND s.orphaned_at < $1", cutoff)
}

func (p *pruner) removeSignals(ctx context.Context, from string, cutoff int64) (int64, error) {
	type key struct{ source, fingerprint, episode string }
	keys, err := collect(ctx, p.s.read, func(r scanner) (key, error) {
		var k key
		return k, r.Scan(&k.source, &k.fingerprint, &k.episode)
	}, fmt.Sprintf("SELECT s.source, s.fingerprint, s.episode_id %s LIMIT %d", from, pruneBatch), cutoff)
	if err != nil || len(keys) == 0 {
		return 0, err
	}
	// In the order in which accepting locks them.
	slices.SortFunc(keys, func(a, b key) int {
		if c := strings.Compare(a.source, b.source); c != 0 {
			return c
		}
		return strings.Compare(a.fingerprint, b.fingerprint)
	})
	return p.remove(ctx, func(t *txn) (Pruned, error) {
		var total int64
		for _, k := range keys {
			// A report may have come since: then the signal names another episode.
			n, err := t.affected(ctx, "DELETE FROM signals WHERE source = $1 AND fingerprint = $2 AND episode_id = $3 AND (episode_id <> '' OR orphaned_at < $4)",
				k.source, k.fingerprint, k.episode, cutoff)
			if err != nil {
				return nil, fmt.Errorf("remove a signal: %w", err)
			}
			total += n
		}
		return Pruned{"signals": total}, nil
	})
}

func (p *pruner) episodes(ctx context.Context, cutoff int64) (int64, error) {
	ids, err := p.oldest(ctx, fmt.Sprintf(`SELECT e.id FROM episodes e WHERE e.is_open = 0 AND e.closed_at < $1
		AND NOT EXISTS (SELECT 1 FROM candidates c WHERE c.episode_id = e.id)
		AND NOT EXISTS (SELECT 1 FROM signals s WHERE s.source = e.source AND s.fingerprint = e.fingerprint AND s.episode_id = e.id) LIMIT %d`, pruneBatch), cutoff)
	if err != nil {
		return 0, fmt.Errorf("look for old episodes: %w", err)
	}
	return p.byKey(ctx, "episodes", "id", "is_open = 0", ids)
}

func (p *pruner) runs(ctx context.Context, cutoff int64) (int64, error) {
	ids, err := p.oldest(ctx, fmt.Sprintf(`SELECT r.id FROM runs r WHERE r.created_at < $1 AND r.phase = 'done' AND r.ended_at < $1
		AND NOT EXISTS (SELECT 1 FROM candidates c WHERE c.run_id = r.id AND c.run_id <> '')
		AND NOT EXISTS (SELECT 1 FROM run_locks l WHERE l.run_id = r.id)
		AND NOT EXISTS (SELECT 1 FROM reservations v WHERE v.run_id = r.id AND v.released_at = 0)
		ORDER BY r.created_at, r.id LIMIT %d`, pruneRuns), cutoff)
	if err != nil || len(ids) == 0 {
		return 0, err
	}
	return p.remove(ctx, func(t *txn) (Pruned, error) {
		out := Pruned{}
		keys := make([]any, len(ids)) // of the threads in Slack
		for i, id := range ids {
			keys[i] = fmt.Sprint("slack/", id)
		}
		for _, d := range []struct {
			table, key string
			ids        []any
		}{{"steps", "run_id", ids}, {"reservations", "run_id", ids}, {"approvals", "run_id", ids}, {"kv", "k", keys}, {"runs", "id", ids}} {
			n, err := t.affected(ctx, "DELETE FROM "+d.table+" WHERE "+d.key+in(0, len(d.ids)), d.ids...)
			if err != nil {
				return nil, fmt.Errorf("remove from %s: %w", d.table, err)
			}
			out[d.table] = n
		}
		return out, nil
	})
}

func (p *pruner) messages(ctx context.Context, cutoff int64) (int64, error) {
	ids, err := p.oldest(ctx, fmt.Sprintf("SELECT id FROM outbox WHERE status = 'failed' AND recorded < $1 LIMIT %d", pruneBatch), cutoff)
	if err != nil {
		return 0, fmt.Errorf("look for old messages: %w", err)
	}
	return p.byKey(ctx, "outbox", "id", "status = 'failed'", ids)
}

// unusedSnapshot: no run and no candidate names it, and no replica has it
// loaded, or KeepPlaybooks would have made it young again.
const unusedSnapshot = `created_at < $1 AND NOT EXISTS (SELECT 1 FROM runs r WHERE r.playbook_hash = playbooks.hash)
	AND NOT EXISTS (SELECT 1 FROM candidates c WHERE c.playbook_hash = playbooks.hash)`

func (p *pruner) snapshots(ctx context.Context, cutoff int64) (int64, error) {
	ids, err := p.oldest(ctx, fmt.Sprintf("SELECT hash FROM playbooks WHERE created_at < $1 AND hash NOT IN (SELECT playbook_hash FROM runs)"+
		" AND hash NOT IN (SELECT playbook_hash FROM candidates) LIMIT %d", 10), cutoff)
	if err != nil {
		return 0, fmt.Errorf("look for unused playbooks: %w", err)
	}
	return p.byKey(ctx, "playbooks", "hash", unusedSnapshot, ids, cutoff)
}

// buckets removes those that have long been full: one that is not there is full.
func (p *pruner) buckets(ctx context.Context, cutoff int64) (int64, error) {
	const old = "at < $1"
	scopes, err := p.oldest(ctx, fmt.Sprintf("SELECT scope FROM guard_buckets WHERE %s LIMIT %d", old, pruneBatch), cutoff)
	if err != nil {
		return 0, fmt.Errorf("look for old token buckets: %w", err)
	}
	return p.byKey(ctx, "guard_buckets", "scope", old, scopes, cutoff)
}

// KeepPlaybooks says that these snapshots are loaded, and returns how many of
// them are there. Each replica says so more often than any retention is long.
func (s *Store) KeepPlaybooks(ctx context.Context, hashes []string) (int, error) {
	if len(hashes) == 0 {
		return 0, nil
	}
	var n int64
	err := s.inTx(ctx, "keep the playbooks", func(t *txn) error {
		args := []any{micros(t.now)}
		for _, h := range hashes {
			args = append(args, h)
		}
		var err error
		n, err = t.affected(ctx, "UPDATE playbooks SET created_at = $1 WHERE hash"+in(1, len(hashes)), args...)
		return err
	})
	return int(n), err
}

func (p *pruner) report(ctx context.Context, r Retention) error {
	data, err := json.Marshal(map[string]any{"rows": p.out, "runs": r.Runs.String(), "journal": r.Journal.String()})
	if err != nil {
		return fmt.Errorf("encode what was removed: %w", err)
	}
	return p.s.Append(ctx, journal.Entry{Kind: journal.RetentionApplied, Actor: p.owner, Message: "what ended longer ago than store.retention was removed", Data: data})
}
