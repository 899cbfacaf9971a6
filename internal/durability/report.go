package durability

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"

	"github.com/alertmedic/alertmedic/internal/action"
	"github.com/alertmedic/alertmedic/internal/journal"
)

// Report is the outcome of an accounting.
type Report struct {
	Title      string      `json:"title"`
	Table      Table       `json:"table"`
	Violations []Violation `json:"violations"`
}

// Table counts what happened.
type Table struct {
	Webhooks   map[int]int    `json:"webhooks"` // by HTTP status, 0 for no answer
	Accepted   int            `json:"accepted"` // alerts in webhooks answered with 200
	Signals    int            `json:"signals"`  // of them distinct
	Episodes   int            `json:"episodes"`
	Candidates map[string]int `json:"candidates"` // by outcome
	Runs       map[string]int `json:"runs"`       // by outcome
	Intents    int            `json:"intents"`    // announced calls, reads such as diagnose included
	Steps      int            `json:"steps"`      // that were announced
	Changes    int            `json:"changes"`    // that reached the API server, Events excluded
	Applied    int            `json:"applied"`    // of them made
	Events     int            `json:"events"`
	Observed   int            `json:"observed"` // found applied after their answer was lost
	Resent     int            `json:"resent"`   // after it was certain that the change is not there
	Unknown    int            `json:"unknown"`
	TakenOver  int            `json:"takenOver"`
	Starts     int            `json:"starts"` // of processes
	Kills      map[string]int `json:"kills"`
	Faults     map[string]int `json:"faults"`
	Unclear    int            `json:"unclear"` // changes whose answer the process did not get, or could not trust
	Entries    int            `json:"entries"` // of the journal
}

func (a *accountant) count() {
	t := &a.out.Table
	t.Webhooks, t.Faults, t.Entries = a.Answers, a.Record.Faults, len(a.Journal)
	t.Kills, t.Runs, t.Candidates = map[string]int{}, map[string]int{}, map[string]int{}
	signals := map[string]bool{}
	for _, acc := range a.Accepted {
		t.Accepted += len(acc.Alerts)
		for _, al := range acc.Alerts {
			signals[al.Fingerprint] = true
		}
	}
	t.Signals = len(signals)
	for _, k := range a.Record.Kills {
		t.Kills[k.How]++
	}
	for _, r := range a.Record.Runs {
		t.Runs[join(string(r.Outcome), r.Reason)]++
	}
	for _, c := range a.Record.Candidates {
		t.Candidates[join(string(c.Outcome), c.Reason)]++
	}
	for _, en := range a.Journal {
		switch en.Kind {
		case journal.EpisodeOpened:
			t.Episodes++
		case journal.StepIntent:
			t.Intents++
		case journal.RunTakenOver:
			t.TakenOver++
		case journal.ServiceStarted:
			t.Starts++
		case journal.StepObserved:
			if en.Outcome == string(action.Applied) {
				t.Observed++
			} else {
				t.Resent++
			}
		}
	}
	for _, s := range a.runs {
		for _, st := range s.steps {
			if len(st.intents) > 0 {
				t.Steps++
			}
			t.Applied += len(st.applied)
		}
	}
	for _, c := range a.Calls {
		if !c.Event() && c.Unclear() {
			t.Unclear++
		}
	}
}

func join(outcome, reason string) string {
	if reason == "" {
		return outcome
	}
	return outcome + " (" + reason + ")"
}

// String is the table for people, then every violation with its evidence.
func (r Report) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n", r.Title)
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	row := func(name string, value any) { fmt.Fprintf(w, "  %s\t%v\n", name, value) }
	t := r.Table
	row("webhooks by answer (0: none)", counts(t.Webhooks))
	row("alerts accepted (distinct)", fmt.Sprintf("%d (%d)", t.Accepted, t.Signals))
	row("episodes", t.Episodes)
	row("candidates", counts(t.Candidates))
	row("runs", counts(t.Runs))
	row("steps announced (calls)", fmt.Sprintf("%d (%d)", t.Steps, t.Intents))
	row("changes that reached the API server (made)", fmt.Sprintf("%d (%d)", t.Changes, t.Applied))
	row("Events", t.Events)
	row("changes whose fate was unclear to the process", t.Unclear)
	row("found applied / sent again / unknown", fmt.Sprintf("%d / %d / %d", t.Observed, t.Resent, t.Unknown))
	row("kills", counts(t.Kills))
	row("starts / runs taken over", fmt.Sprintf("%d / %d", t.Starts, t.TakenOver))
	row("faults injected", counts(t.Faults))
	row("journal entries, chained", t.Entries)
	for _, rule := range Rules() {
		n := 0
		for _, v := range r.Violations {
			if v.Rule == rule {
				n++
			}
		}
		verdict := "holds"
		if n > 0 {
			verdict = fmt.Sprintf("BROKEN %d times", n)
		}
		row(rule, verdict)
	}
	w.Flush()
	for _, v := range r.Violations {
		fmt.Fprintf(&b, "  - %s\n", v)
	}
	return b.String()
}

func counts[K string | int](m map[K]int) string {
	total := 0
	var parts []string
	keys := slices.Sorted(maps.Keys(m))
	for _, k := range keys {
		total += m[k]
		parts = append(parts, fmt.Sprintf("%v: %d", k, m[k]))
	}
	return fmt.Sprintf("%d (%s)", total, strings.Join(parts, ", "))
}

// EnvReport is where reports are written: text, and JSON beside it.
const EnvReport = "ALERTMEDIC_SOAK_REPORT"

// Publish shows the report in the test's log, appends it to what EnvReport
// names, and fails the test for each violation.
func (r Report) Publish(t testing.TB) {
	t.Helper()
	t.Log("\n" + r.String())
	if path := os.Getenv(EnvReport); path != "" {
		line, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		appendTo(t, path, r.String())
		appendTo(t, path+".json", string(line)+"\n")
	}
	if n := len(r.Violations); n > 0 {
		t.Errorf("%d promises are broken: see the report above", n)
	}
}

func appendTo(t testing.TB, path, text string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(text); err != nil {
		t.Fatal(err)
	}
}
