package guard

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/alertmedic/alertmedic/internal/action"
)

// model is a world that is small enough to be obviously right: it keeps what
// really happened, asks the guards as the engine does, and says which promise
// was broken. It shares no code with the guards.
type model struct {
	r      *rand.Rand
	guards []Guard
	limits Limits
	now    time.Time

	nodes     map[string]*modelNode
	workloads map[string][]string // pods by workload
	sickPods  map[string]bool
	history   []snapshot // of what evidence can show, oldest first
	runs      []*modelRun
	reserved  []Reservation
	buckets   map[string]Bucket
	storms    map[string]Storm
	calm      map[string]time.Time // the last real sign of a storm, by scope
	synced    time.Time            // since when the alerts are read again after a restart
	resyncing bool
	broken    []string
}

type modelNode struct {
	pool, zone string
	sick       bool
}

// snapshot is what the cluster looked like.
type snapshot struct {
	at   time.Time
	sick []string
	pods []string
}

type modelRun struct {
	id, playbook string
	target       action.Target
	mode         Mode
	created      time.Time
	due, expires time.Time
	started      time.Time // the first change
	ended        time.Time
	healed       bool
	reason       Reason // of the last decision
	active, done bool
}

func (r *modelRun) node() bool { return r.target.Kind == action.KindNode }

func newModel(seed uint64, guards []Guard) *model {
	r := rand.New(rand.NewPCG(seed, 7)) //nolint:gosec // a test that must be repeatable
	m := &model{r: r, guards: guards, now: now, nodes: map[string]*modelNode{}, workloads: map[string][]string{}, sickPods: map[string]bool{},
		buckets: map[string]Bucket{}, storms: map[string]Storm{}, calm: map[string]time.Time{}}
	l := Defaults()
	l.MaxConcurrentGlobal, l.MaxConcurrentRuns, l.MaxConcurrentPerNamespace = 1+r.IntN(6), 1+r.IntN(4), 1+r.IntN(4)
	l.MaxUnhealthyNodes, l.MaxUnhealthyNodesPercent = 1+r.IntN(6), 5+r.IntN(60)
	l.MaxConcurrentPerPool, l.MaxConcurrentPerZone, l.MaxZones = 1+r.IntN(3), 1+r.IntN(3), 1+r.IntN(2)
	l.MaxUnavailablePods, l.MaxUnavailablePodsPercent = 1+r.IntN(4), 10+r.IntN(80)
	l.RateGlobal = Rate{Burst: 1 + r.IntN(6), Every: m.span(10, 120)}
	l.RateNamespace = Rate{Burst: 1 + r.IntN(5), Every: m.span(10, 120)}
	l.RatePlaybook = Rate{Burst: 1 + r.IntN(4), Every: m.span(10, 120)}
	l.CooldownAfterSuccess, l.CooldownAfterFailure = m.span(10, 600), m.span(60, 1200)
	l.MaxAttempts, l.AttemptsWindow = 1+r.IntN(3), m.span(600, 7200)
	l.MaxNodesPerPool, l.RemoveWindow = 1+r.IntN(4), m.span(600, 3600)
	l.StormRuns, l.StormWindow, l.StormCooldown = 20+r.IntN(60), m.span(60, 600), m.span(60, 600)
	l.Settle = m.span(0, 60)
	if r.IntN(3) == 0 {
		l.Windows = []Window{{Name: "freeze", Freeze: true, From: now.Add(m.span(0, 900)), Until: now.Add(m.span(900, 3600))}}
	}
	m.limits = l
	for i := range 3 + r.IntN(40) {
		m.nodes[fmt.Sprintf("n%d", i)] = &modelNode{pool: fmt.Sprint("p", r.IntN(3)), zone: string(rune('a' + r.IntN(3)))}
	}
	for i := range 1 + r.IntN(8) {
		name := fmt.Sprintf("w%d", i)
		for j := range 1 + r.IntN(6) {
			m.workloads[name] = append(m.workloads[name], fmt.Sprintf("%s-%d", name, j))
		}
	}
	m.look()
	return m
}

// span is a random time of whole seconds.
func (m *model) span(low, high int) time.Duration {
	return time.Duration(low+m.r.IntN(high-low+1)) * time.Second
}

func (m *model) breaks(format string, args ...any) {
	m.broken = append(m.broken, m.now.Format(time.TimeOnly)+" "+fmt.Sprintf(format, args...))
}

// look remembers what the cluster looks like now.
func (m *model) look() {
	s := snapshot{at: m.now}
	for name, n := range m.nodes {
		if n.sick {
			s.sick = append(s.sick, nodeRef(name).LockKey())
		}
	}
	for pod := range m.sickPods {
		s.pods = append(s.pods, pod)
	}
	slices.Sort(s.sick)
	m.history = append(m.history, s)
}

