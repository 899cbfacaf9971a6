package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/alertmedic/alertmedic/internal/journal"
)

// Append writes entries that belong to no other transaction, all or none. They
// are read after they were sealed.
func (s *Store) Append(ctx context.Context, entries ...journal.Entry) error {
	if len(entries) == 0 {
		return nil
	}
	return s.inTx(ctx, "append to the journal", func(t *txn) error { return t.append(ctx, entries...) })
}

var writeJournal = insert("journal", "", texts("id"), ints("recorded", "ord", "at"), texts("kind", "run_id", "episode_id", "fingerprint", "alertname",
	"playbook", "namespace", "target_kind", "target_name", "action", "outcome", "reason", "doc"))

// append inserts unsequenced entries. Their order of sealing is that of their
// transactions' times, then of their writing.
func (t *txn) append(ctx context.Context, entries ...journal.Entry) error {
	if len(entries) == 0 {
		return nil
	}
	rows, err := t.entryRows(entries)
	if err != nil {
		return err
	}
	if _, err := t.write(ctx, writeJournal, rows); err != nil {
		return fmt.Errorf("write the journal: %w", err)
	}
	t.wakes = true
	return nil
}

func (t *txn) entryRows(entries []journal.Entry) ([][]any, error) {
	rows := make([][]any, len(entries))
	first := t.s.ord.Add(int64(len(entries))) - int64(len(entries)) + 1
	return rows, inParts(len(entries), func(i int) (err error) {
		rows[i], err = t.entryRow(entries[i], first+int64(i))
		return err
	})
}

func (t *txn) entryRow(e journal.Entry, ord int64) ([]any, error) {
	if e.ID == "" {
		var err error
		if e.ID, err = newID(); err != nil {
			return nil, err
		}
	}
	e.At = journal.Microseconds(cmpTime(e.At, t.now))
	doc, err := encodeEntry(e)
	if err != nil {
		return nil, err
	}
	var namespace, kind, name string
	if e.Target != nil {
		namespace, kind, name = e.Target.Namespace, string(e.Target.Kind), e.Target.Name
	}
	return []any{text(e.ID), micros(t.now), ord, micros(e.At), string(e.Kind), text(e.RunID), text(e.EpisodeID), text(e.Fingerprint), indexed(e.AlertName),
		text(e.Playbook), text(namespace), text(kind), text(name), text(e.Action), text(e.Outcome), text(e.Reason), string(doc)}, nil
}

// maxIndexed bounds what an index holds of a value, in bytes: PostgreSQL refuses
// a row of an index from 2.7 KB on, and an entry that cannot be indexed could
// never be sealed, nor any after it. The document has the whole.
const maxIndexed = 512

func indexed(s string) string {
	s = text(s)
	if len(s) > maxIndexed {
		s = strings.ToValidUTF8(s[:maxIndexed], "")
	}
	return s
}

func cmpTime(t, fallback time.Time) time.Time {
	if t.IsZero() {
		return fallback
	}
	return t
}

const (
	sealerLease = 3 * time.Second
	// SealBatch is the most entries that are sealed at once: more would hold up
	// everybody else on SQLite.
	SealBatch = 100
)

// Seal gives waiting entries their seq and hash, up to SealBatch of them, and
// returns how many. One owner at a time does it, by a lease; for the others it
// returns 0. Call it until it returns less than SealBatch, then again after
// Changed or a while.
func (s *Store) Seal(ctx context.Context, owner string) (int, error) {
	waiting, err := exists(ctx, s.read, "SELECT 1 FROM journal WHERE seq IS NULL LIMIT 1")
	if err != nil || !waiting {
		return 0, s.wrap("look for entries to seal", err)
	}
	n := 0
	err = s.inTx(ctx, "seal the journal", func(t *txn) error {
		n = 0
		got, err := t.affected(ctx, `INSERT INTO leases (name, owner, lease_until) VALUES ('sealer', $1, $2)
			ON CONFLICT (name) DO UPDATE SET owner = excluded.owner, lease_until = excluded.lease_until
			WHERE leases.owner = excluded.owner OR leases.lease_until <= $3`, owner, micros(t.now.Add(sealerLease)), micros(t.now))
		if err != nil {
			return fmt.Errorf("take the sealer's lease: %w", err)
		}
		if got == 0 {
			return nil
		}
		// The lease's row stays locked until the commit: two sealers never
		// continue the same head, even if the lease changes hands.
		n, err = t.seal(ctx)
		t.wakes = n > 0
		return err
	})
	if err != nil {
		return 0, err
	}
	s.metrics.sealed.Add(float64(n))
	return n, nil
}

