package durability

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alertmedic/alertmedic/internal/action"
	"github.com/alertmedic/alertmedic/internal/journal"
	"github.com/alertmedic/alertmedic/internal/store"
	"github.com/alertmedic/alertmedic/receiver"
)

var (
	ledgerStart = time.Date(2026, 1, 2, 3, 4, 0, 0, time.UTC)
	deployment  = action.Target{Cluster: "test", Ref: action.Ref{Kind: action.KindDeployment, Namespace: "shop", Name: "web", UID: "d1"}}
)

// at is a time so many seconds after the start.
func at(seconds float64) time.Time {
	return ledgerStart.Add(time.Duration(seconds * float64(time.Second)))
}

// book is a record under construction; its journal is sealed at the end.
type book struct{ Record }

func (b *book) write(seconds float64, en journal.Entry) *journal.Entry {
	en.At, en.ID = at(seconds), fmt.Sprint("entry-", len(b.Journal))
	b.Journal = append(b.Journal, en)
	return &b.Journal[len(b.Journal)-1]
}

// seal gives the journal its chain, as the service does.
func (b *book) seal(t *testing.T) Record {
	t.Helper()
	hash := ""
	for i := range b.Journal {
		require.NoError(t, journal.Seal(hash, int64(i+1), &b.Journal[i]))
		hash = b.Journal[i].Hash
	}
	return b.Record
}

// episode opens one, acknowledged, with its candidate and its run.
func (b *book) episode(from, to float64, id, playbook, run string) {
	b.Accepted = append(b.Accepted, Acceptance{Sent: at(from - .01), At: at(from + .01), Answer: receiver.Answer{Opened: 1, Candidates: 1},
		Alerts: []AcceptedAlert{{Fingerprint: "fp-" + id, Status: "firing"}}})
	b.write(from, journal.Entry{Kind: journal.EpisodeOpened, EpisodeID: id, Fingerprint: "fp-" + id, AlertName: playbook, CandidateID: "c-" + id, Playbook: playbook})
	b.write(from+.1, journal.Entry{Kind: journal.RunCreated, EpisodeID: id, Playbook: playbook, RunID: run, Target: &deployment})
	b.Candidates = append(b.Candidates, store.Candidate{ID: "c-" + id, EpisodeID: id, Playbook: playbook, Phase: store.Done, Outcome: store.Joined, RunID: run})
	b.Accepted = append(b.Accepted, Acceptance{Sent: at(to - .01), At: at(to + .01), Answer: receiver.Answer{Closed: 1},
		Alerts: []AcceptedAlert{{Fingerprint: "fp-" + id, Status: "resolved"}}})
}

func (b *book) closed(to float64, id string) {
	b.write(to, journal.Entry{Kind: journal.EpisodeClosed, EpisodeID: id, Fingerprint: "fp-" + id})
}

func (b *book) planned(seconds float64, run, step, pod string) {
	before, _ := json.Marshal(map[string]any{"pod": action.Ref{UID: pod}})
	data, _ := json.Marshal(map[string]any{"steps": []any{map[string]any{"plan": action.Plan{Request: action.Request{RunID: run, StepID: "r/" + step}, Before: before}}}})
	b.write(seconds, journal.Entry{Kind: journal.RunPlanned, RunID: run, Remedy: "r", Data: data, Target: &deployment})
}

func (b *book) step(seconds float64, kind journal.Kind, run, step string) *journal.Entry {
	return b.write(seconds, journal.Entry{Kind: kind, RunID: run, Remedy: "r", Step: step, Action: "x", Target: &deployment})
}

// change is one that came through the proxy and is in the audit log.
func (b *book) change(seconds float64, id, run, step, uid, verb string, code int) {
	b.Calls = append(b.Calls, Call{ID: id, At: at(seconds), Method: verb, Forwarded: at(seconds), Status: code, Answered: code, Run: run, Step: step, UID: uid, Change: true, Path: "/x"})
	b.Audit = append(b.Audit, Mutation{ID: id, At: at(seconds), Verb: verb, Resource: "pods", Name: "web", UserAgent: "alertmedic/dev", Code: code, Run: run, Step: step, UID: uid})
}

func (b *book) ended(seconds float64, run string, outcome store.Outcome) {
	b.write(seconds, journal.Entry{Kind: journal.RunEnded, RunID: run, Outcome: string(outcome), Target: &deployment})
	b.Runs = append(b.Runs, store.Run{ID: run, Phase: store.Done, Outcome: outcome})
}

