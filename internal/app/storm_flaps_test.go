package app

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"

	"github.com/alertmedic/alertmedic/internal/guard"
	"github.com/alertmedic/alertmedic/internal/journal"
	"github.com/alertmedic/alertmedic/internal/store"
	"github.com/alertmedic/alertmedic/internal/testcluster"
)

// flapping is a node that goes away and comes back, and what watches it: a
// playbook for this node alone, which takes the cordon back when the node is well.
type flapping struct {
	*service
	node  *corev1.Node
	began time.Time
}

func startFlapping(t *testing.T, cluster *testcluster.Cluster, in surroundings) *flapping {
	t.Helper()
	node := cluster.Node(t, testcluster.NodeOptions{Zone: "flapping"})
	in.cluster, in.rules, in.pace = cluster, "nodes.yaml", stormyPace
	in.tuning = "engine: {resyncInterval: 1s}\nsafety: {nodes: {settle: 1s, maxUnhealthy: 5, maxUnhealthyPercent: 50}" + in.tuning + "}"
	s := startIn(t, in, fmt.Sprintf(cordonPlaybook, ", node = "+node.Name, "onResolve: Revert"))
	return &flapping{service: s, node: node, began: time.Now()}
}

// cordons are the changes that made the node unschedulable, without those that
// took that back.
func (f *flapping) cordons(t *testing.T) []auditv1.Event {
	t.Helper()
	events := f.mutations(t, f.began, func(o *auditv1.ObjectReference) bool { return o.Resource == "nodes" && o.Name == f.node.Name })
	return slices.DeleteFunc(events, func(ev auditv1.Event) bool {
		var after corev1.Node
		require.NoError(t, json.Unmarshal(ev.ResponseObject.Raw, &after))
		return !after.Spec.Unschedulable
	})
}

// count is how many entries of these kinds the log has about the node's alert.
func (f *flapping) count(t *testing.T, kinds ...journal.Kind) int {
	t.Helper()
	n, own := 0, map[string]bool{}
	for _, en := range f.logged(t, journal.EpisodeOpened) {
		own[en.Fingerprint] = own[en.Fingerprint] || en.CreatesCandidate()
	}
	for _, kind := range kinds {
		for _, en := range f.logged(t, kind) {
			if own[en.Fingerprint] {
				n++
			}
		}
	}
	return n
}

// flap has the node go away, waits until its alert fires and noticed is true, and
// has it come back: the alert has resolved, no run is left and the node takes pods.
func (f *flapping) flap(t *testing.T, noticed func() bool) {
	t.Helper()
	fired, closed := f.count(t, journal.EpisodeOpened, journal.EpisodeReopened), f.count(t, journal.EpisodeClosed)
	require.NoError(t, f.cluster.SetNodeFault(t.Context(), f.node.Name, testcluster.NodeNotReady))
	poll(t, "the alert fires, and that shows", func() bool {
		return f.count(t, journal.EpisodeOpened, journal.EpisodeReopened) > fired && noticed()
	})
	require.NoError(t, f.cluster.ClearNodeFault(t.Context(), f.node.Name))
	poll(t, "the node is as it was", func() bool {
		node, err := f.cluster.Client().CoreV1().Nodes().Get(t.Context(), f.node.Name, metav1.GetOptions{})
		require.NoError(t, err)
		for _, r := range f.runs(t) {
			if r.Phase != store.Done {
				return false
			}
		}
		return f.count(t, journal.EpisodeClosed) > closed && !node.Spec.Unschedulable
	})
}

// requireRest wants the node left alone for the window after each run on it.
func (f *flapping) requireRest(t *testing.T, window time.Duration) {
	t.Helper()
	cordons := f.cordons(t)
	made, runs, _ := f.account(t, cordons)
	begun := firsts(made)
	require.Len(t, begun, len(cordons), "a cordon a run: %v", made)
	for i := 1; i < len(begun); i++ {
		ended := runs[begun[i-1].run].ended
		require.False(t, ended.IsZero())
		require.GreaterOrEqual(t, begun[i].at.Sub(ended), window, "acted on again too soon")
	}
}

// A node that goes away and comes back within the dwell time is one episode, and
// is acted on once.
func nodeFlapsInOneEpisode(t *testing.T, cluster *testcluster.Cluster, size storms) {
	f := startFlapping(t, cluster, surroundings{flapDwell: "1h", tuning: ", cooldown: {afterSuccess: 1s, afterFailure: 1s}"})
	f.flap(t, func() bool { return len(f.cordons(t)) == 1 })
	flaps := size.windows - 1
	for range flaps {
		f.flap(t, func() bool { return true })
	}
	require.Equal(t, 1, f.count(t, journal.EpisodeOpened))
	require.GreaterOrEqual(t, f.count(t, journal.EpisodeReopened), flaps)
	require.Len(t, f.runs(t), 1)
	require.Len(t, f.cordons(t), 1, "no limit but the dwell time holds: the cooldown is a second")
	require.Len(t, messages(f.slack.all()), 1)
	t.Logf("it went away %d times in %s: 1 cordon", flaps+1, time.Since(f.began).Round(time.Second))
}

// A node whose every failure is an episode of its own is acted on once in each
// window of the cooldown; the other failures are held by it, and say so.
func nodeFlaps(t *testing.T, cluster *testcluster.Cluster, size storms) {
	const window = 12 * time.Second
	f := startFlapping(t, cluster, surroundings{flapDwell: "1ms", tuning: fmt.Sprintf(
		", cooldown: {afterSuccess: %s, afterFailure: %s}, attempts: {max: 100, window: 24h}, rate: {perPlaybook: {burst: 100, every: 1s}, global: {burst: 100, every: 1s}}", window, window)})
	held := func() int {
		n := 0
		for _, en := range f.logged(t, journal.GuardDecided) {
			if en.Reason == string(guard.ReasonCooldown) {
				n++
			}
		}
		return n
	}
	flaps := 0
	for ; len(f.cordons(t)) < size.windows || held() == 0; flaps++ {
		require.Less(t, flaps, 100, "it is never acted on again, or never held")
		was, before := len(f.cordons(t)), held()
		f.flap(t, func() bool { return len(f.cordons(t)) > was || held() > before })
		f.requireRest(t, window)
	}
	cordons := f.cordons(t)
	f.requireReasons(t)
	require.LessOrEqual(t, len(messages(f.slack.all())), len(cordons), "people hear of what was changed")
	t.Logf("it went away %d times in %s: %d cordons, refused: %s; Slack: %d messages", flaps, time.Since(f.began).Round(time.Second),
		len(cordons), f.refusals(t), len(messages(f.slack.all())))
}
