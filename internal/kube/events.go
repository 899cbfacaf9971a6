package kube

import (
	"context"

	"github.com/alertmedic/alertmedic/internal/action"
)

// RunAnnotation carries the run's id on everything that alertmedic writes.
const RunAnnotation = "alertmedic.io/run"

// EmitEvent reports on the target with a Kubernetes Event of that type (Normal
// or Warning). It is best effort: a failure is logged and changes nothing.
func (c *Client) EmitEvent(ctx context.Context, target action.Target, eventType, reason, message, runID string) {
}
