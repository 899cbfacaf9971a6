// Package notify tells people what happens in a run: Slack messages and
// Kubernetes Events. The engine's side (Reporter) turns a change of a run into
// outbox messages, written in the transaction of the change; the delivering
// side (Deliverer) sends them later, at least once, and never changes a run.
package notify

import (
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/alertmedic/alertmedic/internal/action"
	"github.com/alertmedic/alertmedic/internal/alert"
	"github.com/alertmedic/alertmedic/internal/journal"
	"github.com/alertmedic/alertmedic/internal/store"
)

// The channels of the outbox.
const (
	ChannelSlack = "slack"
	ChannelEvent = "event"
)

// RunReport is the payload of a Slack message: all that one needs to render the
// state of a run, so that delivery reads nothing else. It is data at rest in the
// outbox: fields are only ever added.
type RunReport struct {
	RunID      string        `json:"runID"`
	Event      journal.Kind  `json:"event"` // what just happened
	At         time.Time     `json:"at"`
	Playbook   string        `json:"playbook"`
	AlertName  string        `json:"alertname"`
	Severity   string        `json:"severity,omitempty"`
	Cluster    string        `json:"cluster,omitempty"`
	Target     string        `json:"target"` // "Deployment/shop/web"
	Phase      store.Phase   `json:"phase"`
	Wait       store.Wait    `json:"wait,omitempty"`
	Outcome    store.Outcome `json:"outcome,omitempty"`
	Reason     string        `json:"reason,omitempty"`
	Message    string        `json:"message,omitempty"`
	Plans      []string      `json:"plans,omitempty"`      // summaries of the current remedy's steps
	Rungs      []string      `json:"rungs,omitempty"`      // how earlier remedies ended
	PlanHash   string        `json:"planHash,omitempty"`   // while an approval is asked for
	URL        string        `json:"url,omitempty"`        // of the run, for people
	Channel    string        `json:"channel"`              // where it goes
	Thread     []string      `json:"thread,omitempty"`     // lines for the thread: what is new
	FiredAt    time.Time     `json:"firedAt,omitzero"`     // of the first alert
	EndedAt    time.Time     `json:"endedAt,omitzero"`     // of the run
	AlertCount int           `json:"alertCount,omitempty"` // signals that the run answers
}

// EventReport is the payload of a Kubernetes Event on the target of a run.
type EventReport struct {
	RunID   string        `json:"runID"`
	Target  action.Target `json:"target"`
	Type    string        `json:"type"` // Normal or Warning
	Reason  string        `json:"reason"`
	Message string        `json:"message"`
	At      time.Time     `json:"at,omitzero"` // when it happened
}

// Update is what happened in a run, as the engine knows it.
type Update struct {
	Run    store.Run
	Alerts []alert.Alert
	Steps  []store.Step // of the current remedy, in order
	Rungs  []string     // "restart-pod: not-healed (alert still firing)"
	Event  journal.Kind
	// Message says what happened; "" takes the run's.
	Message string
	// PlanHash is set while an approval is asked for.
	PlanHash string
	// SlackChannel is the playbook's own, "" for the configured one.
	SlackChannel string
	// At is when it happened.
	At time.Time
}

// Reporter makes outbox messages of updates. It is safe for concurrent use.
type Reporter struct {
	// SlackChannel is where reports go whose playbook names no channel; "" turns
	// Slack off.
	SlackChannel string
	// Events turns Kubernetes Events on.
	Events bool
	// ExternalURL is how people reach this service; "" leaves links out.
	ExternalURL string
}

// Messages returns what to put into the outbox, in the transaction of the
// update.
func (r *Reporter) Messages(u Update) []store.Message {
	var out []store.Message
	if r.SlackChannel != "" {
		out = append(out, message(ChannelSlack, u.Run.ID, r.Report(u)))
	}
	if r.Events {
		if e, ok := eventOf(u); ok {
			out = append(out, message(ChannelEvent, u.Run.ID, e))
		}
	}
	return out
}

