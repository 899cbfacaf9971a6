package engine

import (
	"bytes"
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alertmedic/alertmedic/internal/action"
	"github.com/alertmedic/alertmedic/internal/alert"
	"github.com/alertmedic/alertmedic/internal/guard"
	"github.com/alertmedic/alertmedic/internal/kube"
	"github.com/alertmedic/alertmedic/internal/store"
)

// The rows of TestRealAlerts about what a payload leaves out and what its labels
// say of the target.

// touch is a change to one object of the kinds that the other scripted actions
// are not for.
const touch = "object.touch"

func init() {
	specs[touch] = action.Spec{Name: touch, Kinds: []action.Kind{action.KindPod, action.KindPersistentVolumeClaim}, Mutating: true, Replay: action.Idempotent}
}

func storm(t *testing.T) {
	start := func() *replay {
		r := replayOf(t, "node-storm", cordonNode)
		for _, a := range r.webhooks[len(r.webhooks)-1].envelope(t).Alerts {
			r.putNode(a.Labels["node"])
		}
		return r
	}
	r := start()
	known := 0
	for _, c := range r.webhooks {
		var names []string
		for _, a := range c.envelope(t).Alerts {
			names = append(names, a.Labels["node"])
		}
		require.Greater(t, len(names), known, "each notification names more nodes")
		known = len(names)
		r.sick(100, c.At, names...)
		r.play(1)
	}
	require.Equal(t, 10, known)
	require.Equal(t, 10, r.counts.Opened)
	require.Empty(t, r.calls, "the storm is still growing")
	r.pass(10 * time.Minute)
	require.Empty(t, r.calls, "it has settled: 10 sick nodes are more than may be acted on")
	// The storm is over but for one node.
	r.sick(100, r.webhooks[0].At, "worker-0")
	for fingerprint := range r.said {
		r.said[fingerprint] = alert.Resolved
	}
	one := r.webhooks[0].envelope(t).Alerts[0]
	require.Equal(t, "worker-0", one.Labels["node"])
	r.said[one.Fingerprint] = alert.Firing
	r.pass(5 * time.Minute)
	require.Empty(t, r.calls, "nodes recover unevenly: nothing new before the storm has been over for a while")
	r.pass(6 * time.Minute)
	require.Equal(t, []string{"node.cordon Node/worker-0"}, r.calls)

	// The first notification, of a storm that the cluster does not show yet
	// either: its size is not known before it has settled.
	r = start()
	r.sick(100, r.now, "worker-0")
	r.play(1)
	r.pass(50 * time.Second)
	require.Empty(t, r.calls)
	r.pass(20 * time.Second)
	require.NotEmpty(t, r.calls)
}

func truncation(t *testing.T) {
	r := replayOf(t, "truncated", cordonNode)
	names := []string{"worker-0", "worker-1", "worker-2", "worker-3", "worker-4", "worker-5", "worker-6", "worker-7"}
	for _, n := range names {
		r.putNode(n)
	}
	r.sick(100, time.Time{}, names...)
	for _, c := range r.webhooks {
		hook, _, err := alert.Decode(bytes.NewReader(c.Body), r.now, alert.Limits{})
		require.NoError(t, err)
		require.EqualValues(t, 5, hook.TruncatedAlerts)
		require.Len(t, hook.Alerts, 3)
	}
	r.playAll()
	last := r.webhooks[len(r.webhooks)-1].envelope(t)
	require.Equal(t, "firing", last.Status)
	var seen alert.Alert
	for _, a := range last.Alerts {
		if a.Status == alert.Firing {
			seen = a
		}
	}
	require.Equal(t, 3, r.counts.Opened)
	require.Equal(t, 2, r.counts.Closed, "the two that ended, and not the group")
	require.Empty(t, r.calls, "three are shown, eight are sick")

	// What was left out is read, and read again to no effect.
	for _, n := range names[2:] {
		a := seen.Clone()
		a.Labels["node"] = n
		a.Fingerprint = alert.Fingerprint(a.Labels)
		r.said[a.Fingerprint] = alert.Firing
		r.active = append(r.active, a)
	}
	for range 2 {
		require.NoError(t, r.engine.resyncSource(t.Context(), r.engine.Sources["am"]))
		eps, err := r.store.OpenEpisodes(t.Context(), "am")
		require.NoError(t, err)
		require.Len(t, eps, 6)
	}
	r.pass(10 * time.Minute)
	require.Empty(t, r.calls, "six are still more than may be acted on")
}

