package store

import (
	"context"
	"fmt"
	"slices"

	"github.com/alertmedic/alertmedic/internal/journal"
)

// logPage is how many entries LogIter holds at once.
const logPage = 500

// Log returns a page of sealed entries in the order of seq, and the cursor of
// the next page, "" when there is none.
func (s *Store) Log(ctx context.Context, f LogFilter, p Page) ([]journal.Entry, string, error) {
	limit := p.limit()
	after := f.AfterSeq
	var before int64
	if p.Cursor != "" {
		c, err := decodeCursor(p.Cursor, cursorLog, p.Descending)
		if err != nil {
			return nil, "", s.wrap("log", err)
		}
		if p.Descending {
			before = c.n
		} else {
			after = max(after, c.n)
		}
	}
	q, err := s.logQuery(ctx, f)
	if err != nil {
		return nil, "", s.wrap("read the log", err)
	}
	items, err := q.page(ctx, after, before, p.Descending, limit+1)
	if err != nil {
		return nil, "", s.wrap("read the log", err)
	}
	if len(items) <= limit {
		return items, "", nil
	}
	items = items[:limit]
	return items, cursor{kind: cursorLog, descending: p.Descending, n: items[limit-1].Seq}.encode(), nil
}

// LogIter calls fn for every sealed entry that the filter selects, in the order
// of seq, and stops at its first error, which it returns as it is. It holds a
// few hundred entries at a time and no transaction, so fn may be slow.
func (s *Store) LogIter(ctx context.Context, f LogFilter, fn func(journal.Entry) error) error {
	q, err := s.logQuery(ctx, f)
	if err != nil {
		return s.wrap("read the log", err)
	}
	for after := f.AfterSeq; ; {
		items, err := q.page(ctx, after, 0, false, logPage)
		if err != nil {
			return s.wrap("read the log", err)
		}
		for _, e := range items {
			if err := fn(e); err != nil {
				return err
			}
			after = e.Seq
		}
		if len(items) < logPage {
			return nil
		}
	}
}

// logQuery reads what a filter selects of the log.
type logQuery struct {
	s       *Store
	f       LogFilter
	columns []named // the one to select by first
}

func (s *Store) logQuery(ctx context.Context, f LogFilter) (logQuery, error) {
	columns, err := s.rarest(ctx, f)
	return logQuery{s, f, columns}, err
}

// page reads up to limit entries between two seqs; before is 0 for no bound.
func (q logQuery) page(ctx context.Context, after, before int64, descending bool, limit int) ([]journal.Entry, error) {
	spans, err := q.s.spans(ctx, q.f.Since, q.f.Until, after, before)
	if err != nil {
		return nil, err
	}
	if descending {
		slices.Reverse(spans)
	}
	var out []journal.Entry
	for _, sp := range spans {
		w := q.where(sp)
		items, err := collect(ctx, q.s.read, scanEntry, "SELECT "+entryColumns+" FROM journal WHERE "+w.String()+
			" ORDER BY seq"+desc(descending)+fmt.Sprintf(" LIMIT %d", limit-len(out)), w.args...)
		if err != nil {
			return nil, err
		}
		if out = append(out, items...); len(out) == limit {
			break
		}
	}
	return out, nil
}

// where selects by the first column, by its index and in the order of seq, and
// compares everything else.
func (q logQuery) where(sp span) *where {
	w := &where{}
	w.add("seq >= $%d AND seq <= $%d", sp.first, sp.last)
	for i, c := range q.columns {
		if i > 0 {
			w.equal(c.column+" || ''", c.value)
			continue
		}
		w.equal(c.column, c.value)
		w.add(c.column + " <> ''") // as the index says of itself
	}
	w.span("at", q.f.Since, q.f.Until)
	return w
}
