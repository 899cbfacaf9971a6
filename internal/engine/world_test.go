package engine

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/model"
	"github.com/stretchr/testify/require"

	"github.com/alertmedic/alertmedic/internal/action"
	"github.com/alertmedic/alertmedic/internal/alert"
	"github.com/alertmedic/alertmedic/internal/guard"
	"github.com/alertmedic/alertmedic/internal/journal"
	"github.com/alertmedic/alertmedic/internal/kube"
	"github.com/alertmedic/alertmedic/internal/store"
	"github.com/alertmedic/alertmedic/playbooks"
)

// world is a scripted cluster with scripted actions, around a real store and a
// real engine whose clock the test moves. What the real API server does is
// tested in k8sactions, kube and app.
type world struct {
	t      *testing.T
	now    time.Time
	ticks  bool // time goes by itself, in a bubble of synctest, and now is not asked
	store  *store.Store
	engine *Engine
	set    *playbooks.Set

	targets map[string]action.Target // by the alert's workload label
	gone    bool
	created time.Time // when what is there now was created
	health  func() kube.Health
	alert   func(a alert.Alert) guard.AlertEvidence
	nodes   *guard.NodeEvidence
	missing []string
	facts   playbooks.Facts
	unread  error  // why the facts cannot be read
	looked  int    // how often the facts were read
	uid     string // the live UID; "" means the target's own
	errs    []string
	witness func(*guard.Evidence) // adds to what is observed

	apply   func(plan action.Plan, n int) (action.Result, error)
	hang    func(ctx context.Context) error // what a call does before all else
	onState func(state []byte)              // is shown what Apply gets
	observe func(plan action.Plan) (action.Observation, error)
	planner func(req action.Request) (action.Plan, error)
	reverts func(plan action.Plan) (action.Result, error)
	dryRun  func()
	calls   []string // "action target" of every Apply that was sent
	dryRuns []string
	undone  []string
}

type noParams struct {
	N int `json:"n,omitempty"`
}

// The scripted catalogue: one action for each property that the engine treats
// differently.
var specs = map[string]action.Spec{
	"workload.restart": {Name: "workload.restart", Kinds: []action.Kind{action.KindWorkload}, Mutating: true, Disruptive: true, Replay: action.Observable},
	"workload.scale":   {Name: "workload.scale", Kinds: []action.Kind{action.KindWorkload}, Mutating: true, Reversible: true, Replay: action.Observable},
	"pod.delete":       {Name: "pod.delete", Kinds: []action.Kind{action.KindWorkload, action.KindPod}, Mutating: true, Disruptive: true, Replay: action.Observable},
	"pod.exec":         {Name: "pod.exec", Kinds: []action.Kind{action.KindWorkload}, Mutating: true, Replay: action.AtMostOnce},
	"pod.label":        {Name: "pod.label", Kinds: []action.Kind{action.KindWorkload}, Mutating: true, Replay: action.Idempotent},
	"node.cordon":      {Name: "node.cordon", Kinds: []action.Kind{action.KindNode}, Mutating: true, Disruptive: true, Reversible: true, Replay: action.Observable},
	"node.drain":       {Name: "node.drain", Kinds: []action.Kind{action.KindNode}, Mutating: true, Disruptive: true, Reversible: true, Replay: action.Idempotent},
	"diagnose":         {Name: "diagnose", Kinds: action.Kinds(), Replay: action.Idempotent},
}

func (w *world) Lookup(name string) (action.Spec, bool) {
	s, ok := specs[name]
	s.NewParams = func() any { return &noParams{} }
	s.DefaultTimeout = 2 * time.Minute
	return s, ok
}

func (w *world) Names() []string {
	var out []string
	for n := range specs {
		out = append(out, n)
	}
	slices.Sort(out)
	return out
}

func (w *world) Plan(_ context.Context, req action.Request) (action.Plan, error) {
	if w.planner != nil {
		return w.planner(req)
	}
	return action.Plan{Request: req, Summary: req.Action + " " + req.Target.String(), Changes: []action.FieldChange{{Object: req.Target.Ref, Path: "/x"}}}, nil
}

func (w *world) Apply(ctx context.Context, plan action.Plan, state []byte) (action.Result, error) {
	if w.onState != nil {
		w.onState(state)
	}
	what := plan.Request.Action + " " + plan.Request.Target.String()
	if plan.Request.DryRun {
		w.dryRuns = append(w.dryRuns, what)
		if w.dryRun != nil {
			w.dryRun()
		}
		return action.Result{Done: true}, nil
	}
	w.calls = append(w.calls, what)
	if w.hang != nil {
		if err := w.hang(ctx); err != nil {
			return action.Result{}, err
		}
	}
	if w.apply != nil {
		return w.apply(plan, len(w.calls))
	}
	return action.Result{Done: true, Message: "ok"}, nil
}

func (w *world) Observe(_ context.Context, plan action.Plan, _ []byte) (action.Observation, error) {
	return w.observe(plan)
}

