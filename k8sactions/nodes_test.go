package k8sactions_test

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/alertmedic/alertmedic/internal/action"
	"github.com/alertmedic/alertmedic/internal/testcluster"
)

// drainReport is the part of a drain's evidence that tests look at.
type drainReport struct {
	Ready    bool
	Kept     int
	Blockers []string
	Appeared []string
	Pods     []struct{ Pod, State, Detail string }
}

func reportOf(t *testing.T, res action.Result) (out drainReport) {
	t.Helper()
	require.NoError(t, json.Unmarshal(res.Evidence, &out))
	return out
}

func (r drainReport) states() map[string]int {
	out := map[string]int{}
	for _, p := range r.Pods {
		out[p.State]++
	}
	return out
}

func onNode(node *corev1.Node) func(*appsv1.Deployment) {
	return func(d *appsv1.Deployment) { testcluster.OnNode(&d.Spec.Template.Spec, node.Name) }
}

func TestAnAdministratorsCordonStays(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"node.cordon", "node.drain"} {
		w := newWorld(t, name)
		node, cordoned := theNode(t, w)
		target := targetOf(action.KindNode, "", node)
		patchAs(t, w, "kubectl-cordon", "nodes", "", node.Name, `{"spec":{"unschedulable":true}}`)
		plan := w.plan(t, target, "")
		require.True(t, plan.Noop, plan.Summary)
		w.done(t, plan)
		_, err := w.cat.Revert(testContext(t), plan, nil)
		require.NoError(t, err)
		require.True(t, cordoned())
	}
	w := newWorld(t, "node.uncordon")
	node, cordoned := theNode(t, w)
	target := targetOf(action.KindNode, "", node)
	require.True(t, w.plan(t, target, "").Noop)
	patchAs(t, w, "kubectl-cordon", "nodes", "", node.Name, `{"spec":{"unschedulable":true}}`)
	w.refused(t, target, "", action.ReasonRefused, "was not cordoned by alertmedic")
	patchAs(t, w, "x", "nodes", "", node.Name, `{"metadata":{"annotations":{"alertmedic.io/cordoned-by":"run-0"}}}`)
	w.refused(t, target, "", action.ReasonRefused, "was cordoned anew by kubectl-cordon")
	w.done(t, w.plan(t, target, `{"force":true}`))
	require.False(t, cordoned())
}

func TestDrainRefusesWhatWouldLoseData(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "node.drain")
	node, cordoned := theNode(t, w)
	w.bare(t, "lone", func(p *corev1.Pod) { testcluster.OnNode(&p.Spec, node.Name) })
	w.deployment(t, "cache", 1, onNode(node), func(d *appsv1.Deployment) {
		d.Spec.Template.Spec.Volumes = []corev1.Volume{{Name: "tmp", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
	})
	w.daemonSet(t, "agent", func(d *appsv1.DaemonSet) { testcluster.OnNode(&d.Spec.Template.Spec, node.Name) })
	target := targetOf(action.KindNode, "", node)
	w.refused(t, target, "", action.ReasonRefused, "lone has no controller")
	w.refused(t, target, `{"force":true}`, action.ReasonRefused, "deleteEmptyDirData: true gives it up")
	w.refused(t, target, `{"timeout":"0"}`, action.ReasonRefused, "a drain without an end")
	w.refused(t, target, `{"maxParallel":0}`, action.ReasonRefused, "maxParallel is 0")
	require.False(t, cordoned())

	plan := w.plan(t, target, `{"force":true,"deleteEmptyDirData":true}`)
	require.Equal(t, 2, plan.Displaces)
	res := w.done(t, plan)
	rep := reportOf(t, res)
	require.Equal(t, map[string]int{"gone": 2}, rep.states())
	require.Equal(t, 1, rep.Kept)
	require.True(t, cordoned())
	require.Len(t, w.pods(t, "agent"), 1)
}

func TestDrainReportsWhatABudgetBlocks(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "node.drain")
	node, _ := theNode(t, w)
	w.deployment(t, "web", 1, onNode(node))
	w.deployment(t, "free", 2, onNode(node))
	w.budget(t, "web-pdb", "web", 1)
	w.budgetSettled(t, "web-pdb", 1)
	plan := w.plan(t, targetOf(action.KindNode, "", node), `{"maxParallel":3}`)

	dry := plan
	dry.Request.DryRun = true
	res := w.done(t, dry)
	require.Contains(t, res.Message, "evict 2 of 3 pods now: PodDisruptionBudget "+w.ns+"/web-pdb does not let")

	last, err := w.ticks(t, plan, func(r action.Result) bool { return reportOf(t, r).states()["gone"] == 2 })
	require.NoError(t, err)
	rep := reportOf(t, last)
	require.Equal(t, map[string]int{"gone": 2, "blocked": 1}, rep.states())
	require.Len(t, rep.Blockers, 1)
	require.Contains(t, rep.Blockers[0], "PodDisruptionBudget "+w.ns+"/web-pdb does not let")
	require.Contains(t, last.Message, "2 of 3 pods are gone, 1 blocked")

	// The drain ends when its time is over: first the report, then the failure.
	late := plan
	late.Request.Deadline = time.Now().Add(11 * time.Second) // ten of which are kept for the report
	_, err = w.ticks(t, late, func(action.Result) bool { return false })
	require.Equal(t, action.ReasonTimeout, action.ReasonOf(err), "%v", err)
	require.ErrorContains(t, err, "1 blocked when the time was over: PodDisruptionBudget "+w.ns+"/web-pdb")

	require.NoError(t, w.api.PolicyV1().PodDisruptionBudgets(w.ns).Delete(testContext(t), "web-pdb", metav1.DeleteOptions{}))
	require.Equal(t, map[string]int{"gone": 3}, reportOf(t, w.done(t, plan)).states())
}

