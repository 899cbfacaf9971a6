// Package pod holds the actions on single pods.
package pod

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/alertmedic/alertmedic/internal/action"
	"github.com/alertmedic/alertmedic/internal/kube"
	"github.com/alertmedic/alertmedic/k8sactions/contract"
	"github.com/alertmedic/alertmedic/k8sactions/live"
)

// pollEvery is how long to leave a terminating pod alone.
const pollEvery = 2 * time.Second

// of returns the pod that the target stands for: the target itself, or the pod
// that the alert named when the target is its workload.
func of(t action.Target) (action.Ref, error) {
	if t.IsZero() {
		return action.Ref{}, action.Errorf(action.ReasonRefused, "the target is empty")
	}
	if t.Kind == action.KindPod {
		return t.Ref, nil
	}
	if t.Pod == nil || t.Pod.IsZero() || t.Pod.UID == "" {
		return action.Ref{}, action.Errorf(action.ReasonRefused, "the alert names no pod of %s: this action acts on one pod, never on all of a workload", t.Ref)
	}
	if t.Pod.Namespace != t.Namespace {
		return action.Ref{}, action.Errorf(action.ReasonRefused, "%s is not in the namespace of %s", t.Pod, t.Ref)
	}
	ref := *t.Pod
	ref.Group, ref.Kind = "", action.KindPod
	return ref, nil
}

// get reads the pod and returns nil when it, or its UID, is gone.
func get(ctx context.Context, s contract.Session, ref action.Ref) (*corev1.Pod, error) {
	p, err := s.Typed().CoreV1().Pods(ref.Namespace).Get(ctx, ref.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, kube.Classify(err, false)
	}
	if string(p.UID) != ref.UID {
		return nil, nil
	}
	return p, nil
}

// IsMirror reports a static pod: the kubelet makes it from a file, and deleting
// its mirror in the API does nothing to it.
func IsMirror(p *corev1.Pod) bool {
	_, ok := p.Annotations[corev1.MirrorPodAnnotationKey]
	return ok
}

// Finished reports a pod that will not run again.
func Finished(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
}

// refuse says why a pod must not be taken away.
func refuse(p *corev1.Pod, ref action.Ref, allowUnmanaged bool) error {
	switch {
	case IsMirror(p):
		return action.Errorf(action.ReasonRefused, "%s is a static pod of node %s: change the file that the kubelet reads", ref, p.Spec.NodeName)
	case metav1.GetControllerOf(p) == nil && !allowUnmanaged:
		return action.Errorf(action.ReasonRefused, "%s has no controller that would replace it; allowUnmanaged: true takes it away all the same", ref)
	}
	return nil
}

// plan reads the pod and describes how it will be taken away.
func plan(ctx context.Context, s contract.Session, r action.Request, verb string, grace *action.Duration, allowUnmanaged bool) (action.Plan, error) {
	ref, err := of(r.Target)
	if err != nil {
		return action.Plan{}, err
	}
	obj, err := live.GetAlive(ctx, s, ref)
	if err != nil {
		return action.Plan{}, err
	}
	p := &corev1.Pod{}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(obj.Object, p); err != nil {
		return action.Plan{}, action.Errorf(action.ReasonUnsupported, "read %s: %w", ref, err)
	}
	if err := refuse(p, ref, allowUnmanaged); err != nil {
		return action.Plan{}, err
	}
	before := describe(p)
	change := live.Change(ref, before, nil)
	return action.Plan{
		Summary:   fmt.Sprintf("%s pod %s/%s (uid %s), grace period %s", verb, ref.Namespace, ref.Name, ref.UID, graceText(p, grace)),
		Changes:   []action.FieldChange{change},
		Diff:      live.Diff(ref, before, nil),
		Displaces: displaced(p),
		Before:    contract.Encode(planned{Pod: ref}),
	}, nil
}

