package durability

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/alertmedic/alertmedic/internal/journal"
	"github.com/alertmedic/alertmedic/internal/store"
)

// slack is how far the clocks of one machine that are read one after the other
// may seem to disagree: an entry carries the time at which it was written,
// by the store's clock, the audit log the time at which a request was received.
const slack = 250 * time.Millisecond

// Violation is one broken promise.
type Violation struct {
	Rule     string   `json:"rule"`
	What     string   `json:"what"`
	Evidence []string `json:"evidence,omitempty"`
}

func (v Violation) String() string {
	return v.Rule + ": " + v.What + strings.Join(append([]string{""}, v.Evidence...), "\n      ")
}

// The rules.
const (
	RuleAcknowledged = "nothing acknowledged is lost"
	RuleFate         = "each candidate has one fate"
	RuleEnds         = "each run ends once"
	RuleResent       = "no finished step is sent again"
	RuleLocks        = "no two runs interleave on one lock"
	RuleUnknown      = "an unknown outcome is a real one"
	RuleChain        = "the journal's chain holds"
	RuleOwned        = "each change belongs to one step of one run"
	RuleDone         = "what is called done was done"
)

// Rules are all rules, in the order of the report.
func Rules() []string {
	return []string{RuleAcknowledged, RuleFate, RuleEnds, RuleResent, RuleLocks, RuleUnknown, RuleChain, RuleOwned, RuleDone}
}

// accountant holds the record, sorted by what belongs together.
type accountant struct {
	Record
	out    Report
	byID   map[string]Call       // calls, by audit id
	runs   map[string]*runStory  // by run
	signal map[string][]interval // when an alert was open, by fingerprint
}

// runStory is the life of a run as the journal tells it.
type runStory struct {
	id      string
	lock    string
	created []journal.Entry
	ended   []journal.Entry
	first   *journal.Entry // intent
	steps   map[string]*stepStory
	taken   []journal.Entry // over by another worker
}

// stepStory is one step, or the revert of one, of a run.
type stepStory struct {
	run, key string // key: remedy/step, with /revert for a revert
	action   string
	pod      string // the UID that a deletion is about
	noop     bool
	intents  []journal.Entry
	finished *journal.Entry // done, failed for good, unknown, reverted
	unknown  *journal.Entry
	applied  []Mutation
}

// interval is the time in which an alert was open here; the zero end is now.
type interval struct{ from, to time.Time }

// Account compares the record's parts with each other and names every
// contradiction.
func Account(r Record) Report {
	a := &accountant{Record: r, byID: map[string]Call{}, runs: map[string]*runStory{}, signal: map[string][]interval{}}
	for _, c := range r.Calls {
		a.byID[c.ID] = c
	}
	a.chain()
	a.read()
	a.acknowledged()
	a.fates()
	a.ends()
	a.owned()
	a.resent()
	a.locks()
	a.unknowns()
	a.done()
	a.count()
	return a.out
}

func (a *accountant) violated(rule, what string, evidence ...string) {
	a.out.Violations = append(a.out.Violations, Violation{Rule: rule, What: what, Evidence: evidence})
}

func show(en journal.Entry) string {
	return strings.TrimSpace(fmt.Sprintf("journal %d at %s: %s %s %s/%s run %s by %s %s %s", en.Seq, stamp(en.At), en.Kind, en.Outcome, en.Remedy, en.Step, en.RunID, en.Actor, en.Reason, en.Message))
}

func showAll(entries []journal.Entry) []string {
	out := make([]string, len(entries))
	for i, en := range entries {
		out[i] = show(en)
	}
	return out
}

func (a *accountant) chain() {
	var head journal.Head
	for _, en := range a.Journal {
		next, err := head.Next(en)
		if err != nil {
			a.violated(RuleChain, err.Error(), show(en))
			return // everything after it would break as well
		}
		head = next
	}
	if a.Unsealed > 0 {
		a.violated(RuleChain, fmt.Sprintf("%d entries were never sealed", a.Unsealed))
	}
}

// story returns the story of a run, made when it is first heard of.
func (a *accountant) story(id string) *runStory {
	s := a.runs[id]
	if s == nil {
		s = &runStory{id: id, steps: map[string]*stepStory{}}
		a.runs[id] = s
	}
	return s
}

func (s *runStory) step(key string) *stepStory {
	st := s.steps[key]
	if st == nil {
		st = &stepStory{run: s.id, key: key}
		s.steps[key] = st
	}
	return st
}

