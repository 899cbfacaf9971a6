package notify

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/alertmedic/alertmedic/internal/journal"
	"github.com/alertmedic/alertmedic/internal/store"
)

// The reasons of Kubernetes Events, as `kubectl get events` shows them.
const (
	EventStarted  = "RemediationStarted"
	EventApproval = "RemediationNeedsApproval"
	EventFailed   = "RemedyFailed"
	EventHealed   = "RemediationHealed"
	EventEnded    = "RemediationEnded" // any outcome but healed
)

// maxEventMessage is the API server's limit of an Event's note.
const maxEventMessage = 1024

// eventOf returns the Event that an update is worth, if any.
func eventOf(u Update) (EventReport, bool) {
	e := EventReport{RunID: u.Run.ID, Target: u.Run.Target, Type: "Normal", At: u.At.UTC()}
	text := u.Message
	if text == "" {
		text = u.Run.Message
	}
	switch u.Event {
	case journal.StepIntent:
		e.Reason = EventStarted
	case journal.ApprovalRequested:
		e.Reason = EventApproval
	case journal.RemedyFailed:
		e.Reason, e.Type = EventFailed, "Warning"
	case journal.RunEnded:
		switch u.Run.Outcome {
		case store.Healed:
			e.Reason = EventHealed
		case store.Superseded, store.Simulated:
			e.Reason = EventEnded
		default:
			e.Reason, e.Type = EventEnded, "Warning"
		}
		text = fmt.Sprintf("%s: %s", u.Run.Outcome, text)
	default:
		return e, false
	}
	tail := fmt.Sprintf(" (playbook %s, run %s)", u.Run.Playbook, u.Run.ID)
	e.Message = truncate(text, maxEventMessage-len(tail)) + tail
	return e, !u.Run.Target.IsZero()
}

// EventEmitter writes a Kubernetes Event on the target; the kube package's
// client is one. id is the same at each try: writing it again does nothing. What
// no try can mend is a PermanentError.
type EventEmitter interface {
	EmitEvent(ctx context.Context, id string, e EventReport) error
}

// EventPatience is for how long an Event is tried: the API server's own ones are
// gone after an hour, and an outage of the night should still be told.
const EventPatience = 3 * time.Hour

// EventSender delivers the messages of ChannelEvent.
type EventSender struct {
	Emitter EventEmitter
}

// Channel returns ChannelEvent.
func (s *EventSender) Channel() string { return ChannelEvent }

// GiveUp implements Impatient: by age and not by the number of tries, so that an
// API server which is away for a while costs no Event.
func (s *EventSender) GiveUp(m store.Message, now time.Time) bool {
	var e EventReport
	if err := json.Unmarshal(m.Payload, &e); err != nil || e.At.IsZero() {
		return true
	}
	return now.Sub(e.At) > EventPatience
}

// Send emits the Event of one message.
func (s *EventSender) Send(ctx context.Context, m store.Message) (Result, error) {
	var e EventReport
	if err := json.Unmarshal(m.Payload, &e); err != nil {
		return Result{}, &PermanentError{Err: fmt.Errorf("decode the event: %w", err)}
	}
	if e.Target.IsZero() {
		return Result{}, &PermanentError{Err: fmt.Errorf("the event of run %s names no target", e.RunID)}
	}
	if err := s.Emitter.EmitEvent(ctx, m.ID, e); err != nil {
		return Result{}, fmt.Errorf("emit the event on %s: %w", e.Target, err)
	}
	return Result{}, nil
}
