package receiver

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/alertmedic/alertmedic/internal/alert"
	"github.com/alertmedic/alertmedic/internal/store"
)

// unknownSource is the label of requests whose sender is not known.
const unknownSource = "unknown"

type metrics struct {
	requests *prometheus.CounterVec
	duration prometheus.Histogram
	received *prometheus.CounterVec
	rejected *prometheus.CounterVec
	adjusted *prometheus.CounterVec
	// strangers counts webhooks of receivers that their source does not name.
	strangers *prometheus.CounterVec
	inFlight  prometheus.GaugeFunc
}

func newMetrics(sources map[string]Source, held *budget) *metrics {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "alertmedic_webhook_requests_total", Help: "Webhook requests answered, by source and HTTP status.",
		}, []string{"source", "code"}),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "alertmedic_webhook_request_duration_seconds", Help: "Time from the request's header to its answer, the durable commit included.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
		}),
		received: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "alertmedic_alerts_received_total", Help: "Alerts durably stored, repeats included, by source and status.",
		}, []string{"source", "status"}),
		rejected: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "alertmedic_alerts_rejected_total", Help: "Bad alerts of good webhooks, written to the log, by source and reason.",
		}, []string{"source", "reason"}),
		adjusted: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "alertmedic_alerts_adjusted_total", Help: "Accepted alerts that were brought within the limits, by source and reason.",
		}, []string{"source", "reason"}),
		strangers: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "alertmedic_webhook_unknown_receivers_total", Help: "Webhooks of Alertmanager receivers that are not in receivers of their source, by source.",
		}, []string{"source"}),
		inFlight: prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "alertmedic_webhook_inflight_bytes", Help: "Bytes that webhook requests hold, a fixed overhead for each included.",
		}, func() float64 { return float64(held.held.Load()) }),
	}
	// A series that appears with its first increment hides that increment from rate().
	for name := range sources {
		m.strangers.WithLabelValues(name)
		for _, code := range []string{"200", "400", "413", "415", "503"} {
			m.requests.WithLabelValues(name, code)
		}
		for _, status := range []alert.Status{alert.Firing, alert.Resolved} {
			m.received.WithLabelValues(name, string(status))
		}
		for _, reason := range append(alert.RejectReasons(), RejectWrongCluster) {
			m.rejected.WithLabelValues(name, string(reason))
		}
		for _, reason := range alert.NoteReasons() {
			m.adjusted.WithLabelValues(name, string(reason))
		}
	}
	for _, code := range []string{"401", "403", "405", "503"} {
		m.requests.WithLabelValues(unknownSource, code)
	}
	return m
}

func (m *metrics) register(reg prometheus.Registerer) error {
	for _, c := range []prometheus.Collector{m.requests, m.duration, m.received, m.rejected, m.adjusted, m.strangers, m.inFlight} {
		if err := reg.Register(c); err != nil {
			return fmt.Errorf("register the receiver's metrics: %w", err)
		}
	}
	return nil
}

func (m *metrics) count(source string, batch store.Batch, rejected []alert.Rejected, notes []alert.Note) {
	for _, o := range batch.Observations {
		m.received.WithLabelValues(source, string(o.Alert.Status)).Inc()
	}
	for _, r := range rejected {
		m.rejected.WithLabelValues(source, string(r.Reason)).Inc()
	}
	for _, n := range notes {
		m.adjusted.WithLabelValues(source, string(n.Reason)).Inc()
	}
}
