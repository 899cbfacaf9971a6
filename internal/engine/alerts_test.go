package engine

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alertmedic/alertmedic/internal/alert"
	"github.com/alertmedic/alertmedic/internal/guard"
	"github.com/alertmedic/alertmedic/internal/store"
)

// playbook is one for the alert that takes the action once and then verifies.
func playbook(name, kind, act string) string {
	return doc(strings.ToLower(name), `  matchers: [alertname = `+name+`]
  target: {kind: `+kind+`}
  remedies:
  - name: only
    steps: [{name: only, action: `+act+`}]
    verify: {timeout: 5m, stableFor: 1m}
`)
}

var (
	cordonNode  = playbook("KubeNodeNotReady", "Node", "node.cordon")
	restartLoop = playbook("KubePodCrashLooping", "Workload", "workload.restart")
)

// Real alerts lie about health in all these ways. Each test replays what a real
// Alertmanager sent (testdata/webhooks/captured) and holds the target to be
// broken all the while unless it says otherwise.
func TestRealAlerts(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]func(*testing.T){
		"cordoning a node resolves its alert, uncordoning fires it again": cordonResolves,
		"a rollout silences the alert about replicas":                     rolloutSilences,
		"deleting the pod ends its series":                                deletedPodResolves,
		"kube-state-metrics restarts":                                     metricsRestart,
		"Prometheus is killed":                                            prometheusKilled,
		"two Prometheus replicas disagree":                                prometheusPair,
		"Alertmanager loses its volume":                                   volumeLost,
		"resolve and re-fire within one group_interval":                   refire,
		"repeat_interval sends the same body":                             repeats,
		"a 503 is retried":                                                retried,
		"a webhook time-out makes a second request while the first runs":  timeout,
		"two Alertmanagers without gossip":                                pair,
		"429 comes again at the next group_interval":                      refused429,
		"a refused resolution comes again at every group_interval":        resolvedRefused,
		"a storm grows from notification to notification":                 storm,
		"max_alerts truncates":                                            truncation,
		"group_by decides what the top level says":                        grouping,
		"a StatefulSet pod is re-created under its name":                  recreatedPod,
		"node alerts carry the exporter's labels":                         exporterLabels,
		"without honorLabels the truth is in exported labels":             exportedLabels,
		"one claim fires as warning and as critical":                      volumeClaim,
		"static labels of a rule lie":                                     lyingLabels,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t)
		})
	}
}

func cordonResolves(t *testing.T) {
	start := func() *replay {
		r := replayOf(t, "cordon-resolves", cordonNode)
		r.putNode("worker-1")
		r.sick(10, time.Time{}, "worker-1")
		r.play(1)
		require.Equal(t, []string{"node.cordon Node/worker-1"}, r.calls)
		r.playUntil(alert.Resolved, "KubeNodeNotReady")
		return r
	}
	r := start()
	require.Equal(t, 1, r.counts.Closed)
	r.pass(10 * time.Minute)
	r.actedOnce("node.cordon Node/worker-1")
	require.Equal(t, store.NotHealed, r.onlyRun().Outcome, "the alert is gone, the node is not ready")

	r = start()
	r.playUntil(alert.Firing, "KubeNodeNotReady")
	require.Equal(t, 1, r.counts.Opened)
	require.Equal(t, 1, r.counts.Reopened)
	r.pass(10 * time.Minute)
	r.actedOnce("node.cordon Node/worker-1")
	r.onlyRun()
}

func rolloutSilences(t *testing.T) {
	const alertname, acted = "KubeDeploymentReplicasMismatch", "workload.restart Deployment/rollout-silences/web"
	start := func() *replay {
		r := replayOf(t, "rollout-silences", playbook(alertname, "Deployment", "workload.restart"))
		r.putWorkloads()
		r.play(1)
		require.Equal(t, []string{acted}, r.calls)
		r.playUntil(alert.Resolved, alertname)
		return r
	}
	r := start()
	r.pass(10 * time.Minute)
	r.actedOnce(acted)
	require.Equal(t, store.NotHealed, r.onlyRun().Outcome, "the rollout is under way, or stuck")

	r = start()
	r.playAll()
	r.pass(10 * time.Minute)
	r.actedOnce(acted)

	r = start()
	r.health = healthy
	r.pass(2 * time.Minute)
	require.Equal(t, store.Healed, r.onlyRun().Outcome, "both witnesses say so")
}

func deletedPodResolves(t *testing.T) {
	const acted = "workload.restart Deployment/deleted-pod-resolves/web"
	r := replayOf(t, "deleted-pod-resolves", restartLoop)
	r.putWorkloads()
	r.playUntil(alert.Resolved, "KubePodCrashLooping")
	require.Equal(t, 2, r.counts.Opened, "the replacement has another uid")
	require.Equal(t, 1, r.counts.Closed)
	r.playAll()
	r.pass(10 * time.Minute)
	r.actedOnce(acted)

	// The same when only the first pod's alert was ever seen.
	r = replayOf(t, "deleted-pod-resolves", restartLoop)
	r.putWorkloads()
	r.play(1)
	for fingerprint := range r.said {
		r.said[fingerprint] = alert.Resolved
	}
	r.pass(10 * time.Minute)
	r.actedOnce(acted)
	require.Equal(t, store.NotHealed, r.onlyRun().Outcome)
}

