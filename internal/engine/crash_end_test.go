package engine

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/stretchr/testify/require"

	"github.com/alertmedic/alertmedic/internal/action"
	"github.com/alertmedic/alertmedic/internal/journal"
	"github.com/alertmedic/alertmedic/internal/store"
)

// ending is what is left at the end, without ids and times.
type ending struct {
	Rows    map[string][]string
	Log     map[string][]string // by run, "" for what belongs to none
	Sent    map[string]int      // calls of each step
	Changes []string            // that are in the cluster
	Posts   []string            // in Slack
	Shown   []string            // by the messages there
	Events  []string
}

// rows are the queries that describe the end. Those of "left" return nothing.
var rows = map[string]string{
	"episodes": "SELECT fingerprint, is_open FROM episodes ORDER BY fingerprint, opened_at",
	"candidates": `SELECT e.fingerprint, c.playbook, c.phase, c.outcome, c.reason, COALESCE(r.playbook, '') FROM candidates c
		JOIN episodes e ON e.id = c.episode_id LEFT JOIN runs r ON r.id = c.run_id ORDER BY e.fingerprint, c.playbook`,
	"runs":      "SELECT playbook, target_name, phase, wait, outcome, reason, remedy, step FROM runs ORDER BY playbook, created_at",
	"steps":     "SELECT r.playbook, s.remedy, s.step, s.status FROM steps s JOIN runs r ON r.id = s.run_id ORDER BY r.playbook, r.created_at, s.remedy, s.step",
	"approvals": "SELECT r.playbook, a.remedy, a.status, a.by_whom FROM approvals a JOIN runs r ON r.id = a.run_id ORDER BY r.playbook, a.remedy, a.asked_at",
	"reserved":  "SELECT r.playbook, v.scope FROM reservations v JOIN runs r ON r.id = v.run_id ORDER BY r.playbook, v.scope",
	"pauses":    "SELECT scope, value FROM pauses",
	"left": `SELECT 'lock ' || lock_key FROM run_locks UNION ALL SELECT 'reservation of ' || target_key FROM reservations WHERE released_at = 0
		UNION ALL SELECT 'message to ' || channel || ' ' || status FROM outbox UNION ALL SELECT 'lease of run ' || playbook FROM runs WHERE lease_owner <> ''
		UNION ALL SELECT 'lease of candidate ' || playbook FROM candidates WHERE lease_owner <> '' UNION ALL SELECT 'unsealed ' || kind FROM journal WHERE seq IS NULL`,
}

// end reads the end of a life and checks what must hold of it by itself.
func (l *life) end() ending {
	l.t.Helper()
	e := ending{Rows: map[string][]string{}, Log: map[string][]string{}, Sent: map[string]int{}}
	for name, query := range rows {
		e.Rows[name] = l.dump(query)
	}
	require.Empty(l.t, e.Rows["left"], "what should have been given back or done")
	require.Empty(l.t, l.out.wrong)
	names := map[string]string{}
	for _, r := range l.dump("SELECT id, playbook FROM runs ORDER BY created_at, id") {
		id, playbook, _ := strings.Cut(r, "|")
		require.NotContains(l.t, slices.Collect(maps.Values(names)), playbook, "a second run of a playbook")
		names[id] = playbook
	}
	entries := l.entries()
	for _, en := range entries {
		line := strings.TrimSpace(fmt.Sprintf("%s %s/%s", en.Kind, en.Remedy, en.Step))
		if en.RunID == "" {
			line = fmt.Sprintf("%s %s %s", en.Kind, en.Playbook, en.Fingerprint)
		}
		for _, part := range []string{en.Outcome, en.Reason} {
			if part != "" {
				line += " " + part
			}
		}
		e.Log[names[en.RunID]] = append(e.Log[names[en.RunID]], line)
	}
	slices.Sort(e.Log[""])
	for _, s := range l.out.sent {
		e.Sent[names[s.run]+" "+s.step]++
	}
	for c := range l.out.there {
		e.Changes = append(e.Changes, c)
	}
	slices.Sort(e.Changes)
	e.Posts, e.Events = slices.Sorted(slices.Values(l.out.posts)), slices.Sorted(slices.Values(l.out.events))
	e.Shown = slices.Sorted(maps.Values(l.out.shown))
	return e
}

