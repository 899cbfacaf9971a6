package kube

import (
	"context"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/alertmedic/alertmedic/internal/action"
)

// RunAnnotation carries the run's id on everything that alertmedic writes.
const RunAnnotation = "alertmedic.io/run"

const (
	eventController = "alertmedic.io/alertmedic"
	eventAction     = "Remediate"

	// Limits of the Events API, in bytes.
	maxNote   = 1024
	maxReason = 128
	maxName   = 253
)

// Event reports on a target, as `kubectl get events` shows it.
type Event struct {
	// ID is the same at every try to write the Event, which is made once only. It
	// becomes a part of the Event's name: lower case letters, digits and dashes.
	ID      string
	Target  action.Target
	Type    string // Normal or Warning; Normal for any other
	Reason  string // CamelCase
	Message string // cut at 1024 bytes
	RunID   string
	At      time.Time // when it happened; zero means now
}

// EmitEvent writes an Event as alertmedic itself. One that is there already, from
// a try whose answer was lost, is a success. An error is an *action.Error.
func (c *Client) EmitEvent(ctx context.Context, e Event) error {
	ctx, cancel := bounded(ctx)
	defer cancel()
	event := c.event(e)
	_, err := c.own.typed.EventsV1().Events(event.Namespace).Create(ctx, event, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		// Not "sent": sending it again does no harm.
		return fmt.Errorf("kube: write the Event %s on %s: %w", e.Reason, e.Target.Ref, Classify(err, false))
	}
	return nil
}

func (c *Client) event(e Event) *eventsv1.Event {
	target, eventType, reason, message := e.Target, e.Type, e.Reason, e.Message
	namespace := target.Namespace
	if namespace == "" {
		namespace = metav1.NamespaceDefault // where Events on cluster-scoped objects belong
	}
	if eventType != corev1.EventTypeWarning {
		eventType = corev1.EventTypeNormal
	}
	if message == "" {
		message = reason
	}
	instance := c.options.Self.Pod
	if instance == "" {
		instance = "alertmedic"
	}
	at := e.At
	if at.IsZero() {
		at = c.now()
	}
	suffix := "." + e.ID
	apiVersion := "v1"
	if gvr, ok := resources[target.Kind]; ok {
		apiVersion = gvr.GroupVersion().String()
	}
	return &eventsv1.Event{
		ObjectMeta: metav1.ObjectMeta{
			Name:        truncateName(target.Name, maxName-len(suffix)) + suffix,
			Namespace:   namespace,
			Annotations: map[string]string{RunAnnotation: e.RunID},
		},
		EventTime:           metav1.NewMicroTime(at),
		ReportingController: eventController,
		ReportingInstance:   truncate(instance, maxReason),
		Action:              eventAction,
		Reason:              truncate(reason, maxReason),
		Type:                eventType,
		Note:                truncate(message, maxNote),
		Regarding: corev1.ObjectReference{
			APIVersion: apiVersion, Kind: string(target.Kind),
			Namespace: target.Namespace, Name: target.Name, UID: types.UID(target.UID),
		},
	}
}

// truncate cuts text to at most limit bytes, at a rune's boundary, and mends
// invalid UTF-8, which the API server would refuse.
func truncate(text string, limit int) string {
	text = strings.ToValidUTF8(text, "�")
	if len(text) <= limit {
		return text
	}
	const mark = "…"
	cut := limit - len(mark)
	for cut > 0 && !utf8.RuneStart(text[cut]) {
		cut--
	}
	return text[:cut] + mark
}

// truncateName cuts an object's name, which is ASCII and must stay a valid name.
func truncateName(name string, limit int) string {
	return strings.TrimRight(name[:min(len(name), limit)], ".-")
}
