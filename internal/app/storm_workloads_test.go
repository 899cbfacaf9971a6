package app

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"

	"github.com/alertmedic/alertmedic/internal/guard"
	"github.com/alertmedic/alertmedic/internal/journal"
	"github.com/alertmedic/alertmedic/internal/store"
	"github.com/alertmedic/alertmedic/internal/testcluster"
)

// create makes a Deployment whose update takes all pods at once; it does not wait.
func create(t *testing.T, cluster *testcluster.Cluster, ns, name string, replicas int32) {
	t.Helper()
	labels, all := map[string]string{"app": name}, intstr.FromString("100%")
	_, err := cluster.Client().AppsV1().Deployments(ns).Create(t.Context(), &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: appsv1.DeploymentSpec{Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: labels},
			Strategy: appsv1.DeploymentStrategy{Type: appsv1.RollingUpdateDeploymentStrategyType,
				RollingUpdate: &appsv1.RollingUpdateDeployment{MaxUnavailable: &all, MaxSurge: &intstr.IntOrString{}}},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "app", Image: "app:1"}}}}},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
}

// One playbook replaces pods, the other takes the rollout back.
const rolloutPlaybooks = `apiVersion: alertmedic.io/v1alpha1
kind: Playbook
metadata: {name: replace}
spec:
  matchers: [alertname = KubePodCrashLooping, pod =~ "pods-.*"]
  target: {kind: Workload}
  remedies:
  - {name: replace, steps: [{name: delete, action: pod.delete}], verify: {timeout: 5m, stableFor: 1s}}
---
apiVersion: alertmedic.io/v1alpha1
kind: Playbook
metadata: {name: undo}
spec:
  matchers: [alertname = KubePodCrashLooping, pod =~ "apps-.*"]
  target: {kind: Workload}
  remedies:
  - {name: undo, steps: [{name: undo, action: workload.rollback}], verify: {timeout: 5m, stableFor: 1s}}
`

// A release breaks every pod of several Deployments. Of half of them a playbook
// would replace pods: nothing is left that works, so none is touched. Of the other
// half a playbook takes the rollout back: one after another, at the pace of the
// caps, until each is well. People read of each workload, and not of each pod.
func rolloutBreaksEveryPod(t *testing.T, cluster *testcluster.Cluster, size storms) {
	limits := caps{global: bucket{3, 4 * time.Second}, playbook: bucket{2, 5 * time.Second}, namespace: bucket{3, 4 * time.Second},
		concurrent: 5, perPlaybook: 1, perNamespace: 2}
	s := startIn(t, surroundings{cluster: cluster, pace: stormyPace, tuning: fastReads + `engine: {resyncInterval: 1s}
safety: {rate: {global: {burst: 3, every: 4s}, perPlaybook: {burst: 2, every: 5s}, perNamespace: {burst: 3, every: 4s}}}`}, rolloutPlaybooks)
	var undone, held []string
	for i := range size.deployments {
		name := fmt.Sprintf("apps-%02d", i)
		if i%2 == 1 {
			name = fmt.Sprintf("pods-%02d", i)
			held = append(held, name)
		} else {
			undone = append(undone, name)
		}
		create(t, cluster, s.ns, name, int32(size.replicas))
	}
	all := slices.Concat(undone, held)
	for _, name := range all {
		require.NoError(t, cluster.WaitDeploymentAvailable(t.Context(), s.ns, name))
	}
	began := time.Now()
	release := fmt.Appendf(nil, `{"spec":{"template":{"metadata":{"annotations":{%q:%q}}}}}`, testcluster.FaultAnnotation, testcluster.PodCrashLoop)
	for _, name := range all {
		_, err := cluster.Client().AppsV1().Deployments(s.ns).Patch(t.Context(), name, types.StrategicMergePatchType, release, metav1.PatchOptions{FieldManager: "release.test"})
		require.NoError(t, err)
	}
	poll(t, "what can be undone is, and what cannot be replaced waits", func() bool {
		healed, waits := map[string]bool{}, map[string]bool{}
		for _, r := range s.runs(t) {
			healed[r.Target.Name] = healed[r.Target.Name] || r.Outcome == store.Healed
			waits[r.Target.Name] = waits[r.Target.Name] || r.Reason == string(guard.ReasonPodBudget)
		}
		return !slices.ContainsFunc(undone, func(n string) bool { return !healed[n] }) && !slices.ContainsFunc(held, func(n string) bool { return !waits[n] })
	})
	for _, name := range undone {
		require.NoError(t, cluster.WaitDeploymentAvailable(t.Context(), s.ns, name))
	}
	events := s.mutations(t, began, func(o *auditv1.ObjectReference) bool { return o.Namespace == s.ns })
	made := s.requireCaps(t, limits, events)
	changed := map[string]int{}
	for _, ev := range events {
		changed[ev.ObjectRef.Resource+"/"+ev.ObjectRef.Name]++
	}
	want := map[string]int{}
	for _, name := range undone {
		want["deployments/"+name] = 1
	}
	require.Equal(t, want, changed, "one rollback of each, and no pod: %v", made)
	runs := s.requireReasons(t)
	require.Len(t, runs, len(all), "a run for each workload, whatever number of its pods fail")
	require.LessOrEqual(t, len(messages(s.slack.all())), len(undone), "people hear of what was changed")
	t.Logf("a release broke %d pods of %d Deployments; %s", len(all)*size.replicas, len(all), time.Since(began).Round(time.Second))
}