// alert makes a run of a random playbook on a random object that is unwell.
func (m *model) alert() {
	run := &modelRun{id: fmt.Sprint("r", len(m.runs)), playbook: fmt.Sprint("pb", m.r.IntN(4)), mode: Auto, created: m.now, due: m.now, expires: m.now.Add(time.Hour)}
	if m.r.IntN(2) == 0 {
		name := pick(m.r, m.nodes)
		m.nodes[name].sick = true
		run.target = nodeRef(name)
		run.target.NodePool, run.target.Zone = m.nodes[name].pool, m.nodes[name].zone
	} else {
		name := pick(m.r, m.workloads)
		pods := m.workloads[name]
		pod := pods[m.r.IntN(len(pods))]
		m.sickPods[pod] = true
		ref := action.Ref{Group: "apps", Kind: action.KindDeployment, Namespace: fmt.Sprint("ns", len(name)%2), Name: name, UID: name}
		run.target = action.Target{Cluster: "c1", Ref: ref, Top: ref, Pod: &action.Ref{Kind: action.KindPod, Namespace: ref.Namespace, Name: pod, UID: pod}}
	}
	m.look()
	for _, other := range m.runs {
		if !other.done && other.playbook == run.playbook && other.target.LockKey() == run.target.LockKey() {
			return // it joins that run
		}
	}
	m.runs = append(m.runs, run)
}