// honest is a record without a fault: a restart whose answer was lost and that
// was found applied, then on the same lock a deletion, then a call whose fate
// stays unknown.
func honest() *book {
	b := &book{Record{Playbooks: map[string][]string{"restart": {"restart"}, "delete": {"delete"}, "odd": {"odd"}}, Alive: map[string]time.Time{"pod1": at(12.1)}}}
	b.episode(1, 8, "e1", "restart", "run1")
	b.planned(2, "run1", "restart", "")
	b.step(2, journal.StepIntent, "run1", "restart")
	b.change(2.1, "id1", "run1", "r/restart", "d1", "patch", 200)
	b.write(3, journal.Entry{Kind: journal.RunTakenOver, RunID: "run1", Target: &deployment})
	b.step(3, journal.StepObserved, "run1", "restart").Outcome = string(action.Applied)
	b.step(3, journal.StepDone, "run1", "restart")
	b.closed(8, "e1")
	b.ended(9, "run1", store.Healed)

	b.episode(10, 18, "e2", "delete", "run2")
	b.planned(12, "run2", "delete", "pod1")
	b.step(12, journal.StepIntent, "run2", "delete")
	b.change(12.1, "id2", "", "", "pod1", "delete", 200)
	b.step(14, journal.StepDone, "run2", "delete").Message = "pod web is gone"
	b.closed(18, "e2")
	b.ended(19, "run2", store.Healed)

	b.episode(20, 28, "e3", "odd", "run3")
	b.planned(22, "run3", "odd", "")
	b.step(22, journal.StepIntent, "run3", "odd")
	b.change(22.1, "id3", "run3", "r/odd", "d1", "patch", 200)
	b.Calls[2].Answered = 0
	b.step(24, journal.StepUnknown, "run3", "odd")
	b.ended(24, "run3", store.OutcomeUnknown)
	b.closed(28, "e3")
	return b
}

func TestAccountHonest(t *testing.T) {
	t.Parallel()
	b := honest()
	report := Account(b.seal(t))
	require.Empty(t, report.Violations, report.String())
	want := Table{Accepted: 6, Signals: 3, Episodes: 3, Candidates: map[string]int{"joined": 3}, Runs: map[string]int{"healed": 2, "outcome-unknown": 1},
		Intents: 3, Steps: 3, Changes: 3, Applied: 3, Observed: 1, Unknown: 1, TakenOver: 1, Kills: map[string]int{}, Unclear: 1, Entries: len(b.Journal)}
	require.Equal(t, want, report.Table)
	for _, rule := range Rules() {
		require.Contains(t, report.String(), rule)
	}
	require.NotContains(t, report.String(), "BROKEN")
}

// A remedy that is planned anew may look again, and may change nothing again.
func TestAccountReplan(t *testing.T) {
	t.Parallel()
	for action, want := range map[string]int{"diagnose": 0, "workload.scale": 1} {
		b := &book{}
		b.episode(1, 8, "e1", "restart", "run1")
		b.planned(2, "run1", "restart", "")
		b.step(2, journal.StepIntent, "run1", "before").Action = action
		b.step(2, journal.StepDone, "run1", "before").Message = "skipped"
		b.step(3, journal.StepIntent, "run1", "restart")
		b.step(3, journal.StepFailed, "run1", "restart").Outcome = "replan"
		b.step(4, journal.StepIntent, "run1", "before").Action = action
		b.step(4, journal.StepDone, "run1", "before").Message = "skipped"
		b.closed(8, "e1")
		b.ended(9, "run1", store.Healed)
		report := Account(b.seal(t))
		require.Len(t, report.Violations, want, "%s: %s", action, report)
		for _, v := range report.Violations {
			require.Equal(t, RuleResent, v.Rule)
		}
	}
}

// Of a run all of whose calls were refused, and that has ended, the next may delete
// the pod; without the next it is a change of nobody.
func TestAccountRefused(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]int{"the next asks for it": 0, "nobody asks for it": 1} {
		b := honest()
		b.Playbooks["late"] = []string{"late"}
		b.drop(kindOf(journal.StepDone, "run2"))
		b.drop(kindOf(journal.RunEnded, "run2"))
		b.Audit[1].Code, b.Calls[1].Status, b.Calls[1].Answered = 503, 503, 503
		for i := range b.Runs {
			if b.Runs[i].ID == "run2" {
				b.Runs[i].Outcome = store.Suppressed
			}
		}
		b.write(19, journal.Entry{Kind: journal.RunEnded, RunID: "run2", Outcome: string(store.Suppressed), Target: &deployment})
		b.Alive["pod1"] = at(42.1)
		b.episode(40, 48, "e4", "late", "run4")
		b.planned(42, "run4", "delete", "pod1")
		b.change(42.1, "id4", "", "", "pod1", "delete", 200)
		if want == 0 {
			b.step(42, journal.StepIntent, "run4", "delete")
			b.step(44, journal.StepDone, "run4", "delete").Message = "pod web is gone"
		}
		b.closed(48, "e4")
		b.ended(49, "run4", store.Healed)
		report := Account(b.seal(t))
		require.Len(t, report.Violations, want, "%s: %s", name, report)
		for _, v := range report.Violations {
			require.Equal(t, RuleOwned, v.Rule)
		}
	}
}

