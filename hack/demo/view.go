package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/term"

	"github.com/alertmedic/alertmedic/internal/journal"
)

// view writes the demo's terminal output: one line an event, in the order of
// the remediation log.
type view struct {
	out     io.Writer
	colours bool
	start   time.Time
	width   int
}

func newView(out *os.File) *view {
	v := &view{out: out, start: time.Now(), width: 140}
	if term.IsTerminal(int(out.Fd())) {
		v.colours = os.Getenv("NO_COLOR") == ""
		if w, _, err := term.GetSize(int(out.Fd())); err == nil && w > 40 {
			v.width = w
		}
	}
	return v
}

// The colours that the view uses, as SGR codes.
const (
	bold   = "1"
	grey   = "90"
	red    = "31"
	green  = "32"
	yellow = "33"
	cyan   = "36"
)

func (v *view) paint(code, s string) string {
	if !v.colours || code == "" {
		return s
	}
	return "\x1b[" + code + "m" + s + "\x1b[0m"
}

func (v *view) line(mark, code, what, text string) {
	text = strings.Join(strings.Fields(text), " ")
	if limit := v.width - 36; len([]rune(text)) > limit {
		text = string([]rune(text)[:limit-1]) + "…"
	}
	fmt.Fprintf(v.out, "%s %s %-24s %s\n", v.paint(grey, time.Now().Format("15:04:05")), v.paint(code, mark), v.paint(code, pad(what, 24)), text)
}

func pad(s string, n int) string {
	if len([]rune(s)) >= n {
		return s
	}
	return s + strings.Repeat(" ", n-len([]rune(s)))
}

func (v *view) title(s string)               { fmt.Fprintf(v.out, "\n%s\n\n", v.paint(bold, s)) }
func (v *view) step(format string, a ...any) { v.line("·", grey, "setup", fmt.Sprintf(format, a...)) }
func (v *view) fault(s string)               { v.line("✗", red, "FAULT", s) }
func (v *view) person(s string)              { v.line("☺", yellow, "person", s) }
func (v *view) note(format string, a ...any) { fmt.Fprintf(v.out, format+"\n", a...) }

// entry shows an entry of the remediation log, if a person would want it.
func (v *view) entry(en journal.Entry) {
	target := ""
	if en.Target != nil {
		target = en.Target.Ref.String()
	}
	switch en.Kind {
	case journal.EpisodeOpened:
		if en.AlertName == "Watchdog" {
			return // fires by design
		}
		v.line("▲", red, "alert fires", en.AlertName+" "+about(en.Data))
	case journal.EpisodeClosed:
		v.line("▽", grey, "alert resolved", en.AlertName)
	case journal.RunCreated:
		v.line("+", cyan, "run", en.Playbook+" on "+target)
	case journal.GuardDecided:
		if en.Outcome != "admit" {
			v.line("■", yellow, "guard: "+en.Outcome, en.Playbook+": "+en.Message)
		}
	case journal.RunPlanned:
		v.line("»", cyan, "plan", en.Playbook+"/"+en.Remedy+": "+en.Message)
	case journal.ApprovalRequested:
		v.line("?", yellow, "asks for approval", en.Playbook+"/"+en.Remedy+" on "+target)
	case journal.StepDone, journal.StepSimulated:
		v.line("✓", cyan, en.Action, strings.TrimSpace(en.Outcome+" "+target+": "+en.Message))
	case journal.StepProgress:
		v.line("…", grey, en.Action, target+": "+en.Message)
	case journal.StepFailed, journal.StepUnknown, journal.StepRevertFailed, journal.RemedyFailed:
		v.line("✗", red, string(en.Kind), strings.TrimSpace(en.Action+" "+target+": "+en.Reason+" "+en.Message))
	case journal.VerifyVerdict:
		v.line("=", map[string]string{"healed": green}[en.Outcome], "verdict: "+en.Outcome, target+" "+en.Message)
	case journal.CandidateEnded:
		if en.Outcome != "joined" {
			v.line("-", grey, "not acted on", en.Playbook+" for "+en.AlertName+": "+en.Reason+" "+en.Message)
		}
	case journal.StormBegan, journal.StormEnded:
		v.line("☁", red, string(en.Kind), en.Message)
	case journal.RunEnded:
		code := yellow
		if en.Outcome == "healed" {
			code = green
		}
		v.line("●", code, strings.ToUpper(en.Outcome), en.Playbook+" on "+target+": "+en.Message)
	}
}

// about names the object of an alert by its labels.
func about(data json.RawMessage) string {
	var d struct {
		Alert  struct{ Labels map[string]string } `json:"alert"`
		Labels map[string]string                  `json:"labels"`
	}
	if json.Unmarshal(data, &d) != nil {
		return ""
	}
	labels := d.Labels
	if labels == nil {
		labels = d.Alert.Labels
	}
	for _, name := range []string{"node", "pod", "service", "deployment"} {
		if labels[name] != "" {
			return name + "=" + labels[name]
		}
	}
	return ""
}

// table prints what became of the faults and reports whether all ended well.
func (v *view) table(acts []*act, observe bool) bool {
	want := "healed"
	if observe {
		want = "simulated"
	}
	fmt.Fprintln(v.out)
	tw := tabwriter.NewWriter(v.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "FAULT\tALERT\tPLAYBOOK\tACTIONS\tOUTCOME\tFAULT→ALERT\tALERT→ACTION\tACTION→HEALED")
	ok := true
	for _, a := range acts {
		outcome := a.outcome
		if outcome == "" {
			outcome = "(not over)"
		}
		ok = ok && outcome == want
		healed := "-"
		if outcome == "healed" {
			healed = span(a.actedAt, a.endedAt)
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", a.fault, dash(a.alert), dash(a.playbook), dash(strings.Join(a.actions, ", ")), outcome,
			span(a.brokenAt, a.alertAt), span(a.alertAt, a.actedAt), healed)
	}
	_ = tw.Flush() // a terminal that is gone cannot be told so
	fmt.Fprintln(v.out)
	return ok
}

func span(from, to time.Time) string {
	if from.IsZero() || to.IsZero() {
		return "-"
	}
	return fmt.Sprintf("%.1fs", to.Sub(from).Seconds())
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
