package alert_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alertmedic/alertmedic/internal/alert"
)

// BenchmarkDecode decodes webhooks of one and of a thousand alerts.
func BenchmarkDecode(b *testing.B) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for _, count := range []int{1, 1000} {
		alerts := make([]alert.Alert, count)
		for i := range alerts {
			labels := map[string]string{"alertname": "KubePodCrashLooping", "namespace": "shop", "pod": fmt.Sprintf("web-%d", i), "container": "app",
				"severity": "warning", "job": "kube-state-metrics", "prometheus": "monitoring/k8s"}
			alerts[i] = alert.Alert{Status: alert.Firing, Labels: labels, StartsAt: now, Fingerprint: alert.Fingerprint(labels),
				Annotations: map[string]string{"summary": "Pod is crash looping.", "runbook_url": "https://runbooks.example.org/KubePodCrashLooping"}}
		}
		body, err := json.Marshal(map[string]any{"version": "4", "groupKey": "{}", "receiver": "medic", "status": "firing", "alerts": alerts})
		require.NoError(b, err)
		b.Run(fmt.Sprint(count), func(b *testing.B) {
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			for b.Loop() {
				webhook, rejected, err := alert.Decode(bytes.NewReader(body), now, alert.Limits{})
				if err != nil || len(rejected) > 0 || len(webhook.Alerts) != count {
					b.Fatal(err, rejected, len(webhook.Alerts))
				}
			}
		})
	}
}
