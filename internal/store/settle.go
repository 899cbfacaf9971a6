package store

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/alertmedic/alertmedic/internal/journal"
)

// reasonRestored is why something ended that was live in a backup.
const reasonRestored = "restored"

// Settled counts what a restore ended.
type Settled struct {
	Cancelled  int  `json:"cancelled"`  // runs that had changed nothing
	Escalated  int  `json:"escalated"`  // runs that had changed something
	Unknown    int  `json:"unknown"`    // runs with a call under way
	Candidates int  `json:"candidates"` // that had no run yet
	Episodes   int  `json:"episodes"`   // that are seen anew when they still fire
	Messages   int  `json:"messages"`   // that were not delivered
	Paused     bool `json:"paused"`
}

// settle makes what was restored safe to start on.
//
// After the backup the service went on: it may have done what was about to be
// done, and more that this database knows nothing of. Doing it from here would
// do it twice. So every live run ends: as outcome-unknown if a call was under
// way, as escalated if it had changed anything, else as cancelled. Candidates
// are cancelled. Episodes for which nothing was begun are closed, so that those
// which still fire are seen as new; the others stay, and belong to a person.
// Messages are not sent. Cooldowns and attempts of what came after the backup
// are lost, so everything is paused until a person has looked.
//
// A move leaves all that alone: nothing happened since.
func (t *txn) settle(ctx context.Context, info BackupInfo, o RestoreOptions) (Settled, error) {
	var out Settled
	if err := t.countBlocks(ctx); err != nil {
		return out, err
	}
	header, err := json.Marshal(info.BackupHeader)
	if err != nil {
		return out, fmt.Errorf("encode the header: %w", err)
	}
	taken := info.TakenAt.Format(time.RFC3339)
	message := "restored from the backup of " + taken + "; whatever came after it is not in this log"
	if o.Move {
		message = "moved by way of the backup of " + taken
	}
	if o.BrokenLog {
		message += "; a log whose chain is broken was accepted"
	}
	if err := t.append(ctx, journal.Entry{Kind: journal.ServiceRestored, At: t.now, Actor: o.Actor, Message: message, Data: header}); err != nil {
		return out, err
	}
	for _, table := range []string{"runs", "candidates", "outbox"} {
		if err := t.exec(ctx, "UPDATE "+table+" SET lease_until = 0 WHERE lease_until > 0"); err != nil {
			return out, fmt.Errorf("end the leases of %s: %w", table, err)
		}
	}
	if o.Move {
		return out, nil
	}
	if err := t.endRestoredRuns(ctx, o.Actor, taken, &out); err != nil {
		return out, err
	}
	cands, err := collect(ctx, t, scanCandidate, "SELECT "+candidateColumns+" FROM candidates c JOIN episodes e ON e.id = c.episode_id WHERE c.phase <> 'done' ORDER BY c.id")
	if err != nil {
		return out, fmt.Errorf("read the candidates: %w", err)
	}
	for _, c := range cands {
		if err := t.endCandidate(ctx, c, Cancelled, reasonRestored, "it waited when the backup of "+taken+" was taken; what became of it is not known"); err != nil {
			return out, err
		}
	}
	out.Candidates = len(cands)
	if out.Episodes, err = t.closeRestoredEpisodes(ctx, taken); err != nil {
		return out, err
	}
	n, err := t.affected(ctx, "UPDATE outbox SET status = 'failed', error = $1, lease_owner = '' WHERE status = 'pending'", "restored from the backup of "+taken)
	if err != nil {
		return out, fmt.Errorf("hold the messages back: %w", err)
	}
	out.Messages, out.Paused = int(n), true
	return out, t.pauseRestored(ctx, o.Actor, taken)
}

func (t *txn) endRestoredRuns(ctx context.Context, actor, taken string, out *Settled) error {
	runs, err := collect(ctx, t, scanRun, "SELECT "+runColumns+" FROM runs WHERE phase <> 'done' ORDER BY id")
	if err != nil {
		return fmt.Errorf("read the live runs: %w", err)
	}
	for _, run := range runs {
		unknown, err := t.endRestoredSteps(ctx, run, actor)
		if err != nil {
			return err
		}
		var outcome Outcome
		message := "it was live when the backup of " + taken + " was taken, and what it did after that is not known: "
		switch {
		case run.IntentAt.IsZero():
			outcome = Cancelled
			out.Cancelled++
			message += "look at the target"
		case unknown:
			outcome = OutcomeUnknown
			out.Unknown++
			message += "a call was under way; compare the target with the plan of the last step.intent"
		default:
			outcome = Escalated
			out.Escalated++
			message += "it had changed something; look at the target, and finish or undo it by hand"
		}
		if err := t.exec(ctx, `UPDATE runs SET phase = 'done', wait = '', outcome = $1, reason = $2, message = $3, ended_at = $4,
			lease_owner = '', lease_until = 0, lease_epoch = lease_epoch + 1 WHERE id = $5`,
			string(outcome), reasonRestored, message, micros(t.now), run.ID); err != nil {
			return fmt.Errorf("end run %s: %w", run.ID, err)
		}
		if err := t.releaseAll(ctx, run.ID, reasonRestored); err != nil {
			return err
		}
		if err := t.append(ctx, journal.Entry{Kind: journal.RunEnded, At: t.now, Cluster: run.Target.Cluster, Source: run.Source, AlertName: run.AlertName,
			RunID: run.ID, Playbook: run.Playbook, Target: &run.Target, Outcome: string(outcome), Reason: reasonRestored, Message: message, Actor: actor}); err != nil {
			return err
		}
	}
	return nil
}

