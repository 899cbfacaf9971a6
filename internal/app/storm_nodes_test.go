package app

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"

	"github.com/alertmedic/alertmedic/internal/guard"
	"github.com/alertmedic/alertmedic/internal/journal"
	"github.com/alertmedic/alertmedic/internal/store"
	"github.com/alertmedic/alertmedic/internal/testcluster"
)

// cordonPlaybook has a place for one more matcher and one more field.
const cordonPlaybook = `apiVersion: alertmedic.io/v1alpha1
kind: Playbook
metadata: {name: cordon}
spec:
  matchers: [alertname =~ "KubeNodeNotReady|KubeNodeUnreachable"%s]
  target: {kind: Node}
  %s
  remedies:
  - name: cordon
    steps: [{name: cordon, action: node.cordon}]
    verify: {timeout: 5m, stableFor: 1s}
`

var (
	cordonAny  = fmt.Sprintf(cordonPlaybook, "", "")
	stormyPace = Pace{Verify: time.Second, Guards: time.Second}
)

// nodesOf lists the nodes that were there from the start, and mends them at the
// end.
func nodesOf(t *testing.T, cluster *testcluster.Cluster) []corev1.Node {
	t.Helper()
	nodes, err := cluster.Client().CoreV1().Nodes().List(t.Context(), metav1.ListOptions{LabelSelector: "!" + testcluster.OwnerLabel})
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
		defer cancel()
		for _, n := range nodes.Items {
			_, err := cluster.Client().CoreV1().Nodes().Patch(ctx, n.Name, types.MergePatchType, []byte(`{"spec":{"unschedulable":null}}`), metav1.PatchOptions{})
			require.NoError(t, err)
			require.NoError(t, cluster.ClearNodeFault(ctx, n.Name))
			require.NoError(t, cluster.WaitNodeReady(ctx, n.Name, corev1.ConditionTrue))
		}
	})
	return nodes.Items
}

// inZone are the nodes of a zone.
func inZone(nodes []corev1.Node, zone string) []corev1.Node {
	return slices.DeleteFunc(slices.Clone(nodes), func(n corev1.Node) bool { return n.Labels[corev1.LabelTopologyZone] != zone })
}

func fail(t *testing.T, cluster *testcluster.Cluster, nodes ...corev1.Node) {
	t.Helper()
	for _, n := range nodes {
		require.NoError(t, cluster.SetNodeFault(t.Context(), n.Name, testcluster.NodeNotReady))
	}
}

func mend(t *testing.T, cluster *testcluster.Cluster, nodes ...corev1.Node) {
	t.Helper()
	for _, n := range nodes {
		require.NoError(t, cluster.ClearNodeFault(t.Context(), n.Name))
	}
}

// changedNodes are the changes of nodes since.
func (s *service) changedNodes(t *testing.T, since time.Time) []auditv1.Event {
	t.Helper()
	return s.mutations(t, since, func(o *auditv1.ObjectReference) bool { return o.Resource == "nodes" })
}

func namesOf(events []auditv1.Event) []string {
	var out []string
	for _, ev := range events {
		out = append(out, ev.ObjectRef.Name)
	}
	return out
}

// untilHeld waits until each of the nodes has a run that is held for one of the
// reasons.
func (s *service) untilHeld(t *testing.T, nodes []corev1.Node, reasons ...guard.Reason) {
	t.Helper()
	held := map[string]string{}
	poll(t, fmt.Sprintf("held for %v", reasons), func() bool {
		clear(held)
		for _, r := range s.runs(t) {
			if r.Phase == store.Queued && slices.Contains(reasons, guard.Reason(r.Reason)) {
				held[r.Target.Name] = r.Reason
			}
		}
		return !slices.ContainsFunc(nodes, func(n corev1.Node) bool { return held[n.Name] == "" })
	})
}

// untilStormIsTold waits until Slack heard of each storm that the log has; nothing
// else may have been said in the channel.
func (s *service) untilStormIsTold(t *testing.T) {
	t.Helper()
	began := len(s.logged(t, journal.StormBegan))
	require.Positive(t, began)
	s.slack.until(t, "of the storm", func(calls []slackCall) bool { return len(messages(calls)) >= began })
	s.requireStormsOnly(t)
}

// requireStormsOnly wants one message for each storm that the log has, and no
// other.
func (s *service) requireStormsOnly(t *testing.T) {
	t.Helper()
	said := messages(s.slack.all())
	for _, c := range said {
		require.True(t, c.isStorm(), "a message that is not about a storm: %s", c.text)
	}
	require.LessOrEqual(t, len(said), len(s.logged(t, journal.StormBegan)), "%v", said)
}