func (w *world) Revert(_ context.Context, plan action.Plan, _ []byte) (action.Result, error) {
	w.undone = append(w.undone, plan.Request.Action)
	if w.reverts != nil {
		return w.reverts(plan)
	}
	return action.Result{Done: true, Message: "restored"}, nil
}

func (w *world) Resolve(_ context.Context, req kube.Request) (kube.Resolved, error) {
	t, ok := w.targets[req.Labels["target"]]
	if !ok {
		return kube.Resolved{}, &kube.ResolveError{Reason: kube.Gone, Message: "no such object"}
	}
	if w.created.After(req.StartsAt.Add(5 * time.Second)) { // as the resolver of pods does
		return kube.Resolved{}, &kube.ResolveError{Reason: kube.Replaced, Message: "another one of its name"}
	}
	return kube.Resolved{Target: t}, nil
}

func (w *world) Health(context.Context, action.Target) (kube.Health, error) { return w.health(), nil }

func (w *world) Evidence(_ context.Context, req kube.EvidenceRequest) guard.Evidence {
	uid := req.Target.UID
	if w.uid != "" {
		uid = w.uid
	}
	ev := guard.Evidence{ObservedAt: w.now, Target: guard.TargetEvidence{Exists: !w.gone, UID: uid}, Nodes: w.nodes, Errors: w.errs}
	if w.witness != nil {
		w.witness(&ev)
	}
	return ev
}

func (w *world) Facts(context.Context, action.Target) (playbooks.Facts, map[string]any, error) {
	w.looked++
	if w.gone {
		return playbooks.Facts{}, nil, action.Errorf(action.ReasonGone, "not found")
	}
	return w.facts, map[string]any{"spec": map[string]any{"replicas": int64(3)}}, w.unread
}

func (w *world) CheckRules(context.Context, string, string, []action.Rule) ([]string, error) {
	return w.missing, nil
}

func (w *world) State(_ context.Context, a alert.Alert, _ time.Time) guard.AlertEvidence {
	return w.alert(a)
}

func (w *world) Snapshot(context.Context) ([]alert.Alert, error) { return nil, nil }

func (w *world) Watchdog(context.Context) (time.Time, error) { return w.clock(), nil }

func deployment(name string) action.Target {
	ref := action.Ref{Group: "apps", Kind: action.KindDeployment, Namespace: "shop", Name: name, UID: "uid-" + name}
	return action.Target{Cluster: "c1", Ref: ref, Top: ref}
}

func node(name string) action.Target {
	ref := action.Ref{Kind: action.KindNode, Name: name, UID: "uid-" + name}
	return action.Target{Cluster: "c1", Ref: ref, Top: ref}
}

// setup makes a world with the given playbooks in YAML. Everything is broken:
// the alert fires and the target is unhealthy, until the test says otherwise.
func setup(t *testing.T, docs ...string) *world {
	t.Helper()
	w := &world{t: t, now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}
	w.targets = map[string]action.Target{"web": deployment("web"), "db": deployment("db"), "n1": node("n1")}
	w.health = func() kube.Health { return kube.Health{State: kube.Unhealthy, Message: "0 of 3 replicas"} }
	w.alert = func(alert.Alert) guard.AlertEvidence { return guard.AlertEvidence{State: guard.AlertFiring} }
	var err error
	w.store, err = store.Open(t.Context(), store.Options{DSN: filepath.Join(t.TempDir(), "medic.db"),
		Clock: w.clock, Logger: slog.New(slog.DiscardHandler), FlapDwell: 2 * time.Minute})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, w.store.Close()) })
	all := ""
	for _, d := range docs {
		all += "---\n" + d
	}
	var problems playbooks.Problems
	w.set, problems = playbooks.LoadBytes("test.yaml", []byte(all), playbooks.LoadOptions{Catalogue: w})
	require.Empty(t, problems.Errors())
	for _, pb := range w.set.All() {
		require.NoError(t, w.store.PutPlaybook(t.Context(), pb.Hash, pb.Doc))
	}
	w.engine = w.newEngine("worker-1")
	return w
}

func (w *world) clock() time.Time {
	if w.ticks {
		return time.Now()
	}
	return w.now
}

func (w *world) newEngine(owner string) *Engine {
	e, err := New(Options{
		Store: w.store, Cluster: w, Actions: w, Owner: owner, Logger: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry(),
		Sources:   map[string]Source{"am": {Name: "am", Cluster: "c1", Reader: w}},
		Playbooks: func() *playbooks.Set { return w.set },
		Matched:   matched,
		Limits: func(*playbooks.Playbook, *playbooks.Remedy) guard.Limits {
			return scriptedLimits(2)
		},
	})
	require.NoError(w.t, err)
	// The script's clock measures the leases in the store. What measures them in
	// this process is real, and must not run out on a machine that stands still.
	e.leases = newLeases(time.Hour)
	// A script has one order, and points at which a process dies are counted by it.
	e.both = func(a, b func()) { a(); b() }
	e.resynced.add("am") // Run would read the source first
	return e
}