const manyAlertsPlaybook = `apiVersion: alertmedic.io/v1alpha1
kind: Playbook
metadata: {name: restart-%[1]s}
spec:
  matchers: [alertname = ReleaseBroken, tier = %[1]s]
  target: {kind: Workload}
  remedies:
  - {name: restart, steps: [{name: restart, action: workload.restart}], verify: {timeout: 5m, stableFor: 2s, alert: Ignore}}
`

// Very many alerts about many workloads come in a short time. None is lost, each
// workload has one run, a storm holds them and is told once; when no new ones have
// come for a while, workloads are restarted at the pace of the caps.
func veryManyAlerts(t *testing.T, cluster *testcluster.Cluster, size storms) {
	limits := caps{global: bucket{8, 5 * time.Second}, playbook: bucket{6, 6 * time.Second}, namespace: bucket{6, 8 * time.Second},
		concurrent: 5, perPlaybook: 3, perNamespace: 4}
	// Repeated every few seconds, as other tests have it, this many alerts would be
	// all that the store is busy with.
	s := startIn(t, surroundings{cluster: cluster, repeat: "1h", pace: Pace{Verify: time.Second, Guards: size.guards}, tuning: fastReads + fmt.Sprintf(`engine: {resyncInterval: 5s}
safety:
  maxConcurrentRuns: 5
  maxConcurrentRunsPerPlaybook: 3
  maxConcurrentRunsPerNamespace: 4
  rate: {global: {burst: 8, every: 5s}, perPlaybook: {burst: 6, every: 6s}, perNamespace: {burst: 6, every: 8s}}
  cooldown: {afterSuccess: 6h, afterFailure: 6h} # or a workload would be due again before a slow machine is through with all of them
  storm: {maxRuns: %d, window: %s, cooldown: %s}`, size.stormRuns, size.stormWindow, size.stormCalm)}, fmt.Sprintf(manyAlertsPlaybook, "front")+"---\n"+fmt.Sprintf(manyAlertsPlaybook, "back"))
	namespaces := []string{s.ns, cluster.Namespace(t), cluster.Namespace(t)}
	for i := range size.workloads {
		create(t, cluster, namespaces[i%3], fmt.Sprintf("web-%03d", i), 1)
	}
	for i := range size.workloads {
		require.NoError(t, cluster.WaitDeploymentAvailable(t.Context(), namespaces[i%3], fmt.Sprintf("web-%03d", i)))
	}

	began := time.Now()
	postMany(t, s.watch.AlertmanagerURL(0), size, func(i int) map[string]string {
		w := i % size.workloads
		return map[string]string{"alertname": "ReleaseBroken", "cluster": "test", "namespace": namespaces[w%3], "deployment": fmt.Sprintf("web-%03d", w),
			"tier": []string{"front", "back"}[w%2], "check": fmt.Sprint(i)}
	})
	posted := time.Since(began)
	s.untilLogged(t, 1, journal.StormBegan)
	s.untilLogged(t, size.alerts, journal.RunCreated, journal.RunJoined, journal.RunAttached)
	arrived := time.Since(began)
	seen := map[string]bool{}
	for _, en := range s.logged(t, journal.EpisodeOpened) {
		require.False(t, seen[en.Fingerprint], "opened twice: %s", en.Fingerprint)
		seen[en.Fingerprint] = true
		require.True(t, en.CreatesCandidate(), "the episode of %s has no candidate", en.Fingerprint)
	}
	require.Len(t, seen, size.alerts, "an episode for each alert")
	require.Empty(t, s.logged(t, journal.CandidateCreated), "one candidate each")

	s.untilLogged(t, 1, journal.StormEnded)
	own := func(o *auditv1.ObjectReference) bool { return slices.Contains(namespaces, o.Namespace) }
	poll(t, "workloads are restarted when the storm is over", func() bool { return len(s.mutations(t, began, own)) >= size.acted })
	made := s.requireCaps(t, limits, s.mutations(t, began, own))
	require.GreaterOrEqual(t, len(firsts(made)), size.acted)
	changed := map[string]int{}
	for _, c := range made {
		changed[c.what]++
		require.Equal(t, 1, changed[c.what], "%s was restarted twice: alerts that came later are for a run that waits", c.what)
	}
	targets := map[string]bool{}
	for _, r := range s.requireReasons(t) {
		targets[r.Target.Namespace+"/"+r.Target.Name] = true
	}
	require.Len(t, targets, size.workloads, "a run for each workload")
	acted := len(firsts(made))
	said := messages(s.slack.all())
	others := slices.DeleteFunc(slices.Clone(said), slackCall.isStorm)
	require.NotEqual(t, len(said), len(others), "nobody was told of the storm")
	require.LessOrEqual(t, len(said)-len(others), len(s.logged(t, journal.StormBegan)), "one message for a storm")
	// A run can have changed something after the audit log was read.
	require.LessOrEqual(t, len(others), acted+limits.concurrent, "people hear of what was changed, and not of each alert")
	t.Logf("%d alerts posted in %s about %d workloads, all part of a run %s after the first, the end %s after it", size.alerts, posted.Round(time.Millisecond), size.workloads,
		arrived.Round(time.Millisecond), time.Since(began).Round(time.Second))
}

// postMany tells Alertmanager of the alerts, in batches spread evenly.
func postMany(t *testing.T, url string, size storms, labels func(int) map[string]string) {
	t.Helper()
	const batches = 50
	each := size.alerts / batches
	tick := time.NewTicker(size.spread / batches)
	defer tick.Stop()
	now := time.Now()
	for b := range batches {
		alerts := make([]map[string]any, 0, each)
		for i := range each {
			alerts = append(alerts, map[string]any{"labels": labels(b*each + i), "startsAt": now, "endsAt": now.Add(6 * time.Hour)})
		}
		body, err := json.Marshal(alerts)
		require.NoError(t, err)
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+"/api/v2/alerts", bytes.NewReader(body))
		require.NoError(t, err)
		req.Header.Set("Content-Type", "application/json")
		resp, err := http.DefaultClient.Do(req)
		require.NoError(t, err)
		answer, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, http.StatusOK, resp.StatusCode, "%s", answer)
		<-tick.C
	}
}
