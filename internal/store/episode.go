package store

import (
	"context"
	"encoding/json"
	"fmt"
)

const episodeColumns = "id, source, fingerprint, cluster, alert, is_open, opened_at, closed_at, last_seen"

type episodeRow struct {
	ep                       Episode
	alert                    string
	open                     int64
	openedAt, closedAt, seen int64
}

func (r *episodeRow) fields() []any {
	return []any{&r.ep.ID, &r.ep.Signal.Source, &r.ep.Signal.Fingerprint, &r.ep.Cluster, &r.alert, &r.open, &r.openedAt, &r.closedAt, &r.seen}
}

func (r *episodeRow) value() (Episode, error) {
	ep := r.ep
	if err := json.Unmarshal([]byte(r.alert), &ep.Alert); err != nil {
		return ep, fmt.Errorf("decode the alert of episode %s: %w", ep.ID, err)
	}
	ep.Open, ep.OpenedAt, ep.ClosedAt, ep.LastSeen = r.open != 0, fromMicros(r.openedAt), fromMicros(r.closedAt), fromMicros(r.seen)
	return ep, nil
}

func scanEpisode(sc scanner) (Episode, error) {
	var r episodeRow
	if err := sc.Scan(r.fields()...); err != nil {
		return Episode{}, err
	}
	return r.value()
}

func (s *Store) episode(ctx context.Context, q querier, id, suffix string) (Episode, error) {
	ep, err := scanEpisode(q.QueryRowContext(ctx, "SELECT "+episodeColumns+" FROM episodes WHERE id = $1"+suffix, id))
	if err != nil {
		return ep, fmt.Errorf("read the episode: %w", notFound(err, "episode %s", id))
	}
	return ep, nil
}

// Episode returns one episode; the error wraps ErrNotFound.
func (s *Store) Episode(ctx context.Context, id string) (Episode, error) {
	ep, err := s.episode(ctx, s.read, id, "")
	return ep, s.wrap("episode", err)
}

// OpenEpisodes returns the open episodes of a source, "" of all, oldest first.
func (s *Store) OpenEpisodes(ctx context.Context, source string) ([]Episode, error) {
	out, err := collect(ctx, s.read, scanEpisode, "SELECT "+episodeColumns+` FROM episodes
		WHERE is_open = 1 AND ($1 = '' OR source = $1) ORDER BY opened_at, id`, source)
	return out, s.wrap("read the open episodes", err)
}