// endRestoredSteps ends the steps whose call may have been in flight, and says
// whether there was one.
func (t *txn) endRestoredSteps(ctx context.Context, run Run, actor string) (bool, error) {
	docs, err := collect(ctx, t, scanString, "SELECT doc FROM steps WHERE run_id = $1 AND status = 'intended' ORDER BY remedy, step", run.ID)
	if err != nil {
		return false, fmt.Errorf("read the steps: %w", err)
	}
	var steps []Step
	for _, doc := range docs {
		var st Step
		if err := json.Unmarshal([]byte(doc), &st); err != nil {
			return false, fmt.Errorf("decode a step of run %s: %w", run.ID, err)
		}
		st.Status, st.Reason, st.EndedAt = StepUnknown, reasonRestored, t.now
		steps = append(steps, st)
		if err := t.append(ctx, journal.Entry{Kind: journal.StepUnknown, At: t.now, Cluster: run.Target.Cluster, Source: run.Source, AlertName: run.AlertName,
			RunID: run.ID, Playbook: run.Playbook, Remedy: st.RemedyName, Step: st.Name, Action: st.Action, Target: &run.Target,
			Reason: reasonRestored, Message: "its call was under way when the backup was taken", Actor: actor}); err != nil {
			return false, err
		}
	}
	return len(steps) > 0, t.writeSteps(ctx, run.ID, steps)
}

// closeRestoredEpisodes closes the open episodes whose remedies were cancelled
// and never begun, and cuts their signals off, so that the next report of an
// alert that still fires opens another one.
func (t *txn) closeRestoredEpisodes(ctx context.Context, taken string) (int, error) {
	eps, err := collect(ctx, t, scanEpisode, "SELECT "+episodeColumns+` FROM episodes e WHERE is_open = 1
		AND EXISTS (SELECT 1 FROM candidates c LEFT JOIN runs r ON r.id = c.run_id WHERE c.episode_id = e.id
			AND (c.reason = 'restored' OR r.reason = 'restored'))
		AND NOT EXISTS (SELECT 1 FROM candidates c JOIN runs r ON r.id = c.run_id WHERE c.episode_id = e.id AND r.intent_at > 0)
		ORDER BY id`)
	if err != nil {
		return 0, fmt.Errorf("read the episodes: %w", err)
	}
	for _, ep := range eps {
		if err := t.exec(ctx, "UPDATE episodes SET is_open = 0, closed_at = $1 WHERE id = $2", micros(t.now), ep.ID); err != nil {
			return 0, fmt.Errorf("close episode %s: %w", ep.ID, err)
		}
		if err := t.exec(ctx, "UPDATE signals SET episode_id = '', orphaned_at = $4 WHERE episode_id = $1 AND source = $2 AND fingerprint = $3",
			ep.ID, ep.Signal.Source, ep.Signal.Fingerprint, micros(t.now)); err != nil {
			return 0, fmt.Errorf("cut the signal of episode %s off: %w", ep.ID, err)
		}
		e := ep.entry(journal.EpisodeClosed, t.now)
		e.Reason, e.Message = reasonRestored, "it was open when the backup of "+taken+" was taken, and no remedy had begun: if it still fires, another one opens"
		if err := t.append(ctx, e); err != nil {
			return 0, err
		}
	}
	return len(eps), nil
}

func (t *txn) pauseRestored(ctx context.Context, actor, taken string) error {
	why := "restored from the backup of " + taken + ": what was done after it, and its cooldowns, are not known here; look at `alertmedic runs --reason restored` and at what fires, then resume"
	var before string
	prior, err := collect(ctx, t, scanPause, "SELECT scope, value, by_whom, why, at FROM pauses WHERE scope = 'global'")
	if err != nil {
		return fmt.Errorf("read the pauses: %w", err)
	}
	for _, p := range prior {
		before = fmt.Sprintf(" (paused before by %s since %s: %s)", p.By, p.At.Format(time.RFC3339), p.Why)
	}
	if err := t.exec(ctx, `INSERT INTO pauses (scope, value, by_whom, why, at) VALUES ('global', '', $1, $2, $3)
		ON CONFLICT (scope, value) DO UPDATE SET by_whom = excluded.by_whom, why = excluded.why, at = excluded.at`,
		actor, text(why+before), micros(t.now)); err != nil {
		return fmt.Errorf("pause: %w", err)
	}
	return t.pauseEntry(ctx, journal.PauseSet, "global", "", actor, why)
}
