package engine

import (
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/alertmedic/alertmedic/internal/guard"
	"github.com/alertmedic/alertmedic/internal/journal"
)

type metrics struct {
	resolutions, started, runsEnded, actions, decisions, verdicts, approvals, resyncs *prometheus.CounterVec
	actionSeconds, timeToHeal                                                         *prometheus.HistogramVec
	claimErrors, renewErrors, panics, fenced, takeovers                               prometheus.Counter
	storms                                                                            *prometheus.GaugeVec
}

func newMetrics(r prometheus.Registerer) (*metrics, error) {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "alertmedic", Name: name, Help: help}, labels)
	}
	plain := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: "alertmedic", Name: name, Help: help})
	}
	m := &metrics{
		resolutions: counter("candidates_total", "Candidates that were worked on, by playbook and what became of them.", "playbook", "outcome"),
		started:     counter("runs_started_total", "Runs created, by playbook.", "playbook"),
		runsEnded:   counter("runs_ended_total", "Runs ended, by playbook, outcome and reason.", "playbook", "outcome", "reason"),
		actions:     counter("actions_total", "Calls of actions, by playbook, action, outcome and reason.", "playbook", "action", "outcome", "reason"),
		decisions:   counter("guard_decisions_total", "Decisions of the guards, by playbook, deciding guard, verdict and reason.", "playbook", "guard", "verdict", "reason"),
		verdicts:    counter("verdicts_total", "Verdicts of verifications, by playbook.", "playbook", "verdict"),
		approvals:   counter("approvals_total", "Approvals asked for and decided, by playbook.", "playbook", "decision"),
		resyncs:     counter("resyncs_total", "Readings of the sources' alerts, by source.", "source", "outcome"),
		actionSeconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{Namespace: "alertmedic", Name: "action_duration_seconds",
			Help: "Duration of one call of an action in seconds.", Buckets: prometheus.ExponentialBuckets(0.005, 2, 13)}, []string{"action"}),
		timeToHeal: prometheus.NewHistogramVec(prometheus.HistogramOpts{Namespace: "alertmedic", Name: "time_to_heal_seconds",
			Help: "Seconds from the alert's arrival to the moment since which the target was observed healthy.", Buckets: prometheus.ExponentialBuckets(5, 2, 11)}, []string{"playbook"}),
		claimErrors: plain("claim_errors_total", "Failures to claim due work from the store."),
		renewErrors: plain("lease_renewal_errors_total", "Failures to renew the leases of what this process works on."),
		panics:      plain("run_panics_total", "Panics while working on a run; the run is tried again."),
		fenced:      plain("runs_fenced_total", "Runs given up because another worker had taken them over."),
		takeovers:   plain("runs_taken_over_total", "Runs taken over after another worker's lease ran out."),
		storms:      prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: "alertmedic", Name: "storm", Help: "1 while a storm in the scope holds what is new, 0 after it."}, []string{"scope"}),
	}
	var errs []error
	for _, c := range []prometheus.Collector{m.resolutions, m.started, m.runsEnded, m.actions, m.decisions, m.verdicts, m.approvals,
		m.resyncs, m.actionSeconds, m.timeToHeal, m.claimErrors, m.renewErrors, m.panics, m.fenced, m.takeovers, m.storms} {
		errs = append(errs, r.Register(c))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("register the engine's metrics: %w", err)
	}
	return m, nil
}

// observe counts what an entry that has just been committed records.
func (m *metrics) observe(en journal.Entry) {
	switch en.Kind {
	case journal.RunTakenOver:
		m.takeovers.Inc()
	case journal.RunEnded:
		m.runsEnded.WithLabelValues(en.Playbook, en.Outcome, en.Reason).Inc()
	case journal.ApprovalRequested:
		m.approvals.WithLabelValues(en.Playbook, "requested").Inc()
	case journal.ApprovalVoided:
		m.approvals.WithLabelValues(en.Playbook, "voided").Inc()
	}
}

func (m *metrics) action(playbook, name, outcome, reason string) {
	m.actions.WithLabelValues(playbook, name, outcome, reason).Inc()
}

func (m *metrics) decision(playbook string, d guard.Decision) {
	m.decisions.WithLabelValues(playbook, d.Guard, string(d.Verdict), string(d.Reason)).Inc()
}
