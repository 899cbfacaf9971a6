package guard

import (
	"slices"
	"time"

	"github.com/alertmedic/alertmedic/internal/action"
)

// weather remembers the last real sign of a storm, by the model's own count.
func (m *model) weather(run *modelRun, e Evidence, _ Ledger) {
	recent := 0
	for _, r := range m.runs {
		if m.now.Sub(r.created) <= m.limits.StormWindow {
			recent++
		}
	}
	if recent > m.limits.StormRuns {
		m.calm["runs"] = m.now
	}
	if run.node() && e.Nodes != nil && len(e.Nodes.Unhealthy) > m.budget() {
		m.calm["nodes"] = m.now
	}
}

func (m *model) budget() int {
	return min(m.limits.MaxUnhealthyNodes, max(1, len(m.nodes)*m.limits.MaxUnhealthyNodesPercent/100))
}

// check says which promise the admission of run breaks; it is not active yet.
func (m *model) check(run *modelRun, e Evidence) {
	l := m.limits
	for scope, at := range m.calm {
		if m.now.Sub(at) < l.StormCooldown {
			m.breaks("storm: %s is admitted %s after the last sign of a storm of %s", run.id, m.now.Sub(at), scope)
		}
	}
	for _, w := range l.Windows {
		if !m.now.Before(w.From) && m.now.Before(w.Until) {
			m.breaks("window: %s is admitted in a freeze", run.id)
		}
	}
	if len(e.Errors) > 0 || e.Alert.State != AlertFiring || run.node() && e.Nodes == nil || !run.node() && e.Pods == nil || e.Watchdog.Err != "" {
		m.breaks("evidence: %s is admitted on what could not be observed", run.id)
	}
	if m.resyncing {
		m.breaks("resync: %s is admitted before the alerts were read", run.id)
	}
	var all, playbook, namespace []time.Time
	attempts := 0
	for _, r := range m.runs {
		if r.started.IsZero() || r == run {
			continue
		}
		all = append(all, r.started)
		if r.playbook == run.playbook {
			playbook = append(playbook, r.started)
		}
		if r.target.Namespace != "" && r.target.Namespace == run.target.Namespace {
			namespace = append(namespace, r.started)
		}
		if r.playbook != run.playbook || r.target.AttemptKey() != run.target.AttemptKey() || !r.done {
			continue
		}
		if m.now.Sub(r.started) < l.AttemptsWindow {
			attempts++
		}
		span := l.CooldownAfterFailure
		if r.healed {
			span = l.CooldownAfterSuccess
		}
		if m.now.Sub(r.ended) < span {
			m.breaks("cooldown: %s is admitted %s after %s ended", run.id, m.now.Sub(r.ended), r.id)
		}
	}
	if attempts >= l.MaxAttempts {
		m.breaks("attempts: %s is attempt %d", run.id, attempts+1)
	}
	m.checkRate("in all", append(all, m.now), l.RateGlobal)
	m.checkRate("of the playbook", append(playbook, m.now), l.RatePlaybook)
	if run.target.Namespace != "" {
		m.checkRate("in the namespace", append(namespace, m.now), l.RateNamespace)
	}
	if run.node() {
		m.checkNode(run, e)
	} else {
		m.checkPod(run, e)
	}
}

// checkRate holds the promise of a token bucket against every stretch of time
// that ends now: no more than the burst and what has grown meanwhile.
func (m *model) checkRate(what string, starts []time.Time, r Rate) {
	slices.SortFunc(starts, time.Time.Compare)
	for i, from := range starts {
		n := len(starts) - i
		if allowed := float64(r.Burst) + float64(m.now.Sub(from))/float64(r.Every); float64(n) > allowed+1e-3 {
			m.breaks("rate: %d runs %s within %s, %.3f are allowed", n, what, m.now.Sub(from), allowed)
			return
		}
	}
}

func (m *model) checkNode(run *modelRun, e Evidence) {
	away := map[string]bool{run.target.LockKey(): true}
	if e.Nodes != nil {
		for _, key := range e.Nodes.Unhealthy {
			away[key] = true
		}
	}
	pool := map[string]bool{}
	for _, r := range m.runs {
		if !r.node() || r.started.IsZero() || r == run {
			continue
		}
		if r.active || !r.ended.Before(e.ObservedAt) {
			away[r.target.LockKey()] = true
		}
		if r.target.NodePool == run.target.NodePool && m.now.Sub(r.started) < m.limits.RemoveWindow {
			pool[r.target.Name] = true
		}
	}
	if len(away) > m.budget() {
		m.breaks("unhealthy-budget: %d of %d nodes are away, %d are allowed", len(away), len(m.nodes), m.budget())
	}
	pool[run.target.Name] = true
	if len(pool) > m.limits.MaxNodesPerPool {
		m.breaks("velocity: %d nodes of a pool within %s", len(pool), m.limits.RemoveWindow)
	}
}

func (m *model) checkPod(run *modelRun, e Evidence) {
	away := map[string]bool{PodKey("c1", run.target.Namespace, run.target.Pod.Name): true}
	if e.Pods != nil {
		for _, key := range e.Pods.Unavailable {
			away[key] = true
		}
	}
	for _, r := range m.runs {
		if !r.node() && r != run && !r.started.IsZero() && r.target.LockKey() == run.target.LockKey() && (r.active || !r.ended.Before(e.ObservedAt)) {
			away[PodKey("c1", r.target.Namespace, r.target.Pod.Name)] = true
		}
	}
	desired := len(m.workloads[run.target.Name])
	if budget := min(m.limits.MaxUnavailablePods, max(1, desired*m.limits.MaxUnavailablePodsPercent/100)); len(away) > budget {
		m.breaks("pod-budget: %d of %d pods are away, %d are allowed", len(away), desired, budget)
	}
}

// checkActive counts what is being worked on at this instant.
func (m *model) checkActive() {
	all, playbooks, namespaces, pools, zones := 0, map[string]int{}, map[string]int{}, map[string]int{}, map[string]int{}
	held := map[string]string{}
	for _, r := range m.runs {
		if !r.active {
			continue
		}
		all++
		playbooks[r.playbook]++
		if other, taken := held[r.target.LockKey()]; taken {
			m.breaks("lock: %s and %s work on one target", other, r.id)
		}
		held[r.target.LockKey()] = r.id
		if r.target.Kind == action.KindNode {
			pools[r.target.NodePool]++
			zones[r.target.Zone]++
		} else {
			namespaces[r.target.Namespace]++
		}
	}
	over := func(what string, counts map[string]int, limit int) {
		for key, n := range counts {
			if n > limit {
				m.breaks("%s: %d runs of %s, %d are allowed", what, n, key, limit)
			}
		}
	}
	over("concurrency", map[string]int{"all": all}, m.limits.MaxConcurrentGlobal)
	over("concurrency", playbooks, m.limits.MaxConcurrentRuns)
	over("concurrency", namespaces, m.limits.MaxConcurrentPerNamespace)
	over("failure-domain", pools, m.limits.MaxConcurrentPerPool)
	over("failure-domain", zones, m.limits.MaxConcurrentPerZone)
	if len(zones) > m.limits.MaxZones {
		m.breaks("failure-domain: nodes of %d zones are worked on, %d are allowed", len(zones), m.limits.MaxZones)
	}
}