// read turns the journal into stories.
func (a *accountant) read() {
	for _, en := range a.Journal {
		switch en.Kind {
		case journal.EpisodeOpened, journal.EpisodeReopened:
			a.signal[en.Fingerprint] = append(a.signal[en.Fingerprint], interval{from: en.At})
		case journal.EpisodeClosed:
			if open := a.signal[en.Fingerprint]; len(open) > 0 && open[len(open)-1].to.IsZero() {
				open[len(open)-1].to = en.At
			} else {
				a.violated(RuleFate, "an episode is closed that was not open", show(en))
			}
		}
		if en.RunID != "" {
			a.readRun(en)
		}
	}
}

func (a *accountant) readRun(en journal.Entry) {
	s := a.story(en.RunID)
	if en.Target != nil && s.lock == "" {
		s.lock = en.Target.LockKey()
	}
	key := en.Remedy + "/" + en.Step
	switch en.Kind {
	case journal.RunCreated:
		s.created = append(s.created, en)
	case journal.RunEnded:
		s.ended = append(s.ended, en)
	case journal.RunTakenOver:
		s.taken = append(s.taken, en)
	case journal.RunPlanned:
		s.planned(en)
	case journal.StepIntent:
		if s.first == nil {
			s.first = &en
		}
		if en.Outcome == "revert" {
			key += "/revert"
		}
		st := s.step(key)
		st.action = en.Action
		if st.finished != nil {
			a.violated(RuleResent, fmt.Sprintf("step %s of run %s is sent after it was over", key, en.RunID), show(*st.finished), show(en))
		}
		st.intents = append(st.intents, en)
	case journal.StepDone, journal.StepUnknown, journal.StepSimulated:
		st := s.step(key)
		st.finished = &en
		if en.Kind == journal.StepUnknown {
			st.unknown = &en
		}
	case journal.StepFailed:
		if en.Outcome != "replan" {
			s.step(key).finished = &en
			break
		}
		// The remedy is planned anew, and its steps that only look look again.
		for k, st := range s.steps {
			if st.action == "diagnose" && strings.HasPrefix(k, en.Remedy+"/") {
				st.finished = nil
			}
		}
	case journal.StepReverted, journal.StepRevertFailed:
		s.step(key + "/revert").finished = &en
	}
}

// acknowledged: what was answered with 200 is in the journal, as it was at the
// time of the answer.
func (a *accountant) acknowledged() {
	var sum struct{ opened, reopened, closed, candidates, rejected int }
	for _, acc := range a.Accepted {
		sum.opened += acc.Answer.Opened
		sum.reopened += acc.Answer.Reopened
		sum.closed += acc.Answer.Closed
		sum.candidates += acc.Answer.Candidates
		sum.rejected += acc.Answer.Rejected
		for _, al := range acc.Alerts {
			a.acknowledgedAlert(acc, al)
		}
	}
	for _, c := range []struct {
		kind    journal.Kind
		claimed int
	}{{journal.EpisodeOpened, sum.opened}, {journal.EpisodeReopened, sum.reopened}, {journal.EpisodeClosed, sum.closed},
		{journal.CandidateCreated, sum.candidates}, {journal.AlertRejected, sum.rejected}} {
		if n := a.entries(c.kind); n < c.claimed {
			a.violated(RuleAcknowledged, fmt.Sprintf("answers with 200 tell of %d × %s, the journal of %d", c.claimed, c.kind, n))
		}
	}
}

// entries counts the entries of a kind; a candidate may be told of by the entry
// that opens its episode.
func (a *accountant) entries(kind journal.Kind) int {
	n := 0
	for _, en := range a.Journal {
		if en.Kind == kind || kind == journal.CandidateCreated && en.CreatesCandidate() {
			n++
		}
	}
	return n
}

func (a *accountant) acknowledgedAlert(acc Acceptance, al AcceptedAlert) {
	from, to := acc.Sent.Add(-slack), acc.At.Add(slack)
	what := fmt.Sprintf("%s %v was accepted as %s between %s and %s", al.Fingerprint, al.Labels, al.Status, stamp(acc.Sent), stamp(acc.At))
	var seen []string
	firing, throughout := false, false
	for _, i := range a.signal[al.Fingerprint] {
		seen = append(seen, fmt.Sprintf("open from %s to %s", stamp(i.from), stamp(i.to)))
		firing = firing || i.from.Before(to) && (i.to.IsZero() || i.to.After(from))
		throughout = throughout || i.from.Before(from) && (i.to.IsZero() || i.to.After(to))
	}
	switch {
	case al.Status == "firing" && !firing:
		a.violated(RuleAcknowledged, what+", and no episode was open then", seen...)
	case al.Status == "resolved" && throughout && acc.Answer.Stale == 0:
		a.violated(RuleAcknowledged, what+", and its episode stayed open", seen...)
	}
}

