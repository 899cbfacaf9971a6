package engine

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alertmedic/alertmedic/internal/action"
	"github.com/alertmedic/alertmedic/internal/alert"
	"github.com/alertmedic/alertmedic/internal/guard"
	"github.com/alertmedic/alertmedic/internal/kube"
	"github.com/alertmedic/alertmedic/internal/store"
	"github.com/alertmedic/alertmedic/playbooks"
)

// What automation has done to others, named after where it happened. Each lives
// through the story and asks that nothing of the kind happens here.

func init() {
	specs["service.failover"] = action.Spec{Name: "service.failover", Kinds: []action.Kind{action.KindWorkload}, Mutating: true, Failover: true, Replay: action.Observable}
	specs["workload.shrink"] = action.Spec{Name: "workload.shrink", Kinds: []action.Kind{action.KindWorkload}, Mutating: true, WritesSpec: true, Replay: action.Observable}
}

const cordonNodes = `  matchers: [alertname = Broken]
  target: {kind: Node}
  remedies: [{name: cordon, steps: [{name: cordon, action: node.cordon}], verify: {timeout: 5m, stableFor: 30s}}]
`

func one(name, act, more string) string {
	return doc(name, fmt.Sprintf(`  matchers: [alertname = Broken]
  target: {kind: Workload}
%s  remedies: [{name: only, steps: [{name: step, action: %s}], verify: {timeout: 5m, stableFor: 30s}}]
`, more, act))
}

func (w *world) limit(change func(*guard.Limits)) {
	before := w.engine.Limits
	w.engine.Limits = func(pb *playbooks.Playbook, r *playbooks.Remedy) guard.Limits {
		l := before(pb, r)
		change(&l)
		return l
	}
}

// An empty set meant everything, and every disk was erased.
func TestIncidentGoogleDiskerase(t *testing.T) {
	t.Parallel()
	w := setup(t, doc("restart", restart))
	w.targets[""] = action.Target{} // a resolver that finds nothing and says so with nothing
	w.fire("")
	w.pass(2 * time.Hour)
	require.Empty(t, w.calls, "an empty target is nobody, not everybody")
}

// Automation took down several locations at a time.
func TestIncidentGoogleSeveralLocations(t *testing.T) {
	t.Parallel()
	w := setup(t, doc("cordon", cordonNodes))
	w.nodes = &guard.NodeEvidence{Total: 30}
	w.limit(func(l *guard.Limits) { l.MaxConcurrentRuns = 10 })
	for i, zone := range []string{"a", "b", "c"} {
		n := node(fmt.Sprint("zone-", zone))
		n.Zone, n.NodePool = zone, fmt.Sprint("pool", i)
		w.targets[n.Name] = n
		w.fire(n.Name)
	}
	w.pass(time.Minute)
	require.Len(t, w.calls, 1, "one zone at a time")
	require.Contains(t, w.log(), "guard.decided delay failure-domain")
}

// A disabled autoscaler came back by itself and acted on data that was not whole.
func TestIncidentRedditPauseAndPartialData(t *testing.T) {
	t.Parallel()
	w := setup(t, doc("restart", restart))
	require.NoError(t, w.store.SetPause(t.Context(), guard.Pause{Scope: guard.PauseGlobal, By: "ada", Why: "migration"}))
	w.fire("web")
	w.pass(time.Minute)
	w.engine = w.newEngine("after-a-restart")
	w.pass(time.Minute)
	require.Empty(t, w.calls, "a pause outlives the process")
	require.NoError(t, w.store.ClearPause(t.Context(), guard.PauseGlobal, "", "ada", "done"))
	w.errs = []string{"pods: 1 of 3 pages"}
	w.pass(time.Minute)
	require.Empty(t, w.calls, "half of the truth is none")
	require.Contains(t, w.log(), "guard.decided delay evidence-unknown")
	w.errs = nil
	w.pass(time.Minute)
	require.Len(t, w.calls, 1)
}

// A delayed worker applied a plan that was long out of date.
func TestIncidentAWSStalePlan(t *testing.T) {
	t.Parallel()
	w := setup(t, doc("restart", restart))
	slow := true
	w.witness = func(*guard.Evidence) {
		if slow {
			w.now = w.now.Add(guard.MaxEvidenceAge + time.Second)
		}
	}
	w.fire("web")
	w.work()
	require.Empty(t, w.calls, "what was seen 11 s ago is no longer so")
	require.Contains(t, w.log(), "guard.decided delay evidence-unknown")
	slow = false
	w.pass(time.Minute)
	require.Len(t, w.calls, 1)
}

