// Package guard decides whether a change may be made now: every limit is one
// guard in one ordered list. It is pure: it reads the evidence (filled by kube
// and promapi), the ledger (filled by the store) and the subject (filled by the
// engine), and it defines all three. Anything unknown denies.
package guard

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/alertmedic/alertmedic/internal/action"
)

// Input is everything that a decision rests on.
type Input struct {
	Subject  Subject  `json:"subject"`
	Evidence Evidence `json:"evidence"`
	Ledger   Ledger   `json:"-"`
	Config   Config   `json:"-"`
}

// Config is what the guards know that is not a playbook's limit.
type Config struct {
	// ProtectedNamespaces are refused unless the playbook's target names them.
	ProtectedNamespaces []string
	// RetryEvery is how long a delayed run waits before it asks again when the
	// guard itself does not know a time.
	RetryEvery time.Duration
}

// Guard is one safety rule. Decide returns Admit when the rule does not object.
type Guard struct {
	Name   string
	Decide func(Input) Decision
}

// List returns the guards in the order in which they are asked. The order is
// part of the product: the reason that a user reads is that of the first guard
// that objects, so the ones that a person set by hand come first and the ones
// that time alone lifts come last.
func List() []Guard {
	return []Guard{
		{"paused", paused},
		{"wrong-cluster", wrongCluster},
		{"window", window},
		{"protected-target", protectedTarget},
		{"source", sourceScope},
		{"resync", resynced},
		{"watchdog", watchdog},
		{"evidence", evidenceKnown},
		{"target", sameTarget},
		{"firing", stillFiring},
		{"firing-for", firingFor},
		{"mode", mode},
		{"gitops", gitOps},
		{"dwell", dwell},
		{"settle", settle},
		{"human-activity", human},
		{"cooldown", cooldown},
		{"attempts", attempts},
		{"rate", rate},
		{"concurrency", concurrency},
		{"failure-domain", failureDomain},
		{"unhealthy-budget", unhealthyBudget},
		{"pod-budget", podBudget},
		{"storm", storm},
		{"control-plane", controlPlane},
		{"velocity", velocity},
		{"capacity", capacity},
	}
}

// ForReverts keeps of a list what is asked before a change is taken back: what a
// person, the calendar and the object's owner have set, and that they could be
// read. What bounds new changes does not hold up the end of an old one, and the
// action itself restores only what is still its own.
func ForReverts(guards []Guard) []Guard {
	asked := []string{"paused", "wrong-cluster", "window", "protected-target", "evidence"}
	return slices.DeleteFunc(slices.Clone(guards), func(g Guard) bool { return !slices.Contains(asked, g.Name) })
}

// Decide asks every guard in order and returns the first objection; a run in
// Observe mode, or one that waits for approval, is decided only by the guards
// after mode when it is let through. The slice of all decisions is what explain
// and the journal show.
func Decide(guards []Guard, in Input) (Decision, []Decision) {
	all := make([]Decision, 0, len(guards))
	final := Decision{Verdict: Admit}
	for _, g := range guards {
		d := g.Decide(in)
		d.Guard = g.Name
		all = append(all, d)
		if final.Verdict == Admit && d.Verdict != Admit {
			final = d
		}
	}
	return final, all
}

func admit() Decision { return Decision{Verdict: Admit} }

func deny(reason Reason, format string, args ...any) Decision {
	return Decision{Verdict: Deny, Reason: reason, Message: fmt.Sprintf(format, args...)}
}

func (in Input) delay(reason Reason, until time.Time, format string, args ...any) Decision {
	if !until.After(in.Ledger.Now) {
		until = in.Ledger.Now.Add(cmp.Or(in.Config.RetryEvery, 15*time.Second))
	}
	return Decision{Verdict: Delay, Reason: reason, Message: fmt.Sprintf(format, args...), RetryAt: until}
}

