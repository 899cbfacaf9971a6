package store

import (
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	duration *prometheus.HistogramVec
	errors   *prometheus.CounterVec
	retries  prometheus.Counter
	group    prometheus.Histogram
	observed *prometheus.CounterVec
	sealed   prometheus.Counter
	// clockAhead is set by the clock of SQLite only.
	clockAhead prometheus.Gauge
}

// newMetrics makes the store's metrics and registers them unless reg is nil.
func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "alertmedic_store_transaction_duration_seconds",
			Help: "Duration of write transactions, retries included, by what they do.", Buckets: prometheus.ExponentialBuckets(0.0005, 2, 14)}, []string{"operation"}),
		errors: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "alertmedic_store_transaction_errors_total",
			Help: "Write transactions that failed because of the database, by what they do."}, []string{"operation"}),
		retries: prometheus.NewCounter(prometheus.CounterOpts{Name: "alertmedic_store_transaction_retries_total",
			Help: "Write transactions run again after a deadlock or a lost race."}),
		group: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "alertmedic_store_accept_group_size",
			Help: "Webhooks that shared one transaction.", Buckets: prometheus.ExponentialBuckets(1, 2, 8)}),
		observed: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "alertmedic_store_observations_total",
			Help: "Accepted observations of alerts by what became of them."}, []string{"result"}),
		sealed: prometheus.NewCounter(prometheus.CounterOpts{Name: "alertmedic_store_journal_entries_sealed_total",
			Help: "Journal entries that were given their place in the chain by this process."}),
		clockAhead: prometheus.NewGauge(prometheus.GaugeOpts{Name: "alertmedic_store_clock_ahead_seconds",
			Help: "How far the store's time is ahead of the wall clock, since that was set back; negative: behind, since it was set forward."}),
	}
	for _, r := range []string{"opened", "reopened", "closed", "repeated", "stale", "orphaned"} {
		m.observed.WithLabelValues(r)
	}
	if reg == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.duration, m.errors, m.retries, m.group, m.observed, m.sealed, m.clockAhead} {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("register the store's metrics: %w", err)
		}
	}
	return m, nil
}

func (m *metrics) observe(what string, d time.Duration, err error) {
	m.duration.WithLabelValues(what).Observe(d.Seconds())
	if errors.Is(err, ErrUnavailable) || errors.Is(err, ErrCorrupt) || errors.Is(err, ErrBusy) {
		m.errors.WithLabelValues(what).Inc()
	}
}

func (m *metrics) accepted(r AcceptResult) {
	for label, n := range map[string]int{"opened": r.Opened, "reopened": r.Reopened, "closed": r.Closed, "repeated": r.Repeated, "stale": r.Stale, "orphaned": r.Orphaned} {
		m.observed.WithLabelValues(label).Add(float64(n))
	}
}
