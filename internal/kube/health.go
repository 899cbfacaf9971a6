package kube

import (
	"context"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/alertmedic/alertmedic/internal/action"
)

// State is what a health check says.
type State string

// The states. Unknown is neither: the API server did not answer, or the object
// does not tell.
const (
	Healthy   State = "Healthy"
	Unhealthy State = "Unhealthy"
	Unknown   State = "Unknown"
)

// Health is the observed state of a target.
type Health struct {
	State State `json:"state"`
	// Reason is a few lower-case words joined by hyphens, such as "not-ready".
	Reason     string    `json:"reason"`
	Message    string    `json:"message"`
	ObservedAt time.Time `json:"observedAt"`
	// Object is the raw target, nil when it is not there.
	Object map[string]any `json:"object,omitempty"`
}

// Seen reports whether the API server told of the object: false means that it
// could not be asked, which says nothing about the object.
func (h Health) Seen() bool { return h.State != Unknown || h.Reason != healthUnreachable }

func healthy(reason, format string, args ...any) Health {
	return Health{State: Healthy, Reason: reason, Message: fmt.Sprintf(format, args...)}
}

func unhealthy(reason, format string, args ...any) Health {
	return Health{State: Unhealthy, Reason: reason, Message: fmt.Sprintf(format, args...)}
}

func unknown(reason, format string, args ...any) Health {
	return Health{State: Unknown, Reason: reason, Message: fmt.Sprintf(format, args...)}
}

// Reasons that more than one kind gives.
const (
	healthGone         = "target-gone"
	healthUnobserved   = "not-observed"
	healthCrashLooping = "crash-looping"
	healthUnreachable  = "unavailable"
)

// Health runs the built-in health check of the target's kind, by name and not
// by UID: a pod, a Job or a node that was replaced is judged by its successor.
//
//   - Node: Ready, no pressure, network available. Schedulable or not is no
//     matter of health. A node that is gone is Unknown: it may have been
//     replaced under another name, or lost.
//   - Deployment, StatefulSet, DaemonSet, ReplicaSet: the generation observed,
//     all replicas updated and available, no container crash-looping; gone is
//     Unhealthy. Zero replicas wished is Healthy.
//   - Pod: its top controller's health, whichever pod carries on; without one,
//     the pod itself must be Ready. A custom controller is judged by the
//     workloads and pods that it owns.
//   - Job: complete. Failed is Unhealthy, still running Unknown. A Job that is
//     gone is judged by the newest Job of its CronJob, if it has one.
//   - Service: at least one ready endpoint, and every workload behind it healthy.
//   - PersistentVolumeClaim: bound, and as large as requested.
//   - HorizontalPodAutoscaler: active, able to scale, and not at its maximum.
//
// What cannot be observed is Unknown with a nil error; an error means a target
// that no health check is for.
func (c *Client) Health(ctx context.Context, target action.Target) (Health, error) {
	at := c.now()
	if target.IsZero() {
		return Health{State: Unknown, Reason: healthGone, ObservedAt: at}, fmt.Errorf("kube: health of an empty target")
	}
	if _, ok := resources[target.Kind]; !ok {
		return Health{State: Unknown, Reason: "unsupported", ObservedAt: at}, fmt.Errorf("kube: no health check for kind %s", target.Kind)
	}
	ctx, cancel := bounded(ctx)
	defer cancel()

	object, err := c.get(ctx, target.Kind, target.Namespace, target.Name)
	if err != nil && !apierrors.IsNotFound(err) {
		out := unreachable(target.Ref, err)
		out.ObservedAt = at
		return out, nil
	}
	if err != nil {
		object = nil
	}
	out, err := c.healthOf(ctx, target, object)
	if err != nil {
		out = unreachable(target.Ref, err)
	}
	out.ObservedAt = at
	if object != nil {
		out.Object = object.Object
	}
	return out, nil
}

func unreachable(ref action.Ref, err error) Health {
	return unknown(healthUnreachable, "%s cannot be observed: %v", ref, err)
}

func missing(ref action.Ref) Health {
	return unhealthy(healthGone, "%s is not there", ref)
}

// healthOf gathers what the check of the kind needs besides the object, which
// is nil when it is gone. An error means that the rest could not be read.
func (c *Client) healthOf(ctx context.Context, target action.Target, object *unstructured.Unstructured) (Health, error) {
	switch target.Kind {
	case action.KindNode:
		if object == nil {
			return unknown(healthGone, "%s is not there: replaced under another name, or lost", target.Ref), nil
		}
		return nodeHealth(object)
	case action.KindPod:
		return c.podHealth(ctx, target, object)
	case action.KindJob:
		return c.jobHealth(ctx, target, object)
	}
	if object == nil {
		return missing(target.Ref), nil
	}
	switch target.Kind {
	case action.KindService:
		return c.serviceHealth(ctx, object)
	case action.KindPersistentVolumeClaim:
		return claimHealth(object)
	case action.KindHPA:
		return autoscalerHealth(object)
	case kindCronJob:
		return c.cronJobHealth(ctx, target.Ref)
	}
	return c.workloadHealth(ctx, object)
}
