package app

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/alertmedic/alertmedic/internal/api/client"
	"github.com/alertmedic/alertmedic/internal/config"
	"github.com/alertmedic/alertmedic/internal/journal"
	"github.com/alertmedic/alertmedic/internal/store"
	"github.com/alertmedic/alertmedic/internal/testcluster"
)

// service is a running alertmedic with everything around it: the shared control
// plane, Prometheus and Alertmanager with the shipped rules.
type service struct {
	cluster *testcluster.Cluster
	ns      string
	url     string
	client  *client.Client
	slack   *slackAPI
	watch   *testcluster.Monitoring
	surroundings
	sources string // the configuration's, YAML
}

// surroundings say what is unlike the usual around a service.
type surroundings struct {
	// cluster is one of the test's own; nil is the shared one.
	cluster *testcluster.Cluster
	// rules is the file of rules; "" is that about pods.
	rules      string
	monitoring testcluster.MonitoringOptions
	// reach returns the address at which the service finds one of the monitoring's.
	reach func(url string) string
	// kubernetes is how it finds the API server.
	kubernetes *rest.Config
	tuning     string // more of the configuration, YAML
	flapDwell  string // the store's; "" is the default
	repeat     string // Alertmanager's repeat_interval; "" is 5s
	pace       Pace
}

const crashPlaybook = `apiVersion: alertmedic.io/v1alpha1
kind: Playbook
metadata: {name: crash}
spec:
  matchers: [alertname = KubePodCrashLooping]
  target: {kind: Workload}
  mode: %s
  remedies:
  - name: restart
    steps:
    - {name: look, action: diagnose, continueOnError: true}
    - {name: restart, action: pod.delete}
    verify: {timeout: 5m, stableFor: 3s}
`

// start runs the whole loop for one namespace until the test ends: as many
// replicas as there are data sources, each of which gets every webhook.
func start(t *testing.T, playbook string, dsn ...string) *service {
	t.Helper()
	return startIn(t, surroundings{}, playbook, dsn...)
}

func startIn(t *testing.T, in surroundings, playbook string, dsn ...string) *service {
	t.Helper()
	cluster := in.cluster
	if cluster == nil {
		cluster = testcluster.Shared(t)
	}
	ns := cluster.Namespace(t)
	if len(dsn) == 0 {
		dsn = []string{filepath.Join(t.TempDir(), "medic.db")}
	}
	var listeners []net.Listener
	hooks := ""
	for range dsn {
		l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
		require.NoError(t, err)
		listeners = append(listeners, l)
		hooks += fmt.Sprintf("  - {url: %q, send_resolved: true}\n", "http://"+l.Addr().String()+"/api/v1/webhook")
	}
	rules, err := os.ReadFile(filepath.Join("../../rules", cmp.Or(in.rules, "pods.yaml")))
	require.NoError(t, err)
	monitoring := in.monitoring
	monitoring.Prometheuses, monitoring.Alertmanagers = max(1, monitoring.Prometheuses), max(1, monitoring.Alertmanagers)
	monitoring.Rules, monitoring.Namespaces = testcluster.HurryRules(string(rules)), []string{ns}
	monitoring.AlertmanagerConfig = "route: {receiver: alertmedic, group_by: [namespace], group_wait: 500ms, group_interval: 1s, repeat_interval: " + cmp.Or(in.repeat, "5s") + "}\n" +
		"receivers:\n- name: alertmedic\n  webhook_configs:\n" + hooks
	watch, err := cluster.StartMonitoring(t.Context(), monitoring)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, watch.Stop()) })
	s := &service{cluster: cluster, ns: ns, slack: newSlackAPI(t), watch: watch, surroundings: in}
	if s.kubernetes == nil {
		s.kubernetes = cluster.RESTConfig()
	}
	urls := func(n int, url func(int) string) string {
		var out []string
		for i := range n {
			at := url(i)
			if s.reach != nil {
				at = s.reach(at)
			}
			out = append(out, fmt.Sprintf("{url: %q}", at))
		}
		return strings.Join(out, ", ")
	}
	s.sources = fmt.Sprintf("- {name: am, alertmanagers: [%s], prometheuses: [%s]}", urls(monitoring.Alertmanagers, watch.AlertmanagerURL),
		urls(monitoring.Prometheuses, watch.PrometheusURL))
	for i, l := range listeners {
		s.replica(t, playbook, dsn[i], l)
	}
	s.url = "http://" + listeners[0].Addr().String()
	s.client, err = client.New(client.Options{Server: s.url})
	require.NoError(t, err)
	return s
}