func grouping(t *testing.T) {
	r := replayOf(t, "grouping", restartLoop, playbook("KubePodNotReady", "Workload", "workload.restart"))
	r.putWorkloads()
	mixed := 0
	for _, c := range r.webhooks {
		e := c.envelope(t)
		statuses := map[alert.Status]bool{}
		for _, a := range e.Alerts {
			statuses[a.Status] = true
		}
		if len(statuses) == 2 {
			mixed++
			require.Equal(t, "firing", e.Status, "a mixed group is firing as a whole")
		}
		switch e.Receiver {
		case "by-namespace":
			require.NotContains(t, e.CommonLabels, "alertname")
			require.Equal(t, map[string]string{"namespace": "grouping"}, e.GroupLabels)
		case "ungrouped":
			require.Empty(t, e.GroupLabels)
		case "by-everything":
			require.Len(t, e.Alerts, 1)
			require.Equal(t, e.Alerts[0].Labels, e.GroupLabels)
		default:
			t.Fatalf("receiver %q", e.Receiver)
		}
	}
	require.Equal(t, 2, mixed)
	r.playAll()
	require.Equal(t, 2, r.counts.Opened, "three receivers tell of the same two alerts")
	require.Equal(t, 1, r.counts.Closed, "only the one that ended")
	r.pass(10 * time.Minute)
	require.ElementsMatch(t, []string{"workload.restart Deployment/grouping/web", "workload.restart Deployment/grouping/shop"}, r.calls)
	for _, run := range r.runs() {
		require.Equal(t, store.NotHealed, run.Outcome)
	}
}

func recreatedPod(t *testing.T) {
	const namespace = "statefulset-pod"
	r := replayOf(t, namespace, playbook("KubePodCrashLooping", "Pod", touch), playbook("KubePodNotReady", "Pod", touch))
	// One group, three alerts for one pod name over time: what fires for the pod
	// that is gone, what fires for the live one, and the end of the former.
	uids := map[string]string{} // the fingerprint to the uid of db-0
	statuses := map[string]map[alert.Status]bool{}
	var pending alert.Alert
	for _, c := range r.webhooks {
		for _, a := range c.envelope(t).Alerts {
			if a.Name() == "KubePodNotReady" {
				pending = a
				require.NotContains(t, a.Labels, "uid")
				continue
			}
			require.Equal(t, "db-0", a.Labels["pod"])
			uids[a.Fingerprint] = a.Labels["uid"]
			if statuses[a.Fingerprint] == nil {
				statuses[a.Fingerprint] = map[alert.Status]bool{}
			}
			statuses[a.Fingerprint][a.Status] = true
		}
	}
	require.Len(t, uids, 2, "another uid is another fingerprint")
	live := ""
	for fingerprint, uid := range uids {
		if !statuses[fingerprint][alert.Resolved] {
			live = uid
		}
	}
	require.NotEmpty(t, live)
	stateful := map[string]any{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "db", "uid": "uid-db", "controller": true}

	// alertmedic is told of all three after both pods were re-created. (The capture
	// is a minute of the real thing: that pod is created later than it was, by the
	// 5 s that clocks may differ.)
	r.putPod(namespace, "db-0", live, r.now.Add(4*time.Second), stateful)
	r.putPod(namespace, "cache-0", "uid-new", pending.StartsAt.Add(6*time.Second), stateful)
	r.next, r.now = 1, r.webhooks[1].At
	r.play(1)
	require.Equal(t, []string{"object.touch Pod/" + namespace + "/db-0"}, r.calls)
	require.Equal(t, live, r.onlyRun().Target.UID)
	refusals := 0
	for _, line := range r.log() {
		if line == "candidate.ended failed "+string(kube.Replaced) {
			refusals++
		}
	}
	require.Equal(t, 2, refusals, "the uid that is gone, and the pod that is younger than its alert")
	r.playAll()
	r.pass(10 * time.Minute)
	r.actedOnce("object.touch Pod/" + namespace + "/db-0")

	// Told of the first one only, when it is gone: nothing is touched.
	r = replayOf(t, namespace, playbook("KubePodCrashLooping", "Pod", touch))
	r.putPod(namespace, "db-0", live, r.now.Add(4*time.Second), stateful)
	r.play(1)
	r.refused(kube.Replaced)
}

