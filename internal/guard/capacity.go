package guard

import (
	"slices"
	"strings"
	"time"

	"github.com/alertmedic/alertmedic/internal/action"
)

// PodsScope is the scope of reservations of a workload's pods.
func PodsScope(t action.Target) string { return "pods/" + t.LockKey() }

// RemovedScope is the scope of replicas that were removed from a workload.
func RemovedScope(t action.Target) string { return "removed/" + t.LockKey() }

// PoolScope is the scope of nodes that were taken out of service in a pool; the
// nodes that name no pool are one.
func PoolScope(t action.Target) string { return "pool/" + t.Cluster + "/" + t.NodePool }

// PodKey is the target key of a pod in reservations and evidence.
func PodKey(cluster, namespace, name string) string {
	return action.Join(cluster, string(action.KindPod), namespace, name)
}

// podBudget refuses to take more pods of a workload away when too many are not
// available already. It counts like the budget of nodes.
func podBudget(in Input) Decision {
	s, e := in.Subject, in.Evidence.Pods
	if !s.Mutating || !s.Disruptive || !s.NeedsPod || s.Target.Pod == nil {
		return admit()
	}
	l := s.Limits
	if l.MaxUnavailablePods < 1 || l.MaxUnavailablePodsPercent < 1 {
		return deny(ReasonPodBudget, "safety.pods is not set: no budget means no run")
	}
	if e == nil {
		return in.delay(ReasonEvidence, time.Time{}, "the pods of the workload could not be counted")
	}
	away := map[string]bool{PodKey(s.Target.Cluster, s.Target.Pod.Namespace, s.Target.Pod.Name): true}
	for _, key := range e.Unavailable {
		away[key] = true
	}
	for key := range in.reserved(PodsScope(s.Target)) {
		away[key] = true
	}
	budget := min(l.MaxUnavailablePods, max(1, e.Desired*l.MaxUnavailablePodsPercent/100))
	if len(away) > budget {
		return in.delay(ReasonPodBudget, time.Time{},
			"%d of %d pods of the workload are not available or being worked on, %d are allowed (safety.pods): the cause is likely not the pod",
			len(away), e.Desired, budget)
	}
	return admit()
}

// reserved are the keys of a scope whose reservation lived at any time since the
// evidence was observed: the evidence cannot have seen their effect yet.
func (in Input) reserved(scope string) map[string]bool {
	out := make(map[string]bool)
	for _, r := range in.Ledger.Reservations {
		if r.Scope == scope && r.RunID != in.Subject.RunID && (r.Released == nil || !r.Released.Before(in.Evidence.ObservedAt)) {
			out[r.TargetKey] = true
		}
	}
	return out
}

// controlPlane lets nodes of the control plane be worked on one at a time, and
// only while the rest is known to hold the quorum.
func controlPlane(in Input) Decision {
	s := in.Subject
	if !s.Mutating || !s.Disruptive || s.Target.Kind != action.KindNode || in.Evidence.Nodes == nil || in.Evidence.Nodes.ControlPlane == nil {
		return admit()
	}
	cp := in.Evidence.Nodes.ControlPlane
	if s.Limits.ControlPlane != ControlPlaneOneAtATime {
		return deny(ReasonQuorum, "%s is of the control plane (safety.nodes.controlPlane is %s)", s.Target, ControlPlaneProtect)
	}
	key := s.Target.LockKey()
	others := slices.DeleteFunc(slices.Clone(cp.Unhealthy), func(k string) bool { return k == key })
	if len(others) > 0 {
		return in.delay(ReasonQuorum, time.Time{}, "another node of the control plane is not healthy: %s; one at a time", strings.Join(others, ", "))
	}
	for k := range in.reserved(ControlPlaneScope(s.Target.Cluster)) {
		return in.delay(ReasonQuorum, time.Time{}, "another node of the control plane is worked on: %s; one at a time", k)
	}
	ready := cp.EtcdReady
	if cp.TargetEtcdReady {
		ready--
	}
	switch {
	case cp.EtcdTotal < 1:
		return in.delay(ReasonQuorum, time.Time{}, "the members of etcd cannot be seen, so it is not known whether the quorum would hold")
	case ready < cp.EtcdTotal/2+1:
		return deny(ReasonQuorum, "etcd would have %d of %d members ready and needs %d", ready, cp.EtcdTotal, cp.EtcdTotal/2+1)
	}
	return admit()
}

