package kube

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/alertmedic/alertmedic/internal/action"
)

// crashWindow is how recent a container's failed end must be to count against
// its workload although it runs again. Between two crashes a container without
// a readiness probe looks well; the window must outlast the time between two
// checks, and stableFor does the rest.
const crashWindow = time.Minute

// workloadHealth judges a controller of pods by its status and by its pods.
func (c *Client) workloadHealth(ctx context.Context, object *unstructured.Unstructured) (Health, error) {
	out, err := rolloutHealth(object)
	if err != nil {
		return Health{}, err
	}
	if out.State == Healthy && out.Reason == scaledToZero {
		return out, nil
	}
	pods, err := c.podsOf(ctx, object)
	if err != nil {
		return Health{}, err
	}
	return withPods(out, pods, c.now()), nil
}

// withPods adds to a rollout's health what its pods show: a crash loop is
// unhealthy whatever the counts say, and it explains counts that fall short.
func withPods(out Health, pods []corev1.Pod, now time.Time) Health {
	var broken []string
	for i := range pods {
		if why := brokenContainer(&pods[i], now); why != "" {
			broken = append(broken, "pod "+pods[i].Name+": "+why)
		}
	}
	if len(broken) == 0 {
		return out
	}
	slices.Sort(broken)
	if len(broken) > 3 {
		broken = append(broken[:3], fmt.Sprintf("and %d more", len(broken)-3))
	}
	detail := strings.Join(broken, "; ")
	if out.State == Healthy {
		return unhealthy(healthCrashLooping, "%s", detail)
	}
	out.Message += "; " + detail
	return out
}

// brokenContainer says which container of the pod keeps failing, "" if none does.
func brokenContainer(pod *corev1.Pod, now time.Time) string {
	if pod.DeletionTimestamp != nil {
		return "" // on its way out: its successor counts
	}
	for _, s := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
		if w := s.State.Waiting; w != nil && (strings.HasSuffix(w.Reason, "BackOff") || strings.HasPrefix(w.Reason, "Err") ||
			strings.HasSuffix(w.Reason, "Error") || strings.HasPrefix(w.Reason, "Invalid")) {
			return fmt.Sprintf("container %s: %s", s.Name, w.Reason)
		}
		if t := s.LastTerminationState.Terminated; t != nil && t.ExitCode != 0 && s.RestartCount > 0 && now.Sub(t.FinishedAt.Time) < crashWindow {
			return fmt.Sprintf("container %s ended with exit code %d less than %s ago", s.Name, t.ExitCode, crashWindow)
		}
	}
	return ""
}

const scaledToZero = "scaled-to-zero"

// rolloutHealth judges the status of a controller of pods.
func rolloutHealth(object *unstructured.Unstructured) (Health, error) {
	switch action.Kind(object.GetKind()) {
	case action.KindDeployment:
		d, err := typed[appsv1.Deployment](object)
		if err != nil {
			return Health{}, err
		}
		return deploymentHealth(d), nil
	case action.KindStatefulSet:
		s, err := typed[appsv1.StatefulSet](object)
		if err != nil {
			return Health{}, err
		}
		return statefulSetHealth(s), nil
	case action.KindDaemonSet:
		d, err := typed[appsv1.DaemonSet](object)
		if err != nil {
			return Health{}, err
		}
		return daemonSetHealth(d), nil
	case action.KindReplicaSet:
		r, err := typed[appsv1.ReplicaSet](object)
		if err != nil {
			return Health{}, err
		}
		return replicaSetHealth(r), nil
	}
	return unknown("unsupported", "no health check for %s", object.GetKind()), nil
}

func wished(replicas *int32) int32 {
	if replicas == nil {
		return 1 // the API's default
	}
	return *replicas
}

// count is one number that must reach another.
type count struct {
	reason string
	have   int32
	want   int32
	format string
}

// allReached returns the first count that falls short.
func allReached(counts ...count) (Health, bool) {
	for _, c := range counts {
		if c.have < c.want {
			return unhealthy(c.reason, c.format, c.have, c.want), false
		}
	}
	return Health{}, true
}

func unobserved(kind string, generation, observed int64) (Health, bool) {
	if observed >= generation && observed > 0 {
		return Health{}, false
	}
	return unhealthy(healthUnobserved, "the %s controller has observed generation %d of %d", kind, observed, generation), true
}

func deploymentHealth(d *appsv1.Deployment) Health {
	if out, stale := unobserved("Deployment", d.Generation, d.Status.ObservedGeneration); stale {
		return out
	}
	for _, condition := range d.Status.Conditions {
		switch {
		case condition.Type == appsv1.DeploymentProgressing && condition.Reason == "ProgressDeadlineExceeded":
			return unhealthy("progress-deadline-exceeded", "the rollout has made no progress in time: %s", condition.Message)
		case condition.Type == appsv1.DeploymentReplicaFailure && condition.Status == corev1.ConditionTrue:
			return unhealthy("replica-failure", "pods cannot be created: %s", condition.Message)
		}
	}
	want, status := wished(d.Spec.Replicas), d.Status
	if out, ok := allReached(
		count{"rolling-out", status.UpdatedReplicas, want, "%d of %d replicas are updated"},
		count{"rolling-out", status.UpdatedReplicas, status.Replicas, "%d replicas are updated, %d exist: old ones are still there"},
		count{"unavailable-replicas", status.ReadyReplicas, want, "%d of %d replicas are ready"},
		count{"unavailable-replicas", status.AvailableReplicas, want, "%d of %d replicas are available"},
	); !ok {
		return out
	}
	return available(want)
}

