package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/alertmedic/alertmedic/internal/alert"
	"github.com/alertmedic/alertmedic/internal/journal"
)

// resolveSkew is how much earlier than the opening of its episode a resolution
// may claim to be: clocks differ, and a notification may have waited for one
// group_interval before it reached us.
const resolveSkew = 5 * time.Minute

// newID returns a UUIDv7: time-ordered, and ascending within this process.
func newID() (string, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return "", fmt.Errorf("make an identifier: %w", err)
	}
	return id.String(), nil
}

// fold brings one observation into the episodes. It is idempotent: duplicates
// from an HA pair, repeats and retries change nothing but the episode's alert
// and the time it was last seen. The signal's row is locked.
func (t *txn) fold(ctx context.Context, o Observation, res *AcceptResult) error {
	sig := o.signal()
	var episodeID string
	var orphanedAt int64
	if err := t.QueryRowContext(ctx, "SELECT episode_id, orphaned_at FROM signals WHERE source = $1 AND fingerprint = $2",
		sig.Source, sig.Fingerprint).Scan(&episodeID, &orphanedAt); errors.Is(err, sql.ErrNoRows) {
		return errRace // retention removed it after lockSignals had seen it
	} else if err != nil {
		return fmt.Errorf("read the signal: %w", err)
	}
	var ep Episode
	if episodeID != "" {
		var err error
		if ep, err = t.s.episode(ctx, t, episodeID, t.s.dialect.forUpdate); err != nil {
			return err
		}
	}
	if o.Alert.Status == alert.Resolved {
		return t.foldResolved(ctx, o, sig, ep, orphanedAt != 0, res)
	}
	return t.foldFiring(ctx, o, sig, ep, res)
}

func (t *txn) foldFiring(ctx context.Context, o Observation, sig alert.Signal, ep Episode, res *AcceptResult) error {
	var err error
	switch {
	case ep.ID == "" || !ep.Open && t.now.Sub(ep.ClosedAt) >= t.s.flapDwell:
		if ep, err = t.openEpisode(ctx, o, sig); err != nil {
			return err
		}
		res.Opened++
		if len(o.Playbooks) == 0 {
			res.Unmatched++
			e := ep.entry(journal.AlertUnmatched, t.now)
			e.Message = "no playbook matches the alert"
			if err := t.append(ctx, e); err != nil {
				return err
			}
		}
	case !ep.Open:
		if err := t.reopenEpisode(ctx, o, &ep); err != nil {
			return err
		}
		res.Reopened++
	default:
		res.Repeated++
		if err := t.setAlert(ctx, &ep, o.Alert, true, time.Time{}); err != nil {
			return err
		}
	}
	n, err := t.addCandidates(ctx, o, ep)
	res.Candidates += n
	return err
}

func (t *txn) foldResolved(ctx context.Context, o Observation, sig alert.Signal, ep Episode, orphaned bool, res *AcceptResult) error {
	switch {
	case ep.ID == "" && orphaned, ep.ID != "" && !ep.Open:
		res.Repeated++
		return nil
	case ep.ID == "":
		res.Orphaned++
		if err := t.exec(ctx, "UPDATE signals SET orphaned_at = $1 WHERE source = $2 AND fingerprint = $3", micros(t.now), sig.Source, sig.Fingerprint); err != nil {
			return fmt.Errorf("record the orphan: %w", err)
		}
		e := Episode{Signal: sig, Cluster: o.Cluster, Alert: o.Alert}.entry(journal.AlertOrphan, t.now)
		e.Message = "resolved, and never seen firing: nothing is started"
		t.wakes = true
		return t.append(ctx, e)
	case stale(o.Alert, ep):
		res.Stale++
		return nil
	}
	res.Closed++
	t.wakes = true
	if err := t.setAlert(ctx, &ep, o.Alert, false, t.now); err != nil {
		return err
	}
	return t.append(ctx, ep.entry(journal.EpisodeClosed, t.now))
}

// stale tells a resolution that is about an earlier firing: it ended before what
// fires now began. startsAt goes back and forth between HA peers, so a low one
// proves little; the time the episode was opened here bounds it from below.
func stale(a alert.Alert, ep Episode) bool {
	if a.EndsAt.IsZero() {
		return false
	}
	if a.EndsAt.Before(ep.Alert.StartsAt) {
		return true
	}
	return ep.Alert.StartsAt.Before(ep.OpenedAt) && a.EndsAt.Before(ep.OpenedAt.Add(-resolveSkew))
}

func (t *txn) openEpisode(ctx context.Context, o Observation, sig alert.Signal) (Episode, error) {
	id, err := newID()
	if err != nil {
		return Episode{}, err
	}
	ep := Episode{ID: id, Signal: sig, Cluster: o.Cluster, Alert: o.Alert, Open: true, OpenedAt: t.now, LastSeen: t.now}
	doc, err := json.Marshal(ep.Alert)
	if err != nil {
		return ep, fmt.Errorf("encode the alert: %w", err)
	}
	n, err := t.affected(ctx, `INSERT INTO episodes (id, source, fingerprint, cluster, alert, is_open, opened_at, last_seen)
		VALUES ($1, $2, $3, $4, $5, 1, $6, $6) ON CONFLICT DO NOTHING`,
		ep.ID, sig.Source, sig.Fingerprint, text(ep.Cluster), string(doc), micros(t.now))
	if err != nil {
		return ep, fmt.Errorf("open the episode: %w", err)
	}
	if n == 0 {
		return ep, errRace
	}
	if err := t.exec(ctx, "UPDATE signals SET episode_id = $1 WHERE source = $2 AND fingerprint = $3", ep.ID, sig.Source, sig.Fingerprint); err != nil {
		return ep, fmt.Errorf("point the signal at its episode: %w", err)
	}
	t.wakes = true
	e := ep.entry(journal.EpisodeOpened, t.now)
	if e.Data, err = json.Marshal(map[string]any{"labels": o.Alert.Labels, "startsAt": o.Alert.StartsAt}); err != nil {
		return ep, fmt.Errorf("encode the labels: %w", err)
	}
	return ep, t.append(ctx, e)
}

