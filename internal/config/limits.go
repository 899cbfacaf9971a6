package config

import (
	"fmt"
	"slices"
	"time"

	"github.com/prometheus/common/model"

	"github.com/alertmedic/alertmedic/internal/guard"
	"github.com/alertmedic/alertmedic/playbooks"
)

// Looser is a limit of a playbook that is looser than the configuration's, or of a
// remedy that is looser than its playbook's, which therefore stays in force.
type Looser struct {
	// Path is the field in the playbook, such as "spec.limits.attempts.max" or
	// "spec.remedies[1].limits.gitOps".
	Path string
	// Message says what stays in force and what to change.
	Message string
}

// LimitsFor merges the caps of the configuration with those of a playbook and of
// one of its remedies. The tighter one wins, so a playbook loosens nothing but
// what safety.allowLoosening names, and a remedy nothing at all; what is left out
// (zero) is that of the level above. A nil remedy yields the playbook's, a nil
// playbook the configuration's own.
func (c *Config) LimitsFor(pb *playbooks.Playbook, r *playbooks.Remedy) guard.Limits {
	limits, _, _ := c.merge(pb)
	if r != nil {
		for _, m := range merges(&limits, new(time.Duration), r.Limits) {
			m.apply(false)
		}
	}
	return limits
}

// ExpireAfterFor is how long after its alert a run of a playbook may still start or
// work: the shorter of what the configuration and the playbook say, unless
// safety.allowLoosening names expireAfter.
func (c *Config) ExpireAfterFor(pb *playbooks.Playbook) time.Duration {
	_, expire, _ := c.merge(pb)
	return expire
}

// LooserThan returns what a playbook and its remedies ask for in vain.
func (c *Config) LooserThan(pb *playbooks.Playbook) []Looser {
	limits, _, refused := c.merge(pb)
	if pb == nil {
		return refused
	}
	for i, r := range pb.Remedies {
		of := limits // each remedy tightens the playbook's, not its neighbour's
		for _, m := range merges(&of, new(time.Duration), r.Limits) {
			if was, loosened := m.apply(false); loosened {
				refused = append(refused, Looser{Path: fmt.Sprintf("spec.remedies[%d].limits.%s", i, m.field), Message: fmt.Sprintf(
					"is looser than what holds for the playbook (%s), which stays in force: a remedy may only tighten it; make it tighter or leave it out", was)})
			}
		}
	}
	return refused
}

func (c *Config) merge(pb *playbooks.Playbook) (guard.Limits, time.Duration, []Looser) {
	l, expire := c.Safety.limits(), c.Safety.ExpireAfter
	if pb == nil {
		return l, expire, nil
	}
	l.PlaybookWindows = pb.Windows
	var refused []Looser
	for _, m := range merges(&l, &expire, pb.Limits) {
		if was, loosened := m.apply(slices.Contains(c.Safety.AllowLoosening, m.group)); loosened {
			refused = append(refused, Looser{Path: "spec.limits." + m.field, Message: fmt.Sprintf(
				"is looser than the configuration's %s (%s), which stays in force: make it tighter, leave it out, or name %s in safety.allowLoosening", was, m.setting, m.group)})
		}
	}
	return l, expire, refused
}

// limits are the configuration's own.
func (s *Safety) limits() guard.Limits {
	limit := func(r Rate) guard.Rate {
		if !s.Rate.Enabled {
			return guard.Rate{Burst: guard.Off}
		}
		return guard.Rate{Burst: r.Burst, Every: r.Every}
	}
	l := guard.Limits{
		MaxConcurrentRuns:         s.MaxConcurrentRunsPerPlaybook,
		MaxConcurrentGlobal:       s.MaxConcurrentRuns,
		MaxConcurrentPerNamespace: s.MaxConcurrentRunsPerNamespace,
		CooldownAfterSuccess:      s.Cooldown.AfterSuccess,
		CooldownAfterFailure:      s.Cooldown.AfterFailure,
		MaxAttempts:               s.Attempts.Max,
		AttemptsWindow:            s.Attempts.Window,
		MaxUnhealthyNodes:         s.Nodes.MaxUnhealthy,
		MaxUnhealthyNodesPercent:  s.Nodes.MaxUnhealthyPercent,
		Settle:                    s.Nodes.Settle,
		Windows:                   s.ParsedWindows,
		FiringFor:                 s.FiringFor,
		HumanActivity:             s.HumanActivity.Within,
		GitOps:                    s.GitOps,
		WatchdogAge:               s.Watchdog.MaxAge,
		FailoverDwell:             s.FailoverDwell,
		RateGlobal:                limit(s.Rate.Global),
		RateNamespace:             limit(s.Rate.PerNamespace),
		RatePlaybook:              limit(s.Rate.PerPlaybook),
		MaxConcurrentPerPool:      s.Nodes.MaxConcurrentPerPool,
		MaxConcurrentPerZone:      s.Nodes.MaxConcurrentPerZone,
		MaxZones:                  s.Nodes.MaxZones,
		MaxUnavailablePods:        s.Pods.MaxUnavailable,
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
		l.HumanActivity = guard.Off
	}
	if !s.Watchdog.Enabled {
		l.WatchdogAge = guard.Off
	}
	if !s.Storm.Enabled {
		l.StormRuns = guard.Off
	}
	return l
}