// planned is the before-state of the actions on a pod.
type planned struct {
	Pod action.Ref `json:"pod"`
}

func target(c contract.Call) (action.Ref, error) {
	var b planned
	if err := contract.Decode(c.Plan.Before, &b); err != nil {
		return action.Ref{}, err
	}
	if b.Pod.UID == "" {
		return action.Ref{}, action.Errorf(action.ReasonInternal, "the plan names no pod")
	}
	return b.Pod, nil
}

func displaced(p *corev1.Pod) int {
	if Finished(p) {
		return 0
	}
	return 1
}

// describe is what a person wants to know of a pod that goes.
func describe(p *corev1.Pod) map[string]any {
	out := map[string]any{"uid": string(p.UID), "phase": string(p.Status.Phase), "created": p.CreationTimestamp.UTC().Format(time.RFC3339)}
	if p.Spec.NodeName != "" {
		out["node"] = p.Spec.NodeName
	}
	if o := metav1.GetControllerOf(p); o != nil {
		out["controller"] = o.Kind + "/" + o.Name
	}
	restarts := map[string]any{}
	for _, c := range p.Status.ContainerStatuses {
		restarts[c.Name] = int64(c.RestartCount)
	}
	if len(restarts) > 0 {
		out["restarts"] = restarts
	}
	return out
}

func graceText(p *corev1.Pod, grace *action.Duration) string {
	if grace != nil {
		return grace.String()
	}
	if s := p.Spec.TerminationGracePeriodSeconds; s != nil {
		return fmt.Sprintf("%ds (the pod's own)", *s)
	}
	return "the pod's own"
}

// gone is the end of every action that takes a pod away.
func gone(ref action.Ref) action.Result {
	return action.Result{Done: true, Message: fmt.Sprintf("pod %s/%s (uid %s) is gone", ref.Namespace, ref.Name, ref.UID)}
}

// wait comes back until the pod is gone. It is never removed by force: nobody
// but the kubelet knows whether its processes have ended.
func wait(ref action.Ref, p *corev1.Pod) action.Result {
	return action.Result{Again: pollEvery, State: contract.Encode(map[string]bool{"sent": true}),
		Message: fmt.Sprintf("pod %s/%s is terminating on node %s", ref.Namespace, ref.Name, p.Spec.NodeName)}
}

// take carries out what plan has planned: it looks at the pod once more, has send
// ask the API server for its end, and waits for it. send returns target-gone when
// the pod or its UID is gone.
func take(ctx context.Context, s contract.Session, c contract.Call, verb string, allowUnmanaged bool, send func(ref action.Ref) error) (action.Result, error) {
	ref, err := target(c)
	if err != nil {
		return action.Result{}, err
	}
	p, err := get(ctx, s, ref)
	if err != nil {
		return action.Result{}, err
	}
	if p == nil {
		return gone(ref), nil
	}
	if p.DeletionTimestamp != nil {
		return wait(ref, p), nil
	}
	if err := refuse(p, ref, allowUnmanaged); err != nil {
		return action.Result{}, err
	}
	switch err := send(ref); {
	case isGone(err):
		return gone(ref), nil // ended, or replaced, between our two calls
	case err != nil:
		return action.Result{}, err
	case c.Plan.Request.DryRun:
		return action.Result{Done: true, Message: fmt.Sprintf("the API server would %s pod %s/%s", verb, ref.Namespace, ref.Name)}, nil
	}
	return wait(ref, p), nil
}

// observe concludes from the pod whether it was taken away.
func observe(ctx context.Context, s contract.Session, c contract.Call) (action.Observation, error) {
	ref, err := target(c)
	if err != nil {
		return action.Undetermined, err
	}
	p, err := get(ctx, s, ref)
	switch {
	case err != nil:
		return action.Undetermined, err
	case p == nil || p.DeletionTimestamp != nil:
		return action.Applied, nil
	}
	return action.NotApplied, nil
}