// entries reads the journal and verifies its chain, and that what was sealed
// once has stayed.
func (l *life) entries() []journal.Entry {
	l.t.Helper()
	var out []journal.Entry
	for _, row := range l.dump("SELECT seq, prev_hash, hash, doc FROM journal ORDER BY seq") {
		col := strings.SplitN(row, "|", 4)
		var en journal.Entry
		require.NoError(l.t, json.Unmarshal([]byte(col[3]), &en))
		_, err := fmt.Sscan(col[0], &en.Seq)
		require.NoError(l.t, err)
		en.PrevHash, en.Hash = col[1], col[2]
		out = append(out, en)
	}
	_, err := journal.VerifyChain(journal.Head{}, func(yield func(journal.Entry, error) bool) {
		for _, en := range out {
			if !yield(en, nil) {
				return
			}
		}
	})
	require.NoError(l.t, err)
	for _, h := range l.heads {
		require.LessOrEqual(l.t, h.Seq, int64(len(out)), "sealed entries are gone")
		require.Equal(l.t, h.Hash, out[h.Seq-1].Hash, "a sealed entry was changed")
	}
	return out
}

// open is what deaths left unknown: the steps whose intent was recorded and whose
// outcome was not.
func (l *life) open() map[string]store.Step {
	out := map[string]store.Step{}
	for i, steps := range l.began {
		for _, s := range steps {
			if i > 0 {
				out[l.playbookOf(s.RunID)+" "+s.RemedyName+"/"+s.Name] = s
			}
		}
	}
	return out
}

func (l *life) playbookOf(run string) string {
	for _, r := range l.dump("SELECT id, playbook FROM runs") {
		if id, playbook, _ := strings.Cut(r, "|"); id == run {
			return playbook
		}
	}
	return ""
}

// requireSameEnd compares the end after deaths with that of a life without. What
// may differ is only what follows from a call whose fate was not recorded.
func (l *life) requireSameEnd(want ending) {
	l.t.Helper()
	got, open := l.end(), l.open()
	expect := ending{Rows: maps.Clone(want.Rows), Log: map[string][]string{}, Sent: maps.Clone(want.Sent),
		Changes: want.Changes, Posts: want.Posts, Shown: want.Shown, Events: want.Events}
	for run, lines := range want.Log {
		expect.Log[run] = legitimate(run, lines, open, nil)
	}
	refused := l.refused()
	for run, lines := range got.Log {
		got.Log[run] = legitimate(run, lines, open, refused)
	}
	for key, s := range open {
		if s.Reverting {
			continue // counted by the world, below
		}
		expect.Sent[key] += l.repeats(s)
		if crashSpecs[s.Action].Replay == action.AtMostOnce {
			l.expectUnknown(key, &expect, got)
		}
	}
	for key, n := range expect.Sent {
		if n == 0 {
			delete(expect.Sent, key)
		}
	}
	l.repeatedInSlack(&expect, got)
	require.Equal(l.t, expect, got, "the end differs; died %s", l.died)
	require.LessOrEqual(l.t, len(l.out.reverts), 1+l.openReverts(), "reverts")
}

func (l *life) openReverts() (n int) {
	for _, steps := range l.began {
		for _, s := range steps {
			if s.Reverting {
				n++
			}
		}
	}
	return n
}

// made returns the call that had arrived for an intent which the process of a
// start found open, nil when none had.
func (l *life) made(start int, s store.Step) *sent {
	if c := l.calls[start]; c != nil && c.run == s.RunID && c.step == s.RemedyName+"/"+s.Name {
		return c
	}
	return nil
}

// refused counts, by step, the calls whose refusal was lost: what is sent after
// that is the retry that would have come anyway.
func (l *life) refused() map[string]int {
	out := map[string]int{}
	for i, steps := range l.began {
		for _, s := range steps {
			if c := l.made(i, s); i > 0 && c != nil && c.refused && !l.sameIntent(i, s) {
				out[l.playbookOf(s.RunID)+" "+s.RemedyName+"/"+s.Name]++
			}
		}
	}
	return out
}

// repeats says how many calls more, or fewer, the unknown fate of a step brings.
func (l *life) repeats(s store.Step) int {
	n := 0
	for i, steps := range l.began {
		o, ok := steps[s.RunID+" "+s.RemedyName+"/"+s.Name]
		if i == 0 || !ok || l.sameIntent(i, o) {
			continue
		}
		last := l.made(i, o)
		switch replay := crashSpecs[s.Action].Replay; {
		case replay == action.AtMostOnce && last == nil:
			n-- // it is never sent
		case last == nil, replay == action.AtMostOnce, last.refused, replay == action.Observable && last.made:
		default:
			n++
		}
	}
	return n
}