// Four of five nodes fail at once: no node is changed, every run says why it is
// held, and people read of the storm and not of each node. When it is over but
// for one node, that one is healed: nothing is lost.
func fourOfFiveNodesFail(t *testing.T, cluster *testcluster.Cluster) {
	nodes := nodesOf(t, cluster)
	s := startIn(t, surroundings{cluster: cluster, rules: "nodes.yaml", pace: stormyPace,
		tuning: fastReads + "engine: {resyncInterval: 1s}\nsafety: {nodes: {settle: 2s}, storm: {cooldown: 5s, window: 30s}}"}, cordonAny)
	victims := nodes[:len(nodes)*4/5]
	began := time.Now()
	fail(t, cluster, victims...)
	s.untilHeld(t, victims, guard.ReasonUnhealthyBudget, guard.ReasonStorm)
	s.until(t, journal.StormBegan)
	s.untilStormIsTold(t)
	require.Empty(t, namesOf(s.changedNodes(t, began)), "four of five nodes are away: the cause is not the node")

	mend(t, cluster, victims[1:]...)
	s.until(t, journal.StormEnded)
	var said []slackCall
	poll(t, "the one that is left is acted on, and people hear of it", func() bool {
		said = slices.DeleteFunc(messages(s.slack.all()), slackCall.isStorm)
		return len(s.changedNodes(t, began)) > 0 && len(said) > 0
	})
	require.Equal(t, []string{victims[0].Name}, namesOf(s.changedNodes(t, began)), "the one that is still ill, and no other")
	require.Len(t, said, 1, "what recovered by itself is not told")
	require.Contains(t, said[0].text, victims[0].Name)
	s.requireReasons(t)
	t.Logf("%d of %d nodes failed; %s after the first: refused: %s; Slack: %d messages", len(victims), len(nodes), time.Since(began).Round(time.Second),
		s.refusals(t), len(messages(s.slack.all())))
}

// All nodes of one zone fail, with the caps out of the box: nothing is changed,
// people read of one storm, and when the zone is back no run is left.
func zoneIsLost(t *testing.T, cluster *testcluster.Cluster) {
	nodes := nodesOf(t, cluster)
	s := startIn(t, surroundings{cluster: cluster, rules: "nodes.yaml", pace: stormyPace,
		tuning: fastReads + "engine: {resyncInterval: 1s}\nsafety: {nodes: {settle: 2s}, storm: {cooldown: 3s}}"}, cordonAny)
	victims := inZone(nodes, "a")
	require.Greater(t, len(victims), 2)
	began := time.Now()
	fail(t, cluster, victims...)
	s.untilHeld(t, victims, guard.ReasonUnhealthyBudget, guard.ReasonStorm)
	s.until(t, journal.StormBegan)
	s.untilStormIsTold(t)
	mend(t, cluster, victims...)
	s.until(t, journal.StormEnded)
	poll(t, "every run has ended", func() bool {
		for _, r := range s.runs(t) {
			if r.Phase != store.Done {
				return false
			}
		}
		return true
	})
	s.requireReasons(t)
	require.Empty(t, namesOf(s.changedNodes(t, began)), "a zone is away: the cause is not the node")
	s.requireStormsOnly(t)
	t.Logf("%d of %d nodes failed, for %s: refused: %s; Slack: %d messages", len(victims), len(nodes), time.Since(began).Round(time.Second),
		s.refusals(t), len(messages(s.slack.all())))
}

// A zone fails and a node of another, and the configuration's budgets allow for
// that: still one node at a time is worked on, in one zone.
func zoneIsLostWithWideBudgets(t *testing.T, cluster *testcluster.Cluster) {
	nodes := nodesOf(t, cluster)
	s := startIn(t, surroundings{cluster: cluster, rules: "nodes.yaml", pace: stormyPace, tuning: fastReads + `engine: {resyncInterval: 1s}
safety:
  maxConcurrentRuns: 50
  maxConcurrentRunsPerPlaybook: 50
  rate: {global: {burst: 50, every: 1s}, perPlaybook: {burst: 50, every: 1s}}
  velocity: {maxNodesPerPool: 50}
  nodes: {settle: 2s, maxUnhealthy: 50, maxUnhealthyPercent: 100, maxConcurrentPerPool: 50}`}, cordonAny)
	victims := append(inZone(nodes, "a"), inZone(nodes, "b")[0])
	began := time.Now()
	fail(t, cluster, victims...)
	for acted := 1; acted <= 2; acted++ {
		var changed []string
		poll(t, "a node is cordoned", func() bool {
			changed = namesOf(s.changedNodes(t, began))
			return len(changed) >= acted
		})
		require.Len(t, changed, acted, "one at a time")
		at := slices.IndexFunc(victims, func(n corev1.Node) bool { return n.Name == changed[acted-1] })
		require.GreaterOrEqual(t, at, 0, "%s is sound", changed[acted-1])
		worked := victims[at]
		victims = slices.Delete(victims, at, at+1)
		s.untilHeld(t, victims, guard.ReasonZones)
		if acted == 1 { // the others wait until this one is well
			mend(t, cluster, worked)
		}
	}
	s.requireReasons(t)
	made := s.requireCaps(t, caps{concurrent: 1, perZone: 1}, s.changedNodes(t, began))
	require.Len(t, made, 2)
	require.LessOrEqual(t, len(messages(s.slack.all())), 2, "people hear of what was changed, and not of what waits")
}