func metricsRestart(t *testing.T) {
	const acted = "workload.restart Deployment/metrics-restart/web"
	folded := func(r *replay) {
		require.Equal(t, 1, r.counts.Opened)
		require.Equal(t, 1, r.counts.Closed)
		require.Equal(t, 1, r.counts.Reopened)
		first, last := r.webhooks[0].envelope(t).Alerts[0], r.webhooks[len(r.webhooks)-1].envelope(t).Alerts[0]
		require.Equal(t, first.Fingerprint, last.Fingerprint)
		require.True(t, last.StartsAt.After(first.StartsAt))
	}
	r := replayOf(t, "metrics-restart", restartLoop)
	r.putWorkloads()
	r.playAll()
	folded(r)
	// The resolution comes once more, late: it does not close what fires now.
	r.accept(r.webhooks[1])
	require.Equal(t, 1, r.counts.Stale)
	require.Equal(t, 1, r.counts.Closed)
	r.pass(10 * time.Minute)
	r.actedOnce(acted)
	r.onlyRun()

	// The false resolution comes before anything was done: nothing is done while
	// it lasts, and the alert is not forgotten.
	r = replayOf(t, "metrics-restart", restartLoop)
	r.putWorkloads()
	require.NoError(t, r.store.SetPause(t.Context(), guard.Pause{Scope: guard.PauseGlobal, By: "ada", Why: "release", At: r.now}))
	r.playUntil(alert.Resolved, "KubePodCrashLooping")
	require.NoError(t, r.store.ClearPause(t.Context(), guard.PauseGlobal, "", "ada", "done"))
	r.pass(30 * time.Second)
	require.Empty(t, r.calls)
	require.Equal(t, store.Suppressed, r.onlyRun().Outcome)
	r.playAll()
	folded(r)
	r.pass(time.Minute)
	r.actedOnce(acted)
}

func prometheusKilled(t *testing.T) {
	const acted = "workload.restart Deployment/prometheus-killed/web"
	start := func() *replay {
		r := replayOf(t, "prometheus-killed", restartLoop)
		r.putWorkloads()
		r.playUntil(alert.Firing, "KubePodCrashLooping")
		require.Equal(t, []string{acted}, r.calls)
		r.playUntil(alert.Resolved, "KubePodCrashLooping")
		r.alert = func(alert.Alert) guard.AlertEvidence {
			return guard.AlertEvidence{State: guard.AlertUnknown, By: "Prometheus does not answer"}
		}
		return r
	}
	r := start()
	require.Equal(t, alert.Resolved, r.said[r.webhooks[0].envelope(t).Alerts[0].Fingerprint], "the Watchdog as well")
	r.health = healthy
	r.pass(20 * time.Minute)
	r.actedOnce(acted)
	require.Equal(t, "verdict-unknown", r.onlyRun().Reason, "a time-out of Alertmanager is no witness")

	r = start()
	r.playAll()
	require.Equal(t, 2, r.counts.Opened, "the alert and the Watchdog")
	require.Equal(t, 1, r.counts.Unmatched, "no playbook is for the Watchdog")
	r.pass(20 * time.Minute)
	r.actedOnce(acted)
	r.onlyRun()
}

func prometheusPair(t *testing.T) {
	r := replayOf(t, "prometheus-pair", restartLoop)
	r.putWorkloads()
	first := r.webhooks[0].envelope(t).Alerts[0]
	starts := map[time.Time]bool{}
	again := false
	for i, c := range r.webhooks {
		for _, a := range c.envelope(t).Alerts {
			require.Equal(t, first.Fingerprint, a.Fingerprint)
			starts[a.StartsAt] = true
			again = again || i > 0 && a.Status == alert.Firing && a.StartsAt.Equal(first.StartsAt)
		}
	}
	require.True(t, again, "it fires again with the same startsAt after it was resolved")
	require.Greater(t, len(starts), 1, "the replicas disagree about startsAt")
	r.playAll()
	require.Equal(t, 1, r.counts.Opened)
	require.Positive(t, r.counts.Reopened)
	r.health = healthy
	r.pass(4 * time.Minute)
	r.actedOnce("workload.restart Deployment/prometheus-pair/web") // one replica still fires it
	r.onlyRun()
}

func volumeLost(t *testing.T) {
	r := replayOf(t, "alertmanager-volume-lost", restartLoop)
	r.putWorkloads()
	require.GreaterOrEqual(t, len(r.webhooks), 2)
	r.playAll()
	require.Equal(t, 1, r.counts.Opened)
	r.pass(10 * time.Minute)
	r.actedOnce("workload.restart Deployment/alertmanager-volume-lost/web")
	r.onlyRun()
}

