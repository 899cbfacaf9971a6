package kube

import (
	"context"
	"fmt"
	"strings"
	"unicode/utf8"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
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

// EmitEvent reports on the target with a Kubernetes Event of that type (Normal
// or Warning), as alertmedic itself. It is best effort: a failure is logged and
// changes nothing. reason is CamelCase; message is cut at 1024 bytes.
func (c *Client) EmitEvent(ctx context.Context, target action.Target, eventType, reason, message, runID string) {
	if target.IsZero() {
		return
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	event := c.event(target, eventType, reason, message, runID)
	if _, err := c.own.typed.EventsV1().Events(event.Namespace).Create(ctx, event, metav1.CreateOptions{}); err != nil {
		c.log.WarnContext(ctx, "no Event was written", "target", target.Ref.String(), "reason", reason, "error", err)
	}
}

func (c *Client) event(target action.Target, eventType, reason, message, runID string) *eventsv1.Event {
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
	now := c.now()
	suffix := fmt.Sprintf(".%x", now.UnixNano())
	apiVersion := "v1"
	if gvr, ok := resources[target.Kind]; ok {
		apiVersion = gvr.GroupVersion().String()
	}
	return &eventsv1.Event{
		ObjectMeta: metav1.ObjectMeta{
			Name:        truncateName(target.Name, maxName-len(suffix)) + suffix,
			Namespace:   namespace,
			Annotations: map[string]string{RunAnnotation: runID},
		},
		EventTime:           metav1.NewMicroTime(now),
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