func TestAPodThatCanNeverBeEvictedEndsTheDrainAfterTheOthers(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "node.drain")
	node, _ := theNode(t, w)
	w.deployment(t, "web", 1, onNode(node))
	w.deployment(t, "free", 1, onNode(node))
	w.budget(t, "one", "web", 0)
	w.budget(t, "two", "web", 0)
	w.budgetSettled(t, "one", 1)
	w.budgetSettled(t, "two", 1)
	var reported drainReport
	_, err := w.ticks(t, w.plan(t, targetOf(action.KindNode, "", node), ""), func(r action.Result) bool { reported = reportOf(t, r); return false })
	require.Equal(t, action.ReasonRefused, action.ReasonOf(err), "%v", err)
	require.ErrorContains(t, err, "1 of 2 pods are gone, 1 rejected")
	require.ErrorContains(t, err, "more than one PodDisruptionBudget")
	require.Equal(t, map[string]int{"gone": 1, "rejected": 1}, reported.states(), "the report came before the failure")
}

func TestPodsOfANodeThatDoesNotAnswerAreReportedAsStuck(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "node.drain")
	node, _ := theNode(t, w)
	w.deployment(t, "web", 2, onNode(node))
	ctx := testContext(t)
	require.NoError(t, w.SetNodeFault(ctx, node.Name, testcluster.NodeNotReady))
	require.NoError(t, w.WaitNodeReady(ctx, node.Name, corev1.ConditionFalse))
	first := w.pods(t, "web")

	plan := w.plan(t, targetOf(action.KindNode, "", node), "")
	last, err := w.ticks(t, plan, func(r action.Result) bool { return reportOf(t, r).states()["terminating"] == 2 })
	require.NoError(t, err)
	require.False(t, last.Done, "their grace period is not over yet")

	// The same a little later, by a catalogue whose clock is ahead.
	later := w.at(t, time.Minute)
	res, err := later.Apply(ctx, plan, last.State)
	require.NoError(t, err)
	require.True(t, res.Done, res.Message)
	rep := reportOf(t, res)
	require.False(t, rep.Ready)
	require.Equal(t, map[string]int{"stuck": 2}, rep.states())
	require.Contains(t, res.Message, "2 stuck")
	require.Contains(t, res.Message, "its node does not answer")
	for _, p := range first {
		got, err := w.api.CoreV1().Pods(w.ns).Get(ctx, p.Name, metav1.GetOptions{})
		require.NoError(t, err, "nothing is removed by force")
		require.Equal(t, p.UID, got.UID)
	}

	patient := plan
	patient.Request.Params = json.RawMessage(`{"skipStuck":false}`)
	res, err = later.Apply(ctx, patient, last.State)
	require.NoError(t, err)
	require.False(t, res.Done)

	require.NoError(t, w.ClearNodeFault(ctx, node.Name))
	require.NoError(t, w.WaitNodeReady(ctx, node.Name, corev1.ConditionTrue))
	require.Equal(t, map[string]int{"gone": 2}, reportOf(t, w.done(t, plan)).states())
}

