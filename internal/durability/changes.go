package durability

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/alertmedic/alertmedic/internal/action"
	"github.com/alertmedic/alertmedic/internal/journal"
)

// planned notes what the steps of a remedy are about, from the entry that shows
// their plans.
func (s *runStory) planned(en journal.Entry) {
	var data struct {
		Steps []struct {
			Plan action.Plan `json:"plan"`
		} `json:"steps"`
	}
	if json.Unmarshal(en.Data, &data) != nil {
		return
	}
	for _, p := range data.Steps {
		st := s.step(p.Plan.Request.StepID)
		st.noop = p.Plan.Noop
		var before struct {
			Pod action.Ref `json:"pod"`
		}
		if json.Unmarshal(p.Plan.Before, &before) == nil && before.Pod.UID != "" {
			st.pod = before.Pod.UID
		}
	}
}

// within reports whether a change falls into the time between an intent of the
// step and its end.
func (st *stepStory) within(at time.Time) bool {
	if len(st.intents) == 0 || at.Before(st.intents[0].At.Add(-slack)) {
		return false
	}
	return st.finished == nil || at.Before(st.finished.At.Add(slack))
}

// over reports whether the run had ended by then.
func (s *runStory) over(at time.Time) bool {
	return len(s.ended) > 0 && at.After(s.ended[0].At.Add(slack))
}

// owned gives each change of the audit log to the step that made it.
func (a *accountant) owned() {
	audited := map[string]bool{}
	for _, m := range a.Audit {
		audited[m.ID] = true
		if _, ok := a.byID[m.ID]; !ok {
			a.violated(RuleOwned, "the audit log has a change that did not come through the proxy", m.String())
		}
		if !strings.HasPrefix(m.UserAgent, "alertmedic/") {
			a.violated(RuleOwned, "a change by another program: "+m.UserAgent, m.String())
			continue
		}
		if m.Resource == "events" {
			a.out.Table.Events++
			if _, ok := a.runs[m.Run]; !ok {
				a.violated(RuleOwned, "an Event about no run", m.String())
			}
			continue
		}
		a.out.Table.Changes++
		a.own(m)
	}
	for _, c := range a.Calls {
		if c.Applied() && !audited[c.ID] {
			a.violated(RuleOwned, fmt.Sprintf("the proxy saw a change that the audit log has not: %s %s, audit id %s", c.Method, c.Path, c.ID))
		}
	}
}

func (a *accountant) own(m Mutation) {
	var owners, near []*stepStory
	for _, s := range a.runs {
		for _, st := range s.steps {
			if !st.claims(m) {
				continue
			}
			near = append(near, st)
			// A deletion carries no run: one that ended with all its calls refused may
			// have left the pod to the next.
			if st.within(m.At) && (m.Run != "" || !s.over(m.At)) {
				owners = append(owners, st)
			}
		}
	}
	var evidence []string
	for _, st := range near {
		evidence = append(evidence, showAll(st.intents)...)
		if st.finished != nil {
			evidence = append(evidence, show(*st.finished))
		}
	}
	evidence = append([]string{m.String(), a.proxySaw(m.ID)}, evidence...)
	switch len(owners) {
	case 1:
		if m.Applied() {
			owners[0].applied = append(owners[0].applied, m)
		}
	case 0:
		rule, what := RuleOwned, "a change that no step asked for"
		if len(near) > 0 {
			what = "a change outside of the time in which its step was under way"
			if slices.ContainsFunc(near, func(st *stepStory) bool { return st.finished != nil && m.At.After(st.finished.At) }) {
				rule, what = RuleResent, "a change after its step was over"
			}
		}
		a.violated(rule, what, evidence...)
	default:
		a.violated(RuleOwned, fmt.Sprintf("a change that %d steps asked for", len(owners)), evidence...)
	}
}

func (a *accountant) proxySaw(id string) string {
	c, ok := a.byID[id]
	if !ok {
		return "the proxy did not see it"
	}
	return fmt.Sprintf("the proxy had it from %s at %s, passed it on at %s, had %d from the API server and answered %d (fault: %s)",
		c.Replica, stamp(c.At), stamp(c.Forwarded), c.Status, c.Answered, c.Fault)
}

// claims reports whether the change is what the step does: signed by it, or the
// deletion of the pod that it is about.
func (st *stepStory) claims(m Mutation) bool {
	if m.Run != "" {
		return m.Run == st.run && m.Step == st.key
	}
	return m.UID != "" && m.UID == st.pod && (m.Verb == "delete" || m.Resource == "pods/eviction")
}

// resent: a change is made at most once.
func (a *accountant) resent() {
	for _, s := range a.runs {
		for _, st := range s.steps {
			if len(st.applied) > 1 {
				var evidence []string
				for _, m := range st.applied {
					evidence = append(evidence, m.String(), a.proxySaw(m.ID))
				}
				a.violated(RuleResent, fmt.Sprintf("step %s of run %s was made %d times", st.key, s.id, len(st.applied)), append(evidence, showAll(st.intents)...)...)
			}
		}
	}
}

