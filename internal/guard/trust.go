package guard

import (
	"cmp"
	"time"
)

// These guards ask whether now is a moment, and this an object, where nobody but
// alertmedic should act.

// resynced holds Auto back after a restart until the state of the source's
// alerts was read once: what the process remembers is from before.
func resynced(in Input) Decision {
	s := in.Subject
	if !s.Mutating || s.Mode != Auto || s.Approved || in.Evidence.Resynced {
		return admit()
	}
	return in.delay(ReasonResync, time.Time{}, "the alerts of the source have not been read since the start of this process: its Alertmanager must answer first")
}

// watchdog disarms Auto while the alert that always fires is not heard of: the
// way from the rules to Alertmanager is broken somewhere, so silence about an
// alert means nothing either.
func watchdog(in Input) Decision {
	s, w := in.Subject, in.Evidence.Watchdog
	if !s.Mutating || s.Mode != Auto || s.Approved || s.Limits.WatchdogAge == Off {
		return admit()
	}
	switch {
	case w.Err != "":
		return in.delay(ReasonWatchdog, time.Time{}, "the Watchdog alert could not be looked for: %s", w.Err)
	case w.HeardAt.IsZero():
		return in.delay(ReasonWatchdog, time.Time{},
			"Auto is disarmed: Alertmanager does not know the alert Watchdog; ship a rule that always fires (rules/alertmedic.yaml), or set safety.watchdog.enabled: false")
	}
	if age := in.Ledger.Now.Sub(w.HeardAt); age > s.Limits.WatchdogAge {
		return in.delay(ReasonWatchdog, time.Time{}, "Auto is disarmed: the Watchdog alert was last heard of %s ago, %s is allowed (safety.watchdog.maxAge): is Prometheus evaluating?",
			age.Round(time.Second), s.Limits.WatchdogAge)
	}
	return admit()
}

// firingFor is the hysteresis of a flapping alert: nothing is changed before it
// has fired for so long at a stretch.
func firingFor(in Input) Decision {
	s := in.Subject
	if !s.Mutating || !s.First || s.Limits.FiringFor <= 0 {
		return admit()
	}
	if s.FiringSince.IsZero() {
		return in.delay(ReasonFlapping, time.Time{}, "it is not known since when the alert fires")
	}
	if until := s.FiringSince.Add(s.Limits.FiringFor); until.After(in.Ledger.Now) {
		return in.delay(ReasonFlapping, until, "the alert fires since %s; it must fire for %s (limits.firingFor)",
			s.FiringSince.UTC().Format(time.RFC3339), s.Limits.FiringFor)
	}
	return admit()
}

// gitOps leaves fields alone that a GitOps tool would write back: the change
// would be undone, or fight its owner.
func gitOps(in Input) Decision {
	s, o := in.Subject, in.Evidence.Target.Owner
	if !s.Mutating || !s.WritesSpec || o == nil || s.Limits.GitOps == GitOpsAllow {
		return admit()
	}
	if s.Limits.GitOps == GitOpsApprove {
		if s.Approved {
			return admit()
		}
		return Decision{Verdict: NeedsApproval, Reason: ReasonGitOps, Message: "the spec of " + o.Object + " belongs to " + o.Tool + " " + o.Name +
			", which may write it back; `alertmedic approve " + s.RunID + "` changes it all the same"}
	}
	return deny(ReasonGitOps, "the spec of %s belongs to %s %s, which would write it back: change it there (safety.gitOps is %s)",
		o.Object, o.Tool, o.Name, cmp.Or(s.Limits.GitOps, GitOpsDeny))
}

// dwell keeps a short fault from causing a failover, which a person approves in
// any case: a partition of seconds has cost a day.
func dwell(in Input) Decision {
	s := in.Subject
	if !s.Mutating || !s.Failover {
		return admit()
	}
	if s.Limits.FailoverDwell <= 0 {
		return deny(ReasonDwell, "safety.failoverDwell is not set: no dwell time means no failover")
	}
	if s.FiringSince.IsZero() {
		return in.delay(ReasonDwell, time.Time{}, "it is not known since when the alert fires")
	}
	if until := s.FiringSince.Add(s.Limits.FailoverDwell); until.After(in.Ledger.Now) {
		return in.delay(ReasonDwell, until, "the alert fires since %s; a failover waits until it has fired for %s (safety.failoverDwell)",
			s.FiringSince.UTC().Format(time.RFC3339), s.Limits.FailoverDwell)
	}
	if !s.Approved {
		return Decision{Verdict: NeedsApproval, Reason: ReasonApproval, Message: "a failover waits for a person: `alertmedic approve " + s.RunID + "`"}
	}
	return admit()
}

// human leaves an object alone on which a person works. Who approves the plan is
// such a person.
func human(in Input) Decision {
	s, t := in.Subject, in.Evidence.Target.Touched
	if !s.Mutating || s.Approved || t == nil || s.Limits.HumanActivity == Off {
		return admit()
	}
	if s.Limits.HumanActivity <= 0 {
		return deny(ReasonHuman, "safety.humanActivity.within is not set")
	}
	if until := t.At.Add(s.Limits.HumanActivity); until.After(in.Ledger.Now) {
		return in.delay(ReasonHuman, until, "%s was changed by %q at %s: it is left alone for %s (safety.humanActivity)",
			t.Object, t.Manager, t.At.UTC().Format(time.RFC3339), s.Limits.HumanActivity)
	}
	return admit()
}
