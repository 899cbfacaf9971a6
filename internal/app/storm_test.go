package app

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/alertmedic/alertmedic/internal/api/client"
	"github.com/alertmedic/alertmedic/internal/guard"
	"github.com/alertmedic/alertmedic/internal/journal"
	"github.com/alertmedic/alertmedic/internal/store"
	"github.com/alertmedic/alertmedic/internal/testcluster"
)

const cordonPlaybook = `apiVersion: alertmedic.io/v1alpha1
kind: Playbook
metadata: {name: cordon}
spec:
  matchers: [alertname =~ "KubeNodeNotReady|KubeNodeUnreachable"]
  target: {kind: Node}
  remedies:
  - name: cordon
    steps: [{name: cordon, action: node.cordon}]
    verify: {timeout: 5m, stableFor: 3s}
`

// Four of five nodes fail at once, on a control plane of its own: no node is
// changed, by the API server's own record, every run says why it is held, and
// people read of one storm and not of each node. When it is over but for one
// node, that one is healed: nothing is lost.
func TestFourOfFiveNodesFailAtOnce(t *testing.T) {
	t.Parallel()
	total := 10
	if os.Getenv("ALERTMEDIC_SOAK") != "" {
		total = 50
	}
	cluster, err := testcluster.Start(t.Context(), testcluster.Options{Nodes: total})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, cluster.Stop()) })
	s := startIn(t, surroundings{cluster: cluster, rules: "nodes.yaml",
		tuning: "engine: {resyncInterval: 1s}\nsafety: {nodes: {settle: 2s}, storm: {cooldown: 5s}}", pace: Pace{Verify: time.Second, Guards: time.Second}}, cordonPlaybook)
	nodes, err := cluster.Client().CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
	require.NoError(t, err)
	require.Len(t, nodes.Items, total)
	victims := nodes.Items[:total*4/5]
	began := time.Now()
	for i := range victims {
		require.NoError(t, cluster.SetNodeFault(t.Context(), victims[i].Name, testcluster.NodeNotReady))
	}

	// Each has a run, and each is held for a reason that names the storm.
	held := map[string]string{}
	require.NoError(t, testcluster.Poll(t.Context(), func(ctx context.Context) (bool, error) {
		runs, err := s.client.Runs(ctx, store.RunFilter{}, client.Page{Limit: 200})
		if err != nil {
			return false, err
		}
		clear(held)
		for _, r := range runs.Items {
			if r.Reason == string(guard.ReasonUnhealthyBudget) || r.Reason == string(guard.ReasonStorm) {
				held[r.Target.Name] = r.Reason
			}
		}
		return len(held) == len(victims), nil
	}), "held: %v", held)
	s.until(t, journal.StormBegan)
	require.Empty(t, s.changedNodes(t, began), "four of five nodes are away: the cause is not the node")
	s.slack.requireStormOnly(t)

	// All but one come back, and after some calm that one is acted on.
	for i := range victims[1:] {
		require.NoError(t, cluster.ClearNodeFault(t.Context(), victims[i+1].Name))
	}
	s.until(t, journal.StormEnded)
	require.NoError(t, testcluster.Poll(t.Context(), func(context.Context) (bool, error) {
		return len(s.changedNodes(t, began)) > 0, nil
	}))
	require.Equal(t, []string{victims[0].Name}, s.changedNodes(t, began), "the one that is still ill, and no other")
}

// changedNodes are the nodes that alertmedic changed since, in order, by the
// API server's audit log.
func (s *service) changedNodes(t *testing.T, since time.Time) []string {
	t.Helper()
	events, err := s.cluster.Mutations(since)
	require.NoError(t, err)
	var out []string
	for _, ev := range events {
		if strings.HasPrefix(ev.UserAgent, "alertmedic/") && ev.ObjectRef != nil && ev.ObjectRef.Resource == "nodes" && ev.Stage == "ResponseComplete" {
			out = append(out, ev.ObjectRef.Name)
		}
	}
	return out
}

// requireStormOnly waits for the message of the storm; nothing else may have been
// said.
func (s *slackAPI) requireStormOnly(t *testing.T) {
	t.Helper()
	select {
	case call := <-s.said:
		require.Equal(t, "chat.postMessage", call.method)
		require.Contains(t, call.text, "Storm")
	case <-time.After(3 * time.Minute):
		t.Fatal("nobody was told of the storm")
	}
	for {
		select {
		case call := <-s.said:
			require.True(t, call.thread != "" || call.method == "chat.update", "a second message: %s", call.text)
		default:
			return
		}
	}
}
