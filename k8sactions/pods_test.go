package k8sactions_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/alertmedic/alertmedic/internal/action"
	"github.com/alertmedic/alertmedic/internal/testcluster"
)

// bare creates a pod without a controller.
func (w *world) bare(t *testing.T, name string, change ...func(*corev1.Pod)) *corev1.Pod {
	t.Helper()
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": name}}, Spec: template(name, "shop/"+name+":1").Spec}
	for _, c := range change {
		c(p)
	}
	p, err := w.api.CoreV1().Pods(w.ns).Create(testContext(t), p, metav1.CreateOptions{})
	require.NoError(t, err)
	require.NoError(t, w.WaitPod(testContext(t), w.ns, name, testcluster.PodReady))
	return p
}

// budgetSettled waits until the controller has counted for the budget.
func (w *world) budgetSettled(t *testing.T, name string, healthy int32) {
	t.Helper()
	require.NoError(t, testcluster.Poll(testContext(t), func(ctx context.Context) (bool, error) {
		var b *policyv1.PodDisruptionBudget
		b, err := w.api.PolicyV1().PodDisruptionBudgets(w.ns).Get(ctx, name, metav1.GetOptions{})
		return err == nil && b.Status.ObservedGeneration >= b.Generation && b.Status.CurrentHealthy == healthy, err
	}))
}

func TestAPodOfAWorkloadIsTheOneThatTheAlertNamed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "pod.delete")
	d := w.deployment(t, "web", 2)
	pods := w.pods(t, "web")
	target := deploymentTarget(d)
	w.refused(t, target, "", action.ReasonRefused, "the alert names no pod")

	foreign := action.Ref{Kind: action.KindPod, Namespace: "kube-system", Name: "x", UID: "u"}
	target.Pod = &foreign
	w.refused(t, target, "", action.ReasonRefused, "is not in the namespace of")

	target.Pod = &action.Ref{Kind: action.KindPod, Namespace: w.ns, Name: pods[0].Name, UID: string(pods[0].UID)}
	plan := w.plan(t, target, `{}`)
	require.Equal(t, 1, plan.Displaces)
	require.Contains(t, plan.Summary, "grace period 1s (the pod's own)")
	w.done(t, plan)
	for _, p := range w.pods(t, "web") {
		require.NotEqual(t, pods[0].UID, p.UID)
		if p.UID == pods[1].UID {
			require.Nil(t, p.DeletionTimestamp)
		}
	}
}

func TestPodsThatMustNotBeTakenAway(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"pod.delete", "pod.evict"} {
		w := newWorld(t, name)
		lone := w.bare(t, "lone")
		target := targetOf(action.KindPod, "", lone)
		w.refused(t, target, "", action.ReasonRefused, "has no controller")
		require.Equal(t, 1, w.plan(t, target, `{"allowUnmanaged":true}`).Displaces)
		w.refused(t, target, `{"gracePeriod":"0s"}`, action.ReasonRefused, "at least 1s is needed")
		w.refused(t, target, `{"gracePeriod":"1500ms"}`, action.ReasonRefused, "Kubernetes counts whole seconds")

		leaving := w.bare(t, "leaving", func(p *corev1.Pod) {
			p.Annotations = map[string]string{testcluster.FaultAnnotation: string(testcluster.PodStuckTerminating)}
		})
		require.NoError(t, w.api.CoreV1().Pods(w.ns).Delete(testContext(t), "leaving", metav1.DeleteOptions{}))
		w.refused(t, targetOf(action.KindPod, "", leaving), `{"allowUnmanaged":true}`, action.ReasonTerminating, "is being deleted since")
	}
}

func TestADeletedPodIsAwaitedAndNeverForced(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "pod.delete")
	w.deployment(t, "web", 1, func(d *appsv1.Deployment) {
		d.Spec.Template.Annotations = map[string]string{testcluster.FaultAnnotation: string(testcluster.PodStuckTerminating)}
	})
	pod := w.pods(t, "web")[0]
	plan := w.plan(t, targetOf(action.KindPod, "", &pod), "")
	began, n := time.Now(), 0
	last, err := w.ticks(t, plan, func(action.Result) bool { n++; return n == 4 })
	require.NoError(t, err)
	require.False(t, last.Done)
	require.Contains(t, last.Message, "is terminating on node "+pod.Spec.NodeName)
	require.Len(t, w.mutations(t, began), 1, "one deletion, whatever the number of ticks")
	require.Equal(t, action.Applied, w.observe(t, plan))

	zero := int64(0)
	require.NoError(t, w.api.CoreV1().Pods(w.ns).Delete(testContext(t), pod.Name, metav1.DeleteOptions{GracePeriodSeconds: &zero}))
	require.Contains(t, w.done(t, plan).Message, "is gone")
}

