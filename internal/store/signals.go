package store

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/alertmedic/alertmedic/internal/alert"
)

// lockSignals makes and locks the rows of every signal of the group, sorted, so
// that two replicas that are told the same do not wait for each other in a ring,
// and reads all that folding must know.
func (t *txn) lockSignals(ctx context.Context, group []acceptRequest) (*folding, error) {
	f := &folding{txn: t, signals: map[alert.Signal]*signal{}}
	for _, req := range group {
		for i := range req.observed {
			if sig := req.observed[i].signal; f.signals[sig] == nil {
				f.signals[sig] = &signal{Signal: sig}
			}
		}
	}
	if len(f.signals) == 0 {
		return f, t.tick(ctx)
	}
	sorted := slices.SortedFunc(maps.Values(f.signals), func(a, b *signal) int {
		return cmp.Or(cmp.Compare(a.Source, b.Source), cmp.Compare(a.Fingerprint, b.Fingerprint))
	})
	if t.s.dialect.arrays {
		return f, f.lockAll(ctx, sorted)
	}
	return f, f.readEach(ctx, sorted)
}

// readEach is for SQLite: there is one writer, and a signal that is not there
// needs no row yet. Most of the signals in a storm are new, so all are looked up
// by one statement for each source.
func (f *folding) readEach(ctx context.Context, sorted []*signal) error {
	if err := f.tick(ctx); err != nil {
		return err
	}
	for len(sorted) > 0 {
		n := slices.IndexFunc(sorted, func(sig *signal) bool { return sig.Source != sorted[0].Source })
		if n < 0 {
			n = len(sorted)
		}
		fingerprints := make([]string, n)
		for i, sig := range sorted[:n] {
			fingerprints[i] = sig.Fingerprint
		}
		wanted, err := json.Marshal(fingerprints)
		if err != nil {
			return fmt.Errorf("encode the fingerprints: %w", err)
		}
		found, err := collect(ctx, f, scanSignal, `SELECT s.source, s.fingerprint, s.episode_id, s.orphaned_at
			FROM json_each($1) AS wanted CROSS JOIN signals AS s ON s.source = $2 AND s.fingerprint = wanted.value`, string(wanted), sorted[0].Source)
		if err != nil {
			return fmt.Errorf("read the signals: %w", err)
		}
		for _, row := range found {
			if err := f.known(ctx, row); err != nil {
				return err
			}
		}
		sorted = sorted[n:]
	}
	return nil
}

// known reads what there is of a signal that has a row.
func (f *folding) known(ctx context.Context, row signal) error {
	sig := f.signals[row.Signal]
	sig.episodeID, sig.orphanedAt = row.episodeID, row.orphanedAt
	if sig.episodeID == "" {
		return nil
	}
	ep, err := f.s.episode(ctx, f, sig.episodeID, "")
	if err != nil {
		return err
	}
	sig.latest = &episode{Episode: ep}
	names, err := collect(ctx, f, scanString, "SELECT playbook FROM candidates WHERE episode_id = $1", ep.ID)
	if err != nil {
		return fmt.Errorf("read the candidates: %w", err)
	}
	sig.latest.playbooks = set(names)
	return nil
}

func scanSignal(r scanner) (signal, error) {
	var sig signal
	return sig, r.Scan(&sig.Source, &sig.Fingerprint, &sig.episodeID, &sig.orphanedAt)
}

func set(names []string) map[string]bool {
	out := make(map[string]bool, len(names))
	for _, name := range names {
		out[name] = true
	}
	return out
}

// lockAll is for PostgreSQL, where a round trip costs more than a row: one
// statement makes the rows that are missing, locks all and reads them.
func (f *folding) lockAll(ctx context.Context, sorted []*signal) error {
	sources, fingerprints := make([]string, len(sorted)), make([]string, len(sorted))
	for i, sig := range sorted {
		sources[i], fingerprints[i] = sig.Source, sig.Fingerprint
	}
	// The locks may have been waited for: each row tells the time at which it was
	// locked, and the latest is that of the transaction.
	var latest int64
	found, err := collect(ctx, f, func(r scanner) (signal, error) {
		var sig signal
		var locked int64
		err := r.Scan(&sig.Source, &sig.Fingerprint, &sig.episodeID, &sig.orphanedAt, &locked)
		latest = max(latest, locked)
		return sig, err
	}, `INSERT INTO signals AS s (source, fingerprint) SELECT * FROM unnest($1::text[], $2::text[])
		ON CONFLICT (source, fingerprint) DO UPDATE SET source = excluded.source
		RETURNING s.source, s.fingerprint, s.episode_id, s.orphaned_at, `+f.s.dialect.now, sources, fingerprints)
	if err != nil {
		return fmt.Errorf("lock the signals: %w", err)
	}
	f.now = fromMicros(latest)
	var ids []string
	for _, row := range found {
		sig := f.signals[row.Signal]
		sig.episodeID, sig.orphanedAt = row.episodeID, row.orphanedAt
		if sig.episodeID != "" {
			ids = append(ids, sig.episodeID)
		}
	}
	if len(ids) == 0 {
		return nil
	}
	return f.readEpisodes(ctx, ids)
}

func (f *folding) readEpisodes(ctx context.Context, ids []string) error {
	slices.Sort(ids)
	eps, err := collect(ctx, f, scanEpisode, "SELECT "+episodeColumns+" FROM episodes WHERE id = ANY($1::text[]) ORDER BY id"+f.s.dialect.forUpdate, ids)
	if err != nil {
		return fmt.Errorf("read the episodes: %w", err)
	}
	byID := make(map[string]*episode, len(eps))
	for _, ep := range eps {
		byID[ep.ID] = &episode{Episode: ep, playbooks: map[string]bool{}}
	}
	for _, sig := range f.signals {
		if sig.episodeID == "" {
			continue
		}
		if sig.latest = byID[sig.episodeID]; sig.latest == nil {
			return fmt.Errorf("read the episodes: %w", notFound(sql.ErrNoRows, "episode %s", sig.episodeID))
		}
	}
	type candidate struct{ episode, playbook string }
	cands, err := collect(ctx, f, func(r scanner) (candidate, error) {
		var c candidate
		return c, r.Scan(&c.episode, &c.playbook)
	}, "SELECT episode_id, playbook FROM candidates WHERE episode_id = ANY($1::text[])", ids)
	if err != nil {
		return fmt.Errorf("read the candidates: %w", err)
	}
	for _, c := range cands {
		byID[c.episode].playbooks[c.playbook] = true
	}
	return nil
}
