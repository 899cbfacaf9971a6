package k8sactions_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/alertmedic/alertmedic/internal/action"
	"github.com/alertmedic/alertmedic/internal/kube"
	"github.com/alertmedic/alertmedic/internal/testcluster"
)

func (w *world) daemonSet(t *testing.T, name string, change ...func(*appsv1.DaemonSet)) *appsv1.DaemonSet {
	t.Helper()
	d := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: appsv1.DaemonSetSpec{
		Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": name}}, Template: template(name, "shop/"+name+":1")}}
	for _, c := range change {
		c(d)
	}
	_, err := w.api.AppsV1().DaemonSets(w.ns).Create(testContext(t), d, metav1.CreateOptions{})
	require.NoError(t, err)
	return w.daemonSetReady(t, name)
}

func (w *world) daemonSetReady(t *testing.T, name string) (out *appsv1.DaemonSet) {
	t.Helper()
	require.NoError(t, testcluster.Poll(testContext(t), func(ctx context.Context) (bool, error) {
		d, err := w.api.AppsV1().DaemonSets(w.ns).Get(ctx, name, metav1.GetOptions{})
		out = d
		return err == nil && d.Status.ObservedGeneration >= d.Generation && d.Status.DesiredNumberScheduled > 0 &&
			d.Status.UpdatedNumberScheduled == d.Status.DesiredNumberScheduled && d.Status.NumberAvailable == d.Status.DesiredNumberScheduled, err
	}))
	return out
}

func (w *world) replicaSetOf(t *testing.T, app string) *appsv1.ReplicaSet {
	t.Helper()
	list, err := w.api.AppsV1().ReplicaSets(w.ns).List(testContext(t), metav1.ListOptions{LabelSelector: "app=" + app})
	require.NoError(t, err)
	require.NotEmpty(t, list.Items)
	return &list.Items[0]
}

func TestWhatCannotRollOutIsNotRestarted(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "workload.restart")
	paused := w.deployment(t, "paused", 1, func(d *appsv1.Deployment) { d.Spec.Paused = true })
	w.refused(t, deploymentTarget(paused), "", action.ReasonRefused, "is paused")
	manual := w.statefulSet(t, "manual", 1, func(s *appsv1.StatefulSet) { s.Spec.UpdateStrategy.Type = appsv1.OnDeleteStatefulSetStrategyType })
	w.refused(t, targetOf(action.KindStatefulSet, "apps", manual), "", action.ReasonRefused, "update strategy OnDelete")
	w.deployment(t, "web", 1)
	rs := targetOf(action.KindReplicaSet, "apps", w.replicaSetOf(t, "web"))
	require.Equal(t, action.ReasonRefused, reasonOfPlan(t, w, rs), "a ReplicaSet has no rollout")
}

// reasonOfPlan plans for a target that the action's role does not cover.
func reasonOfPlan(t *testing.T, w *world, target action.Target) action.Reason {
	t.Helper()
	req := w.request(target, "")
	req.ServiceAccount = "" // our own identity: the point is the kind, not the right
	_, err := w.cat.Plan(testContext(t), req)
	require.Error(t, err)
	return action.ReasonOf(err)
}

func TestStatefulSetsAndDaemonSetsRestart(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "workload.restart")
	set := w.statefulSet(t, "db", 1)
	plan := w.plan(t, targetOf(action.KindStatefulSet, "apps", set), "")
	require.Equal(t, 1, plan.Displaces)
	w.done(t, plan)
	require.Equal(t, "run-1.remedy/step", w.statefulSetReady(t, "db").Spec.Template.Annotations["alertmedic.io/restart"])

	agent := w.daemonSet(t, "agent")
	plan = w.plan(t, targetOf(action.KindDaemonSet, "apps", agent), "")
	require.Positive(t, plan.Displaces)
	w.done(t, plan)
	require.Equal(t, "run-1.remedy/step", w.daemonSetReady(t, "agent").Spec.Template.Annotations["alertmedic.io/restart"])
}