func available(want int32) Health {
	if want == 0 {
		return healthy(scaledToZero, "no replicas are wished and none is left")
	}
	return healthy("available", "all %d replicas are updated and available", want)
}

func statefulSetHealth(s *appsv1.StatefulSet) Health {
	if out, stale := unobserved("StatefulSet", s.Generation, s.Status.ObservedGeneration); stale {
		return out
	}
	want, status := wished(s.Spec.Replicas), s.Status
	// With OnDelete people update pod by pod; with a partition only the upper
	// ordinals are to be updated.
	updated := want
	if rolling := s.Spec.UpdateStrategy.RollingUpdate; rolling != nil && rolling.Partition != nil {
		updated = max(0, want-*rolling.Partition)
	}
	if s.Spec.UpdateStrategy.Type == appsv1.OnDeleteStatefulSetStrategyType || status.UpdateRevision == status.CurrentRevision {
		updated = 0 // nothing is to be updated, or everything is
	}
	if out, ok := allReached(
		count{"rolling-out", status.UpdatedReplicas, updated, "%d of %d replicas are updated"},
		count{"unavailable-replicas", status.Replicas, want, "%d of %d replicas exist"},
		count{"unavailable-replicas", status.ReadyReplicas, want, "%d of %d replicas are ready"},
		count{"unavailable-replicas", status.AvailableReplicas, want, "%d of %d replicas are available"},
		count{"scaling-down", want, status.Replicas, "%d replicas are wished, %d exist"},
	); !ok {
		return out
	}
	return available(want)
}

func daemonSetHealth(d *appsv1.DaemonSet) Health {
	if out, stale := unobserved("DaemonSet", d.Generation, d.Status.ObservedGeneration); stale {
		return out
	}
	status := d.Status
	want, updated := status.DesiredNumberScheduled, status.DesiredNumberScheduled
	if d.Spec.UpdateStrategy.Type == appsv1.OnDeleteDaemonSetStrategyType {
		updated = 0
	}
	if out, ok := allReached(
		count{"rolling-out", status.UpdatedNumberScheduled, updated, "%d of %d pods are updated"},
		count{"unavailable-replicas", status.NumberReady, want, "%d of %d pods are ready"},
		count{"unavailable-replicas", status.NumberAvailable, want, "%d of %d pods are available"},
	); !ok {
		return out
	}
	return available(want)
}

func replicaSetHealth(r *appsv1.ReplicaSet) Health {
	if out, stale := unobserved("ReplicaSet", r.Generation, r.Status.ObservedGeneration); stale {
		return out
	}
	want, status := wished(r.Spec.Replicas), r.Status
	if out, ok := allReached(
		count{"unavailable-replicas", status.ReadyReplicas, want, "%d of %d replicas are ready"},
		count{"unavailable-replicas", status.AvailableReplicas, want, "%d of %d replicas are available"},
		count{"scaling-down", want, status.Replicas, "%d replicas are wished, %d exist"},
	); !ok {
		return out
	}
	return available(want)
}

// podsOf lists the live pods that the workload controls.
func (c *Client) podsOf(ctx context.Context, workload *unstructured.Unstructured) ([]corev1.Pod, error) {
	selector, err := podSelector(workload)
	if err != nil {
		return nil, err
	}
	namespace := workload.GetNamespace()
	options := metav1.ListOptions{LabelSelector: selector.String()}
	controllers := map[string]bool{string(workload.GetUID()): true}
	if action.Kind(workload.GetKind()) == action.KindDeployment {
		sets, err := c.own.typed.AppsV1().ReplicaSets(namespace).List(ctx, options)
		if err != nil {
			return nil, err
		}
		for i := range sets.Items {
			if owner, ok := controllerOf(&sets.Items[i]); ok && owner.UID == string(workload.GetUID()) {
				controllers[string(sets.Items[i].UID)] = true
			}
		}
	}
	pods, err := c.own.typed.CoreV1().Pods(namespace).List(ctx, options)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(pods.Items, func(p corev1.Pod) bool {
		owner, ok := controllerOf(&p)
		return !ok || !controllers[owner.UID]
	}), nil
}

// podSelector returns spec.selector of a workload; an empty one is an error,
// since it would select every pod.
func podSelector(workload *unstructured.Unstructured) (labels.Selector, error) {
	raw, _, _ := unstructured.NestedMap(workload.Object, "spec", "selector")
	set, err := typed[metav1.LabelSelector](&unstructured.Unstructured{Object: raw})
	if err != nil {
		return nil, err
	}
	selector, err := metav1.LabelSelectorAsSelector(set)
	if err != nil {
		return nil, fmt.Errorf("selector of %s: %w", refOf(workload), err)
	}
	if selector.Empty() {
		return nil, fmt.Errorf("selector of %s is empty", refOf(workload))
	}
	return selector, nil
}