// drop removes the entries that match.
func (b *book) drop(match func(journal.Entry) bool) {
	var left []journal.Entry
	for _, en := range b.Journal {
		if !match(en) {
			left = append(left, en)
		}
	}
	b.Journal = left
}

func kindOf(kind journal.Kind, run string) func(journal.Entry) bool {
	return func(en journal.Entry) bool { return en.Kind == kind && en.RunID == run }
}

// Each way of cheating is found, by the rule that forbids it.
func TestAccountDoctored(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		doctor func(*book)
		rule   string
	}{
		"an accepted alert is not in the journal": {func(b *book) {
			b.Accepted = append(b.Accepted, Acceptance{Sent: at(30), At: at(31), Alerts: []AcceptedAlert{{Fingerprint: "lost", Status: "firing"}}})
		}, RuleAcknowledged},
		"an accepted alert was not open at the time": {func(b *book) {
			b.Accepted = append(b.Accepted, Acceptance{Sent: at(15), At: at(15.1), Alerts: []AcceptedAlert{{Fingerprint: "fp-e1", Status: "firing"}}})
		}, RuleAcknowledged},
		"an accepted resolution changed nothing": {func(b *book) {
			b.Accepted = append(b.Accepted, Acceptance{Sent: at(4), At: at(4.1), Alerts: []AcceptedAlert{{Fingerprint: "fp-e1", Status: "resolved"}}})
		}, RuleAcknowledged},
		"more was promised than is there": {func(b *book) { b.Accepted[0].Answer.Candidates = 2 }, RuleAcknowledged},
		"a rejection is not recorded":     {func(b *book) { b.Accepted[0].Answer.Rejected = 1 }, RuleAcknowledged},
		"a candidate leads to nothing":    {func(b *book) { b.drop(kindOf(journal.RunCreated, "run2")) }, RuleFate},
		"a candidate leads to two things": {func(b *book) {
			b.write(4, journal.Entry{Kind: journal.CandidateEnded, EpisodeID: "e1", Playbook: "restart", Outcome: "failed"})
		}, RuleFate},
		"a candidate is made twice": {func(b *book) {
			b.write(4, journal.Entry{Kind: journal.CandidateCreated, EpisodeID: "e1", Playbook: "restart"})
		}, RuleFate},
		"a playbook was forgotten":       {func(b *book) { b.Playbooks["restart"] = []string{"restart", "other"} }, RuleFate},
		"a candidate is left over":       {func(b *book) { b.Candidates[0].Phase = store.Queued }, RuleFate},
		"a run is left over":             {func(b *book) { b.Runs[0].Phase = store.Active }, RuleEnds},
		"a run ends twice":               {func(b *book) { b.write(40, journal.Entry{Kind: journal.RunEnded, RunID: "run1", Outcome: "healed"}) }, RuleEnds},
		"a run never ends":               {func(b *book) { b.drop(kindOf(journal.RunEnded, "run1")) }, RuleEnds},
		"row and journal disagree":       {func(b *book) { b.Runs[0].Outcome = store.Escalated }, RuleEnds},
		"a run is lost":                  {func(b *book) { b.Runs = b.Runs[1:] }, RuleEnds},
		"a finished step is announced":   {func(b *book) { b.step(8, journal.StepIntent, "run1", "restart") }, RuleResent},
		"a finished step is sent":        {func(b *book) { b.change(8, "id9", "run1", "r/restart", "d1", "patch", 200) }, RuleResent},
		"a finished step is tried":       {func(b *book) { b.change(8, "id9", "run1", "r/restart", "d1", "patch", 422) }, RuleResent},
		"a change is made twice":         {func(b *book) { b.change(2.2, "id9", "run1", "r/restart", "d1", "patch", 200) }, RuleResent},
		"a pod is deleted twice":         {func(b *book) { b.change(13, "id9", "", "", "pod1", "delete", 200) }, RuleResent},
		"two runs hold one lock":         {func(b *book) { b.overlap() }, RuleLocks},
		"changes of two runs are mixed":  {func(b *book) { b.mix() }, RuleLocks},
		"an unknown that was answered":   {func(b *book) { b.Calls[2].Answered = 200 }, RuleUnknown},
		"an unknown that was never sent": {func(b *book) { b.Calls, b.Audit = b.Calls[:2], b.Audit[:2] }, RuleUnknown},
		"not sealed":                     {func(b *book) { b.Unsealed = 1 }, RuleChain},
		"a change of nobody":             {func(b *book) { b.change(30, "id9", "", "", "pod7", "delete", 200) }, RuleOwned},
		"a change of an unknown run":     {func(b *book) { b.change(2.2, "id9", "run9", "r/restart", "d1", "patch", 200) }, RuleOwned},
		"a change before its intent":     {func(b *book) { b.Audit[0].At = at(1.5) }, RuleOwned},
		"a change past the proxy":        {func(b *book) { b.Calls = b.Calls[1:] }, RuleOwned},
		"a change that is not audited":   {func(b *book) { b.Calls = append(b.Calls, Call{ID: "id9", Status: 200}) }, RuleOwned},
		"a change by another program":    {func(b *book) { b.Audit[0].UserAgent = "kubectl" }, RuleOwned},
		"an Event about no run":          {func(b *book) { b.change(5, "id9", "run9", "", "", "create", 201); b.Audit[3].Resource = "events" }, RuleOwned},
		"done and nothing changed":       {func(b *book) { b.Calls[0].Status, b.Audit[0].Code = 409, 409 }, RuleDone},
		"gone and yet alive":             {func(b *book) { b.Alive["pod1"] = at(16) }, RuleDone},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := honest()
			row.doctor(b)
			report := Account(b.seal(t))
			found := false
			for _, v := range report.Violations {
				found = found || v.Rule == row.rule
			}
			require.True(t, found, "want a violation of %q in\n%s", row.rule, report)
			require.Contains(t, report.String(), "BROKEN")
		})
	}
}

