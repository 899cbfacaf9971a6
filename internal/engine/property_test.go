package engine

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/alertmedic/alertmedic/internal/action"
	"github.com/alertmedic/alertmedic/internal/alert"
	"github.com/alertmedic/alertmedic/internal/guard"
	"github.com/alertmedic/alertmedic/internal/journal"
	"github.com/alertmedic/alertmedic/internal/kube"
	"github.com/alertmedic/alertmedic/internal/store"
	"github.com/alertmedic/alertmedic/playbooks"
)

// weather is a random storm over the scripted world: what guard's model does with
// the guards alone happens here to the real engine on a real database, with two
// replicas, restarts, failing calls and a clock that the test moves.
type weather struct {
	*world
	r       *rand.Rand
	limits  guard.Limits
	engines [2]*Engine
	owners  int
	fired   []alert.Alert
	sick    map[string]bool
	things  int           // that break, of each kind
	without []guard.Guard // what is left of the guards, nil for all
}

const (
	// stormyExpiry is limits.expireAfter, for what has changed nothing yet and for
	// what is held after its last change.
	stormyExpiry = 8 * time.Minute
	// stormyEnd is longer than any run of a play may take: it is held before each of
	// its two remedies and before the revert of the second, each time for less than
	// stormyExpiry, and each verification of two minutes is extended once, by five.
	// The rest is for retries.
	stormyEnd = 3*stormyExpiry + 2*(2+5)*time.Minute + 12*time.Minute
)

const stormyPlaybooks = `apiVersion: alertmedic.io/v1alpha1
kind: Playbook
metadata: {name: workload}
spec:
  matchers: [alertname = Broken, kind = workload]
  target: {kind: Workload}
  remedies:
  - {name: restart, steps: [{name: restart, action: workload.restart}], verify: {timeout: 2m, stableFor: 30s}}
  - {name: scale, steps: [{name: scale, action: workload.scale}], verify: {timeout: 2m, stableFor: 30s}, onFailure: Revert}
---
apiVersion: alertmedic.io/v1alpha1
kind: Playbook
metadata: {name: label}
spec:
  matchers: [alertname = Broken, kind = workload, also = label]
  exclusive: false
  target: {kind: Workload}
  remedies: [{name: label, steps: [{name: label, action: pod.label}], verify: {timeout: 1m, stableFor: 15s}}]
---
apiVersion: alertmedic.io/v1alpha1
kind: Playbook
metadata: {name: cordon}
spec:
  matchers: [alertname = Broken, kind = node]
  target: {kind: Node}
  remedies: [{name: cordon, steps: [{name: cordon, action: node.cordon}], verify: {timeout: 2m, stableFor: 30s}}]
`

