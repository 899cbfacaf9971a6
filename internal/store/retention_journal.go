package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/alertmedic/alertmedic/internal/journal"
)

const (
	anchorKey = "journal/anchor"
	// anchorEvery is the least time between two anchors, or a busy journal would
	// hold one for each pass.
	anchorEvery = 24 * time.Hour
)

// anchor is where the journal may begin. Its entry says so in the chain itself.
type anchor struct {
	journal.Pruned
	Entry string    `json:"entry"` // id of the JournalPruned entry
	At    time.Time `json:"at"`
}

// journal removes the beginning of the log in two steps, each of which may be
// the last before a crash: an entry says up to where, and only when that entry
// is sealed are the ones before removed. So the log never begins later than it
// says of itself, and its chain can be checked at any time.
func (p *pruner) journal(ctx context.Context, cutoff time.Time) error {
	a, err := p.anchor(ctx)
	if err != nil {
		return err
	}
	if a.Entry != "" {
		sealed, err := exists(ctx, p.s.read, "SELECT 1 FROM journal WHERE id = $1 AND seq IS NOT NULL", a.Entry)
		if err != nil {
			return fmt.Errorf("look for the anchor's entry: %w", err)
		}
		if !sealed {
			return nil // the next pass goes on
		}
		if err := p.repeat(ctx, func(ctx context.Context) (int64, error) { return p.entries(ctx, a.Seq) }); err != nil {
			return err
		}
		if now, err := p.s.Now(ctx); err != nil || now.Sub(a.At) < anchorEvery {
			return err
		}
	}
	head, err := p.lastBefore(ctx, a.Seq, cutoff)
	if err != nil || head.Seq <= a.Seq {
		return err
	}
	_, err = p.remove(ctx, func(t *txn) (Pruned, error) { return nil, t.setAnchor(ctx, head, cutoff, p.owner) })
	return err
}

func (p *pruner) anchor(ctx context.Context) (anchor, error) {
	var a anchor
	doc, err := p.s.GetValue(ctx, anchorKey)
	if errors.Is(err, ErrNotFound) {
		return a, nil
	}
	if err != nil {
		return a, err
	}
	if err := json.Unmarshal([]byte(doc), &a); err != nil {
		return a, fmt.Errorf("decode the anchor of the journal: %w", err)
	}
	return a, nil
}

// entries removes the first of the entries up to the anchor.
func (p *pruner) entries(ctx context.Context, upTo int64) (int64, error) {
	var first int64
	if err := p.s.read.QueryRowContext(ctx, "SELECT COALESCE(MIN(seq), 0) FROM journal WHERE seq IS NOT NULL").Scan(&first); err != nil {
		return 0, fmt.Errorf("read where the journal begins: %w", err)
	}
	if first == 0 || first > upTo {
		return 0, nil
	}
	return p.remove(ctx, func(t *txn) (Pruned, error) {
		last := min(first+pruneBatch-1, upTo)
		n, err := t.affected(ctx, "DELETE FROM journal WHERE seq <= $1", last)
		if err != nil {
			return nil, fmt.Errorf("remove from the journal: %w", err)
		}
		// The newest block stays: it says up to where blocks were counted.
		if err := t.exec(ctx, "DELETE FROM journal_blocks WHERE last_seq <= $1 AND block < (SELECT MAX(block) FROM journal_blocks)", last); err != nil {
			return nil, fmt.Errorf("remove blocks of the journal: %w", err)
		}
		return Pruned{"journal": n}, nil
	})
}

// lastBefore is the last entry, counted from the beginning, such that it and all
// before it are older than cutoff and of no live run.
func (p *pruner) lastBefore(ctx context.Context, after int64, cutoff time.Time) (journal.Head, error) {
	var live int64
	if err := p.s.read.QueryRowContext(ctx, `SELECT COALESCE(MIN(j.seq), 0) FROM runs r JOIN journal j ON j.run_id = r.id AND j.run_id <> '' AND j.seq IS NOT NULL
		WHERE r.phase <> 'done'`).Scan(&live); err != nil {
		return journal.Head{}, fmt.Errorf("look for entries of live runs: %w", err)
	}
	type row struct {
		journal.Head
		recorded int64
	}
	var last journal.Head
	for {
		rows, err := collect(ctx, p.s.read, func(r scanner) (row, error) {
			var v row
			return v, r.Scan(&v.Seq, &v.Hash, &v.recorded)
		}, "SELECT seq, hash, recorded FROM journal WHERE seq > $1 ORDER BY seq LIMIT 1000", after)
		if err != nil {
			return last, fmt.Errorf("look for old entries: %w", err)
		}
		for _, r := range rows {
			if r.recorded >= micros(cutoff) || live > 0 && r.Seq >= live {
				return last, nil
			}
			last, after = r.Head, r.Seq
		}
		if len(rows) == 0 {
			return last, nil
		}
	}
}

func (t *txn) setAnchor(ctx context.Context, h journal.Head, cutoff time.Time, actor string) error {
	a := anchor{Pruned: journal.Pruned(h), At: t.now}
	data, err := json.Marshal(a.Pruned)
	if err != nil {
		return fmt.Errorf("encode the anchor: %w", err)
	}
	if a.Entry, err = newID(); err != nil {
		return err
	}
	if err := t.append(ctx, journal.Entry{ID: a.Entry, Kind: journal.JournalPruned, Actor: actor, Data: data,
		Message: fmt.Sprintf("entries up to seq %d, of before %s, are removed by store.retention.journal", h.Seq, cutoff.UTC().Format(time.RFC3339))}); err != nil {
		return err
	}
	doc, err := json.Marshal(a)
	if err != nil {
		return fmt.Errorf("encode the anchor: %w", err)
	}
	if err := t.exec(ctx, `INSERT INTO kv (k, v, updated_at) VALUES ($1, $2, $3)
		ON CONFLICT (k) DO UPDATE SET v = excluded.v, updated_at = excluded.updated_at`, anchorKey, string(doc), micros(t.now)); err != nil {
		return fmt.Errorf("store the anchor: %w", err)
	}
	return nil
}