// scriptedLimits are the defaults with so many runs of a playbook at a time. The
// scripts are about one thing each, so what bounds runs over a longer time, or
// by pool and zone, is wide; it has scripts of its own.
func scriptedLimits(runs int) guard.Limits {
	l := guard.Defaults()
	l.MaxConcurrentRuns, l.MaxConcurrentPerNamespace = runs, runs
	l.MaxConcurrentPerPool, l.MaxConcurrentPerZone, l.MaxNodesPerPool = 100, 100, 100
	wide := guard.Rate{Burst: 100, Every: time.Second}
	l.RateGlobal, l.RateNamespace, l.RatePlaybook = wide, wide, wide
	return l
}

func matched(pbs []*playbooks.Playbook) []store.MatchedPlaybook {
	var out []store.MatchedPlaybook
	for _, pb := range pbs {
		out = append(out, store.MatchedPlaybook{Name: pb.Name, Hash: pb.Hash, Priority: pb.Priority, Exclusive: pb.Exclusive, ExpireAfter: time.Hour})
	}
	return out
}

// fire reports an alert about the named target, as the receiver would.
func (w *world) fire(target string, more ...string) alert.Alert {
	w.t.Helper()
	labels := map[string]string{"alertname": "Broken", "target": target, "namespace": "shop"}
	for i := 0; i+1 < len(more); i += 2 {
		labels[more[i]] = more[i+1]
	}
	ls := model.LabelSet{}
	for k, v := range labels {
		ls[model.LabelName(k)] = model.LabelValue(v)
	}
	a := alert.Alert{Status: alert.Firing, Labels: labels, StartsAt: w.now, Fingerprint: ls.Fingerprint().String()}
	_, err := w.store.Accept(w.t.Context(), store.Batch{Observations: []store.Observation{
		{Source: "am", Cluster: "c1", Alert: a, Playbooks: matched(w.set.Match(labels))}}})
	require.NoError(w.t, err)
	return a
}

// work does what is due now, as the worker loop would, until nothing is.
func (w *world) work() {
	w.t.Helper()
	for range 1000 {
		cands, err := w.store.ClaimCandidates(w.t.Context(), w.engine.Owner, w.engine.Lease, 10)
		require.NoError(w.t, err)
		for _, c := range cands {
			w.engine.resolve(w.t.Context(), c)
		}
		runs, err := w.store.ClaimRuns(w.t.Context(), w.engine.Owner, w.engine.Lease, 10)
		require.NoError(w.t, err)
		for _, r := range runs {
			w.engine.drive(w.t.Context(), r)
		}
		if len(cands)+len(runs) == 0 {
			return
		}
	}
	w.t.Fatal("the work does not end: something is due again and again")
}

// pass lets d go by in steps, doing what is due at each.
func (w *world) pass(d time.Duration) {
	w.t.Helper()
	w.work()
	for end := w.now.Add(d); w.now.Before(end); {
		w.now = w.now.Add(min(5*time.Second, end.Sub(w.now)))
		w.work()
	}
}

func (w *world) runs() []store.Run {
	w.t.Helper()
	runs, _, err := w.store.Runs(w.t.Context(), store.RunFilter{}, store.Page{Limit: 100})
	require.NoError(w.t, err)
	return runs
}

// onlyRun returns the one run that there must be.
func (w *world) onlyRun() store.Run {
	w.t.Helper()
	runs := w.runs()
	require.Len(w.t, runs, 1)
	return runs[0]
}

// seal seals all that waits for it.
func (w *world) seal() {
	w.t.Helper()
	for {
		n, err := w.store.Seal(w.t.Context(), "sealer")
		require.NoError(w.t, err)
		if n == 0 {
			return
		}
	}
}

// log returns the journal as lines of kind, outcome and reason.
func (w *world) log() []string {
	w.t.Helper()
	w.seal()
	var out []string
	require.NoError(w.t, w.store.LogIter(w.t.Context(), store.LogFilter{}, func(en journal.Entry) error {
		line := string(en.Kind)
		for _, part := range []string{en.Outcome, en.Reason} {
			if part != "" {
				line += " " + part
			}
		}
		out = append(out, line)
		return nil
	}))
	return out
}

func doc(name, body string) string {
	return fmt.Sprintf("apiVersion: alertmedic.io/v1alpha1\nkind: Playbook\nmetadata: {name: %s}\nspec:\n%s", name, body)
}

// restart is the plain playbook of these tests.
const restart = `  matchers: [alertname = Broken]
  target: {kind: Workload}
  remedies:
  - name: restart
    steps: [{name: restart, action: workload.restart}]
    verify: {timeout: 5m, stableFor: 1m}
`

func healthy() kube.Health { return kube.Health{State: kube.Healthy} }

func resolved(alert.Alert) guard.AlertEvidence {
	return guard.AlertEvidence{State: guard.AlertResolved}
}

func raw(s string) json.RawMessage { return json.RawMessage(s) }
