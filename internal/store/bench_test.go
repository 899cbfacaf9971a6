package store_test

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alertmedic/alertmedic/internal/alert"
	"github.com/alertmedic/alertmedic/internal/store"
)

// benchmarks runs a benchmark on each database.
func benchmarks(b *testing.B, fn func(b *testing.B, f *fixture)) {
	for _, d := range dialects {
		if !d.ok() {
			continue
		}
		b.Run(d.name, func(b *testing.B) { fn(b, d.open(b, b)) })
	}
}

// benchObservation is alert number n of an application, with one playbook.
func benchObservation(n int64) store.Observation {
	labels := map[string]string{
		"alertname": "KubePodCrashLooping", "namespace": "shop", "pod": fmt.Sprintf("web-%d", n), "container": "app",
		"severity": "warning", "job": "kube-state-metrics", "prometheus": "monitoring/k8s",
	}
	o := firing(alert.Fingerprint(labels), playbook("restart", 0))
	o.Alert.Labels = labels
	o.Alert.Annotations = map[string]string{"summary": "Pod is crash looping.", "description": fmt.Sprintf("Pod shop/web-%d is in waiting state.", n)}
	return o
}

// BenchmarkAccept accepts new alerts, one a batch, from callers that wait for
// their commit. An operation is one alert.
func BenchmarkAccept(b *testing.B) {
	for _, callers := range []int{1, 16, 256} {
		b.Run(fmt.Sprint(callers), func(b *testing.B) {
			benchmarks(b, func(b *testing.B, f *fixture) {
				var n atomic.Int64
				b.SetParallelism(max(1, callers/2))
				b.ReportAllocs()
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						_, err := f.Accept(tctx, store.Batch{Observations: []store.Observation{benchObservation(n.Add(1))}})
						require.NoError(b, err)
					}
				})
			})
		})
	}
}

// BenchmarkAcceptThousand accepts a webhook of 1,000 new alerts.
func BenchmarkAcceptThousand(b *testing.B) {
	benchmarks(b, func(b *testing.B, f *fixture) {
		n := int64(0)
		for b.Loop() {
			var batch store.Batch
			for range 1000 {
				n++
				batch.Observations = append(batch.Observations, benchObservation(n))
			}
			_, err := f.Accept(tctx, batch)
			require.NoError(b, err)
		}
	})
}

// BenchmarkClaim claims eight candidates, as an engine does. An operation is one
// claim.
func BenchmarkClaim(b *testing.B) {
	benchmarks(b, func(b *testing.B, f *fixture) {
		n, left := int64(0), 0
		for b.Loop() {
			if left == 0 {
				b.StopTimer()
				var batch store.Batch
				for range 800 {
					n++
					batch.Observations = append(batch.Observations, benchObservation(n))
				}
				_, err := f.Accept(tctx, batch)
				require.NoError(b, err)
				left = 100
				b.StartTimer()
			}
			left--
			got, err := f.ClaimCandidates(tctx, "bench", time.Hour, 8)
			require.NoError(b, err)
			require.Len(b, got, 8)
		}
	})
}