func message(channel, runID string, payload any) store.Message {
	// Both payloads are plain data, which always marshals.
	data, err := json.Marshal(payload)
	if err != nil {
		data = json.RawMessage(`{}`)
	}
	return store.Message{ID: uuid.Must(uuid.NewV7()).String(), Channel: channel, RunID: runID, Key: runID, Payload: data}
}

// StormUpdate is what is known of a storm: one message stands for all the runs
// that it holds.
type StormUpdate struct {
	Scope   string // "nodes/prod"
	Since   time.Time
	Event   journal.Kind
	Message string
	At      time.Time
}

// StormMessages returns what to put into the outbox about a storm. There are no
// Kubernetes Events of it: it has no object.
func (r *Reporter) StormMessages(u StormUpdate) []store.Message {
	if r.SlackChannel == "" {
		return nil
	}
	id := "storm/" + u.Scope + "/" + u.Since.UTC().Format(time.RFC3339)
	rep := RunReport{RunID: id, Event: u.Event, At: u.At.UTC(), Target: u.Scope, Message: u.Message, Channel: r.SlackChannel, FiredAt: u.Since.UTC(),
		Thread: []string{eventTitle(u.Event, "") + ": " + u.Message}}
	if r.ExternalURL != "" {
		rep.URL = strings.TrimSuffix(r.ExternalURL, "/") + "/api/v1/runs?wait=guard"
	}
	return []store.Message{message(ChannelSlack, id, rep)}
}

// Report makes the payload of a Slack message.
func (r *Reporter) Report(u Update) RunReport {
	run := u.Run
	rep := RunReport{
		RunID: run.ID, Event: u.Event, At: u.At.UTC(), Playbook: run.Playbook, AlertName: run.AlertName,
		Cluster: run.Target.Cluster, Target: run.Target.String(), Phase: run.Phase, Wait: run.Wait,
		Outcome: run.Outcome, Reason: run.Reason, Message: u.Message, Rungs: u.Rungs, PlanHash: u.PlanHash,
		Channel: u.SlackChannel, FiredAt: run.FiredAt, EndedAt: run.EndedAt, AlertCount: len(u.Alerts),
	}
	if rep.Message == "" {
		rep.Message = run.Message
	}
	if rep.Channel == "" {
		rep.Channel = r.SlackChannel
	}
	if r.ExternalURL != "" {
		rep.URL = strings.TrimSuffix(r.ExternalURL, "/") + "/api/v1/runs/" + url.PathEscape(run.ID)
	}
	if len(u.Alerts) > 0 {
		rep.Severity = u.Alerts[0].Labels["severity"]
	}
	rep.Thread = []string{eventTitle(u.Event, run.Outcome) + ": " + rep.Message}
	for _, s := range u.Steps {
		var plan action.Plan
		if len(s.Plan) > 0 && json.Unmarshal(s.Plan, &plan) == nil && plan.Summary != "" {
			rep.Plans = append(rep.Plans, plan.Summary)
		}
		line := fmt.Sprintf("%s/%s %s: %s", s.RemedyName, s.Name, s.Action, s.Status)
		for _, more := range []string{s.Reason, s.Message} {
			if more != "" {
				line += ", " + more
			}
		}
		rep.Thread = append(rep.Thread, line)
		if u.Event == journal.ApprovalRequested && plan.Diff != "" {
			rep.Thread = append(rep.Thread, plan.Diff)
		}
	}
	return rep
}

// eventTitle names what happened, in a few words.
func eventTitle(k journal.Kind, o store.Outcome) string {
	switch k {
	case journal.ApprovalRequested:
		return "Waits for approval"
	case journal.ApprovalDecided:
		return "Approval decided"
	case journal.ApprovalVoided:
		return "Approval void"
	case journal.StepIntent:
		return "Remediation started"
	case journal.RemedyFailed:
		return "Remedy did not heal"
	case journal.VerifyStarted:
		return "Verifying"
	case journal.RunEnded:
		return "Ended " + string(o)
	case journal.StormBegan:
		return "Storm"
	case journal.StormGoesOn:
		return "The storm goes on"
	case journal.StormEnded:
		return "The storm is over"
	}
	return string(k)
}