// reopenEpisode goes on with an episode that closed a moment ago. Candidates for
// which nothing was sent because the alert had resolved are queued again.
func (t *txn) reopenEpisode(ctx context.Context, o Observation, ep *Episode) error {
	closed := ep.ClosedAt
	if err := t.setAlert(ctx, ep, o.Alert, true, time.Time{}); err != nil {
		return err
	}
	t.wakes = true
	n, err := t.affected(ctx, `UPDATE candidates SET phase = 'queued', outcome = '', reason = '', run_id = '', attached = 0, deferred = 0, attempts = 0,
			due_at = $1, expires_at = $1 + (expires_at - created_at), created_at = $1, lease_owner = '', lease_until = 0, lease_epoch = lease_epoch + 1
		WHERE episode_id = $2 AND phase = 'done' AND (
			(outcome = 'suppressed' AND reason = 'resolved') OR
			(outcome = 'joined' AND EXISTS (SELECT 1 FROM runs r WHERE r.id = candidates.run_id
				AND r.phase = 'done' AND r.outcome = 'suppressed' AND r.reason = 'resolved' AND r.intent_at = 0)))`, micros(t.now), ep.ID)
	if err != nil {
		return fmt.Errorf("queue the candidates again: %w", err)
	}
	e := ep.entry(journal.EpisodeReopened, t.now)
	e.Message = fmt.Sprintf("fires again %s after it resolved", t.now.Sub(closed).Round(time.Millisecond))
	if n > 0 {
		e.Message += fmt.Sprintf("; %d candidates are queued again", n)
	}
	return t.append(ctx, e)
}

// setAlert stores the latest observation of an episode.
func (t *txn) setAlert(ctx context.Context, ep *Episode, a alert.Alert, open bool, closedAt time.Time) error {
	ep.Alert, ep.Open, ep.ClosedAt, ep.LastSeen = a, open, closedAt, t.now
	doc, err := json.Marshal(a)
	if err != nil {
		return fmt.Errorf("encode the alert: %w", err)
	}
	if err := t.exec(ctx, "UPDATE episodes SET alert = $1, is_open = $2, closed_at = $3, last_seen = $4 WHERE id = $5",
		string(doc), flag(open), micros(closedAt), micros(t.now), ep.ID); err != nil {
		return fmt.Errorf("update the episode: %w", err)
	}
	return nil
}

// addCandidates queues the playbooks that have no candidate in this episode yet.
func (t *txn) addCandidates(ctx context.Context, o Observation, ep Episode) (int, error) {
	if len(o.Playbooks) == 0 {
		return 0, nil
	}
	names, err := collect(ctx, t, func(r scanner) (string, error) {
		var name string
		return name, r.Scan(&name)
	}, "SELECT playbook FROM candidates WHERE episode_id = $1", ep.ID)
	if err != nil {
		return 0, fmt.Errorf("read the candidates: %w", err)
	}
	have := make(map[string]bool, len(names))
	for _, name := range names {
		have[name] = true
	}
	added := 0
	for _, p := range o.Playbooks {
		if have[p.Name] {
			continue
		}
		have[p.Name] = true
		id, err := newID()
		if err != nil {
			return added, err
		}
		n, err := t.affected(ctx, `INSERT INTO candidates (id, episode_id, playbook, playbook_hash, priority, exclusive, phase, created_at, due_at, expires_at)
			VALUES ($1, $2, $3, $4, $5, $6, 'queued', $7, $7, $8) ON CONFLICT (episode_id, playbook) DO NOTHING`,
			id, ep.ID, p.Name, p.Hash, int64(p.Priority), flag(p.Exclusive), micros(t.now), micros(t.now.Add(p.ExpireAfter)))
		if err != nil {
			return added, fmt.Errorf("queue the playbook %s: %w", p.Name, err)
		}
		if n == 0 {
			continue
		}
		added++
		e := ep.entry(journal.CandidateCreated, t.now)
		e.CandidateID, e.Playbook = id, p.Name
		if err := t.append(ctx, e); err != nil {
			return added, err
		}
	}
	if added > 0 {
		t.wakes = true
	}
	return added, nil
}

// entry starts a journal entry about an episode.
func (ep Episode) entry(kind journal.Kind, at time.Time) journal.Entry {
	return journal.Entry{Kind: kind, At: at, Cluster: ep.Cluster, Source: ep.Signal.Source, Fingerprint: ep.Signal.Fingerprint,
		AlertName: ep.Alert.Name(), EpisodeID: ep.ID}
}