// ControlPlaneScope is the scope of reservations of nodes of the control plane.
func ControlPlaneScope(cluster string) string { return "control-plane/" + cluster }

// velocity bounds how fast capacity is removed, and how much must stay: too much
// of it, too fast, has taken whole services down.
func velocity(in Input) Decision {
	s, l := in.Subject, in.Subject.Limits
	if !s.Mutating {
		return admit()
	}
	since := in.Ledger.Now.Add(-l.RemoveWindow)
	if s.Disruptive && s.Target.Kind == action.KindNode {
		if l.MaxNodesPerPool < 1 || l.RemoveWindow <= 0 {
			return deny(ReasonVelocity, "safety.velocity is not set: no limit means no run")
		}
		taken, key := map[string]bool{}, s.Target.LockKey()
		for _, r := range in.Ledger.Reservations {
			if r.Scope == PoolScope(s.Target) && r.Created.After(since) {
				taken[r.TargetKey] = true
			}
		}
		if !taken[key] && len(taken) >= l.MaxNodesPerPool {
			return in.delay(ReasonVelocity, time.Time{}, "%d nodes of pool %q were taken out of service within %s, safety.velocity.maxNodesPerPool is %d: do new ones fail as well?",
				len(taken), s.Target.NodePool, l.RemoveWindow, l.MaxNodesPerPool)
		}
	}
	if s.Removes <= 0 {
		return admit()
	}
	if l.MaxRemovePercent < 1 || l.RemoveWindow <= 0 || l.MinReplicas < 1 {
		return deny(ReasonVelocity, "safety.velocity is not set: no limit means no run")
	}
	if left := s.Replicas - s.Removes; left < l.MinReplicas {
		return deny(ReasonFloor, "%d of %d replicas would be left, safety.velocity.minReplicas is %d", left, s.Replicas, l.MinReplicas)
	}
	removed := 0
	for _, r := range in.Ledger.Reservations {
		own := r.RunID == s.RunID && r.TargetKey == s.Remedy+"/"+s.Step // of the try before
		if r.Scope == RemovedScope(s.Target) && !own && r.Created.After(since) {
			removed += r.Weight
		}
	}
	if had := s.Replicas + removed; (removed+s.Removes)*100 > max(100, had*l.MaxRemovePercent) {
		return in.delay(ReasonVelocity, time.Time{}, "%d of %d replicas would be removed within %s, safety.velocity.maxRemovePercent is %d",
			removed+s.Removes, had, l.RemoveWindow, l.MaxRemovePercent)
	}
	return admit()
}

// capacity insists that what is displaced fits elsewhere. A hard constraint that
// could not be evaluated counts as one that does not hold.
func capacity(in Input) Decision {
	s, c := in.Subject, in.Evidence.Capacity
	if !s.Mutating || !s.Disruptive || s.Displaces == 0 {
		return admit()
	}
	switch {
	case c == nil:
		return in.delay(ReasonEvidence, time.Time{}, "it could not be told whether %d displaced pods fit elsewhere", s.Displaces)
	case len(c.Unevaluated) > 0:
		return in.delay(ReasonCapacity, time.Time{}, "whether the pods fit elsewhere cannot be told: %s", some(c.Unevaluated))
	case c.Placed < c.Displaced || len(c.Unplaced) > 0:
		return in.delay(ReasonCapacity, time.Time{}, "%d of %d displaced pods fit nowhere else: %s; add capacity", c.Displaced-c.Placed, c.Displaced, some(c.Unplaced))
	case len(c.Blocked) > 0 && s.Untouched:
		return in.delay(ReasonCapacity, time.Time{}, "disruption budgets allow nothing now: %s", some(c.Blocked))
	}
	return admit()
}

// some joins the first few of a list that may be long.
func some(list []string) string {
	const few = 3
	if len(list) <= few {
		return strings.Join(list, "; ")
	}
	return strings.Join(list[:few], "; ") + "; and more"
}
