package testcluster

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const testRules = `
groups:
- name: test
  rules:
  - alert: PodCrashLooping
    expr: kube_pod_container_status_waiting_reason{reason="CrashLoopBackOff"} == 1
    labels: {severity: warning}
  - alert: NodeNotReady
    expr: kube_node_status_condition{condition="Ready",status="true"} == 0
    labels: {severity: critical}
`

type webhook struct {
	Status string `json:"status"`
	Alerts []struct {
		Status string            `json:"status"`
		Labels map[string]string `json:"labels"`
	} `json:"alerts"`
}

// sink is a webhook receiver that hands on what it gets.
func sink(t *testing.T) (url string, received <-chan webhook) {
	t.Helper()
	ch := make(chan webhook, 256)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var body webhook
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil || r.Header.Get("Authorization") != "Bearer secret" {
			http.Error(w, "no", http.StatusBadRequest)
			return
		}
		ch <- body
	}))
	t.Cleanup(server.Close)
	return server.URL, ch
}

func waitAlert(t *testing.T, ctx context.Context, received <-chan webhook, status string, labels map[string]string) {
	t.Helper()
	for {
		select {
		case body := <-received:
		alerts:
			for _, alert := range body.Alerts {
				if alert.Status != status {
					continue
				}
				for k, v := range labels {
					if alert.Labels[k] != v {
						continue alerts
					}
				}
				return
			}
		case <-ctx.Done():
			t.Fatalf("no %s alert with %v came: %v", status, labels, context.Cause(ctx))
		}
	}
}

func TestAFaultReachesTheWebhookAndItsEndToo(t *testing.T) {
	c := Shared(t)
	ctx := patient(t)
	ns := c.Namespace(t)
	url, received := sink(t)
	m, err := c.StartMonitoring(ctx, MonitoringOptions{Rules: testRules, WebhookURL: url, WebhookToken: "secret", Namespaces: []string{ns}})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, m.Stop()); require.NoDirExists(t, m.Dir()) })

	_, err = c.Client().AppsV1().Deployments(ns).Create(ctx, deployment(ns, "shop", 1, nil), metav1.CreateOptions{})
	require.NoError(t, err)
	require.NoError(t, c.WaitDeploymentAvailable(ctx, ns, "shop"))
	pod := podsOf(t, c, ns, "shop")[0].Name
	require.NoError(t, c.SetPodFault(ctx, ns, pod, PodCrashLoop))
	want := map[string]string{"alertname": "PodCrashLooping", "namespace": ns, "pod": pod, "cluster": "test"}
	waitAlert(t, ctx, received, "firing", want)
	require.NoError(t, c.ClearPodFault(ctx, ns, pod))
	waitAlert(t, ctx, received, "resolved", want)

	node := c.Node(t, NodeOptions{})
	require.NoError(t, c.SetNodeFault(ctx, node.Name, NodeUnreachable))
	want = map[string]string{"alertname": "NodeNotReady", "node": node.Name}
	waitAlert(t, ctx, received, "firing", want)
	require.NoError(t, c.ClearNodeFault(ctx, node.Name))
	waitAlert(t, ctx, received, "resolved", want)
}

func TestAPairOfEachToleratesTheLossOfOne(t *testing.T) {
	c := Shared(t)
	ctx := patient(t)
	ns := c.Namespace(t)
	url, received := sink(t)
	m, err := c.StartMonitoring(ctx, MonitoringOptions{
		Prometheuses: 2, Alertmanagers: 2, Rules: testRules, WebhookURL: url, WebhookToken: "secret", Namespaces: []string{ns}, NoHonorLabels: true,
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, m.Stop()) })
	require.NoError(t, Poll(ctx, func(ctx context.Context) (bool, error) {
		var status struct {
			Cluster struct {
				Status string
				Peers  []struct{ Address string }
			}
		}
		if err := getJSON(ctx, m.AlertmanagerURL(0)+"/api/v2/status", &status); err != nil {
			return false, err
		}
		return status.Cluster.Status == "ready" && len(status.Cluster.Peers) == 2, nil
	}))

	require.NoError(t, m.Process("prometheus-0").Kill())
	require.NoError(t, m.Process("alertmanager-1").Kill())
	_, err = c.Client().CoreV1().Pods(ns).Create(ctx, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "shop", Annotations: map[string]string{FaultAnnotation: string(PodCrashLoop)}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: image}}},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	waitAlert(t, ctx, received, "firing", map[string]string{"alertname": "PodCrashLooping", "namespace": "monitoring", "exported_namespace": ns, "exported_pod": "shop"})

	require.Error(t, m.Ready(ctx))
	require.NoError(t, m.Process("prometheus-0").Restart())
	require.NoError(t, m.Process("alertmanager-1").Restart())
	require.NoError(t, m.Ready(ctx))
	require.NoError(t, m.Reload(ctx, 0))
}

func getJSON(ctx context.Context, url string, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return json.NewDecoder(resp.Body).Decode(into)
}

func TestMoreScrapeConfigurationsAreAdded(t *testing.T) {
	m := &Monitoring{opts: MonitoringOptions{Rules: "groups: []", ScrapeConfigs: "not a list"}, supervisor: &supervisor{dir: t.TempDir()}, prometheuses: []int{1}, alertmanagers: []int{2}}
	m.opts.setDefaults()
	_, err := m.writePrometheusConfig(0)
	require.Error(t, err)
	m.opts.ScrapeConfigs = "[{job_name: more}]"
	path, err := m.writePrometheusConfig(0)
	require.NoError(t, err)
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Contains(t, string(data), "job_name: more")
}
