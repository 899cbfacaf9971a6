package store

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/alertmedic/alertmedic/internal/alert"
	"github.com/alertmedic/alertmedic/internal/guard"
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

// folding brings the observations of one transaction into the episodes. Every
// signal's row is locked and what is known of it is in memory, where the
// observations are folded one after another; flush writes what has changed.
type folding struct {
	*txn
	signals map[alert.Signal]*signal
	// In the order in which they came to be, which is that of writing.
	pointed []*signal
	updated []*episode
	opened  []*episode
	queued  [][]any
	entries []journal.Entry
}

// signal is the row of a signal with its latest episode.
type signal struct {
	alert.Signal
	orphanedAt int64
	episodeID  string
	latest     *episode // nil: none
	dirty      bool
}

// episode is the row of an episode.
type episode struct {
	Episode
	doc   string // its alert
	fresh bool   // it is not in the database yet
	// unnamed is the place, among the folding's entries, of the one that opens the
	// episode, as long as it names no candidate; -1: there is none.
	unnamed int
	dirty   bool
	// playbooks are those that have a candidate.
	playbooks map[string]bool
}

// fold brings one observation in. It is idempotent: duplicates from an HA pair,
// repeats and retries change nothing but the episode's alert and the time it was
// last seen.
func (f *folding) fold(ctx context.Context, o *observed, res *AcceptResult) error {
	sig := f.signals[o.signal]
	if o.Alert.Status == alert.Resolved {
		f.foldResolved(o, sig, res)
		return nil
	}
	return f.foldFiring(ctx, o, sig, res)
}

func (f *folding) foldFiring(ctx context.Context, o *observed, sig *signal, res *AcceptResult) error {
	ep := sig.latest
	switch {
	case ep == nil || !ep.Open && f.now.Sub(ep.ClosedAt) >= f.s.flapDwell:
		var err error
		if ep, err = f.open(o, sig); err != nil {
			return err
		}
		res.Opened++
		if len(o.Playbooks) == 0 {
			res.Unmatched++
			e := ep.entry(journal.AlertUnmatched, f.now)
			e.Message = "no playbook matches the alert"
			f.entries = append(f.entries, e)
			ep.unnamed = -1
		}
	case !ep.Open:
		if err := f.reopen(ctx, o, ep); err != nil {
			return err
		}
		res.Reopened++
	default:
		res.Repeated++
		f.set(ep, o, true, time.Time{})
	}
	n, err := f.queue(o, ep)
	res.Candidates += n
	return err
}