func TestAReplacementOfTheSameNameIsLeftAlone(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"pod.delete", "pod.evict"} {
		w := newWorld(t, name)
		set := w.statefulSet(t, "db", 1)
		pod, err := w.api.CoreV1().Pods(w.ns).Get(testContext(t), "db-0", metav1.GetOptions{})
		require.NoError(t, err)
		target := targetOf(action.KindStatefulSet, "apps", set)
		target.Pod = &action.Ref{Kind: action.KindPod, Namespace: w.ns, Name: "db-0", UID: string(pod.UID)}
		plan := w.plan(t, target, "")
		require.NoError(t, w.api.CoreV1().Pods(w.ns).Delete(testContext(t), "db-0", metav1.DeleteOptions{}))
		require.NoError(t, w.WaitPod(testContext(t), w.ns, "db-0", func(p *corev1.Pod) bool { return p.UID != pod.UID && testcluster.PodReady(p) }))

		began := time.Now()
		require.Contains(t, w.done(t, plan).Message, "is gone")
		require.Empty(t, w.mutations(t, began))
		w.refused(t, target, "", action.ReasonGone, "was replaced")
	}
}

func TestABudgetThatSaysNotNowIsNamed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "pod.evict")
	w.deployment(t, "web", 1)
	w.budget(t, "web-pdb", "web", 1)
	w.budgetSettled(t, "web-pdb", 1)
	pod := w.pods(t, "web")[0]
	plan := w.plan(t, targetOf(action.KindPod, "", &pod), "")
	_, err := w.applyAll(t, plan)
	require.Equal(t, action.ReasonBlocked, action.ReasonOf(err), "%v", err)
	require.True(t, action.ReasonOf(err).Retryable())
	require.ErrorContains(t, err, "PodDisruptionBudget "+w.ns+"/web-pdb does not let")
	require.Equal(t, action.NotApplied, w.observe(t, plan))

	dry := plan
	dry.Request.DryRun = true
	_, err = w.applyAll(t, dry)
	require.Equal(t, action.ReasonBlocked, action.ReasonOf(err), "a dry run is asked of the budget too: %v", err)

	patchScale(t, w, "web", 2)
	w.budgetSettled(t, "web-pdb", 2)
	w.done(t, plan)
}

func TestAPodUnderTwoBudgetsIsRefusedForGood(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "pod.evict")
	w.deployment(t, "web", 2)
	w.budget(t, "one", "web", 0)
	w.budget(t, "two", "web", 0)
	w.budgetSettled(t, "one", 2)
	w.budgetSettled(t, "two", 2)
	pod := w.pods(t, "web")[0]
	_, err := w.applyAll(t, w.plan(t, targetOf(action.KindPod, "", &pod), ""))
	require.Equal(t, action.ReasonRefused, action.ReasonOf(err), "%v", err)
	require.ErrorContains(t, err, "more than one PodDisruptionBudget and can never be evicted")
}

func patchScale(t *testing.T, w *world, name string, replicas int) {
	t.Helper()
	patchAs(t, w, "kubectl", "deployments", w.ns, name, `{"spec":{"replicas":`+string(rune('0'+replicas))+`}}`)
	require.NoError(t, w.WaitDeploymentAvailable(testContext(t), w.ns, name))
}

// statefulSet creates a StatefulSet and waits until it is ready.
func (w *world) statefulSet(t *testing.T, name string, replicas int32, change ...func(*appsv1.StatefulSet)) *appsv1.StatefulSet {
	t.Helper()
	s := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: appsv1.StatefulSetSpec{Replicas: &replicas, ServiceName: name,
		Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": name}}, Template: template(name, "shop/"+name+":1")}}
	for _, c := range change {
		c(s)
	}
	_, err := w.api.AppsV1().StatefulSets(w.ns).Create(testContext(t), s, metav1.CreateOptions{})
	require.NoError(t, err)
	return w.statefulSetReady(t, name)
}

func (w *world) statefulSetReady(t *testing.T, name string) (out *appsv1.StatefulSet) {
	t.Helper()
	require.NoError(t, testcluster.Poll(testContext(t), func(ctx context.Context) (bool, error) {
		s, err := w.api.AppsV1().StatefulSets(w.ns).Get(ctx, name, metav1.GetOptions{})
		out = s
		return err == nil && s.Status.ObservedGeneration >= s.Generation && s.Status.ReadyReplicas == *s.Spec.Replicas &&
			s.Status.UpdateRevision == s.Status.CurrentRevision, err
	}))
	return out
}