func TestReplicasThatAreNotOursToSet(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "workload.scale")
	d := w.deployment(t, "web", 2)
	w.refused(t, targetOf(action.KindReplicaSet, "apps", w.replicaSetOf(t, "web")), `{"to":3}`, action.ReasonRefused, "belongs to Deployment web")
	w.refused(t, deploymentTarget(d), `{"by":1,"max":2}`, action.ReasonRefused, "the ceiling is reached")
	w.refused(t, deploymentTarget(d), `{"by":-1,"min":2}`, action.ReasonRefused, "the floor is reached")
	w.refused(t, deploymentTarget(d), `{"to":0}`, action.ReasonRefused, "say min: 0 as well")
	down := w.plan(t, deploymentTarget(d), `{"to":0,"min":0}`)
	require.Equal(t, []int{2, 2}, []int{down.Removes, down.Replicas})
	require.True(t, w.plan(t, deploymentTarget(d), `{"to":2}`).Noop)
	agent := w.daemonSet(t, "agent")
	req := w.request(targetOf(action.KindDaemonSet, "apps", agent), `{"to":3}`)
	req.ServiceAccount = ""
	_, err := w.cat.Plan(testContext(t), req)
	require.ErrorContains(t, err, "has no number of replicas to set")

	plan := w.plan(t, deploymentTarget(d), `{"to":3}`)
	_, err = w.api.AutoscalingV2().HorizontalPodAutoscalers(w.ns).Create(testContext(t), &autoscalingv2.HorizontalPodAutoscaler{
		ObjectMeta: metav1.ObjectMeta{Name: "web-hpa"}, Spec: autoscalingv2.HorizontalPodAutoscalerSpec{MaxReplicas: 5,
			ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: "web"}}}, metav1.CreateOptions{})
	require.NoError(t, err)
	w.refused(t, deploymentTarget(d), `{"to":3}`, action.ReasonRefused, "HorizontalPodAutoscaler "+w.ns+"/web-hpa owns the replicas")
	_, err = w.applyAll(t, plan)
	require.ErrorContains(t, err, "owns the replicas", "one that came after the plan counts too")
	require.EqualValues(t, 2, *w.getDeployment(t, "web").Spec.Replicas)
}

func TestANoopIsNeitherSentNorReverted(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "workload.scale")
	d := w.deployment(t, "web", 2)
	plan := w.plan(t, deploymentTarget(d), `{"to":2}`)
	began := time.Now()
	w.done(t, plan)
	require.Equal(t, action.Applied, w.observe(t, plan))
	res, err := w.cat.Revert(testContext(t), plan, nil)
	require.NoError(t, err)
	require.Contains(t, res.Message, "nothing was changed")
	require.Empty(t, w.mutations(t, began))
}

func TestRollbackNeverGoesBackToWhatItCameFrom(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "workload.rollback")
	d := w.deployment(t, "web", 1)
	w.refused(t, deploymentTarget(d), "", action.ReasonRefused, "has no earlier revision that differs")
	w.setImage(t, "web", "shop/web:broken")
	plan := w.plan(t, deploymentTarget(d), "")
	require.Contains(t, plan.Summary, "back to revision 1 (shop/web:1), from shop/web:broken")
	require.Contains(t, plan.Diff, "-        image: shop/web:broken\n")
	require.Contains(t, plan.Diff, "+        image: shop/web:1\n")
	w.done(t, plan)
	require.NoError(t, w.WaitDeploymentAvailable(testContext(t), w.ns, "web"))
	got := w.getDeployment(t, "web")
	require.NotContains(t, got.Spec.Template.Labels, "pod-template-hash")
	require.Equal(t, d.Spec.Template, got.Spec.Template)
	list, err := w.api.AppsV1().ReplicaSets(w.ns).List(testContext(t), metav1.ListOptions{LabelSelector: "app=web"})
	require.NoError(t, err)
	require.Len(t, list.Items, 2, "the first ReplicaSet is used again, so the template is the very same")

	// The revision before this one is now the broken one.
	w.refused(t, deploymentTarget(d), "", action.ReasonRefused, "alertmedic has rolled back from every other revision of")
	require.Contains(t, w.plan(t, deploymentTarget(d), `{"toRevision":2}`).Summary, "shop/web:broken", "a person may still name it")
	w.refused(t, deploymentTarget(d), `{"toRevision":3}`, action.ReasonRefused, "revision 3 is what")
	w.refused(t, deploymentTarget(d), `{"toRevision":9}`, action.ReasonRefused, "has no revision 9; it has 3, 2")
	w.refused(t, deploymentTarget(d), `{"toRevision":-1}`, action.ReasonRefused, "revisions count from 1")
}