// overlap lets the second run announce a step while the first holds the lock.
func (b *book) overlap() {
	moved := b.Journal
	b.Journal = nil
	for _, en := range moved {
		if en.RunID == "run1" && en.Kind == journal.RunEnded {
			en.At = at(15)
			defer func() { b.Journal = append(b.Journal, en) }()
			continue
		}
		b.Journal = append(b.Journal, en)
	}
}

// mix lets a late change of the first run arrive after one of the second.
func (b *book) mix() {
	b.drop(kindOf(journal.StepDone, "run1"))
	b.Audit[0].At = at(12.5)
}

// A journal that was changed after it was sealed, or that has a hole, is found.
func TestAccountBrokenChain(t *testing.T) {
	t.Parallel()
	for name, doctor := range map[string]func([]journal.Entry) []journal.Entry{
		"changed": func(j []journal.Entry) []journal.Entry { j[3].Message = "nothing happened"; return j },
		"hole":    func(j []journal.Entry) []journal.Entry { return append(j[:3:3], j[4:]...) },
	} {
		r := honest().seal(t)
		r.Journal = doctor(r.Journal)
		report := Account(r)
		require.NotEmpty(t, report.Violations, name)
		require.Equal(t, RuleChain, report.Violations[0].Rule, name)
	}
}

// What a change says of itself is read from the bodies that client-go sends.
func TestSignature(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct{ body, run, step, uid string }{
		"patch":    {`[{"op":"test","path":"/metadata/uid","value":"u1"},{"op":"add","path":"/metadata/annotations/alertmedic.io~1run","value":"r1"},{"op":"test","path":"/metadata/annotations/alertmedic.io~1step","value":null},{"op":"add","path":"/metadata/annotations/alertmedic.io~1step","value":"a/b"}]`, "r1", "a/b", "u1"},
		"deletion": {`{"kind":"DeleteOptions","preconditions":{"uid":"u2"}}`, "", "", "u2"},
		"eviction": {`{"kind":"Eviction","deleteOptions":{"preconditions":{"uid":"u3"}}}`, "", "", "u3"},
		"event":    {`{"metadata":{"annotations":{"alertmedic.io/run":"r2"}}}`, "r2", "", ""},
		"nonsense": {`k8s\x00`, "", "", ""},
	} {
		run, step, uid := signature([]byte(row.body))
		require.Equal(t, [3]string{row.run, row.step, row.uid}, [3]string{run, step, uid}, name)
	}
}