// Too much capacity was removed, too fast.
func TestIncidentAWSTooMuchCapacityRemoved(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		removes, replicas int
		reason            string
	}{
		"too much at once": {5, 10, "velocity"},
		"below the floor":  {2, 2, "capacity-floor"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := setup(t, one("shrink", "workload.shrink", ""))
			w.planner = func(req action.Request) (action.Plan, error) {
				return action.Plan{Request: req, Summary: "shrink", Removes: tc.removes, Replicas: tc.replicas, Changes: []action.FieldChange{{Object: req.Target.Ref}}}, nil
			}
			w.fire("web")
			w.pass(10 * time.Minute)
			require.Empty(t, w.calls)
			require.Equal(t, tc.reason, reasonOf(t, w))
		})
	}
}

// reasonOf is that of the last decision of a guard.
func reasonOf(t *testing.T, w *world) string {
	t.Helper()
	run := w.onlyRun()
	if run.Reason != "" {
		return run.Reason
	}
	st, err := decodeState(run.State)
	require.NoError(t, err)
	return string(st.LastGuard)
}

// A partition of 43 seconds failed over, and cost a day.
func TestIncidentGitHubFailover(t *testing.T) {
	t.Parallel()
	w := setup(t, one("failover", "service.failover", ""))
	firing := true
	w.alert = func(alert.Alert) guard.AlertEvidence {
		if firing {
			return guard.AlertEvidence{State: guard.AlertFiring}
		}
		return guard.AlertEvidence{State: guard.AlertResolved}
	}
	w.fire("web")
	w.pass(43 * time.Second)
	require.Equal(t, "failover-dwell", reasonOf(t, w))
	firing = false
	w.pass(10 * time.Minute)
	require.Empty(t, w.calls)
	require.Equal(t, store.Suppressed, w.onlyRun().Outcome, "it was over before anybody moved")

	long := setup(t, one("failover", "service.failover", ""))
	long.fire("web")
	long.pass(6 * time.Minute)
	require.Empty(t, long.calls)
	require.Equal(t, store.WaitApproval, long.onlyRun().Wait, "a person decides, whatever the mode says")
}

// A fault of the network was read as sick hosts, and instances were taken from
// under the people who worked on them.
func TestIncidentSlackCorrelatedSignal(t *testing.T) {
	t.Parallel()
	w := setup(t, doc("restart", restart))
	w.limit(func(l *guard.Limits) { l.StormRuns = 5 })
	for i := range 8 {
		name := fmt.Sprint("app", i)
		w.targets[name] = deployment(name)
		w.fire(name)
	}
	cands, err := w.store.ClaimCandidates(t.Context(), w.engine.Owner, w.engine.Lease, 10)
	require.NoError(t, err)
	for _, c := range cands {
		w.engine.resolve(t.Context(), c)
	}
	w.pass(5 * time.Minute)
	require.Empty(t, w.calls, "eight at once have one cause")
	require.Contains(t, w.log(), "guard.decided delay storm")

	hold := setup(t, doc("restart", restart))
	hold.witness = func(ev *guard.Evidence) {
		ev.Target.Touched = &guard.Touch{Object: "Deployment/shop/web", Manager: "kubectl-edit", At: time.Date(2026, 3, 1, 11, 55, 0, 0, time.UTC)}
	}
	hold.fire("web")
	hold.pass(9 * time.Minute)
	require.Empty(t, hold.calls, "a person is at work there")
	require.Equal(t, "human-activity", reasonOf(t, hold))
	hold.pass(2 * time.Minute)
	require.NotEmpty(t, hold.calls)
}

// A webhook made every new node fail, and each was replaced by another one.
func TestIncidentGKEEndlessRecreation(t *testing.T) {
	t.Parallel()
	w := setup(t, doc("cordon", cordonNodes))
	w.nodes = &guard.NodeEvidence{Total: 30}
	w.limit(func(l *guard.Limits) { l.MaxNodesPerPool = 3 })
	for i := range 6 { // each is new, with a name and a UID of its own
		n := node(fmt.Sprint("fresh-", i))
		n.NodePool = "spot"
		w.targets[n.Name] = n
		w.fire(n.Name)
		w.pass(8 * time.Minute)
	}
	require.Len(t, w.calls, 3, "the fourth of a pool within an hour waits for a person")
	require.Contains(t, w.log(), "guard.decided delay velocity")
}

