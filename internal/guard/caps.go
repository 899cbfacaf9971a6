package guard

import (
	"slices"
	"time"

	"github.com/alertmedic/alertmedic/internal/action"
)

// cooldown keeps a target alone for a while after an attempt on it, longer
// after one that did not heal. It admits runs, not the steps within one.
func cooldown(in Input) Decision {
	s := in.Subject
	if !s.Mutating || !s.First || len(in.Ledger.Past) == 0 {
		return admit()
	}
	for _, p := range in.Ledger.Past {
		if p.Playbook != s.Playbook {
			continue
		}
		span, after := s.Limits.CooldownAfterFailure, "failed"
		if p.Healed {
			span, after = s.Limits.CooldownAfterSuccess, "healed"
		}
		if until := p.Ended.Add(span); until.After(in.Ledger.Now) {
			return in.delay(ReasonCooldown, until, "run %s on the same target %s at %s; the cooldown is %s (limits.cooldown)",
				p.RunID, after, p.Ended.UTC().Format(time.RFC3339), span)
		}
	}
	return admit()
}

// attempts ends in a human: so many tries in a window and no more.
func attempts(in Input) Decision {
	s := in.Subject
	if !s.Mutating || !s.First {
		return admit()
	}
	if s.Limits.MaxAttempts < 1 || s.Limits.AttemptsWindow <= 0 {
		return deny(ReasonAttempts, "limits.attempts is not set: no cap means no run")
	}
	since, n := in.Ledger.Now.Add(-s.Limits.AttemptsWindow), 0
	for _, p := range in.Ledger.Past {
		if p.Playbook == s.Playbook && p.Started.After(since) {
			n++
		}
	}
	if n >= s.Limits.MaxAttempts {
		return deny(ReasonAttempts, "%d attempts on %s within %s (limits.attempts): a person must look", n, s.Target.AttemptKey(), s.Limits.AttemptsWindow)
	}
	return admit()
}

// concurrency bounds how many runs are active: in all, of the playbook, and in
// the namespace.
func concurrency(in Input) Decision {
	s := in.Subject
	if !s.Mutating {
		return admit()
	}
	var all, own, ns int
	for _, a := range in.Ledger.Active {
		if a.RunID == s.RunID {
			continue
		}
		all++
		if a.Playbook == s.Playbook {
			own++
		}
		if a.Namespace == s.Target.Namespace && a.Namespace != "" {
			ns++
		}
	}
	l := s.Limits
	switch {
	case all >= l.MaxConcurrentGlobal:
		return in.delay(ReasonConcurrency, time.Time{}, "%d runs are active, safety.maxConcurrentRuns is %d", all, l.MaxConcurrentGlobal)
	case own >= l.MaxConcurrentRuns:
		return in.delay(ReasonConcurrency, time.Time{}, "%d runs of playbook %s are active, limits.maxConcurrentRuns is %d", own, s.Playbook, l.MaxConcurrentRuns)
	case s.Target.Namespace != "" && ns >= l.MaxConcurrentPerNamespace:
		return in.delay(ReasonConcurrency, time.Time{}, "%d runs are active in namespace %s, safety.maxConcurrentRunsPerNamespace is %d", ns, s.Target.Namespace, l.MaxConcurrentPerNamespace)
	}
	return admit()
}

// unhealthyBudget refuses to take more nodes away when too many are away
// already: on such a day the cause is elsewhere. It counts the union, by
// target, of the unhealthy in the evidence, of every reservation that lived at
// any time since the evidence was observed, and of the target itself.
func unhealthyBudget(in Input) Decision {
	s, n := in.Subject, in.Evidence.Nodes
	if !s.Mutating || !s.Disruptive || s.Target.Kind != action.KindNode {
		return admit()
	}
	if n == nil || n.Total < 1 {
		return in.delay(ReasonEvidence, time.Time{}, "the nodes of the cluster could not be counted")
	}
	away := map[string]bool{s.Target.LockKey(): true}
	for _, key := range n.Unhealthy {
		away[key] = true
	}
	scope := NodesScope(s.Target.Cluster)
	for _, r := range in.Ledger.Reservations {
		if r.Scope == scope && (r.Released == nil || !r.Released.Before(in.Evidence.ObservedAt)) {
			away[r.TargetKey] = true
		}
	}
	budget := s.Limits.MaxUnhealthyNodes
	if byPercent := max(1, n.Total*s.Limits.MaxUnhealthyNodesPercent/100); byPercent < budget {
		budget = byPercent
	}
	if len(away) > budget {
		return in.delay(ReasonUnhealthyBudget, time.Time{},
			"%d of %d nodes are unhealthy or being worked on, %d are allowed (safety.nodes): the cause is likely not the node, a person must look",
			len(away), n.Total, budget)
	}
	return admit()
}

// NodesScope is the scope of reservations of nodes in a cluster.
func NodesScope(cluster string) string { return "nodes/" + cluster }

// Scopes returns the scope rows that admission of s must lock, sorted.
func Scopes(s Subject) []string {
	out := []string{"global/" + s.Target.Cluster, "playbook/" + s.Playbook, NodesScope(s.Target.Cluster)}
	if s.Target.Namespace != "" {
		out = append(out, "namespace/"+s.Target.Cluster+"/"+s.Target.Namespace)
	}
	slices.Sort(out)
	return out
}