// replica runs one process's worth of the service.
func (s *service) replica(t *testing.T, playbook, dsn string, listener net.Listener) {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "playbook.yaml"), []byte(playbook), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "slack.token"), []byte("xoxb-test-token\n"), 0o600))
	cfg, err := config.Parse(filepath.Join(dir, "alertmedic.yaml"), fmt.Appendf(nil, `
cluster: test
listen: {address: %q}
sources:
%s
store: {dsn: %q, flapDwell: %s}
playbooks: {paths: [playbook.yaml]}
notify: {slack: {tokenFile: slack.token, channel: "#oncall", apiURL: %q}}
%s
`, listener.Addr(), s.sources, dsn, cmp.Or(s.flapDwell, "2m"), s.slack.URL+"/api", s.tuning))
	require.NoError(t, err)
	testedBy(cfg)
	if s.surroundings.cluster == nil {
		sharing(cfg)
	}

	ctx, cancel := context.WithCancel(context.Background())
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		ended <- Run(ctx, Options{Config: cfg, Logger: slog.New(slog.NewTextHandler(t.Output(), nil)), Registry: prometheus.NewRegistry(),
			Kubernetes: s.kubernetes, Listener: listener, Pace: s.pace, Ready: func(net.Addr) { close(ready) }})
	}()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-ended)
	})
	select {
	case <-ready:
	case err := <-ended:
		ended <- err
		require.NoError(t, err, "ended before it was ready")
	}
}

// testedBy tells the service what is peculiar about a test: nobody but the test
// itself changes objects, right before they break, and its Prometheus has the
// rules of one kind of object only.
func testedBy(cfg *config.Config) {
	cfg.Safety.HumanActivity.IgnoreManagers = []string{"*.test"}
	cfg.Safety.Watchdog.Enabled = false
}

// sharing tells the service that other tests break nodes of its cluster, as many
// as they like, which is no storm.
func sharing(cfg *config.Config) {
	cfg.Safety.Nodes.MaxUnhealthy, cfg.Safety.Nodes.MaxUnhealthyPercent = 1000, 100
}

// deploy creates a Deployment of n sound pods and waits until it serves.
func (s *service) deploy(t *testing.T, name string, n int32) []corev1.Pod {
	t.Helper()
	labels := map[string]string{"app": name}
	_, err := s.cluster.Client().AppsV1().Deployments(s.ns).Create(t.Context(), &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: appsv1.DeploymentSpec{Replicas: &n, Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "app", Image: "app:1"}}}}},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	require.NoError(t, s.cluster.WaitDeploymentAvailable(t.Context(), s.ns, name))
	pods, err := s.cluster.Client().CoreV1().Pods(s.ns).List(t.Context(), metav1.ListOptions{LabelSelector: "app=" + name})
	require.NoError(t, err)
	require.NotEmpty(t, pods.Items)
	return pods.Items
}

// alertName is of the alert that the playbooks of these tests are for. The
// shipped rules have others about such a pod, which come when it takes long.
const alertName = "KubePodCrashLooping"

// until follows the log to the first entry of a kind, about the tests' alert if
// about any, and returns all before it.
func (s *service) until(t *testing.T, kind journal.Kind) []journal.Entry {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	var seen []journal.Entry
	err := s.client.Follow(ctx, store.LogFilter{}, func(en journal.Entry) error {
		seen = append(seen, en)
		if en.Kind == kind && (en.AlertName == "" || en.AlertName == alertName) {
			return errFound
		}
		return nil
	})
	require.ErrorIs(t, err, errFound, "no %s in the log: %v", kind, kinds(seen))
	return seen
}

var errFound = fmt.Errorf("found")

func kinds(entries []journal.Entry) string {
	var out []string
	for _, en := range entries {
		out = append(out, strings.TrimSpace(string(en.Kind)+" "+en.Outcome+" "+en.Reason))
	}
	return strings.Join(out, ", ")
}

