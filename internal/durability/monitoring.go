package durability

import (
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/alertmedic/alertmedic/internal/testcluster"
)

// Monitoring is a real Prometheus and a real Alertmanager. What fires is decided
// by a metric that the test exports, so that hundreds of alerts can be switched
// on and off at once and each still takes the real way: scrape, rule, dispatch,
// webhook, and back through both APIs when its state is asked for.
type Monitoring struct {
	*testcluster.Monitoring
	mu     sync.Mutex
	firing map[string]struct{} // series
}

// StartMonitoring runs both until the test ends; alerts are the names of the
// rules, and webhooks go to url.
func StartMonitoring(t testing.TB, cluster *testcluster.Cluster, url string, alerts ...string) *Monitoring {
	t.Helper()
	m := &Monitoring{firing: map[string]struct{}{}}
	exporter := httptest.NewServer(http.HandlerFunc(m.metrics))
	t.Cleanup(exporter.Close)
	rules := "groups:\n- name: durability\n  interval: 1s\n  rules:\n"
	for _, name := range alerts {
		rules += fmt.Sprintf("  - alert: %s\n    expr: medic_test{rule=%q} == 1\n", name, name)
	}
	var err error
	m.Monitoring, err = cluster.StartMonitoring(t.Context(), testcluster.MonitoringOptions{
		Rules:         rules,
		Namespaces:    []string{"durability-has-no-use-for-kube-state-metrics"},
		ScrapeConfigs: fmt.Sprintf("- {job_name: world, honor_labels: true, static_configs: [{targets: [%q]}]}\n", strings.TrimPrefix(exporter.URL, "http://")),
		// Many small groups, repeated often: duplicates are the rule, not the exception.
		AlertmanagerConfig: "global: {resolve_timeout: 5m}\n" +
			"route: {receiver: alertmedic, group_by: [alertname, shard], group_wait: 200ms, group_interval: 1s, repeat_interval: 5s}\n" +
			fmt.Sprintf("receivers:\n- name: alertmedic\n  webhook_configs:\n  - {url: %q, send_resolved: true}\n", url),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Stop(); err != nil {
			t.Error(err)
		}
	})
	return m
}

// Fire makes an alert fire from the next evaluation on.
func (m *Monitoring) Fire(name string, labels map[string]string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.firing[series(name, labels)] = struct{}{}
}

// Resolve ends what Fire began.
func (m *Monitoring) Resolve(name string, labels map[string]string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.firing, series(name, labels))
}

// Firing counts what fires.
func (m *Monitoring) Firing() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.firing)
}

func series(name string, labels map[string]string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "medic_test{rule=%q", name)
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		fmt.Fprintf(&b, ",%s=%q", k, labels[k])
	}
	b.WriteString("}")
	return b.String()
}

func (m *Monitoring) metrics(w http.ResponseWriter, _ *http.Request) {
	m.mu.Lock()
	defer m.mu.Unlock()
	w.Header().Set("Content-Type", "text/plain; version=0.0.4")
	fmt.Fprintln(w, "# TYPE medic_test gauge")
	for _, s := range slices.Sorted(maps.Keys(m.firing)) {
		fmt.Fprintln(w, s, 1)
	}
}