func TestDrainLeavesWhatCameAfterThePlan(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "node.drain")
	node, cordoned := theNode(t, w)
	w.deployment(t, "web", 1, onNode(node))
	plan := w.plan(t, targetOf(action.KindNode, "", node), "")
	w.deployment(t, "late", 1, onNode(node))
	rep := reportOf(t, w.done(t, plan))
	require.Len(t, rep.Appeared, 1)
	require.Contains(t, rep.Appeared[0], w.ns+"/late-")
	require.Nil(t, w.pods(t, "late")[0].DeletionTimestamp)

	require.True(t, cordoned())
}

func TestUncordoningANodeStopsItsDrain(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "node.drain")
	node, cordoned := theNode(t, w)
	w.deployment(t, "web", 3, onNode(node))
	plan := w.plan(t, targetOf(action.KindNode, "", node), `{"maxParallel":1}`)
	res, err := w.cat.Apply(testContext(t), plan, nil)
	require.NoError(t, err)
	require.False(t, res.Done)
	require.Equal(t, map[string]int{"terminating": 1, "waiting": 2}, reportOf(t, res).states(), "one at a time")
	patchAs(t, w, "kubectl-uncordon", "nodes", "", node.Name, `{"spec":{"unschedulable":false}}`)
	_, err = w.cat.Apply(testContext(t), plan, res.State)
	require.Equal(t, action.ReasonDrift, action.ReasonOf(err), "%v", err)
	require.ErrorContains(t, err, "somebody uncordoned")
	require.False(t, cordoned())
}

func TestASlowPodOfAHealthyNodeIsNotStuck(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "node.drain")
	node, _ := theNode(t, w)
	w.deployment(t, "slow", 1, onNode(node), func(d *appsv1.Deployment) {
		d.Spec.Template.Annotations = map[string]string{testcluster.FaultAnnotation: string(testcluster.PodStuckTerminating)}
	})
	w.deployment(t, "web", 1, onNode(node))
	plan := w.plan(t, targetOf(action.KindNode, "", node), `{"maxParallel":1}`)
	last, err := w.ticks(t, plan, func(r action.Result) bool { return reportOf(t, r).states()["terminating"] == 1 })
	require.NoError(t, err)

	// Long after its grace period it holds the drain up, but not the other pod.
	later := w.at(t, time.Minute)
	var res action.Result
	state := last.State
	require.NoError(t, testcluster.Poll(testContext(t), func(ctx context.Context) (bool, error) {
		res, err = later.Apply(ctx, plan, state)
		state = res.State
		return err != nil || reportOf(t, res).states()["gone"] == 1, err
	}))
	require.False(t, res.Done)
	rep := reportOf(t, res)
	require.Equal(t, map[string]int{"gone": 1, "terminating": 1}, rep.states())
	require.Equal(t, []string{"its grace period is over and it is still there"}, rep.Blockers)

	// After the drain's own timeout it reports and fails.
	over := w.at(t, 11*time.Minute)
	res, err = over.Apply(testContext(t), plan, state)
	require.NoError(t, err)
	require.False(t, res.Done)
	require.NotEmpty(t, res.Evidence)
	_, err = over.Apply(testContext(t), plan, res.State)
	require.Equal(t, action.ReasonTimeout, action.ReasonOf(err), "%v", err)
	require.ErrorContains(t, err, "1 of 2 pods are gone, 1 terminating: its grace period is over")
}
