package app

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/alertmedic/alertmedic/internal/notify"
	"github.com/alertmedic/alertmedic/internal/store"
)

// stateCollector reads what the store holds at each scrape: how many runs are
// where, how far the journal is sealed, and what the connection pools hold.
type stateCollector struct {
	store            *store.Store
	pools            []prometheus.Collector
	runs, outbox     *prometheus.Desc
	sealed, unsealed *prometheus.Desc
	up               *prometheus.Desc
}

func newStateCollector(s *store.Store) *stateCollector {
	return &stateCollector{store: s, pools: s.Pools(),
		runs:     prometheus.NewDesc("alertmedic_runs", "Runs that have not ended, by phase, what they wait for, the reason of the guard that holds them, and playbook.", []string{"phase", "wait", "reason", "playbook"}, nil),
		sealed:   prometheus.NewDesc("alertmedic_journal_sealed_seq", "The last sealed entry of the journal.", nil, nil),
		unsealed: prometheus.NewDesc("alertmedic_journal_unsealed_entries", "Entries of the journal that wait for their place in the chain.", nil, nil),
		outbox:   prometheus.NewDesc("alertmedic_outbox_messages", "Messages that wait for delivery, by channel.", []string{"channel"}, nil),
		up:       prometheus.NewDesc("alertmedic_store_up", "1 if the store answered this scrape.", nil, nil),
	}
}

// Describe implements prometheus.Collector.
func (c *stateCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- c.runs
	ch <- c.outbox
	ch <- c.sealed
	ch <- c.unsealed
	ch <- c.up
	for _, pool := range c.pools {
		pool.Describe(ch)
	}
}

// Collect implements prometheus.Collector.
func (c *stateCollector) Collect(ch chan<- prometheus.Metric) {
	// Before the questions below, and not beside them: a scrape would count the
	// connections that it uses itself.
	for _, pool := range c.pools {
		pool.Collect(ch)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	up := 1.0
	counts, err := c.store.CountRuns(ctx)
	if err != nil {
		up = 0
	}
	for n, count := range counts {
		if n.Phase == store.Done {
			continue
		}
		ch <- prometheus.MustNewConstMetric(c.runs, prometheus.GaugeValue, float64(count), string(n.Phase), string(n.Wait), n.Reason, n.Playbook)
	}
	seq, _, err := c.store.LastSealed(ctx)
	if err != nil {
		up = 0
	} else {
		ch <- prometheus.MustNewConstMetric(c.sealed, prometheus.GaugeValue, float64(seq))
	}
	if n, _, err := c.store.Unsealed(ctx); err != nil {
		up = 0
	} else {
		ch <- prometheus.MustNewConstMetric(c.unsealed, prometheus.GaugeValue, float64(n))
	}
	messages, err := c.store.PendingMessages(ctx)
	if err != nil {
		up = 0
	}
	for _, channel := range []string{notify.ChannelSlack, notify.ChannelEvent} {
		if err == nil {
			ch <- prometheus.MustNewConstMetric(c.outbox, prometheus.GaugeValue, float64(messages[channel]), channel)
		}
	}
	ch <- prometheus.MustNewConstMetric(c.up, prometheus.GaugeValue, up)
}
