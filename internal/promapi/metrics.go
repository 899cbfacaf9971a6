package promapi

import (
	"fmt"

	prom "github.com/prometheus/client_golang/prometheus"
)

// Metrics are those of all readers of a process.
type Metrics struct{ reads *prom.CounterVec }

// NewMetrics registers the metrics of readers.
func NewMetrics(reg prom.Registerer) (*Metrics, error) {
	m := &Metrics{reads: prom.NewCounterVec(prom.CounterOpts{
		Name: "alertmedic_alert_state_reads_total",
		Help: "Requests to the Alertmanagers and Prometheuses of a source, by outcome (ok, timeout, error).",
	}, []string{"source", "reader", "outcome"})}
	if err := reg.Register(m.reads); err != nil {
		return nil, fmt.Errorf("register the metrics of alert state: %w", err)
	}
	return m, nil
}

// counter returns what counts the reads of one reader, initialised to zero.
func (m *Metrics) counter(source, reader string) func(error) {
	if m == nil {
		return func(error) {}
	}
	for _, o := range []string{"ok", "timeout", "error"} {
		m.reads.WithLabelValues(source, reader, o)
	}
	return func(err error) { m.reads.WithLabelValues(source, reader, outcome(err)).Inc() }
}
