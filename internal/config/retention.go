package config

import "time"

// Retention says for how long things are kept in the database after they have
// ended; 0 is for ever.
type Retention struct {
	// Runs is for runs with their steps and approvals, alerts, undelivered messages
	// and unused playbook snapshots: 90d, at least 1d. What a cooldown or window of
	// attempts still needs stays longer.
	Runs time.Duration `yaml:"runs"`
	// Journal is for the remediation log, and not shorter than Runs: for ever by
	// default. An entry of the log says what was removed, so that its chain can
	// still be checked.
	Journal time.Duration `yaml:"journal"`
}

const (
	defaultRetention = 90 * 24 * time.Hour
	leastRetention   = 24 * time.Hour
)

func (d *decoder) validateRetention(r Retention) {
	if r.Runs != 0 && r.Runs < leastRetention {
		d.addAt("store.retention.runs", "must be at least 1d, or 0 to keep them for ever: write a duration such as 90d, or leave it out for that")
	}
	if r.Journal != 0 && (r.Runs == 0 || r.Journal < r.Runs) {
		d.addAt("store.retention.journal", "must not be shorter than store.retention.runs, or a run would outlive its log: write a duration such as 400d, or 0 to keep it for ever")
	}
}
