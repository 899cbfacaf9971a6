package app

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"github.com/stretchr/testify/require"
	"k8s.io/client-go/rest"

	"github.com/alertmedic/alertmedic/internal/config"
)

// serveAlone runs the service without a cluster behind it, until the test ends,
// and returns its URL and the folder of its files.
func serveAlone(t *testing.T) (url, dir string) {
	t.Helper()
	dir = t.TempDir()
	cfg, err := config.Parse(filepath.Join(dir, "alertmedic.yaml"), fmt.Appendf(nil, `
cluster: test
sources:
- {name: am, alertmanagers: [{url: "http://127.0.0.1:1"}], prometheuses: [{url: "http://127.0.0.1:1"}]}
store: {dsn: %q}
playbooks: {paths: [playbook.yaml]}
`, filepath.Join(dir, "medic.db")))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "playbook.yaml"), fmt.Appendf(nil, crashPlaybook, "Auto"), 0o600))
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- Run(ctx, Options{Config: cfg, Logger: slog.New(slog.DiscardHandler), Kubernetes: &rest.Config{Host: "https://127.0.0.1:1"}, Listener: listener})
	}()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-ended)
	})
	// The listener is open already: the first request waits for the server.
	return "http://" + listener.Addr().String(), dir
}

// Every metric that the shipped rules and the dashboard ask for exists, and the
// names keep to Prometheus' conventions. Counters with labels that appear with
// their first event are named in late.
func TestMetricsThatRulesAndDashboardAskForExist(t *testing.T) {
	t.Parallel()
	late := map[string]bool{"actions_total": true, "approvals_total": true, "candidates_total": true, "guard_decisions_total": true,
		"runs_ended_total": true, "runs_started_total": true, "verdicts_total": true, "time_to_heal_seconds": true,
		"action_duration_seconds": true, "runs": true, "alert_state_reads_total": true, "webhook_requests_total": true}
	s, _ := serveAlone(t)
	resp, err := http.Get(s + "/metrics")
	require.NoError(t, err)
	defer resp.Body.Close()
	require.Equal(t, http.StatusOK, resp.StatusCode)
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	served := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^# TYPE alertmedic_(\w+)`).FindAllStringSubmatch(string(body), -1) {
		served[m[1]] = true
	}
	suffix := regexp.MustCompile(`_(bucket|sum|count)$`)
	asked := 0
	for _, file := range []string{"../../rules/alertmedic.yaml", "../../deploy/dashboards/remediation.json"} {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		for _, m := range regexp.MustCompile(`\balertmedic_(\w+)`).FindAllStringSubmatch(string(text), -1) {
			name := suffix.ReplaceAllString(m[1], "")
			asked++
			require.True(t, served[m[1]] || served[name] || late[m[1]] || late[name], "%s asks for alertmedic_%s, which is not served", file, m[1])
		}
	}
	require.NotZero(t, asked)
	families, err := promlint.New(bytes.NewReader(body)).Lint()
	require.NoError(t, err)
	for _, p := range families {
		require.NotRegexp(t, "^alertmedic_", p.Metric, p.Text)
	}
}