// The namespace in a label is what the sender wrote: a source that may touch one
// namespace touches no other, whatever its alerts say.
func TestAForgedNamespaceOpensNothing(t *testing.T) {
	t.Parallel()
	w := setup(t, doc("restart", restart))
	src := w.engine.Sources["am"]
	src.Namespaces = []string{"shop"}
	w.engine.Sources["am"] = src
	bank := deployment("vault")
	bank.Namespace, bank.Top.Namespace = "bank", "bank"
	w.targets["vault"] = bank
	w.fire("vault", "namespace", "shop")
	w.pass(time.Minute)
	require.Empty(t, w.calls)
	require.Equal(t, string(guard.ReasonNamespace), w.onlyRun().Reason)
}

func TestAnAlertForKubeSystemChangesNothing(t *testing.T) {
	t.Parallel()
	w := setup(t, doc("restart", restart))
	w.engine.GuardConfig.ProtectedNamespaces = []string{"kube-system"}
	dns := deployment("coredns")
	dns.Namespace, dns.Top.Namespace = "kube-system", "kube-system"
	w.targets["coredns"] = dns
	w.fire("coredns", "namespace", "kube-system")
	w.pass(time.Minute)
	require.Empty(t, w.calls)
	require.Equal(t, string(guard.ReasonProtected), w.onlyRun().Reason)
}

// Between the alert and the action a person healed it.
func TestWhatAPersonHealedIsLeftAlone(t *testing.T) {
	t.Parallel()
	w := setup(t, doc("restart", restart))
	require.NoError(t, w.store.SetPause(t.Context(), guard.Pause{Scope: guard.PauseGlobal, By: "ada", Why: "x"}))
	w.fire("web")
	w.pass(30 * time.Second)
	w.health = func() kube.Health { return kube.Health{State: kube.Healthy} }
	w.alert = func(alert.Alert) guard.AlertEvidence { return guard.AlertEvidence{State: guard.AlertResolved} }
	require.NoError(t, w.store.ClearPause(t.Context(), guard.PauseGlobal, "", "ada", "done"))
	w.pass(time.Minute)
	require.Empty(t, w.calls)
	require.Equal(t, string(guard.ReasonResolved), w.onlyRun().Reason)
}

func TestWhatAGitOpsToolOwnsIsItsOwn(t *testing.T) {
	t.Parallel()
	owned := func(ev *guard.Evidence) {
		ev.Target.Owner = &guard.Ownership{Tool: "Argo CD", Name: "shop", Object: "Deployment/shop/web"}
	}
	w := setup(t, one("shrink", "workload.shrink", ""))
	w.witness = owned
	w.fire("web")
	w.pass(time.Minute)
	require.Empty(t, w.calls)
	require.Equal(t, string(guard.ReasonGitOps), w.onlyRun().Reason)

	// A restart writes nothing that the tool would write back.
	restarts := setup(t, doc("restart", restart))
	restarts.witness = owned
	restarts.fire("web")
	restarts.pass(time.Minute)
	require.Len(t, restarts.calls, 1)

	// Where the configuration says so, a person may decide.
	asks := setup(t, one("shrink", "workload.shrink", ""))
	asks.limit(func(l *guard.Limits) { l.GitOps = guard.GitOpsApprove })
	asks.witness = owned
	asks.fire("web")
	asks.pass(time.Minute)
	require.Empty(t, asks.calls)
	require.Equal(t, store.WaitApproval, asks.onlyRun().Wait)
}

// The alert that always fires is not heard of: Auto is disarmed.
func TestAStaleWatchdogDisarms(t *testing.T) {
	t.Parallel()
	w := setup(t, doc("restart", restart))
	src := w.engine.Sources["am"]
	src.Reader = deaf{w}
	w.engine.Sources["am"] = src
	w.fire("web")
	w.pass(time.Minute)
	require.Empty(t, w.calls)
	require.Equal(t, string(guard.ReasonWatchdog), reasonOf(t, w))
}

// deaf is a source whose Watchdog has gone silent.
type deaf struct{ *world }

func (d deaf) Watchdog(context.Context) (time.Time, error) {
	return d.now.Add(-time.Hour), nil
}
