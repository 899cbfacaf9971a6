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
	for key := range in.reserved(NodesScope(s.Target.Cluster)) {
		away[key] = true
	}
	budget := nodeBudget(s.Limits, n.Total)
	if len(away) > budget {
		return in.delay(ReasonUnhealthyBudget, time.Time{},
			"%d of %d nodes are unhealthy or being worked on, %d are allowed (safety.nodes): the cause is likely not the node, a person must look",
			len(away), n.Total, budget)
	}
	return admit()
}

// nodeBudget is how many of total nodes may be away: the tighter cap, at least
// one by percent, so that small clusters are healed too.
func nodeBudget(l Limits, total int) int {
	return min(l.MaxUnhealthyNodes, max(1, total*l.MaxUnhealthyNodesPercent/100))
}

// failureDomain bounds runs on nodes by pool and by zone, and keeps them in few
// zones at a time: replicas are spread over zones to survive the loss of one.
func failureDomain(in Input) Decision {
	s, l := in.Subject, in.Subject.Limits
	if !s.Mutating || !s.Disruptive || s.Target.Kind != action.KindNode {
		return admit()
	}
	if l.MaxConcurrentPerPool < 1 || l.MaxConcurrentPerZone < 1 || l.MaxZones < 1 {
		return deny(ReasonZones, "safety.nodes lacks a cap by pool or zone: no cap means no run")
	}
	pool, zone, zones := 0, 0, map[string]bool{s.Target.Zone: true}
	for _, a := range in.Ledger.Active {
		if a.RunID == s.RunID || !a.Disruptive || a.Kind != action.KindNode {
			continue
		}
		if a.NodePool == s.Target.NodePool {
			pool++
		}
		if a.Zone == s.Target.Zone {
			zone++
		}
		zones[a.Zone] = true
	}
	switch {
	case pool >= l.MaxConcurrentPerPool:
		return in.delay(ReasonZones, time.Time{}, "%d nodes of pool %q are worked on, safety.nodes.maxConcurrentPerPool is %d", pool, s.Target.NodePool, l.MaxConcurrentPerPool)
	case zone >= l.MaxConcurrentPerZone:
		return in.delay(ReasonZones, time.Time{}, "%d nodes of zone %q are worked on, safety.nodes.maxConcurrentPerZone is %d", zone, s.Target.Zone, l.MaxConcurrentPerZone)
	case len(zones) > l.MaxZones:
		return in.delay(ReasonZones, time.Time{}, "nodes are worked on in %d other zones, safety.nodes.maxZones is %d", len(zones)-1, l.MaxZones)
	}
	return admit()
}

// NodesScope is the scope of reservations of nodes in a cluster.
func NodesScope(cluster string) string { return "nodes/" + cluster }

// Scopes returns the scopes that admission of s must lock, sorted: whatever its
// guards count in, of runs, reservations, buckets and storms.
func Scopes(s Subject) []string {
	t := s.Target
	out := []string{"global/" + t.Cluster, "playbook/" + s.Playbook, NodesScope(t.Cluster), RunsScope(t.Cluster), PodsScope(t), RemovedScope(t)}
	if t.Namespace != "" {
		out = append(out, "namespace/"+t.Cluster+"/"+t.Namespace)
	}
	if t.Kind == action.KindNode {
		out = append(out, PoolScope(t), ControlPlaneScope(t.Cluster))
	}
	for _, b := range buckets(s) {
		out = append(out, b.scope)
	}
	slices.Sort(out)
	return out
}

// Reserve is what an admitted step holds until its run ends, and what velocity
// counts after that.
func Reserve(s Subject, e Evidence, at time.Time) []Reservation {
	if !s.Mutating {
		return nil
	}
	t := s.Target
	var out []Reservation
	add := func(scope, key string, weight int) {
		out = append(out, Reservation{RunID: s.RunID, Scope: scope, TargetKey: key, Weight: weight, Created: at})
	}
	if s.Disruptive && t.Kind == action.KindNode {
		add(NodesScope(t.Cluster), t.LockKey(), 0)
		add(PoolScope(t), t.LockKey(), 0)
		if e.Nodes != nil && e.Nodes.ControlPlane != nil {
			add(ControlPlaneScope(t.Cluster), t.LockKey(), 0)
		}
	}
	if s.Disruptive && s.NeedsPod && t.Pod != nil {
		add(PodsScope(t), PodKey(t.Cluster, t.Pod.Namespace, t.Pod.Name), 0)
	}
	if s.Removes > 0 {
		add(RemovedScope(t), s.Remedy+"/"+s.Step, s.Removes)
	}
	return out
}