// fates: every candidate led to one thing, and each playbook that had to answer
// an alert did.
func (a *accountant) fates() {
	created, fates := map[string][]journal.Entry{}, map[string][]journal.Entry{}
	again, requeued := map[string]int{}, map[string]int{} // by episode; by episode and playbook
	matched := map[string][]string{}                      // episode -> playbooks
	for _, en := range a.Journal {
		if en.CreatesCandidate() {
			pair := en.EpisodeID + " " + en.Playbook
			created[pair] = append(created[pair], en)
			matched[en.EpisodeID] = append(matched[en.EpisodeID], en.Playbook)
		}
		switch en.Kind {
		case journal.CandidateEnded, journal.RunCreated, journal.RunJoined, journal.RunAttached:
			pair := en.EpisodeID + " " + en.Playbook
			fates[pair] = append(fates[pair], en)
		case journal.EpisodeReopened:
			again[en.EpisodeID]++ // what was suppressed as resolved is queued again
		case journal.CandidateRequeued:
			requeued[en.EpisodeID+" "+en.Playbook]++
		}
	}
	for pair, entries := range created {
		episode, _, _ := strings.Cut(pair, " ")
		times := 1 + again[episode] + requeued[pair]
		if len(entries) > 1 {
			a.violated(RuleFate, "a candidate is created twice for (episode, playbook) "+pair, showAll(entries)...)
		}
		switch n := len(fates[pair]); {
		case n == 0:
			a.violated(RuleFate, "nothing became of the candidate of (episode, playbook) "+pair, showAll(entries)...)
		case n > times:
			a.violated(RuleFate, fmt.Sprintf("%d things became of the candidate of (episode, playbook) %s, which was queued %d times", n, pair, times), showAll(fates[pair])...)
		}
	}
	for pair, entries := range fates {
		if len(created[pair]) == 0 {
			a.violated(RuleFate, "something became of a candidate that was never created: "+pair, showAll(entries)...)
		}
	}
	for _, en := range a.Journal {
		if en.Kind != journal.EpisodeOpened {
			continue
		}
		for _, want := range a.Playbooks[en.AlertName] {
			if !slices.Contains(matched[en.EpisodeID], want) {
				a.violated(RuleFate, "playbook "+want+" has no candidate for the episode", show(en))
			}
		}
	}
	for _, c := range a.Candidates {
		switch {
		case c.Phase != store.Done || c.Outcome == "":
			a.violated(RuleFate, fmt.Sprintf("candidate %s of (%s, %s) is still %s", c.ID, c.EpisodeID, c.Playbook, c.Phase))
		case c.Outcome == store.Joined && c.RunID == "":
			a.violated(RuleFate, fmt.Sprintf("candidate %s joined no run", c.ID))
		}
	}
}

// ends: runs are made once, end once, and the rows say what the journal says.
func (a *accountant) ends() {
	for _, run := range a.Runs {
		s := a.story(run.ID)
		if run.Phase != store.Done {
			a.violated(RuleEnds, fmt.Sprintf("run %s of %s is still %s, waiting for %q: %s", run.ID, run.Playbook, run.Phase, run.Wait, run.Message))
			continue
		}
		if len(s.ended) == 1 && s.ended[0].Outcome != string(run.Outcome) {
			a.violated(RuleEnds, fmt.Sprintf("run %s is %s in its row and %s in the journal", run.ID, run.Outcome, s.ended[0].Outcome), show(s.ended[0]))
		}
	}
	for id, s := range a.runs {
		if !slices.ContainsFunc(a.Runs, func(r store.Run) bool { return r.ID == id }) {
			a.violated(RuleEnds, "the journal tells of run "+id+", which is not there")
		}
		if len(s.created) != 1 {
			a.violated(RuleEnds, fmt.Sprintf("run %s was created %d times", id, len(s.created)), showAll(s.created)...)
		}
		if len(s.ended) != 1 {
			a.violated(RuleEnds, fmt.Sprintf("run %s ended %d times", id, len(s.ended)), showAll(s.ended)...)
		}
	}
}