func newWeather(t *testing.T, seed uint64) *weather {
	r := rand.New(rand.NewPCG(seed, 11)) //nolint:gosec // a test that must be repeatable
	w := &weather{world: setup(t, stormyPlaybooks), r: r, sick: map[string]bool{}, things: 12}
	span := func(low, high int) time.Duration { return time.Duration(low+r.IntN(high-low+1)) * time.Second }
	l := guard.Defaults()
	l.MaxConcurrentGlobal, l.MaxConcurrentRuns, l.MaxConcurrentPerNamespace = 1+r.IntN(4), 1+r.IntN(3), 1+r.IntN(2)
	l.MaxConcurrentPerPool, l.MaxConcurrentPerZone, l.MaxZones = 1+r.IntN(2), 1+r.IntN(2), 1+r.IntN(2)
	l.MaxUnhealthyNodes, l.MaxUnhealthyNodesPercent, l.MaxNodesPerPool = 2+r.IntN(4), 60, 1+r.IntN(3)
	l.RateGlobal = guard.Rate{Burst: 2 + r.IntN(4), Every: span(10, 60)}
	l.RateNamespace = guard.Rate{Burst: 1 + r.IntN(4), Every: span(10, 60)}
	l.RatePlaybook = guard.Rate{Burst: 1 + r.IntN(4), Every: span(10, 60)}
	l.CooldownAfterSuccess, l.CooldownAfterFailure = span(30, 120), span(60, 240)
	l.MaxAttempts, l.AttemptsWindow = 1+r.IntN(2), 20*time.Minute
	l.Settle, l.StormCooldown = span(0, 30), span(30, 90)
	w.limits = l
	w.targets, w.nodes = map[string]action.Target{}, &guard.NodeEvidence{Total: 12}
	for i := range 12 {
		d := deployment(fmt.Sprint("w", i))
		d.Namespace, d.Top.Namespace = fmt.Sprint("ns", i%3), fmt.Sprint("ns", i%3)
		n := node(fmt.Sprint("n", i))
		n.NodePool, n.Zone = fmt.Sprint("pool", i%2), fmt.Sprint("zone", i%3)
		w.targets[d.Name], w.targets[n.Name] = d, n
	}
	w.health = func() kube.Health {
		switch r.IntN(12) {
		case 0:
			return kube.Health{State: kube.Unknown, Message: "no answer"}
		case 1, 2:
			return kube.Health{State: kube.Unhealthy, Message: "0 of 3 replicas"}
		}
		return kube.Health{State: kube.Healthy}
	}
	w.alert = func(a alert.Alert) guard.AlertEvidence {
		switch {
		case r.IntN(15) == 0:
			return guard.AlertEvidence{State: guard.AlertUnknown, By: "no answer"}
		case w.sick[a.Labels["target"]]:
			return guard.AlertEvidence{State: guard.AlertFiring}
		}
		return guard.AlertEvidence{State: guard.AlertResolved}
	}
	w.apply = func(plan action.Plan, _ int) (action.Result, error) {
		if r.IntN(6) == 0 {
			return action.Result{}, action.Errorf(action.ReasonUnavailable, "503")
		}
		if r.IntN(2) == 0 {
			w.well(plan.Request.Target.Name)
		}
		return action.Result{Done: true}, nil
	}
	w.restart(0)
	w.restart(1)
	return w
}

// restart replaces one of the two replicas.
func (w *weather) restart(i int) {
	w.owners++
	w.engines[i] = w.newEngine(fmt.Sprint("replica-", w.owners))
	w.engines[i].ExpireAfter = func(*playbooks.Playbook) time.Duration { return stormyExpiry }
	w.engines[i].Limits = func(*playbooks.Playbook, *playbooks.Remedy) guard.Limits { return w.limits }
	if w.without != nil {
		w.engines[i].Guards = w.without
	}
	w.engine = w.engines[i]
}

func (w *weather) well(name string) {
	delete(w.sick, name)
	w.count()
}

// focus makes every limit wide but those of one guard, and breaks the same few
// things again and again.
func (w *weather) focus(name string) {
	tight, l := w.limits, scriptedLimits(100)
	l.MaxConcurrentGlobal, l.MaxZones, l.MaxAttempts, l.StormRuns = 100, 3, 100, guard.Off
	l.MaxUnhealthyNodes, l.MaxUnhealthyNodesPercent, l.Settle = 100, 100, 0
	l.CooldownAfterSuccess, l.CooldownAfterFailure = time.Second, time.Second
	w.things = 1
	switch name {
	case "cooldown":
		l.CooldownAfterSuccess, l.CooldownAfterFailure = 20*time.Minute, 20*time.Minute
	case "attempts":
		l.MaxAttempts = 1
	case "rate":
		l.RateGlobal, l.RateNamespace, l.RatePlaybook = tight.RateGlobal, tight.RateNamespace, tight.RatePlaybook
	case "concurrency":
		l.MaxConcurrentGlobal, l.MaxConcurrentRuns, l.MaxConcurrentPerNamespace = tight.MaxConcurrentGlobal, tight.MaxConcurrentRuns, tight.MaxConcurrentPerNamespace
		w.things = 12
	}
	w.limits = l
}

func (w *weather) count() {
	w.nodes.Unhealthy = nil
	for name := range w.sick {
		if t := w.targets[name]; t.Kind == action.KindNode {
			w.nodes.Unhealthy = append(w.nodes.Unhealthy, t.LockKey())
		}
	}
	slices.Sort(w.nodes.Unhealthy)
}