// paused holds back runs while a person's pause stands. It delays: nothing is
// lost by a pause, and what still fires when it ends is acted on.
func paused(in Input) Decision {
	for _, p := range in.Ledger.Pauses {
		var hit bool
		switch p.Scope {
		case PauseGlobal:
			hit = true
		case PausePlaybook:
			hit = p.Value == in.Subject.Playbook
		case PauseNamespace:
			hit = p.Value == in.Subject.Target.Namespace
		default:
			hit = true // a scope written by a newer version: hold
		}
		if hit {
			what := string(p.Scope)
			if p.Value != "" {
				what += " " + p.Value
			}
			return in.delay(ReasonPaused, time.Time{}, "paused (%s) by %s since %s: %s; `alertmedic resume` lifts it",
				what, p.By, p.At.UTC().Format(time.RFC3339), p.Why)
		}
	}
	return admit()
}

// wrongCluster denies an alert whose cluster label contradicts its source.
func wrongCluster(in Input) Decision {
	s := in.Subject
	if s.SourceCluster == "" || s.Target.Cluster != s.SourceCluster {
		return deny(ReasonWrongCluster, "the source speaks for cluster %q and the target is in %q", s.SourceCluster, s.Target.Cluster)
	}
	if s.AlertCluster != "" && s.AlertCluster != s.SourceCluster {
		return deny(ReasonWrongCluster, "the alert's cluster label is %q and its source speaks for %q: give each cluster a source of its own",
			s.AlertCluster, s.SourceCluster)
	}
	return admit()
}

// protectedTarget keeps hands off what keeps the cluster and alertmedic alive,
// and off what its owner opted out.
func protectedTarget(in Input) Decision {
	t := in.Evidence.Target
	if !in.Subject.Mutating {
		return admit()
	}
	if in.Subject.Target.IsZero() {
		return deny(ReasonProtected, "the target is empty: an empty target never means everything")
	}
	if t.Skip != "" {
		return deny(ReasonOptedOut, "%s carries the annotation alertmedic.io/skip; remove it to let alertmedic act", t.Skip)
	}
	if t.Protected != "" {
		return deny(ReasonProtected, "%s is protected: %s", in.Subject.Target, t.Protected)
	}
	ns := in.Subject.Target.Namespace
	if ns != "" && slices.Contains(in.Config.ProtectedNamespaces, ns) && !slices.Contains(in.Subject.NamedNamespaces, ns) {
		return deny(ReasonProtected, "namespace %s is protected; a playbook must name it in target.namespace, or it must leave safety.protectedNamespaces", ns)
	}
	return admit()
}

// sourceScope limits a source to the namespaces and playbooks that its
// credential was given.
func sourceScope(in Input) Decision {
	s := in.Subject
	if len(s.AllowedPlaybooks) > 0 && !slices.Contains(s.AllowedPlaybooks, s.Playbook) {
		return deny(ReasonPlaybook, "the source may use the playbooks %s only", strings.Join(s.AllowedPlaybooks, ", "))
	}
	if len(s.AllowedNamespaces) > 0 && !slices.Contains(s.AllowedNamespaces, s.Target.Namespace) {
		if s.Target.Namespace == "" {
			return deny(ReasonNamespace, "the source is limited to the namespaces %s and %s is cluster-scoped",
				strings.Join(s.AllowedNamespaces, ", "), s.Target)
		}
		return deny(ReasonNamespace, "the source is limited to the namespaces %s", strings.Join(s.AllowedNamespaces, ", "))
	}
	return admit()
}

// evidenceKnown refuses to decide on what could not be observed, or was
// observed too long ago.
func evidenceKnown(in Input) Decision {
	e := in.Evidence
	if e.ObservedAt.IsZero() {
		return in.delay(ReasonEvidence, time.Time{}, "nothing was observed")
	}
	if age := in.Ledger.Now.Sub(e.ObservedAt); age > MaxEvidenceAge {
		return in.delay(ReasonEvidence, in.Ledger.Now.Add(time.Second), "the evidence is %s old, %s is allowed", age.Round(time.Millisecond), MaxEvidenceAge)
	}
	if len(e.Errors) > 0 {
		return in.delay(ReasonEvidence, time.Time{}, "could not observe: %s", strings.Join(e.Errors, "; "))
	}
	return admit()
}

