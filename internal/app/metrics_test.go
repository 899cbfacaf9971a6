package app

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"regexp"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"github.com/stretchr/testify/require"
)

// serveAlone runs the service without a cluster behind it, until the test ends,
// and returns its URL and the folder of its files.
func serveAlone(t *testing.T) (url, dir string) {
	t.Helper()
	dir = t.TempDir()
	cfg := bare(t, dir, fmt.Sprintf(crashPlaybook, "Auto"))
	url, _ = serve(t, Options{Config: cfg, Logger: slog.New(slog.DiscardHandler), Kubernetes: away})
	return url, dir
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
