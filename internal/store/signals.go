package store

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
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
// needs no row yet.
func (f *folding) readEach(ctx context.Context, sorted []*signal) error {
	if err := f.tick(ctx); err != nil {
		return err
	}
	for _, sig := range sorted {
		err := f.QueryRowContext(ctx, "SELECT episode_id, orphaned_at FROM signals WHERE source = $1 AND fingerprint = $2",
			sig.Source, sig.Fingerprint).Scan(&sig.episodeID, &sig.orphanedAt)
		if errors.Is(err, sql.ErrNoRows) {
			continue
		}
		if err != nil {
			return fmt.Errorf("read the signal: %w", err)
		}
		if sig.episodeID == "" {
			continue
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
	}
	return nil
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
	found, err := collect(ctx, f, func(r scanner) (signal, error) {
		var sig signal
		return sig, r.Scan(&sig.Source, &sig.Fingerprint, &sig.episodeID, &sig.orphanedAt)
	}, `INSERT INTO signals AS s (source, fingerprint) SELECT * FROM unnest($1::text[], $2::text[])
		ON CONFLICT (source, fingerprint) DO UPDATE SET source = excluded.source
		RETURNING s.source, s.fingerprint, s.episode_id, s.orphaned_at`, sources, fingerprints)
	if err != nil {
		return fmt.Errorf("lock the signals: %w", err)
	}
	// The locks may have been waited for.
	if err := f.tick(ctx); err != nil {
		return err
	}
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