// sameTarget insists that the object is the one that was resolved.
func sameTarget(in Input) Decision {
	s, t := in.Subject, in.Evidence.Target
	if s.Target.Kind == action.KindPod && s.Disruptive && s.Begun {
		return admit() // that it goes, and another comes under its name, is what was asked for
	}
	if !t.Exists {
		return deny(ReasonTargetGone, "%s is not there any more", s.Target)
	}
	if s.Target.UID == "" || t.UID != s.Target.UID {
		return deny(ReasonTargetReplaced, "%s was replaced: it had UID %s and has %s", s.Target, s.Target.UID, t.UID)
	}
	if t.Terminating {
		return deny(ReasonTerminating, "%s or its namespace is being deleted", s.Target)
	}
	if p := s.Target.Pod; p != nil && s.NeedsPod {
		if !t.PodExists {
			return deny(ReasonTargetGone, "%s is not there any more", *p)
		}
		if t.PodUID != p.UID {
			return deny(ReasonTargetReplaced, "%s was replaced: it had UID %s and has %s", *p, p.UID, t.PodUID)
		}
	}
	return admit()
}

// stillFiring reads, and does not remember, whether the alert fires. Once the
// run has changed something its own effect may hide the alert (a cordon resolves
// KubeNodeNotReady), so a resolution counts only before that.
func stillFiring(in Input) Decision {
	a := in.Evidence.Alert
	if !in.Subject.Mutating {
		return admit()
	}
	switch a.State {
	case AlertFiring:
		return admit()
	case AlertResolved:
		if !in.Subject.Untouched {
			return admit()
		}
		return deny(ReasonResolved, "the alert no longer fires")
	case AlertSilenced:
		return in.delay(ReasonSilenced, time.Time{}, "the alert is silenced (%s): someone asked for quiet", a.By)
	case AlertInhibited:
		return in.delay(ReasonInhibited, time.Time{}, "the alert is inhibited by %s", a.By)
	default:
		return in.delay(ReasonAlertUnknown, time.Time{}, "the state of the alert is unknown: %s", cmp.Or(a.By, "no reader is configured for the source"))
	}
}

// mode holds Observe back from sending and Approve until a person has decided.
func mode(in Input) Decision {
	if !in.Subject.Mutating {
		return admit()
	}
	switch in.Subject.Mode {
	case Auto:
		return admit()
	case Approve:
		if in.Subject.Approved {
			return admit()
		}
		return Decision{Verdict: NeedsApproval, Reason: ReasonApproval, Message: "waits for a person: `alertmedic approve " + in.Subject.RunID + "`"}
	default:
		return Decision{Verdict: Simulate, Reason: ReasonObserve, Message: "mode Observe: planned and recorded, not sent"}
	}
}

// settle waits until the number of unhealthy nodes has stopped growing: the
// size of a storm is not in the payload.
func settle(in Input) Decision {
	n := in.Evidence.Nodes
	if !in.Subject.Mutating || !in.Subject.Disruptive || in.Subject.Target.Kind != action.KindNode || !in.Subject.Untouched {
		return admit()
	}
	if n == nil {
		return in.delay(ReasonEvidence, time.Time{}, "the nodes of the cluster could not be counted")
	}
	if n.GrowingSince.IsZero() {
		return admit()
	}
	if until := n.GrowingSince.Add(in.Subject.Limits.Settle); until.After(in.Ledger.Now) {
		return in.delay(ReasonSettling, until, "the number of unhealthy nodes (%d) grew at %s; it must stay for %s",
			len(n.Unhealthy), n.GrowingSince.UTC().Format(time.RFC3339), in.Subject.Limits.Settle)
	}
	return admit()
}