func pick[V any](r *rand.Rand, from map[string]V) string {
	keys := make([]string, 0, len(from))
	for k := range from {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys[r.IntN(len(keys))]
}

// evidence is what some replica observed up to 10 s ago.
func (m *model) evidence(run *modelRun) Evidence {
	at := m.now.Add(-m.span(0, 10))
	s := m.history[0]
	for _, h := range m.history {
		if !h.at.After(at) {
			s = h
		}
	}
	e := Evidence{ObservedAt: at, Target: TargetEvidence{Exists: true, UID: run.target.UID}, Alert: AlertEvidence{State: AlertFiring},
		Watchdog: WatchdogEvidence{HeardAt: m.now}, Resynced: !m.resyncing}
	if run.node() {
		e.Nodes = &NodeEvidence{Total: len(m.nodes), Unhealthy: s.sick}
	} else {
		e.Target.PodExists, e.Target.PodUID = true, run.target.Pod.UID
		e.Pods = &PodEvidence{Desired: len(m.workloads[run.target.Name])}
		for _, pod := range m.workloads[run.target.Name] {
			if slices.Contains(s.pods, pod) {
				e.Pods.Unavailable = append(e.Pods.Unavailable, PodKey("c1", run.target.Namespace, pod))
			}
		}
	}
	switch m.r.IntN(30) {
	case 0:
		e.Errors = []string{"nodes: timeout"}
	case 1:
		e.Alert.State = AlertUnknown
	case 2:
		e.Nodes, e.Pods = nil, nil
	case 3:
		e.Watchdog = WatchdogEvidence{Err: "no answer"}
	}
	return e
}

func (m *model) ledger(run *modelRun, e Evidence) Ledger {
	l := Ledger{Now: m.now}
	for _, r := range m.runs {
		switch {
		case r == run:
		case r.active:
			l.Active = append(l.Active, Active{RunID: r.id, Playbook: r.playbook, Namespace: r.target.Namespace, TargetKey: r.target.LockKey(), Kind: r.target.Kind,
				NodePool: r.target.NodePool, Zone: r.target.Zone, Disruptive: true})
		case r.done && !r.started.IsZero() && r.target.AttemptKey() == run.target.AttemptKey():
			l.Past = append(l.Past, Past{RunID: r.id, Playbook: r.playbook, Healed: r.healed, Started: r.started, Ended: r.ended})
		}
		if !r.created.Before(m.now.Add(-m.limits.StormWindow)) && l.NewRuns <= m.limits.StormRuns {
			l.NewRuns++
		}
	}
	slices.SortFunc(l.Past, func(a, b Past) int { return b.Ended.Compare(a.Ended) })
	for _, res := range m.reserved {
		if res.Released == nil || !res.Released.Before(e.ObservedAt) || !res.Created.Before(m.now.Add(-m.limits.RemoveWindow)) {
			l.Reservations = append(l.Reservations, res)
		}
	}
	for _, b := range m.buckets {
		l.Buckets = append(l.Buckets, b)
	}
	for _, s := range m.storms {
		l.Storms = append(l.Storms, s)
	}
	return l
}

// locked says that another run holds the target.
func (m *model) locked(run *modelRun) bool {
	return slices.ContainsFunc(m.runs, func(r *modelRun) bool {
		return r != run && r.active && r.target.LockKey() == run.target.LockKey()
	})
}

// ask does what the engine does with a run that is due.
func (m *model) ask(run *modelRun) {
	if !run.expires.After(m.now) {
		run.done, run.ended = true, m.now
		return
	}
	if m.locked(run) {
		run.due = m.now.Add(5 * time.Second)
		return
	}
	sub := Subject{RunID: run.id, Playbook: run.playbook, Action: "act", Target: run.target, Disruptive: true, Mutating: true, Mode: run.mode, First: true, Untouched: true,
		NeedsPod: !run.node(), SourceCluster: "c1", Limits: m.limits, FiringSince: run.created}
	e := m.evidence(run)
	l := m.ledger(run, e)
	d, all := Decide(m.guards, Input{Subject: sub, Evidence: e, Ledger: l, Config: Config{RetryEvery: 15 * time.Second}})
	for _, scope := range Signs(all) {
		m.storms[scope] = Storm{Scope: scope, Since: m.now, LastSeen: m.now}
	}
	m.weather(run, e, l)
	run.reason = d.Reason
	switch d.Verdict {
	case Admit:
		m.reserved = append(m.reserved, Reserve(sub, e, m.now)...)
		for _, b := range Draw(sub, l) {
			m.buckets[b.Scope] = b
		}
		m.check(run, e)
		run.active, run.started = true, m.now
		m.checkActive()
	case Delay:
		if !d.RetryAt.After(m.now) {
			m.breaks("%s is delayed to %s, which is past", run.id, d.RetryAt)
		}
		if d.Message == "" || !slices.Contains(Reasons(), d.Reason) {
			m.breaks("%s is delayed without a reason: %+v", run.id, d)
		}
		run.due = d.RetryAt
	case Deny:
		if d.Message == "" || !slices.Contains(Reasons(), d.Reason) {
			m.breaks("%s is denied without a reason: %+v", run.id, d)
		}
		run.done, run.ended = true, m.now
	default:
		m.breaks("%s in mode Auto gets %s", run.id, d.Verdict)
	}
}

// end lets an active run heal its target, or not.
func (m *model) end(run *modelRun) {
	run.active, run.done, run.ended, run.healed = false, true, m.now, m.r.IntN(2) == 0
	if run.healed {
		if run.node() {
			m.nodes[run.target.Name].sick = false
		} else {
			delete(m.sickPods, run.target.Pod.Name)
		}
	}
	at := m.now
	for i := range m.reserved {
		if m.reserved[i].RunID == run.id && m.reserved[i].Released == nil {
			m.reserved[i].Released = &at
		}
	}
	m.look()
}

// play lets up to n alerts come and everything end.
func (m *model) play(alerts int) {
	for fired := 0; fired < alerts; {
		switch m.r.IntN(4) {
		case 0: // a burst, as Alertmanager sends them
			for range min(alerts-fired, 1+m.r.IntN(40)) {
				m.alert()
				fired++
			}
		case 1:
			m.restart()
		case 2:
			m.recover()
		}
		m.pass(m.span(1, 60))
	}
	live := func(r *modelRun) bool { return !r.done }
	for range 400 {
		if !slices.ContainsFunc(m.runs, live) {
			break
		}
		m.pass(20 * time.Second)
	}
	for _, r := range m.runs {
		if !r.done {
			m.breaks("%s on %s never ends; it was last held by %q", r.id, r.target, r.reason)
		}
	}
}

// restart is that of a replica, whose alerts have to be read again.
func (m *model) restart() { m.resyncing, m.synced = true, m.now.Add(m.span(1, 30)) }

// recover makes some objects well without anybody's doing.
func (m *model) recover() {
	for _, n := range m.nodes {
		if m.r.IntN(3) == 0 {
			n.sick = false
		}
	}
	for pod := range m.sickPods {
		if m.r.IntN(3) == 0 {
			delete(m.sickPods, pod)
		}
	}
	m.look()
}

// pass lets time go by and everybody do what is due, in any order.
func (m *model) pass(d time.Duration) {
	m.now = m.now.Add(d)
	if m.resyncing && !m.now.Before(m.synced) {
		m.resyncing = false
	}
	for _, i := range m.r.Perm(len(m.runs)) {
		run := m.runs[i]
		switch {
		case run.done:
		case run.active && m.r.IntN(3) == 0:
			m.end(run)
		case !run.active && !run.due.After(m.now):
			m.ask(run)
		}
	}
	if len(m.history) > 200 {
		m.history = m.history[len(m.history)-200:]
	}
}
