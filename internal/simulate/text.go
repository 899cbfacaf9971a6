package simulate

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/alertmedic/alertmedic/internal/guard"
)

// WriteText writes the explanation for people.
func (e *Explanation) WriteText(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "Alert:    %s\n", labelText(e.Labels))
	fmt.Fprintf(&b, "Source:   %s, cluster %s\n", e.Source, e.Cluster)
	state := string(e.Alert.State)
	if e.Alert.By != "" {
		state += " (" + e.Alert.By + ")"
	}
	fmt.Fprintf(&b, "State:    %s, as read at %s\n", state, e.At.UTC().Format(time.RFC3339))
	if len(e.Refused) > 0 {
		b.WriteString("\nThe playbook files as they are now were refused; what follows is of those from before:\n")
		for _, problem := range e.Refused {
			fmt.Fprintf(&b, "  %s\n", oneLine(problem))
		}
	}
	if len(e.Playbooks) == 0 {
		b.WriteString("\nNo playbook is loaded.\n")
	}
	for i := range e.Playbooks {
		e.Playbooks[i].text(&b)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (p *Considered) text(b *strings.Builder) {
	fmt.Fprintf(b, "\nPlaybook %s %s\n", p.Name, oneLine(p.Acts()))
	if !p.Matched {
		return
	}
	if p.Target != nil {
		fmt.Fprintf(b, "  Target:  %s\n", p.Target)
		if p.Resolution != "" {
			fmt.Fprintf(b, "           %s\n", strings.ReplaceAll(oneLine(p.Resolution), "; ", "\n           "))
		}
	}
	for _, r := range p.Remedies {
		if !r.Applies {
			fmt.Fprintf(b, "  Remedy %s does not apply: %s\n", r.Name, oneLine(r.Why))
			continue
		}
		fmt.Fprintf(b, "  Remedy %s\n", r.Name)
		r.steps(b, "    ", true)
	}
	if len(p.Guards) > 0 {
		b.WriteString("  Guards, about the first change:\n")
		width := 0
		for _, d := range p.Guards {
			width = max(width, len(d.Guard))
		}
		for _, d := range p.Guards {
			fmt.Fprintf(b, "    %-*s  %s\n", width, d.Guard, said(d))
		}
	}
}

// said is a decision in a line.
func said(d guard.Decision) string {
	line := string(d.Verdict)
	if d.Verdict != guard.Admit {
		line += " (" + string(d.Reason) + "): " + oneLine(d.Message)
		if !d.RetryAt.IsZero() {
			line += "; asked again at " + d.RetryAt.UTC().Format(time.RFC3339)
		}
	}
	return line
}

func (r *PlannedRemedy) steps(b *strings.Builder, indent string, guards bool) {
	if r.Why != "" {
		fmt.Fprintf(b, "%scannot be planned: %s\n", indent, oneLine(r.Why))
	}
	for _, s := range r.Steps {
		summary := s.Summary
		if s.Noop {
			summary += " (nothing to do)"
		}
		fmt.Fprintf(b, "%s%s (%s): %s\n", indent, s.Name, s.Action, oneLine(summary))
		if d := s.Decision; guards && d != nil {
			fmt.Fprintf(b, "%s  the guards say: %s\n", indent, said(*d))
		}
		for line := range strings.Lines(s.Diff) {
			fmt.Fprintf(b, "%s  %s\n", indent, strings.TrimRight(line, "\n"))
		}
	}
}

// WritePlan writes the diffs alone: of each playbook that matches, the remedies
// that apply.
func (e *Explanation) WritePlan(w io.Writer) error {
	var b strings.Builder
	for i := range e.Playbooks {
		p := &e.Playbooks[i]
		if !p.Matched {
			continue
		}
		if p.Target == nil || p.SupersededBy != "" {
			fmt.Fprintf(&b, "# %s %s\n", p.Name, oneLine(p.Acts()))
			continue
		}
		for _, r := range p.Remedies {
			if r.Applies {
				fmt.Fprintf(&b, "# %s/%s on %s\n", p.Name, r.Name, p.Target)
				r.steps(&b, "", false)
			}
		}
	}
	if b.Len() == 0 {
		b.WriteString("# no playbook matches; `alertmedic explain` says why\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// oneLine keeps text of others from posing as a line of its own.
func oneLine(s string) string { return strings.NewReplacer("\r", " ", "\n", " ").Replace(s) }

func labelText(labels map[string]string) string {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(labels)) {
		out = append(out, fmt.Sprintf("%s=%q", name, labels[name]))
	}
	return strings.Join(out, ", ")
}