// sameIntent tells that the process before had found the same intent open.
func (l *life) sameIntent(i int, s store.Step) bool {
	o, ok := l.began[i-1][s.RunID+" "+s.RemedyName+"/"+s.Name]
	return ok && o.Ticks == s.Ticks
}

// expectUnknown changes what is expected for a run that must end as unknown: a
// change that cannot be looked for was perhaps made.
func (l *life) expectUnknown(key string, expect *ending, got ending) {
	run, _, _ := strings.Cut(key, " ")
	lines := expect.Log[run]
	for i, line := range lines {
		if strings.HasPrefix(line, "step.intent "+strings.TrimPrefix(key, run+" ")) {
			at := strings.Fields(line)[1]
			remedy, _, _ := strings.Cut(at, "/")
			expect.Log[run] = append(slices.Clone(lines[:i+1]), "step.unknown "+at+" unknown outcome-unknown", "run.ended "+remedy+"/ outcome-unknown outcome-unknown")
			break
		}
	}
	require.Contains(l.t, strings.Join(got.Rows["runs"], "\n"), "outcome-unknown", "a change that must not be made twice, and perhaps was made")
	for _, table := range []string{"runs", "steps", "candidates"} {
		expect.Rows[table] = got.Rows[table]
	}
	// Who is told, and whether the change is there, follow from that.
	require.Contains(l.t, strings.Join(got.Posts, "\n"), "outcome-unknown")
	expect.Posts, expect.Shown, expect.Events, expect.Changes = got.Posts, got.Shown, got.Events, got.Changes
}

// repeatedInSlack allows once more what had reached Slack without that being
// recorded: its answer, or the process, was lost. A message that is posted twice
// is kept up to date once. Nothing may be missing.
func (l *life) repeatedInSlack(expect *ending, got ending) {
	for _, line := range l.again {
		if count(got.Posts, line) <= count(expect.Posts, line) {
			continue
		}
		expect.Posts = append(slices.Clone(expect.Posts), line)
		if text, ok := strings.CutPrefix(line, "chat.postMessage: "); ok {
			expect.Shown = append(slices.Clone(expect.Shown), text)
		}
	}
	slices.Sort(expect.Posts)
	slices.Sort(expect.Shown)
}

func count(all []string, want string) (n int) {
	for _, s := range all {
		if s == want {
			n++
		}
	}
	return n
}

// legitimate leaves out what a death adds to the log of a run, or takes from it:
// the take-over, what became of a call of unknown fate, the intent of its
// repetition, and the notes about answers that were lost.
func legitimate(run string, lines []string, open map[string]store.Step, refused map[string]int) []string {
	var out, beside []string
	again := map[string]bool{}
	reverting := map[string]bool{}
	for _, line := range lines {
		f := strings.Fields(line)
		at := ""
		if len(f) > 1 {
			at = f[1]
		}
		_, unknown := open[run+" "+at]
		switch {
		case f[0] == string(journal.RunTakenOver):
			continue
		case f[0] == string(journal.StepObserved) && unknown:
			again[at] = strings.Contains(line, string(action.NotApplied))
			if again[at] && refused[run+" "+at] > 0 {
				refused[run+" "+at]--
				again[at] = false
			}
			continue
		case f[0] == string(journal.StepProgress) && unknown:
			continue
		case f[0] == string(journal.RunPlanned) && len(out) > 0 && out[len(out)-1] == line:
			continue // planned again, since nothing had come of it
		case f[0] == string(journal.RunAttached), f[0] == string(journal.RunJoined):
			// An alert came to the run; when, and so as what, depends on how long the
			// dead one's leases lasted.
			beside = append(beside, "an alert came to the run")
			continue
		case f[0] == string(journal.StepIntent) && strings.HasSuffix(line, " revert"):
			if reverting[at] && unknown {
				continue
			}
			reverting[at] = true
		case f[0] == string(journal.StepIntent) && again[at]:
			again[at] = false
			continue
		}
		out = append(out, line)
	}
	return append(out, beside...)
}
