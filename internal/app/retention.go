package app

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/alertmedic/alertmedic/internal/guard"
	"github.com/alertmedic/alertmedic/internal/store"
)

const (
	// retentionDelay is how long after the start the retention is first applied:
	// what waits for the start comes first.
	retentionDelay = time.Minute
	retentionEvery = time.Hour
	// presenceEvery and presenceTTL are of the announcement that keeps restores
	// off a database that is in use.
	presenceEvery = 5 * time.Second
	presenceTTL   = 20 * time.Second
)

type retentionMetrics struct {
	rows   *prometheus.CounterVec
	last   prometheus.Gauge
	errors prometheus.Counter
}

func newRetentionMetrics(r prometheus.Registerer) (*retentionMetrics, error) {
	m := &retentionMetrics{
		rows: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "alertmedic_retention_removed_rows_total",
			Help: "Rows that this process removed because store.retention was over, by table."}, []string{"table"}),
		last: prometheus.NewGauge(prometheus.GaugeOpts{Name: "alertmedic_retention_last_success_timestamp_seconds",
			Help: "When this process last went through the database for store.retention, or found another replica doing it."}),
		errors: prometheus.NewCounter(prometheus.CounterOpts{Name: "alertmedic_retention_errors_total",
			Help: "Failures to apply store.retention; it is tried again after an hour."}),
	}
	for _, c := range []prometheus.Collector{m.rows, m.last, m.errors} {
		if err := r.Register(c); err != nil {
			return nil, fmt.Errorf("register the metrics of the retention: %w", err)
		}
	}
	return m, nil
}

// retention applies store.retention now and then, until ctx ends.
func (a *app) retention(ctx context.Context) error {
	m, err := newRetentionMetrics(a.registry)
	if err != nil {
		return err
	}
	for wait := retentionDelay; ; wait = retentionEvery {
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		}
		if err := a.prune(ctx, m); err != nil && ctx.Err() == nil {
			m.errors.Inc()
			a.log.Error("apply store.retention; trying again", "err", err, "after", retentionEvery)
		}
	}
}

func (a *app) prune(ctx context.Context, m *retentionMetrics) error {
	if err := a.keepPlaybooks(ctx); err != nil {
		return err
	}
	removed, err := a.store.Prune(ctx, a.owner, a.retentionOf())
	for table, n := range removed {
		m.rows.WithLabelValues(table).Add(float64(n))
	}
	if err != nil {
		return err
	}
	m.last.SetToCurrentTime()
	if len(removed) > 0 {
		a.log.Info("store.retention was applied", "removed", removed)
	}
	return nil
}

// keepPlaybooks says that the loaded playbooks are in use, whether or not an
// alert has matched them lately.
func (a *app) keepPlaybooks(ctx context.Context) error {
	all := a.playbooks.Current().All()
	hashes := make([]string, len(all))
	for i, pb := range all {
		hashes[i] = pb.Hash
	}
	n, err := a.store.KeepPlaybooks(ctx, hashes)
	if err != nil {
		return fmt.Errorf("keep the snapshots of the playbooks: %w", err)
	}
	if n < len(hashes) {
		return a.snapshotPlaybooks(ctx, a.playbooks.Current())
	}
	return nil
}

// retentionOf is the configured retention, lengthened where a cooldown, the window
// of attempts or of velocity, or a token bucket that fills, of the configuration, a
// playbook or a remedy, must look further back.
func (a *app) retentionOf() store.Retention {
	r := store.Retention{Runs: a.cfg.Store.Retention.Runs, Journal: a.cfg.Store.Retention.Journal}
	if r.Runs == 0 {
		return r
	}
	back := func(l guard.Limits) time.Duration {
		return max(l.AttemptsWindow, l.CooldownAfterSuccess, l.CooldownAfterFailure, l.RemoveWindow,
			l.RateGlobal.Fills(), l.RatePlaybook.Fills(), l.RateNamespace.Fills())
	}
	r.Runs = max(r.Runs, back(a.cfg.LimitsFor(nil, nil)))
	for _, pb := range a.playbooks.Current().All() {
		r.Runs = max(r.Runs, back(a.cfg.LimitsFor(pb, nil)))
		for i := range pb.Remedies {
			r.Runs = max(r.Runs, back(a.cfg.LimitsFor(pb, &pb.Remedies[i])))
		}
	}
	return r
}

// presence says, for as long as the process works, that the database is in use.
func (a *app) presence(ctx context.Context) error {
	tick := time.NewTicker(presenceEvery)
	defer tick.Stop()
	for {
		if err := a.store.Announce(context.WithoutCancel(ctx), a.owner, presenceTTL); err != nil {
			a.log.Warn("announce this replica in the database; trying again", "err", err)
		}
		select {
		case <-ctx.Done():
			gone, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			defer cancel()
			if err := a.store.Withdraw(gone, a.owner); err != nil {
				a.log.Warn("withdraw this replica from the database", "err", err, "until", presenceTTL)
			}
			return nil
		case <-tick.C:
		}
	}
}

func (a *app) backup(ctx context.Context, w io.Writer) error {
	_, err := a.store.Backup(ctx, w, store.BackupOptions{Program: a.version})
	return err
}
