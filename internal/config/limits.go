package config

import (
	"time"

	"github.com/alertmedic/alertmedic/internal/guard"
	"github.com/alertmedic/alertmedic/playbooks"
)

// LimitsFor merges the caps of the configuration with those of a playbook. The
// tighter one wins, so a playbook can never loosen what the operator set; what
// a playbook leaves out (zero) is the configuration's. A nil playbook yields
// the configuration's own.
func (c *Config) LimitsFor(pb *playbooks.Playbook) guard.Limits {
	var own playbooks.Limits
	if pb != nil {
		own = pb.Limits
	}
	s := c.Safety
	l := guard.Defaults()
	l.MaxConcurrentRuns = lower(s.MaxConcurrentRunsPerPlaybook, own.MaxConcurrentRuns)
	l.MaxConcurrentGlobal = s.MaxConcurrentRuns
	l.MaxConcurrentPerNamespace = s.MaxConcurrentRunsPerNamespace
	l.CooldownAfterSuccess = max(s.Cooldown.AfterSuccess, own.CooldownAfterSuccess)
	l.CooldownAfterFailure = max(s.Cooldown.AfterFailure, own.CooldownAfterFailure)
	l.MaxAttempts = lower(s.Attempts.Max, own.MaxAttempts)
	l.AttemptsWindow = max(s.Attempts.Window, own.AttemptsWindow)
	l.MaxUnhealthyNodes = s.Nodes.MaxUnhealthy
	l.MaxUnhealthyNodesPercent = s.Nodes.MaxUnhealthyPercent
	l.Settle = s.Nodes.Settle
	return l
}

// ExpireAfterFor is how long after its alert a run of the playbook may still
// work: the shorter of the configuration's and the playbook's.
func (c *Config) ExpireAfterFor(pb *playbooks.Playbook) time.Duration {
	if pb == nil {
		return c.Safety.ExpireAfter
	}
	return lower(c.Safety.ExpireAfter, pb.Limits.ExpireAfter)
}

// lower returns the smaller of a cap and an opinion on it; zero is no opinion.
func lower[T int | time.Duration](limit, own T) T {
	if own > 0 {
		return min(limit, own)
	}
	return limit
}