// locks: a run that has announced a step holds its lock until it ends. Of two
// runs on one lock the second must not announce anything before the first has
// ended, and what reaches the API server must not be mixed.
func (a *accountant) locks() {
	byLock := map[string][]*runStory{}
	for _, s := range a.runs {
		if s.first != nil && s.lock != "" {
			byLock[s.lock] = append(byLock[s.lock], s)
		}
	}
	for lock, stories := range byLock {
		slices.SortFunc(stories, func(x, y *runStory) int { return cmp.Compare(x.first.Seq, y.first.Seq) })
		for i, s := range stories[1:] {
			before := stories[i]
			if len(before.ended) == 0 {
				continue // told by ends
			}
			end := before.ended[len(before.ended)-1]
			// An admission waits inside of its transaction for the lock, after it
			// has read the clock: a moment of overlap is none.
			if s.first.Seq < end.Seq && s.first.At.Before(end.At.Add(-2*slack)) {
				a.violated(RuleLocks, fmt.Sprintf("runs %s and %s held %s at once", before.id, s.id, lock), show(*before.first), show(*s.first), show(end))
			}
			last, first := before.lastChange(), s.firstChange()
			if !last.At.IsZero() && !first.At.IsZero() && last.At.After(first.At) {
				a.violated(RuleLocks, fmt.Sprintf("changes of runs %s and %s on %s are mixed", before.id, s.id, lock),
					last.String(), a.proxySaw(last.ID), first.String(), a.proxySaw(first.ID))
			}
		}
	}
}

func (s *runStory) changes() []Mutation {
	var out []Mutation
	for _, st := range s.steps {
		out = append(out, st.applied...)
	}
	slices.SortFunc(out, func(x, y Mutation) int { return x.At.Compare(y.At) })
	return out
}

func (s *runStory) firstChange() Mutation {
	if all := s.changes(); len(all) > 0 {
		return all[0]
	}
	return Mutation{}
}

func (s *runStory) lastChange() Mutation {
	if all := s.changes(); len(all) > 0 {
		return all[len(all)-1]
	}
	return Mutation{}
}

// unknowns: whoever says that it cannot know must have had no answer: its call
// was cut or answered with an error that tells nothing, or it was killed between
// the intent and the outcome.
func (a *accountant) unknowns() {
	for _, s := range a.runs {
		for _, st := range s.steps {
			if st.unknown == nil {
				continue
			}
			a.out.Table.Unknown++
			if len(st.intents) == 0 {
				a.violated(RuleUnknown, fmt.Sprintf("step %s of run %s is unknown and was never sent", st.key, s.id), show(*st.unknown))
				continue
			}
			intent := st.intents[len(st.intents)-1]
			real := slices.ContainsFunc(s.taken, func(en journal.Entry) bool { return en.Seq > intent.Seq && en.Seq < st.unknown.Seq })
			evidence := []string{show(intent), show(*st.unknown)}
			for _, c := range a.Calls {
				if c.At.Before(intent.At.Add(-slack)) || c.At.After(st.unknown.At) || !st.claims(Mutation{Run: c.Run, Step: c.Step, UID: c.UID, Verb: strings.ToLower(c.Method)}) {
					continue
				}
				real = real || c.Unclear()
				evidence = append(evidence, a.proxySaw(c.ID))
			}
			if !real {
				a.violated(RuleUnknown, fmt.Sprintf("the fate of step %s of run %s was clear", st.key, s.id), evidence...)
			}
		}
	}
}

// done: a step that is called done has made its change, unless there was nothing
// to do.
func (a *accountant) done() {
	for _, s := range a.runs {
		for _, st := range s.steps {
			end := st.finished
			if end == nil || end.Kind != journal.StepDone && end.Kind != journal.StepReverted {
				continue
			}
			if seen := a.Alive[st.pod]; st.pod != "" && seen.After(end.At.Add(slack)) {
				a.violated(RuleDone, fmt.Sprintf("step %s of run %s is done and its pod %s was alive at %s", st.key, s.id, st.pod, stamp(seen)), append(showAll(st.intents), show(*end))...)
			}
			nothingToDo := st.noop || st.action == "diagnose" || len(st.intents) == 0 ||
				strings.HasPrefix(end.Message, "skipped") || end.Kind == journal.StepReverted ||
				st.pod != "" // others delete pods too; that it was gone is checked above
			if len(st.applied) == 0 && !nothingToDo {
				a.violated(RuleDone, fmt.Sprintf("step %s of run %s is done and changed nothing", st.key, s.id), append(showAll(st.intents), show(*end))...)
			}
		}
	}
}