func (t *txn) seal(ctx context.Context) (int, error) {
	head, err := lastSealed(ctx, t)
	if err != nil {
		return 0, err
	}
	docs, err := collect(ctx, t, func(r scanner) (string, error) {
		var doc string
		return doc, r.Scan(&doc)
	}, fmt.Sprintf("SELECT doc FROM journal WHERE seq IS NULL ORDER BY recorded, ord, id LIMIT %d", SealBatch))
	if err != nil {
		return 0, fmt.Errorf("read the entries to seal: %w", err)
	}
	sealed := make([]journal.Entry, 0, len(docs))
	for _, doc := range docs {
		var e journal.Entry
		if err := json.Unmarshal([]byte(doc), &e); err != nil {
			return 0, fmt.Errorf("decode a journal entry: %w", err)
		}
		if err := journal.Seal(head.Hash, head.Seq+1, &e); err != nil {
			return 0, fmt.Errorf("seal: %w", err)
		}
		head = journal.Head{Seq: e.Seq, Hash: e.Hash}
		sealed = append(sealed, e)
	}
	if len(sealed) == 0 {
		return 0, nil
	}
	if err := t.writeSeals(ctx, sealed); err != nil {
		return 0, fmt.Errorf("write the seals: %w", err)
	}
	return len(sealed), t.countBlocks(ctx)
}

func (t *txn) writeSeals(ctx context.Context, entries []journal.Entry) error {
	var q strings.Builder
	q.WriteString("WITH sealed (id, seq, prev_hash, hash) AS (VALUES ")
	args := make([]any, 0, 4*len(entries))
	for i, e := range entries {
		if i > 0 {
			q.WriteString(", ")
		}
		n := len(args)
		fmt.Fprintf(&q, "(CAST($%d AS TEXT), CAST($%d AS BIGINT), CAST($%d AS TEXT), CAST($%d AS TEXT))", n+1, n+2, n+3, n+4)
		args = append(args, e.ID, e.Seq, e.PrevHash, e.Hash)
	}
	q.WriteString(") UPDATE journal SET seq = sealed.seq, prev_hash = sealed.prev_hash, hash = sealed.hash FROM sealed WHERE journal.id = sealed.id AND journal.seq IS NULL")
	n, err := t.affected(ctx, q.String(), args...)
	if err == nil && n != int64(len(entries)) {
		err = fmt.Errorf("%d of %d entries were there", n, len(entries))
	}
	return err
}

func lastSealed(ctx context.Context, q querier) (journal.Head, error) {
	var h journal.Head
	err := q.QueryRowContext(ctx, "SELECT seq, hash FROM journal WHERE seq IS NOT NULL ORDER BY seq DESC LIMIT 1").Scan(&h.Seq, &h.Hash)
	if errors.Is(err, sql.ErrNoRows) {
		return journal.Head{}, nil
	}
	if err != nil {
		return h, fmt.Errorf("read the head of the journal: %w", err)
	}
	return h, nil
}

// LastSealed returns the head of the chain, 0 and "" while it is empty.
func (s *Store) LastSealed(ctx context.Context) (seq int64, hash string, err error) {
	h, err := lastSealed(ctx, s.read)
	return h.Seq, h.Hash, s.wrap("last sealed", err)
}

// Unsealed counts the entries that wait for their seal, and tells when the
// oldest was written: the window in which a change of the journal could not be
// proved. A growing one means that no sealer runs.
func (s *Store) Unsealed(ctx context.Context) (n int, oldest time.Time, err error) {
	var us int64
	err = s.read.QueryRowContext(ctx, "SELECT count(*), COALESCE(MIN(recorded), 0) FROM journal WHERE seq IS NULL").Scan(&n, &us)
	return n, fromMicros(us), s.wrap("count the unsealed entries", err)
}

const entryColumns = "seq, prev_hash, hash, doc"

func scanEntry(sc scanner) (journal.Entry, error) {
	var seq int64
	var prev, hash, doc string
	if err := sc.Scan(&seq, &prev, &hash, &doc); err != nil {
		return journal.Entry{}, err
	}
	var e journal.Entry
	if err := json.Unmarshal([]byte(doc), &e); err != nil {
		return e, fmt.Errorf("decode journal entry %d: %w", seq, err)
	}
	e.Seq, e.PrevHash, e.Hash = seq, prev, hash
	return e, nil
}