// send reports an alert with a short time to act on it.
func (w *weather) send(a alert.Alert) {
	pbs := matched(w.set.Match(a.Labels))
	for i := range pbs {
		pbs[i].ExpireAfter = stormyExpiry
	}
	_, err := w.store.Accept(w.t.Context(), store.Batch{Observations: []store.Observation{{Source: "am", Cluster: "c1", Alert: a, Playbooks: pbs}}})
	require.NoError(w.t, err)
}

func (w *weather) breaks() {
	kind, name := "workload", fmt.Sprint("w", w.r.IntN(w.things))
	if w.r.IntN(3) == 0 {
		kind, name = "node", fmt.Sprint("n", w.r.IntN(w.things))
	}
	w.sick[name] = true
	w.count()
	ls := model.LabelSet{"alertname": "Broken", "target": model.LabelValue(name), "kind": model.LabelValue(kind)}
	if w.r.IntN(3) == 0 {
		ls["also"] = "label"
	}
	if w.r.IntN(4) == 0 {
		ls["pod"] = model.LabelValue(fmt.Sprint("p", w.r.IntN(3))) // another alert of the same target
	}
	labels := map[string]string{}
	for k, v := range ls {
		labels[string(k)] = string(v)
	}
	a := alert.Alert{Status: alert.Firing, Labels: labels, StartsAt: w.now, Fingerprint: ls.Fingerprint().String()}
	w.fired = append(w.fired, a)
	w.send(a)
}

func (w *weather) play(alerts int) {
	for n := 0; n < alerts; {
		switch w.r.IntN(8) {
		case 0, 1, 2:
			w.breaks()
			n++
		case 3: // a repeat, or a resolution
			if len(w.fired) > 0 {
				a := w.fired[w.r.IntN(len(w.fired))].Clone()
				if w.r.IntN(2) == 0 {
					a.Status, a.EndsAt = alert.Resolved, w.now
					w.well(a.Labels["target"])
				}
				w.send(a)
			}
		case 4:
			w.restart(w.r.IntN(2))
		case 5:
			w.errs = nil
			if w.r.IntN(3) == 0 {
				w.errs = []string{"nodes: timeout"}
			}
		}
		w.engine = w.engines[w.r.IntN(2)]
		w.pass(time.Duration(5*w.r.IntN(4)) * time.Second)
	}
	w.errs = nil
	for range stormyEnd / (30 * time.Second) {
		w.pass(30 * time.Second)
		if !slices.ContainsFunc(w.runs(), func(r store.Run) bool { return r.Phase != store.Done }) {
			break
		}
	}
}

