package notify

import (
	"fmt"
	"strings"
	"time"

	"github.com/slack-go/slack"

	"github.com/alertmedic/alertmedic/internal/journal"
	"github.com/alertmedic/alertmedic/internal/store"
)

// maxBlockText is Slack's limit of a section's text.
const maxBlockText = 3000

// face is how a state looks: a symbol and a word.
type face struct{ symbol, word string }

func faceOf(r RunReport) face {
	if r.Phase != store.Done {
		if r.Wait == store.WaitApproval || r.Event == journal.ApprovalRequested {
			return face{":raised_hand:", "needs approval"}
		}
		if r.Event == journal.RemedyFailed {
			return face{":warning:", "trying the next remedy"}
		}
		return face{":adhesive_bandage:", "remediating"}
	}
	switch r.Outcome {
	case store.Healed:
		return face{":white_check_mark:", "healed"}
	case store.Simulated:
		return face{":eyes:", "observed only, nothing was changed"}
	case store.Superseded, store.Cancelled, store.Suppressed, store.Expired:
		return face{":heavy_minus_sign:", string(r.Outcome)}
	case store.Escalated:
		return face{":rotating_light:", "escalated, a person must look"}
	case store.OutcomeUnknown:
		return face{":rotating_light:", "outcome unknown, a person must look"}
	}
	return face{":x:", string(r.Outcome)}
}

// rendered is a message in Slack's terms.
type rendered struct {
	text   string // the fallback, shown in notifications
	blocks []slack.Block
}

// render makes the message of a run. Everything in the report is untrusted.
func render(r RunReport) rendered {
	switch r.Event {
	case journal.StormBegan, journal.StormGoesOn, journal.StormEnded:
		return renderStorm(r)
	}
	f := faceOf(r)
	title := fmt.Sprintf("%s %s on %s: %s", f.symbol, bold(r.AlertName), code(r.Target), line(f.word))
	if r.Reason != "" {
		title += " (" + line(r.Reason) + ")"
	}
	out := rendered{
		text:   truncate(fmt.Sprintf("%s on %s: %s", line(r.AlertName), line(r.Target), line(f.word)), maxBlockText),
		blocks: []slack.Block{section(title)},
	}
	if r.Message != "" {
		out.blocks = append(out.blocks, section(escape(r.Message)))
	}
	if len(r.Plans) > 0 {
		out.blocks = append(out.blocks, section("*Plan*\n"+bullets(r.Plans)))
	}
	if len(r.Rungs) > 0 {
		out.blocks = append(out.blocks, section("*Tried so far*\n"+bullets(r.Rungs)))
	}
	if r.PlanHash != "" && r.Phase != store.Done {
		out.blocks = append(out.blocks, section(fmt.Sprintf("To decide: %s or %s",
			code(fmt.Sprintf("alertmedic approve %s --plan %s", r.RunID, r.PlanHash)),
			code(fmt.Sprintf("alertmedic reject %s", r.RunID)))))
	}
	out.blocks = append(out.blocks, slack.NewContextBlock("", mrkdwn(footer(r))))
	return out
}

// renderStorm makes the one message of a storm.
func renderStorm(r RunReport) rendered {
	symbol := ":rotating_light:"
	if r.Event == journal.StormEnded {
		symbol = ":white_check_mark:"
	}
	title := eventTitle(r.Event, "")
	context := "since " + r.FiredAt.Format(time.RFC3339)
	if r.URL != "" {
		context += " · <" + linkTarget(r.URL) + "|runs that wait>"
	}
	return rendered{
		text: truncate(title+" in "+line(r.Target), maxBlockText),
		blocks: []slack.Block{section(symbol + " " + bold(title) + " in " + code(r.Target)), section(escape(r.Message)),
			slack.NewContextBlock("", mrkdwn(context))},
	}
}

func footer(r RunReport) string {
	parts := []string{"playbook " + truncate(line(r.Playbook), 100)}
	if r.Cluster != "" {
		parts = append(parts, "cluster "+truncate(line(r.Cluster), 100))
	}
	if r.Severity != "" {
		parts = append(parts, "severity "+truncate(line(r.Severity), 100))
	}
	if r.AlertCount > 1 {
		parts = append(parts, fmt.Sprintf("%d alerts", r.AlertCount))
	}
	if r.Phase == store.Done && !r.FiredAt.IsZero() && r.EndedAt.After(r.FiredAt) {
		parts = append(parts, "took "+r.EndedAt.Sub(r.FiredAt).Round(time.Second).String())
	}
	run := "run " + line(r.RunID)
	if r.URL != "" {
		run = "<" + linkTarget(r.URL) + "|" + run + ">"
	}
	return strings.Join(append(parts, run), " · ")
}

// linkTarget is the configured URL with what would end the link encoded.
func linkTarget(u string) string {
	return strings.NewReplacer("<", "%3C", ">", "%3E", "|", "%7C", "&", "&amp;").Replace(u)
}

// thread renders the lines of the thread as one message.
func thread(r RunReport) rendered {
	lines := make([]string, 0, len(r.Thread))
	for _, l := range r.Thread {
		if strings.Contains(strings.TrimSpace(l), "\n") {
			lines = append(lines, "```"+truncate(escape(strings.TrimSpace(l)), maxBlockText/2)+"```")
			continue
		}
		lines = append(lines, line(l))
	}
	text := strings.Join(lines, "\n")
	if len(text) > maxBlockText {
		text = truncate(text, maxBlockText-len("```"))
		if strings.Count(text, "```")%2 == 1 {
			text += "```"
		}
	}
	return rendered{text: text, blocks: []slack.Block{slack.NewSectionBlock(mrkdwn(text), nil, nil)}}
}

func section(text string) slack.Block {
	return slack.NewSectionBlock(mrkdwn(truncate(text, maxBlockText)), nil, nil)
}

// mrkdwn is verbatim: Slack then makes no links and no mentions of plain text.
func mrkdwn(text string) *slack.TextBlockObject {
	return slack.NewTextBlockObject(slack.MarkdownType, text, false, true)
}

func bold(s string) string {
	if s = strings.TrimSpace(line(truncate(s, 200))); s == "" {
		return "an alert without a name"
	}
	return "*" + s + "*"
}

func code(s string) string {
	if s = strings.TrimSpace(line(truncate(s, 500))); s == "" {
		return "(none)"
	}
	return "`" + s + "`"
}

func bullets(items []string) string {
	const most = 10
	var b strings.Builder
	for i, it := range items {
		if i == most {
			fmt.Fprintf(&b, "• … and %d more\n", len(items)-most)
			break
		}
		b.WriteString("• " + truncate(line(it), 250) + "\n")
	}
	return b.String()
}
