package promapi_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alertmedic/alertmedic/internal/alert"
	"github.com/alertmedic/alertmedic/internal/guard"
	"github.com/alertmedic/alertmedic/internal/promapi"
	"github.com/alertmedic/alertmedic/internal/testcluster"
)

const realRules = `
groups:
- name: shop
  rules:
  - {alert: ShopBroken, expr: shop_broken == 1, labels: {severity: warning}}
  - {alert: ShopSlow, expr: shop_slow == 1, for: 1h, labels: {severity: warning}}
  - {alert: Watchdog, expr: vector(1)}
`

// One alert through its life, as two real Prometheuses and an Alertmanager tell
// it: with external labels, a replica label that is dropped on the way, a
// silence, and a Prometheus that dies.
func TestRealPrometheusAndAlertmanager(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute) // the first build of the programs included
	defer cancel()
	var broken, slow atomic.Int64
	shop := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprintf(w, "shop_broken{pod=\"web-0\"} %d\nshop_slow{pod=\"web-0\"} %d\n", broken.Load(), slow.Load())
	}))
	defer shop.Close()
	// Not the shared one, whose watches outlive the test: this package checks
	// that nothing does.
	c, err := testcluster.Start(ctx, testcluster.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Stop()) })
	m, err := c.StartMonitoring(ctx, testcluster.MonitoringOptions{
		Prometheuses: 2, Rules: realRules, Namespaces: []string{"default"},
		ScrapeConfigs: "- {job_name: shop, static_configs: [{targets: ['" + strings.TrimPrefix(shop.URL, "http://") + "'], labels: {namespace: shop}}]}",
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, m.Stop()) })
	r, err := promapi.New(promapi.Config{
		Source:        "main",
		Alertmanagers: []promapi.Endpoint{{URL: m.AlertmanagerURL(0)}},
		Prometheuses:  []promapi.Endpoint{{URL: m.PrometheusURL(0)}, {URL: m.PrometheusURL(1)}},
	})
	require.NoError(t, err)
	defer r.Close()

	broken.Store(1)
	a := waitInSnapshot(ctx, t, r, "ShopBroken")
	require.Equal(t, "test", a.Labels["cluster"], "the external label")
	require.NotContains(t, a.Labels, "prometheus_replica")
	waitState(ctx, t, r, a, time.Time{}, guard.AlertFiring)
	heard, err := r.Watchdog(ctx)
	require.NoError(t, err)
	require.WithinDuration(t, time.Now(), heard, time.Minute)

	id := silence(ctx, t, m.AlertmanagerURL(0))
	got := waitState(ctx, t, r, a, time.Time{}, guard.AlertSilenced)
	require.Equal(t, id, got.By)
	all, err := r.Snapshot(ctx)
	require.NoError(t, err)
	for _, other := range all {
		require.NotEqual(t, a.Fingerprint, other.Fingerprint, "a silenced alert is not in the snapshot")
	}
	call(ctx, t, http.MethodDelete, m.AlertmanagerURL(0)+"/api/v2/silence/"+id, nil)
	waitState(ctx, t, r, a, time.Time{}, guard.AlertFiring)

	broken.Store(0)
	slow.Store(1)
	changed := time.Now()
	got = waitState(ctx, t, r, a, changed, guard.AlertResolved)
	require.True(t, got.EvaluatedAt.After(changed), "%s is not after %s", got.EvaluatedAt, changed)

	pending := a.Clone()
	pending.Labels["alertname"] = "ShopSlow"
	pending.Fingerprint = alert.Fingerprint(pending.Labels)
	got = waitState(ctx, t, r, pending, changed, guard.AlertUnknown)
	require.Contains(t, got.By, "pending")

	require.NoError(t, m.Process("prometheus-1").Kill())
	got = waitState(ctx, t, r, a, changed, guard.AlertUnknown)
	require.Contains(t, got.By, "prometheus "+m.PrometheusURL(1))
}

func waitInSnapshot(ctx context.Context, t *testing.T, r *promapi.Reader, name string) alert.Alert {
	t.Helper()
	var found alert.Alert
	require.NoError(t, testcluster.Poll(ctx, func(ctx context.Context) (bool, error) {
		all, err := r.Snapshot(ctx)
		for _, a := range all {
			if a.Name() == name {
				found = a
			}
		}
		return found.Fingerprint != "", err
	}))
	return found
}

func waitState(ctx context.Context, t *testing.T, r *promapi.Reader, a alert.Alert, since time.Time, want guard.AlertState) guard.AlertEvidence {
	t.Helper()
	var got guard.AlertEvidence
	err := testcluster.Poll(ctx, func(ctx context.Context) (bool, error) {
		got = r.State(ctx, a, since)
		return got.State == want, nil
	})
	require.NoError(t, err, "want %s, got %+v", want, got)
	return got
}

func silence(ctx context.Context, t *testing.T, url string) string {
	t.Helper()
	raw := call(ctx, t, http.MethodPost, url+"/api/v2/silences", doc{
		"matchers":  []doc{{"name": "alertname", "value": "ShopBroken", "isRegex": false, "isEqual": true}},
		"startsAt":  time.Now(),
		"endsAt":    time.Now().Add(time.Hour),
		"createdBy": "jane", "comment": "looking at it",
	})
	var made struct{ SilenceID string }
	require.NoError(t, json.Unmarshal(raw, &made))
	require.NotEmpty(t, made.SilenceID)
	return made.SilenceID
}

func call(ctx context.Context, t *testing.T, method, url string, body any) []byte {
	t.Helper()
	raw, err := json.Marshal(body)
	require.NoError(t, err)
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(raw))
	require.NoError(t, err)
	req.Header.Set("Content-Type", "application/json")
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	out, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, resp.StatusCode, string(out))
	return out
}