func (f *folding) foldResolved(o *observed, sig *signal, res *AcceptResult) {
	ep := sig.latest
	switch {
	case ep == nil && sig.orphanedAt != 0, ep != nil && !ep.Open:
		res.Repeated++
		return
	case ep == nil:
		res.Orphaned++
		sig.orphanedAt = micros(f.now)
		f.point(sig)
		e := Episode{Signal: sig.Signal, Cluster: o.Cluster, Alert: o.Alert}.entry(journal.AlertOrphan, f.now)
		e.Message = "resolved, and never seen firing: nothing is started"
		f.entries = append(f.entries, e)
		return
	case stale(o.Alert, ep.Episode):
		res.Stale++
		return
	}
	res.Closed++
	f.set(ep, o, false, f.now)
	f.entries = append(f.entries, ep.entry(journal.EpisodeClosed, f.now))
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

func (f *folding) open(o *observed, sig *signal) (*episode, error) {
	id, err := newID()
	if err != nil {
		return nil, err
	}
	ep := &episode{Episode: Episode{ID: id, Signal: sig.Signal, Cluster: o.Cluster, Alert: o.Alert, Open: true, OpenedAt: f.now, LastSeen: f.now},
		doc: o.doc, fresh: true, dirty: true, unnamed: len(f.entries)}
	f.opened = append(f.opened, ep)
	sig.latest, sig.episodeID = ep, ep.ID
	f.point(sig)
	e := ep.entry(journal.EpisodeOpened, f.now)
	e.Data = o.about
	f.entries = append(f.entries, e)
	return ep, nil
}

// point has the signal's row written.
func (f *folding) point(sig *signal) {
	if !sig.dirty {
		sig.dirty = true
		f.pointed = append(f.pointed, sig)
	}
}

// reopen goes on with an episode that closed a moment ago. Candidates for which
// nothing was done because the alert had resolved are queued again, and those that
// lost their target, which another may have replaced by now: a run that changed
// something never ends as suppressed.
func (f *folding) reopen(ctx context.Context, o *observed, ep *episode) error {
	closed := ep.ClosedAt
	f.set(ep, o, true, time.Time{})
	n, err := f.affected(ctx, `UPDATE candidates SET phase = 'queued', outcome = '', reason = '', run_id = '', attached = 0, deferred = 0, attempts = 0, requeues = 0, requeued_at = 0,
			due_at = $1, expires_at = $1 + (expires_at - created_at), created_at = $1, lease_owner = '', lease_until = 0, lease_epoch = lease_epoch + 1
		WHERE episode_id = $2 AND phase = 'done' AND (
			(outcome = 'suppressed' AND reason = 'resolved') OR
			(outcome = 'failed' AND reason IN `+lostReasons+`) OR
			(outcome = 'joined' AND EXISTS (SELECT 1 FROM runs r WHERE r.id = candidates.run_id
				AND r.phase = 'done' AND r.outcome = 'suppressed' AND (r.reason = 'resolved' OR r.reason IN `+lostReasons+`))))`, micros(f.now), ep.ID)
	if err != nil {
		return fmt.Errorf("queue the candidates again: %w", err)
	}
	e := ep.entry(journal.EpisodeReopened, f.now)
	e.Message = fmt.Sprintf("fires again %s after it resolved", f.now.Sub(closed).Round(time.Millisecond))
	if n > 0 {
		e.Message += fmt.Sprintf("; %d candidates are queued again", n)
	}
	f.entries = append(f.entries, e)
	return nil
}

// lostReasons are those that say no more than that the object which an alert led to
// is not there any more.
const lostReasons = "('" + string(guard.ReasonTargetGone) + "', '" + string(guard.ReasonTargetReplaced) + "')"

// set takes over the latest observation of an episode.
func (f *folding) set(ep *episode, o *observed, open bool, closedAt time.Time) {
	ep.Alert, ep.doc, ep.Open, ep.ClosedAt, ep.LastSeen = o.Alert, o.doc, open, closedAt, f.now
	if !ep.dirty {
		ep.dirty = true
		f.updated = append(f.updated, ep)
	}
}

// queue queues the playbooks that have no candidate in this episode yet. The first
// of an episode that opens is named by the entry that opens it: most have but one,
// and a row of the log costs as much as the candidate itself.
func (f *folding) queue(o *observed, ep *episode) (int, error) {
	added := 0
	for _, p := range o.Playbooks {
		name := text(p.Name)
		if ep.playbooks[name] {
			continue
		}
		if ep.playbooks == nil {
			ep.playbooks = map[string]bool{}
		}
		ep.playbooks[name] = true
		id, err := newID()
		if err != nil {
			return added, err
		}
		f.queued = append(f.queued, []any{id, ep.ID, name, text(p.Hash), int64(p.Priority), flag(p.Exclusive), "queued",
			micros(f.now), micros(f.now), micros(f.now.Add(p.ExpireAfter))})
		added++
		if ep.fresh && ep.unnamed >= 0 {
			opens := &f.entries[ep.unnamed]
			opens.CandidateID, opens.Playbook, ep.unnamed = id, p.Name, -1
			continue
		}
		e := ep.entry(journal.CandidateCreated, f.now)
		e.CandidateID, e.Playbook = id, p.Name
		f.entries = append(f.entries, e)
	}
	return added, nil
}

var (
	pointSignals = insert("signals", "ON CONFLICT (source, fingerprint) DO UPDATE SET episode_id = excluded.episode_id, orphaned_at = excluded.orphaned_at",
		texts("source", "fingerprint", "episode_id"), ints("orphaned_at"))
	openEpisodes = insert("episodes", "ON CONFLICT DO NOTHING",
		texts("id", "source", "fingerprint", "cluster", "alert"), ints("is_open", "opened_at", "closed_at", "last_seen"))
	queueCandidates = insert("candidates", "ON CONFLICT (episode_id, playbook) DO NOTHING",
		texts("id", "episode_id", "playbook", "playbook_hash"), ints("priority", "exclusive"), texts("phase"), ints("created_at", "due_at", "expires_at"))
	updateEpisodes = bulk{columns: slices.Concat(texts("id", "alert"), ints("is_open", "closed_at", "last_seen")),
		one:    "UPDATE episodes SET alert = $2, is_open = $3, closed_at = $4, last_seen = $5 WHERE id = $1",
		before: "UPDATE episodes e SET alert = w.alert, is_open = w.is_open, closed_at = w.closed_at, last_seen = w.last_seen FROM ",
		after:  " AS w (id, alert, is_open, closed_at, last_seen) WHERE e.id = w.id"}
	// On PostgreSQL the rows of the signals are there: they are locked.
	pointLocked = bulk{columns: pointSignals.columns,
		before: "UPDATE signals s SET episode_id = w.episode_id, orphaned_at = w.orphaned_at FROM ",
		after:  " AS w (source, fingerprint, episode_id, orphaned_at) WHERE s.source = w.source AND s.fingerprint = w.fingerprint"}
	foldedTogether = together([]bulk{openEpisodes, pointLocked, queueCandidates, writeJournal})
)

// flush writes what was folded. Episodes that ended come before those that
// follow them: a signal has one open episode.
func (f *folding) flush(ctx context.Context) error {
	if len(f.updated) > 0 {
		rows := make([][]any, 0, len(f.updated))
		for _, ep := range f.updated {
			rows = append(rows, []any{ep.ID, ep.doc, flag(ep.Open), micros(ep.ClosedAt), micros(ep.LastSeen)})
		}
		if _, err := f.write(ctx, updateEpisodes, rows); err != nil {
			return fmt.Errorf("update the episodes: %w", err)
		}
	}
	opened := make([][]any, 0, len(f.opened))
	for _, ep := range f.opened {
		opened = append(opened, []any{ep.ID, ep.Signal.Source, ep.Signal.Fingerprint, text(ep.Cluster), ep.doc, flag(ep.Open),
			micros(ep.OpenedAt), micros(ep.ClosedAt), micros(ep.LastSeen)})
	}
	pointed := make([][]any, 0, len(f.pointed))
	for _, sig := range f.pointed {
		pointed = append(pointed, []any{sig.Source, sig.Fingerprint, sig.episodeID, sig.orphanedAt})
	}
	entries, err := f.entryRows(f.entries)
	if err != nil {
		return err
	}
	if len(opened)+len(pointed)+len(f.queued)+len(entries) == 0 {
		return nil
	}
	point := pointSignals
	if f.s.dialect.arrays {
		point = pointLocked
	}
	return f.writeNew(ctx, foldedTogether, []rowsOf{
		{openEpisodes, opened, "open the episodes"}, {point, pointed, "point the signals at their episodes"},
		{queueCandidates, f.queued, "queue the playbooks"}, {writeJournal, entries, "write the journal"},
	})
}

// entry starts a journal entry about an episode.
func (ep Episode) entry(kind journal.Kind, at time.Time) journal.Entry {
	return journal.Entry{Kind: kind, At: at, Cluster: ep.Cluster, Source: ep.Signal.Source, Fingerprint: ep.Signal.Fingerprint,
		AlertName: ep.Alert.Name(), EpisodeID: ep.ID}
}

// encodeEntry writes an entry as it is stored before it is sealed.
func encodeEntry(e journal.Entry) ([]byte, error) {
	if e.Kind == "" {
		return nil, fmt.Errorf("%w: journal entry %s has no kind", ErrInvalid, e.ID)
	}
	e.Seq, e.Hash, e.PrevHash = 0, "", ""
	doc, err := json.Marshal(e)
	if err != nil {
		return nil, fmt.Errorf("%w: encode journal entry %s (%s): its data is no JSON document: %w", ErrInvalid, e.ID, e.Kind, err)
	}
	return doc, nil
}