func refire(t *testing.T) {
	const name, acted = "KubeNodePressure", "node.cordon Node/worker-1"
	start := func() *replay {
		r := replayOf(t, "refire-within-interval", playbook(name, "Node", "node.cordon"))
		r.putNode("worker-1")
		r.sick(10, time.Time{}, "worker-1")
		return r
	}
	r := start()
	first, last := r.webhooks[0].envelope(t).Alerts[0], r.webhooks[len(r.webhooks)-1].envelope(t).Alerts[0]
	for _, c := range r.webhooks {
		require.Equal(t, alert.Firing, c.envelope(t).Alerts[0].Status, "no end is ever sent")
	}
	require.True(t, last.StartsAt.After(first.StartsAt))
	r.playAll()
	require.Equal(t, 1, r.counts.Opened)
	eps, err := r.store.OpenEpisodes(t.Context(), "am")
	require.NoError(t, err)
	require.Len(t, eps, 1)
	require.Equal(t, last.StartsAt.UTC(), eps[0].Alert.StartsAt)
	r.pass(10 * time.Minute)
	r.actedOnce(acted)
	r.onlyRun()

	// Between the two nothing is pushed: the state is read.
	r = start()
	r.play(1)
	r.alert, r.health = resolved, healthy
	r.pass(2 * time.Minute)
	require.Equal(t, store.Healed, r.onlyRun().Outcome)
}

// sameBodies asserts that all webhooks have the same body, byte for byte.
func (r *replay) sameBodies() {
	r.t.Helper()
	require.Greater(r.t, len(r.webhooks), 1)
	for _, c := range r.webhooks {
		require.Equal(r.t, string(r.webhooks[0].Body), string(c.Body))
	}
}

// once replays everything, told one by one and then, in another world, at once.
func once(t *testing.T, name string, check func(*replay)) {
	for _, together := range []bool{false, true} {
		r := replayOf(t, name, restartLoop)
		r.putWorkloads()
		check(r)
		if together {
			r.acceptTogether(len(r.webhooks))
		} else {
			r.playAll()
		}
		require.Equal(t, 1, r.counts.Opened)
		require.Equal(t, 1, r.counts.Candidates)
		require.Equal(t, len(r.webhooks)-1, r.counts.Repeated)
		r.pass(10 * time.Minute)
		r.actedOnce("workload.restart Deployment/" + name + "/web")
		r.onlyRun()
	}
}

func repeats(t *testing.T) { once(t, "repeats", (*replay).sameBodies) }

func retried(t *testing.T) {
	once(t, "retried-503", func(r *replay) {
		r.sameBodies()
		for _, c := range r.webhooks[:len(r.webhooks)-1] {
			require.Equal(t, http.StatusServiceUnavailable, c.Answered)
		}
		require.Less(t, r.webhooks[1].At.Sub(r.webhooks[0].At), 2*time.Second)
	})
}

func timeout(t *testing.T) {
	once(t, "webhook-timeout", func(r *replay) {
		r.sameBodies()
		require.True(t, r.webhooks[1].At.Before(r.webhooks[0].Until), "the first is still being handled")
	})
}

func pair(t *testing.T) {
	r := replayOf(t, "alertmanager-pair", restartLoop)
	r.putWorkloads()
	for i := 0; i < len(r.webhooks); i += 2 {
		a, b := r.webhooks[i].envelope(t), r.webhooks[i+1].envelope(t)
		require.NotEqual(t, a.ExternalURL, b.ExternalURL)
		b.ExternalURL = a.ExternalURL
		require.Equal(t, a, b)
	}
	for r.next < len(r.webhooks) {
		r.acceptTogether(2)
	}
	require.Equal(t, 2, r.counts.Opened, "the pod and its replacement")
	require.Equal(t, 2, r.counts.Candidates)
	r.pass(10 * time.Minute)
	r.actedOnce("workload.restart Deployment/alertmanager-pair/web")
}

func refused429(t *testing.T) {
	once(t, "refused-429", func(r *replay) {
		r.sameBodies()
		require.Equal(t, http.StatusTooManyRequests, r.webhooks[0].Answered)
		require.Greater(t, r.webhooks[1].At.Sub(r.webhooks[0].At), 4*time.Second, "Retry-After said 1 s: it is not read")
	})
}

func resolvedRefused(t *testing.T) {
	r := replayOf(t, "resolved-refused", restartLoop)
	r.putWorkloads()
	r.playAll()
	require.Equal(t, 1, r.counts.Closed)
	require.Equal(t, len(r.webhooks)-2, r.counts.Repeated)
	r.pass(10 * time.Minute)
	r.actedOnce("workload.restart Deployment/resolved-refused/web")
	require.Equal(t, store.NotHealed, r.onlyRun().Outcome)
	closed := 0
	for _, line := range r.log() {
		if line == "episode.closed" {
			closed++
		}
	}
	require.Equal(t, 1, closed)

	// A resolution of something never seen firing starts nothing, however often.
	r = replayOf(t, "resolved-refused", restartLoop)
	r.putWorkloads()
	r.next = 1
	r.playAll()
	require.Equal(t, 1, r.counts.Orphaned)
	require.Empty(t, r.runs())
}