// broken says which promises the end shows to be broken.
func (w *weather) broken() []string {
	var out []string
	say := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	l, runs := w.limits, w.runs()
	for _, r := range runs {
		if r.Phase != store.Done || r.Outcome == "" {
			say("end: run %s of %s on %s is %s/%s: %s", r.ID, r.Playbook, r.Target, r.Phase, r.Wait, r.Message)
		}
	}
	if _, waiting, err := w.store.NextDue(w.t.Context()); err != nil || waiting {
		say("end: something waits still: %v", err)
	}
	for _, r := range runs {
		if r.IntentAt.IsZero() {
			continue
		}
		same := func(pick func(store.Run) string) (active int, starts []time.Time) {
			for _, o := range runs {
				if o.IntentAt.IsZero() || pick(o) != pick(r) || pick(r) == "" {
					continue
				}
				if !o.AdmittedAt.After(r.AdmittedAt) && o.EndedAt.After(r.AdmittedAt) {
					active++
				}
				if !o.IntentAt.After(r.IntentAt) {
					starts = append(starts, o.IntentAt)
				}
			}
			return active, starts
		}
		bounded := func(what string, limit int, rate *guard.Rate, pick func(store.Run) string) {
			active, starts := same(pick)
			if active > limit {
				say("concurrency: %d runs %s at %s, %d are allowed", active, what, r.AdmittedAt, limit)
			}
			if rate == nil {
				return
			}
			slices.SortFunc(starts, time.Time.Compare)
			for j, from := range starts {
				if allowed := float64(rate.Burst) + float64(r.IntentAt.Sub(from))/float64(rate.Every); float64(len(starts)-j) > allowed+1e-3 {
					say("rate: %d runs %s within %s, %.3f are allowed", len(starts)-j, what, r.IntentAt.Sub(from), allowed)
				}
			}
		}
		isNode := func(o store.Run) bool { return o.Target.Kind == action.KindNode }
		bounded("in all", l.MaxConcurrentGlobal, &l.RateGlobal, func(store.Run) string { return "all" })
		bounded("of the playbook", l.MaxConcurrentRuns, &l.RatePlaybook, func(o store.Run) string { return o.Playbook })
		bounded("in the namespace", l.MaxConcurrentPerNamespace, &l.RateNamespace, func(o store.Run) string { return o.Target.Namespace })
		bounded("on the target", 1, nil, func(o store.Run) string { return o.Target.LockKey() })
		if isNode(r) {
			bounded("of the pool", l.MaxConcurrentPerPool, nil, func(o store.Run) string { return o.Target.NodePool })
			bounded("of the zone", l.MaxConcurrentPerZone, nil, func(o store.Run) string { return o.Target.Zone })
		}
		attempts := 0
		for _, o := range runs {
			if o.ID == r.ID || o.IntentAt.IsZero() || o.Playbook != r.Playbook || o.AttemptKey != r.AttemptKey || o.IntentAt.After(r.IntentAt) {
				continue
			}
			span := l.CooldownAfterFailure
			if o.Outcome == store.Healed {
				span = l.CooldownAfterSuccess
			}
			if gap := r.IntentAt.Sub(o.EndedAt); gap < span {
				say("cooldown: a run on %s began %s after another ended %s", r.Target, gap, o.Outcome)
			}
			if r.IntentAt.Sub(o.IntentAt) < l.AttemptsWindow {
				attempts++
			}
		}
		if attempts >= l.MaxAttempts {
			say("attempts: %d on %s", attempts+1, r.Target)
		}
	}
	w.seal()
	require.NoError(w.t, w.store.LogIter(w.t.Context(), store.LogFilter{}, func(en journal.Entry) error {
		if en.Kind == journal.GuardDecided && en.Outcome != string(guard.Admit) && (en.Reason == "" || en.Message == "") {
			say("reason: %+v", en)
		}
		return nil
	}))
	return out
}

// The promises of the guards hold for the real engine too, whatever comes, fails
// and restarts; every run ends, and every denial has its reason.
func TestTheEngineExceedsNoCap(t *testing.T) {
	t.Parallel()
	most, left := 12, 12 // a world on a database takes its time
	if os.Getenv("ALERTMEDIC_SOAK") != "" {
		most, left = 100, 1000
	}
	rapid.Check(t, func(rt *rapid.T) {
		if left--; left < 0 {
			return
		}
		seed := rapid.Uint64().Draw(rt, "seed")
		w := newWeather(t, seed)
		w.play(rapid.IntRange(1, most).Draw(rt, "alerts"))
		require.Empty(rt, w.broken())
		require.NoError(rt, w.store.Close())
	})
}

// Without a guard the accounting above finds something.
func TestTheEngineMissesItsGuards(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"cooldown", "attempts", "rate", "concurrency"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for seed := range uint64(40) {
				w := newWeather(t, seed)
				rest := slices.DeleteFunc(guard.List(), func(g guard.Guard) bool { return g.Name == name })
				w.engines[0].Guards, w.engines[1].Guards = rest, rest
				w.without = rest
				w.focus(name)
				w.play(30)
				found := slices.ContainsFunc(w.broken(), func(b string) bool { return len(b) > len(name) && b[:len(name)+1] == name+":" })
				require.NoError(t, w.store.Close())
				if found {
					return
				}
			}
			t.Fatalf("no storm without the guard %s breaks its promise", name)
		})
	}
}