func exporterLabels(t *testing.T) {
	start := func(docs ...string) *replay {
		r := replayOf(t, "exporter-labels", docs...)
		r.putNode("worker-1")
		r.sick(10, time.Time{}, "worker-1")
		r.put("/apis/apps/v1/namespaces/monitoring/deployments/kube-state-metrics", "apps/v1", "Deployment",
			meta("monitoring", "kube-state-metrics", "uid-kube-state-metrics", r.before()))
		r.putPod("monitoring", "kube-state-metrics-0", "uid-exporter", r.before(), controller("Deployment", "kube-state-metrics"))
		labels := r.webhooks[0].envelope(t).Alerts[0].Labels
		require.Equal(t, "monitoring", labels["namespace"])
		require.Equal(t, "kube-state-metrics-0", labels["pod"])
		require.Equal(t, "kube-state-metrics", labels["container"])
		return r
	}
	r := start(cordonNode)
	r.playAll()
	require.Equal(t, []string{"node.cordon Node/worker-1"}, r.calls)

	// A playbook for the wrong kind does not reach the exporter.
	r = start(playbook("KubeNodeNotReady", "Pod", touch))
	r.playAll()
	r.refused(kube.Ambiguous)
	r = start(playbook("KubeNodeNotReady", "Workload", "workload.restart"))
	r.playAll()
	require.Empty(t, r.calls)
	require.Empty(t, r.runs())
}

func exportedLabels(t *testing.T) {
	start := func() *replay {
		r := replayOf(t, "no-honor-labels", restartLoop)
		r.putWorkloads()
		r.putPod("monitoring", "kube-state-metrics-0", "uid-exporter", r.before())
		return r
	}
	r := start()
	a := r.webhooks[0].envelope(t).Alerts[0]
	require.Equal(t, "monitoring", a.Labels["namespace"])
	require.Equal(t, "no-honor-labels", a.Labels["exported_namespace"])
	r.playAll()
	require.Equal(t, []string{"workload.restart Deployment/no-honor-labels/web"}, r.calls)

	// Half of it was dropped on the way: the namespace would be the exporter's.
	r = start()
	delete(a.Labels, "exported_namespace")
	a.Fingerprint = alert.Fingerprint(a.Labels)
	body, err := json.Marshal(map[string]any{"version": "4", "alerts": []alert.Alert{a}})
	require.NoError(t, err)
	r.webhooks[0].Body = body
	r.playAll()
	r.refused(kube.Ambiguous)
}

func volumeClaim(t *testing.T) {
	const namespace = "volume-claim"
	start := func() *replay {
		r := replayOf(t, namespace, playbook("KubePersistentVolumeFillingUp", "PersistentVolumeClaim", touch))
		core := "/api/v1/namespaces/" + namespace
		r.put(core+"/persistentvolumeclaims/data-db-0", "v1", "PersistentVolumeClaim", meta(namespace, "data-db-0", "uid-claim", r.before()))
		r.objects[core+"/pods"] = map[string]any{"apiVersion": "v1", "kind": "PodList", "items": []any{}}
		r.putNode("worker-1")
		return r
	}
	r := start()
	labels := r.webhooks[0].envelope(t).Alerts[0].Labels
	require.Equal(t, "kubelet", labels["service"])
	require.Equal(t, "worker-1", labels["node"])
	r.playAll()
	require.Equal(t, 2, r.counts.Opened)
	require.Equal(t, 2, r.counts.Candidates)
	r.pass(10 * time.Minute)
	r.actedOnce("object.touch PersistentVolumeClaim/" + namespace + "/data-db-0")
	r.onlyRun()

	// Held back, both join the one run before it begins.
	r = start()
	require.NoError(t, r.store.SetPause(t.Context(), guard.Pause{Scope: guard.PauseGlobal, By: "ada", Why: "release", At: r.now}))
	r.playAll()
	require.Empty(t, r.calls)
	require.Contains(t, r.log(), "run.joined")
	r.onlyRun()
}

func lyingLabels(t *testing.T) {
	for _, kind := range []string{"Workload", "Deployment"} {
		r := replayOf(t, "lying-labels", playbook("KubePodCrashLooping", kind, "workload.restart"))
		r.putWorkloads()
		r.put("/apis/apps/v1/namespaces/lying-labels/deployments/innocent", "apps/v1", "Deployment", meta("lying-labels", "innocent", "uid-innocent", r.before()))
		require.Equal(t, "innocent", r.webhooks[0].envelope(t).Alerts[0].Labels["deployment"])
		r.playAll()
		r.refused(kube.LabelContradiction)
		require.Empty(t, r.runs())
	}
}