// merge is one field that a playbook or a remedy may have an opinion on.
type merge struct {
	group   string // as in safety.allowLoosening
	field   string // below limits
	setting string // of the configuration
	// apply writes the playbook's value if it is tighter, or may be looser. Else,
	// if it is looser, it reports true and the value that stays.
	apply func(allowed bool) (stays string, refused bool)
}

func merges(l *guard.Limits, expire *time.Duration, own playbooks.Limits) []merge {
	rate := &l.RatePlaybook
	off := rate.Burst == guard.Off
	if off { // half a rate is none
		if own.Rate.Burst < 1 || own.Rate.Every <= 0 {
			own.Rate = guard.Rate{}
		}
	}
	return []merge{
		{"maxConcurrentRuns", "maxConcurrentRuns", "safety.maxConcurrentRunsPerPlaybook", atMost(&l.MaxConcurrentRuns, own.MaxConcurrentRuns)},
		{"cooldown", "cooldown.afterSuccess", "safety.cooldown.afterSuccess", atLeast(&l.CooldownAfterSuccess, own.CooldownAfterSuccess)},
		{"cooldown", "cooldown.afterFailure", "safety.cooldown.afterFailure", atLeast(&l.CooldownAfterFailure, own.CooldownAfterFailure)},
		{"attempts", "attempts.max", "safety.attempts.max", atMost(&l.MaxAttempts, own.MaxAttempts)},
		{"attempts", "attempts.window", "safety.attempts.window", atLeast(&l.AttemptsWindow, own.AttemptsWindow)},
		{"expireAfter", "expireAfter", "safety.expireAfter", atMost(expire, own.ExpireAfter)},
		{"firingFor", "firingFor", "safety.firingFor", atLeast(&l.FiringFor, own.FiringFor)},
		{"humanActivity", "humanActivity", "safety.humanActivity.within", atLeast(&l.HumanActivity, own.HumanActivity)},
		{"rate", "rate.burst", "safety.rate.perPlaybook.burst", atMost(&rate.Burst, own.Rate.Burst)},
		{"rate", "rate.every", "safety.rate.perPlaybook.every", atLeast(&rate.Every, own.Rate.Every)},
		{"gitOps", "gitOps", "safety.gitOps", policy(&l.GitOps, own.GitOps)},
		{"pods", "maxUnavailablePods", "safety.pods.maxUnavailable", atMost(&l.MaxUnavailablePods, own.MaxUnavailablePods)},
		{"pods", "maxUnavailablePodsPercent", "safety.pods.maxUnavailablePercent", atMost(&l.MaxUnavailablePodsPercent, own.MaxUnavailablePodsPercent)},
		{"nodes", "maxUnhealthyNodes", "safety.nodes.maxUnhealthy", atMost(&l.MaxUnhealthyNodes, own.MaxUnhealthyNodes)},
		{"nodes", "maxUnhealthyNodesPercent", "safety.nodes.maxUnhealthyPercent", atMost(&l.MaxUnhealthyNodesPercent, own.MaxUnhealthyNodesPercent)},
		{"velocity", "velocity.maxNodesPerPool", "safety.velocity.maxNodesPerPool", atMost(&l.MaxNodesPerPool, own.MaxNodesPerPool)},
		{"velocity", "velocity.maxRemovePercent", "safety.velocity.maxRemovePercent", atMost(&l.MaxRemovePercent, own.MaxRemovePercent)},
		{"velocity", "velocity.window", "safety.velocity.window", atLeast(&l.RemoveWindow, own.RemoveWindow)},
		{"velocity", "velocity.minReplicas", "safety.velocity.minReplicas", atLeast(&l.MinReplicas, own.MinReplicas)},
	}
}

// looseable are the names that safety.allowLoosening may hold.
func looseable() []string {
	var out []string
	for _, m := range merges(&guard.Limits{}, new(time.Duration), playbooks.Limits{}) {
		if !slices.Contains(out, m.group) {
			out = append(out, m.group)
		}
	}
	return out
}

type number interface{ int | time.Duration }

// atMost is for a cap, which is tighter when it is lower. One that is off is
// looser than any.
func atMost[T number](limit *T, own T) func(bool) (string, bool) {
	return overrule(limit, own, func() bool { return *limit == guard.Off || own <= *limit })
}

// atLeast is for a floor or a wait, which is tighter when it is higher.
func atLeast[T number](limit *T, own T) func(bool) (string, bool) {
	return overrule(limit, own, func() bool { return own >= *limit })
}

func overrule[T number](limit *T, own T, tighter func() bool) func(bool) (string, bool) {
	return func(allowed bool) (string, bool) {
		if own <= 0 { // no opinion
			return "", false
		}
		if !tighter() && !allowed {
			return written(*limit), true
		}
		*limit = own
		return "", false
	}
}

func policy(limit *guard.GitOpsPolicy, own guard.GitOpsPolicy) func(bool) (string, bool) {
	order := []guard.GitOpsPolicy{guard.GitOpsDeny, guard.GitOpsApprove, guard.GitOpsAllow}
	return func(allowed bool) (string, bool) {
		if own == "" {
			return "", false
		}
		if slices.Index(order, own) > slices.Index(order, *limit) && !allowed {
			return string(*limit), true
		}
		*limit = own
		return "", false
	}
}

func written[T number](v T) string {
	if d, ok := any(v).(time.Duration); ok {
		return model.Duration(d).String()
	}
	return fmt.Sprint(v)
}
