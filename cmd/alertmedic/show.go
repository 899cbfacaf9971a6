package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/alertmedic/alertmedic/internal/action"
	"github.com/alertmedic/alertmedic/internal/api"
	"github.com/alertmedic/alertmedic/internal/api/client"
	"github.com/alertmedic/alertmedic/internal/store"
)

func (cl *cli) showRun(ctx context.Context, c *client.Client, id, output string) error {
	d, err := c.Run(ctx, id)
	if err != nil {
		return err
	}
	if output == "json" {
		return cl.json(d)
	}
	_, err = fmt.Fprint(cl.out, cl.runText(d))
	return err
}

// runText is the detail of a run, for people.
func (cl *cli) runText(d api.RunDetail) string {
	var b strings.Builder
	field := func(name, value string) {
		if value != "" {
			fmt.Fprintf(&b, "%-10s %s\n", name+":", value)
		}
	}
	r := d.Run
	field("Run", r.ID)
	field("Playbook", clean(r.Playbook, false))
	field("Target", clean(r.Target.String(), false)+" in "+clean(r.Target.Cluster, false))
	field("State", cl.paint(stateColour(r), state(r)))
	field("Reason", clean(r.Reason, false))
	field("Message", indentRest(clean(r.Message, true), 11))
	field("Created", fmt.Sprintf("%s (%s ago)", stamp(r.CreatedAt), short(cl.now().Sub(r.CreatedAt))))
	if !r.EndedAt.IsZero() {
		field("Ended", stamp(r.EndedAt))
	} else {
		field("Due", stamp(r.DueAt))
		field("Expires", stamp(r.ExpiresAt))
	}
	if len(d.Candidates) > 0 {
		b.WriteString("\nAlerts:\n")
		for _, c := range d.Candidates {
			al := c.Episode.Alert
			what := clean(al.Name(), false)
			if what == "" {
				what = r.AlertName
			}
			fmt.Fprintf(&b, "  %s %s, firing since %s, from %s\n", what, al.Status, stamp(c.Episode.OpenedAt), clean(c.Episode.Signal.Source, false))
		}
	}
	if len(d.Steps) > 0 {
		b.WriteString("\nSteps:\n")
	}
	for _, s := range d.Steps {
		b.WriteString(cl.stepText(s))
	}
	if a := d.Approval; a != nil {
		fmt.Fprintf(&b, "\nWaits for approval since %s. To decide:\n  alertmedic approve %s --plan %s\n  alertmedic reject %s --reason \"...\"\n", stamp(a.AskedAt), r.ID, a.PlanHash, r.ID)
	}
	return b.String()
}

func (cl *cli) stepText(s store.Step) string {
	var b strings.Builder
	colour := plain
	switch s.Status {
	case store.StepDone:
		colour = green
	case store.StepFailed, store.StepUnknown:
		colour = red
	case store.StepIntended, store.StepWaiting:
		colour = blue
	}
	fmt.Fprintf(&b, "  %s/%s %s: %s", clean(s.RemedyName, false), clean(s.Name, false), s.Action, cl.paint(colour, string(s.Status)))
	if s.Reason != "" {
		b.WriteString(", " + clean(s.Reason, false))
	}
	b.WriteByte('\n')
	var plan action.Plan
	if len(s.Plan) > 0 && json.Unmarshal(s.Plan, &plan) == nil {
		if plan.Summary != "" {
			fmt.Fprintf(&b, "    plan: %s\n", clean(plan.Summary, false))
		}
		for l := range strings.SplitSeq(strings.TrimRight(plan.Diff, "\n"), "\n") {
			if l = clean(l, false); l != "" {
				b.WriteString("      " + cl.diffLine(l) + "\n")
			}
		}
	}
	if s.Message != "" {
		fmt.Fprintf(&b, "    %s\n", indentRest(clean(s.Message, true), 4))
	}
	return b.String()
}

func (cl *cli) diffLine(l string) string {
	switch l[0] {
	case '+':
		return cl.paint(green, l)
	case '-':
		return cl.paint(red, l)
	}
	return l
}

func indentRest(s string, by int) string {
	return strings.ReplaceAll(strings.TrimSpace(s), "\n", "\n"+strings.Repeat(" ", by))
}
