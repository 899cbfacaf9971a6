package capacity

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// blocked names the budgets that would refuse to let a pod go, by the rules of
// the eviction subresource.
func blocked(budgets []policyv1.PodDisruptionBudget, q Question) []string {
	var out []string
	for i := range q.Pods {
		pod := &q.Pods[i]
		if ended(pod) || pod.Status.Phase == corev1.PodPending || pod.DeletionTimestamp != nil || q.Deletes && !serves(pod) {
			continue
		}
		var mine []*policyv1.PodDisruptionBudget
		for j := range budgets {
			b := &budgets[j]
			if b.Namespace != pod.Namespace {
				continue
			}
			selector, err := metav1.LabelSelectorAsSelector(b.Spec.Selector)
			if err != nil {
				out = append(out, fmt.Sprintf("%s/%s has a selector that cannot be read: %v", b.Namespace, b.Name, err))
				continue
			}
			if selector.Matches(labels.Set(pod.Labels)) {
				mine = append(mine, b)
			}
		}
		switch {
		case len(mine) > 1:
			out = append(out, fmt.Sprintf("%d budgets select pod %s, and evictions need one at most: %s, %s", len(mine), key(pod), mine[0].Name, mine[1].Name))
		case len(mine) == 1 && !lets(mine[0], pod):
			out = append(out, fmt.Sprintf("%s/%s allows no disruption of pod %s (%d of %d healthy pods needed are there)",
				mine[0].Namespace, mine[0].Name, key(pod), mine[0].Status.CurrentHealthy, mine[0].Status.DesiredHealthy))
		}
	}
	return firstOfEach(out)
}

func lets(b *policyv1.PodDisruptionBudget, pod *corev1.Pod) bool {
	if !serves(pod) {
		if p := b.Spec.UnhealthyPodEvictionPolicy; p != nil && *p == policyv1.AlwaysAllow {
			return true
		}
		if b.Status.CurrentHealthy >= b.Status.DesiredHealthy && b.Status.DesiredHealthy > 0 {
			return true
		}
	}
	return b.Status.ObservedGeneration >= b.Generation && b.Status.DisruptionsAllowed >= 1
}

// serves reports whether the pod is ready.
func serves(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}
