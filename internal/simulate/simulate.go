// Package simulate is what alertmedic says it would do: the answer to explain and
// plan, and how people read it. The engine fills it in, by the code that acts.
package simulate

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/alertmedic/alertmedic/internal/action"
	"github.com/alertmedic/alertmedic/internal/guard"
)

// ExplainRequest asks what would become of one alert.
type ExplainRequest struct {
	// Labels of the alert, alertname among them.
	Labels map[string]string `json:"labels" doc:"The alert's labels."`
	// Annotations, for templates that use them.
	Annotations map[string]string `json:"annotations,omitempty"`
	// StartsAt is when it began to fire; zero is now.
	StartsAt time.Time `json:"startsAt,omitzero"`
	// Source is who would send it; "" is the only one, or the first.
	Source string `json:"source,omitempty" doc:"The source that would send it; the first when left out."`
	// Playbook leaves out all others.
	Playbook string `json:"playbook,omitempty" doc:"Explain this playbook only."`
}

// ParseAlerts reads what people have at hand: an alert of Alertmanager's API or
// of a webhook, a whole webhook, or the labels alone.
func ParseAlerts(data []byte) ([]ExplainRequest, error) {
	var doc struct {
		ExplainRequest
		Alerts []ExplainRequest `json:"alerts"`
	}
	if err := json.Unmarshal(data, &doc); err != nil {
		return nil, fmt.Errorf("the alert is not JSON%s: %w; write {\"labels\": {\"alertname\": \"...\"}}, or the labels alone", where(data, err), err)
	}
	switch {
	case len(doc.Alerts) > 0:
		return doc.Alerts, nil
	case len(doc.Labels) > 0:
		return []ExplainRequest{doc.ExplainRequest}, nil
	}
	var labels map[string]string
	if err := json.Unmarshal(data, &labels); err != nil || len(labels) == 0 {
		return nil, fmt.Errorf("the alert has no labels: write {\"labels\": {\"alertname\": \"...\"}}, or the labels alone")
	}
	return []ExplainRequest{{Labels: labels}}, nil
}

// where says at which line and column JSON is wrong, "" when that is not known.
func where(data []byte, err error) string {
	var offset int64
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	switch {
	case errors.As(err, &syntax):
		offset = syntax.Offset
	case errors.As(err, &kind):
		offset = kind.Offset
	default:
		return ""
	}
	before := data[:min(max(offset, 0), int64(len(data)))]
	return fmt.Sprintf(" at %d:%d", bytes.Count(before, []byte("\n"))+1, len(before)-bytes.LastIndexByte(before, '\n')-1)
}

// Explanation is what would become of an alert, at the time it was asked.
type Explanation struct {
	At        time.Time           `json:"at"`
	Source    string              `json:"source"`
	Cluster   string              `json:"cluster"`
	Labels    map[string]string   `json:"labels"`
	Alert     guard.AlertEvidence `json:"alert"` // what Alertmanager and Prometheus say of it now
	Playbooks []Considered        `json:"playbooks"`
	// Refused says what is wrong with the playbook files as they are now, one
	// problem each, when they are not those that are in force and considered here.
	Refused []string `json:"refused,omitempty"`
}

// Considered is what one playbook makes of the alert.
type Considered struct {
	Name     string     `json:"name"`
	Priority int        `json:"priority,omitempty"`
	Mode     guard.Mode `json:"mode,omitempty"`
	// Matched says that its matchers and its condition hold; Why says what does not.
	Matched bool   `json:"matched"`
	Why     string `json:"why,omitempty"`
	// SupersededBy is the playbook that wins the same target.
	SupersededBy string `json:"supersededBy,omitempty"`
	// Target is what it would act on, with how it was found; nil when there is none,
	// and Why says why.
	Target     *action.Target  `json:"target,omitempty"`
	Resolution string          `json:"resolution,omitempty"`
	Remedies   []PlannedRemedy `json:"remedies,omitempty"`
	// Decision is that of the guards about the first change of the first remedy
	// that applies, and Guards what each of them says, in order.
	Decision *guard.Decision  `json:"decision,omitempty"`
	Guards   []guard.Decision `json:"guards,omitempty"`
}

// PlannedRemedy is one rung, as it would be planned now.
type PlannedRemedy struct {
	Name    string        `json:"name"`
	Applies bool          `json:"applies"`
	Why     string        `json:"why,omitempty"` // it does not, or could not be planned
	Steps   []PlannedStep `json:"steps,omitempty"`
}

// PlannedStep is the plan of one step.
type PlannedStep struct {
	Name    string `json:"name"`
	Action  string `json:"action"`
	Summary string `json:"summary"`
	Diff    string `json:"diff,omitempty"`
	Noop    bool   `json:"noop,omitempty"`
	// Decision is what the guards would say about the step if it came now, nil for
	// one that changes nothing.
	Decision *guard.Decision `json:"decision,omitempty"`
}

// Acts returns what would happen in a line.
func (p *Considered) Acts() string {
	switch {
	case !p.Matched:
		return "does not match: " + p.Why
	case p.SupersededBy != "":
		return "gives way to " + p.SupersededBy
	case p.Target == nil:
		return "finds no target: " + p.Why
	case p.Decision == nil:
		return "changes nothing: " + strings.TrimSpace(p.Why+" no remedy applies")
	case p.Decision.Verdict == guard.Admit:
		return "would act now"
	case p.Decision.Verdict == guard.NeedsApproval:
		return "would ask a person: " + p.Decision.Message
	case p.Decision.Verdict == guard.Simulate:
		return "would only record: " + p.Decision.Message
	case p.Decision.Verdict == guard.Delay:
		return "would wait (" + string(p.Decision.Reason) + "): " + p.Decision.Message
	}
	return "would refuse (" + string(p.Decision.Reason) + "): " + p.Decision.Message
}