// Real rules fire on a real pod, the webhook arrives, the pod is deleted, the
// replacement is healthy, the alert resolves: healed.
func TestHealsACrashLoopingPod(t *testing.T) {
	t.Parallel()
	s := start(t, fmt.Sprintf(crashPlaybook, "Auto"))
	pods := s.deploy(t, "web", 2)
	sick := pods[0]
	require.NoError(t, s.cluster.SetPodFault(t.Context(), s.ns, sick.Name, testcluster.PodCrashLoop))
	entries := s.until(t, journal.RunEnded)
	last := entries[len(entries)-1]
	require.Equal(t, string(store.Healed), last.Outcome, "%s: %s", last.Message, kinds(entries))
	require.Equal(t, "web", last.Target.Name)
	require.NoError(t, s.cluster.WaitPodGone(t.Context(), &sick))
	s.slack.requireOneMessage(t, "healed")
	s.requireOneDelete(t, sick.Name)
	var err error
	head := journal.Head{}
	for _, en := range entries {
		head, err = head.Next(en)
		require.NoError(t, err, "the journal's chain")
	}
}

// The pod itself is the target: it goes, its successor is judged in its place.
func TestHealsAPodThatIsTheTarget(t *testing.T) {
	t.Parallel()
	s := start(t, strings.Replace(fmt.Sprintf(crashPlaybook, "Auto"), "kind: Workload", "kind: Pod", 1))
	sick := s.deploy(t, "web", 2)[0]
	require.NoError(t, s.cluster.SetPodFault(t.Context(), s.ns, sick.Name, testcluster.PodCrashLoop))
	entries := s.until(t, journal.RunEnded)
	last := entries[len(entries)-1]
	require.Equal(t, string(store.Healed), last.Outcome, "%s: %s", last.Message, kinds(entries))
	require.Equal(t, sick.Name, last.Target.Name)
	s.requireOneDelete(t, sick.Name)
}

// requireOneDelete reads from the API server's audit log that alertmedic deleted
// this pod, once, and no other.
func (s *service) requireOneDelete(t *testing.T, pod string) {
	t.Helper()
	deletes := 0
	events, err := s.cluster.Mutations(time.Time{})
	require.NoError(t, err)
	for _, e := range events {
		if e.Verb == "delete" && e.ObjectRef.Resource == "pods" && e.ObjectRef.Namespace == s.ns && strings.HasPrefix(e.UserAgent, "alertmedic/") {
			deletes++
			require.Equal(t, pod, e.ObjectRef.Name)
		}
	}
	require.Equal(t, 1, deletes, "one action for one fault")
}

// Two replicas on one PostgreSQL, each of which is told everything, several
// times: one run, one action.
func TestReplicasActOnce(t *testing.T) {
	t.Parallel()
	dsn := database(t)
	s := start(t, fmt.Sprintf(crashPlaybook, "Auto"), dsn, dsn)
	pods := s.deploy(t, "web", 2)
	require.NoError(t, s.cluster.SetPodFault(t.Context(), s.ns, pods[0].Name, testcluster.PodCrashLoop))
	entries := s.until(t, journal.RunEnded)
	last := entries[len(entries)-1]
	require.Equal(t, string(store.Healed), last.Outcome, "%s: %s", last.Message, kinds(entries))
	s.requireOneDelete(t, pods[0].Name)
	runs, err := s.client.Runs(t.Context(), store.RunFilter{}, client.Page{})
	require.NoError(t, err)
	require.Len(t, runs.Items, 1)
}

// database returns a fresh PostgreSQL database, of the test run's server or of
// one for this test alone.
func database(t *testing.T) string {
	t.Helper()
	if dsn, ok := testcluster.Database(t); ok {
		return dsn
	}
	pg, err := testcluster.StartPostgres(t.Context(), testcluster.PostgresOptions{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, pg.Stop()) })
	return pg.DSN
}

// Mode Observe goes through the same loop and changes nothing.
func TestObservesACrashLoopingPod(t *testing.T) {
	t.Parallel()
	s := start(t, fmt.Sprintf(crashPlaybook, "Observe"))
	pods := s.deploy(t, "web", 1)
	require.NoError(t, s.cluster.SetPodFault(t.Context(), s.ns, pods[0].Name, testcluster.PodCrashLoop))
	entries := s.until(t, journal.RunEnded)
	require.Equal(t, string(store.Simulated), entries[len(entries)-1].Outcome, kinds(entries))
	pod, err := s.cluster.Client().CoreV1().Pods(s.ns).Get(t.Context(), pods[0].Name, metav1.GetOptions{})
	require.NoError(t, err)
	require.Equal(t, pods[0].UID, pod.UID)
	require.Nil(t, pod.DeletionTimestamp)
}
