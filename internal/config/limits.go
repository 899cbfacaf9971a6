package config

import (
	"cmp"
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
	limit := func(r Rate) guard.Rate {
		if !s.Rate.Enabled {
			return guard.Rate{Burst: guard.Off}
		}
		return guard.Rate{Burst: r.Burst, Every: r.Every}
	}
	l := guard.Limits{
		MaxConcurrentRuns:         lower(s.MaxConcurrentRunsPerPlaybook, own.MaxConcurrentRuns),
		MaxConcurrentGlobal:       s.MaxConcurrentRuns,
		MaxConcurrentPerNamespace: s.MaxConcurrentRunsPerNamespace,
		CooldownAfterSuccess:      max(s.Cooldown.AfterSuccess, own.CooldownAfterSuccess),
		CooldownAfterFailure:      max(s.Cooldown.AfterFailure, own.CooldownAfterFailure),
		MaxAttempts:               lower(s.Attempts.Max, own.MaxAttempts),
		AttemptsWindow:            max(s.Attempts.Window, own.AttemptsWindow),
		MaxUnhealthyNodes:         lower(s.Nodes.MaxUnhealthy, own.MaxUnhealthyNodes),
		MaxUnhealthyNodesPercent:  s.Nodes.MaxUnhealthyPercent,
		Settle:                    s.Nodes.Settle,
		Windows:                   s.ParsedWindows,
		FiringFor:                 max(s.FiringFor, own.FiringFor),
		HumanActivity:             max(s.HumanActivity.Within, own.HumanActivity),
		GitOps:                    tightest(s.GitOps, own.GitOps),
		WatchdogAge:               s.Watchdog.MaxAge,
		FailoverDwell:             s.FailoverDwell,
		RateGlobal:                limit(s.Rate.Global),
		RateNamespace:             limit(s.Rate.PerNamespace),
		RatePlaybook:              tighter(limit(s.Rate.PerPlaybook), own.Rate),
		MaxConcurrentPerPool:      s.Nodes.MaxConcurrentPerPool,
		MaxConcurrentPerZone:      s.Nodes.MaxConcurrentPerZone,
		MaxZones:                  s.Nodes.MaxZones,
		MaxUnavailablePods:        lower(s.Pods.MaxUnavailable, own.MaxUnavailablePods),
		MaxUnavailablePodsPercent: s.Pods.MaxUnavailablePercent,
		StormRuns:                 s.Storm.MaxRuns,
		StormWindow:               s.Storm.Window,
		StormCooldown:             s.Storm.Cooldown,
		ControlPlane:              s.Nodes.ControlPlane,
		MaxNodesPerPool:           s.Velocity.MaxNodesPerPool,
		MaxRemovePercent:          s.Velocity.MaxRemovePercent,
		RemoveWindow:              s.Velocity.Window,
		MinReplicas:               s.Velocity.MinReplicas,
	}
	if !s.HumanActivity.Enabled {
		l.HumanActivity = cmp.Or(own.HumanActivity, guard.Off)
	}
	if !s.Watchdog.Enabled {
		l.WatchdogAge = guard.Off
	}
	if !s.Storm.Enabled {
		l.StormRuns = guard.Off
	}
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

// tighter is the rate of both: the smaller burst and the longer time. One that is
// off has no opinion.
func tighter(limit, own guard.Rate) guard.Rate {
	if limit.Burst == guard.Off {
		if own.Burst > 0 && own.Every > 0 {
			return own
		}
		return limit
	}
	return guard.Rate{Burst: lower(limit.Burst, own.Burst), Every: max(limit.Every, own.Every)}
}

// tightest is the stricter of two policies; an empty one is no opinion.
func tightest(a, b guard.GitOpsPolicy) guard.GitOpsPolicy {
	for _, p := range []guard.GitOpsPolicy{guard.GitOpsDeny, guard.GitOpsApprove} {
		if a == p || b == p {
			return p
		}
	}
	return a
}
