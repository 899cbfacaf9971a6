package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"
)

// The log is in the order of sealing, which is nearly, not exactly, that of the
// entries' times. So that a range of time is found in it without reading it
// all, its entries are counted in blocks of 1,000 seqs: each tells the first and
// the last time in it. A block may be too wide, since retention leaves it as it
// is, but never too narrow; what no block counts yet is always looked through.

// countBlocks counts what was sealed since the last block was written, whoever
// sealed it: this program, an earlier version, a restore.
func (t *txn) countBlocks(ctx context.Context) error {
	if err := t.exec(ctx, `INSERT INTO journal_blocks (block, min_at, max_at, last_seq)
		SELECT seq / 1000, MIN(at), MAX(at), MAX(seq) FROM journal
			WHERE seq > (SELECT COALESCE(MAX(last_seq), 0) FROM journal_blocks) GROUP BY seq / 1000
		ON CONFLICT (block) DO UPDATE SET last_seq = excluded.last_seq,
			min_at = CASE WHEN excluded.min_at < journal_blocks.min_at THEN excluded.min_at ELSE journal_blocks.min_at END,
			max_at = CASE WHEN excluded.max_at > journal_blocks.max_at THEN excluded.max_at ELSE journal_blocks.max_at END`); err != nil {
		return fmt.Errorf("count the blocks of the journal: %w", err)
	}
	return nil
}

// span are the entries from first to last, both of them.
type span struct{ first, last int64 }

// maxSpans bounds how many queries one page may take, should a clock have gone
// to and fro.
const maxSpans = 64

// spans returns where, after one seq and before another (0: no bound), entries
// of a range of time may be, in order; neighbours are one. Entries that are
// sealed meanwhile are in the last of them.
func (s *Store) spans(ctx context.Context, since, until time.Time, after, before int64) ([]span, error) {
	if before == 0 {
		before = math.MaxInt64
	}
	if since.IsZero() && until.IsZero() {
		return []span{{after + 1, before - 1}}, nil
	}
	var counted int64
	err := s.read.QueryRowContext(ctx, "SELECT last_seq FROM journal_blocks ORDER BY block DESC LIMIT 1").Scan(&counted)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return nil, fmt.Errorf("read up to where blocks were counted: %w", err)
	}
	w := &where{}
	w.add("last_seq > $%d AND block <= $%d", after, before/1000)
	if !since.IsZero() {
		w.add("max_at >= $%d", micros(since))
	}
	if !until.IsZero() {
		w.add("min_at < $%d", micros(until))
	}
	found, err := collect(ctx, s.read, func(r scanner) (span, error) {
		var block, last int64
		err := r.Scan(&block, &last)
		return span{block * 1000, min(last, counted)}, err
	}, "SELECT block, last_seq FROM journal_blocks WHERE "+w.String()+" ORDER BY block", w.args...)
	if err != nil {
		return nil, fmt.Errorf("read the blocks of the journal: %w", err)
	}
	var out []span
	for _, b := range append(found, span{counted + 1, math.MaxInt64}) {
		b.first, b.last = max(b.first, after+1), min(b.last, before-1)
		if n := len(out); n > 0 && (b.first <= out[n-1].last+1 || n == maxSpans) {
			out[n-1].last = max(out[n-1].last, b.last)
		} else if b.first <= b.last {
			out = append(out, b)
		}
	}
	return out, nil
}

// LogFilter's columns, of which each has an index in the order of seq.
func (f LogFilter) columns() []named {
	all := []named{
		{"run_id", f.RunID}, {"episode_id", f.EpisodeID}, {"fingerprint", f.Fingerprint}, {"target_name", f.TargetName}, {"reason", f.Reason},
		{"action", f.Action}, {"alertname", indexed(f.AlertName)}, {"playbook", f.Playbook}, {"namespace", f.Namespace}, {"outcome", f.Outcome},
		{"target_kind", f.TargetKind}, {"kind", f.Kind},
	}
	return slices.DeleteFunc(all, func(n named) bool { return n.value == "" })
}

// named is a column and the value that a filter wants in it.
type named struct{ column, value string }

const (
	countedUpTo = 2001 // entries, to tell the rarer of two values
	rareEnough  = 200  // entries, that are read faster than another value is counted
)

// rarest returns the columns of a filter with the one first whose value the
// fewest entries have: that one's index is walked, and the others are compared.
// The databases' planners know too little of the values to tell.
func (s *Store) rarest(ctx context.Context, f LogFilter) ([]named, error) {
	columns := f.columns()
	if len(columns) < 2 {
		return columns, nil
	}
	best, fewest := 0, math.MaxInt
	for i, c := range columns {
		var n int
		if err := s.read.QueryRowContext(ctx, fmt.Sprintf("SELECT count(*) FROM (SELECT 1 FROM journal WHERE seq IS NOT NULL AND %s = $1 AND %s <> '' LIMIT %d) AS counted",
			c.column, c.column, countedUpTo), text(c.value)).Scan(&n); err != nil {
			return nil, fmt.Errorf("count by %s: %w", c.column, err)
		}
		if n < fewest {
			best, fewest = i, n
		}
		if n <= rareEnough {
			break
		}
	}
	return slices.Concat(columns[best:best+1], columns[:best], columns[best+1:]), nil
}