// A restart makes a revision, and it is no other release; and what is deployed
// anew after a roll-back is as good as any.
func TestARollbackIsToAnotherRelease(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "workload.rollback")
	d := w.deployment(t, "web", 1)
	target := deploymentTarget(d)
	rolled := func() {
		require.NoError(t, w.WaitDeployment(testContext(t), w.ns, "web", func(d *appsv1.Deployment) bool {
			return d.Status.ObservedGeneration >= d.Generation && d.Status.UpdatedReplicas > 0
		}))
	}
	w.setImage(t, "web", "shop/web:broken")
	for _, by := range kube.RestartAnnotations() {
		patchAs(t, w, "kubectl-rollout", "deployments", w.ns, "web", `{"spec":{"template":{"metadata":{"annotations":{"`+by+`":"now"}}}}}`)
		rolled()
	}
	plan := w.plan(t, target, "")
	require.Contains(t, plan.Summary, "back to revision 1 (shop/web:1), from shop/web:broken")
	w.done(t, plan)
	require.NoError(t, w.WaitDeploymentAvailable(testContext(t), w.ns, "web"))
	require.Equal(t, "shop/web:1", w.getDeployment(t, "web").Spec.Template.Spec.Containers[0].Image)
	w.refused(t, target, "", action.ReasonRefused, "alertmedic has rolled back from every other revision of")

	w.setImage(t, "web", "shop/web:broken") // mended elsewhere
	w.setImage(t, "web", "shop/web:worse")
	require.Contains(t, w.plan(t, target, "").Summary, "(shop/web:broken), from shop/web:worse")
}

func TestStatefulSetsAndDaemonSetsRollBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "workload.rollback")
	image := func(resource, name, v string) {
		patchAs(t, w, "kubectl", resource, w.ns, name, `{"spec":{"template":{"spec":{"containers":[{"name":"app","image":"`+v+`"}]}}}}`)
	}
	set := w.statefulSet(t, "db", 1)
	image("statefulsets", "db", "shop/db:2")
	w.statefulSetReady(t, "db")
	plan := w.plan(t, targetOf(action.KindStatefulSet, "apps", set), "")
	w.done(t, plan)
	require.Equal(t, set.Spec.Template, w.statefulSetReady(t, "db").Spec.Template)
	_, err := w.cat.Revert(testContext(t), plan, nil)
	require.NoError(t, err)
	require.Equal(t, "shop/db:2", w.statefulSetReady(t, "db").Spec.Template.Spec.Containers[0].Image)

	agent := w.daemonSet(t, "agent")
	image("daemonsets", "agent", "shop/agent:2")
	w.daemonSetReady(t, "agent")
	plan = w.plan(t, targetOf(action.KindDaemonSet, "apps", agent), "")
	w.done(t, plan)
	require.Equal(t, agent.Spec.Template, w.daemonSetReady(t, "agent").Spec.Template)
}

func TestARollbackOfAPausedDeploymentIsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "workload.rollback")
	d := w.deployment(t, "web", 1)
	w.setImage(t, "web", "shop/web:2")
	plan := w.plan(t, deploymentTarget(d), "")
	patchAs(t, w, "kubectl", "deployments", w.ns, "web", `{"spec":{"paused":true}}`)
	w.refused(t, deploymentTarget(d), "", action.ReasonRefused, "is paused")
	_, err := w.applyAll(t, plan)
	require.ErrorContains(t, err, "is paused")
}

func TestStatefulSetsAndReplicaSetsOfTheirOwnScale(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "workload.scale")
	plan := w.plan(t, targetOf(action.KindStatefulSet, "apps", w.statefulSet(t, "db", 1)), `{"to":2}`)
	w.done(t, plan)
	require.EqualValues(t, 2, *w.statefulSetReady(t, "db").Spec.Replicas)

	labels := map[string]string{"app": "lone"}
	one := int32(1)
	rs, err := w.api.AppsV1().ReplicaSets(w.ns).Create(testContext(t), &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Name: "lone"},
		Spec: appsv1.ReplicaSetSpec{Replicas: &one, Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: template("lone", "shop/lone:1")}}, metav1.CreateOptions{})
	require.NoError(t, err)
	w.done(t, w.plan(t, targetOf(action.KindReplicaSet, "apps", rs), `{"by":1,"max":3}`))
	rs, err = w.api.AppsV1().ReplicaSets(w.ns).Get(testContext(t), "lone", metav1.GetOptions{})
	require.NoError(t, err)
	require.EqualValues(t, 2, *rs.Spec.Replicas)
}
