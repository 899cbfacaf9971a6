package engine

import (
	"strings"
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

// An object that looks well while its alert goes on firing is not healed: the
// alert sees something that the health check does not.
func TestHealthAloneIsNotHealed(t *testing.T) {
	t.Parallel()
	w := setup(t, doc("restart", restart))
	w.apply = func(action.Plan, int) (action.Result, error) {
		w.health = healthy
		return action.Result{Done: true}, nil
	}
	w.fire("web")
	w.pass(10 * time.Minute)
	run := w.onlyRun()
	require.Equal(t, store.NotHealed, run.Outcome)
	require.Contains(t, w.log(), "verify.verdict not-healed")
}

// A verdict that cannot be told is given one more chance, and takes it.
func TestUnknownVerdictExtendsOnce(t *testing.T) {
	t.Parallel()
	w := setup(t, doc("restart", restart))
	var acted time.Time
	w.apply = func(action.Plan, int) (action.Result, error) {
		acted, w.health = w.now, healthy
		w.alert = func(alert.Alert) guard.AlertEvidence {
			return guard.AlertEvidence{State: guard.AlertUnknown, By: "Prometheus does not answer"}
		}
		return action.Result{Done: true}, nil
	}
	w.fire("web")
	w.pass(6 * time.Minute)
	require.Empty(t, w.onlyRun().Outcome, "the time of the verification is over; it is extended")
	require.Contains(t, w.log(), "verify.verdict unknown")
	w.alert = resolved
	w.pass(2 * time.Minute)
	run := w.onlyRun()
	require.Equal(t, store.Healed, run.Outcome)
	require.Greater(t, run.EndedAt.Sub(acted), 5*time.Minute)
}

// A condition of the playbook comes on top of health and alert.
func TestConditionsOfTheVerification(t *testing.T) {
	t.Parallel()
	w := setup(t, doc("restart", `  matchers: [alertname = Broken]
  target: {kind: Workload}
  remedies:
  - name: restart
    steps: [{name: restart, action: workload.restart}]
    verify:
      timeout: 2m
      stableFor: 30s
      conditions: [{expression: "target.spec.replicas == 4", message: four replicas}]
`))
	w.apply = func(action.Plan, int) (action.Result, error) {
		w.health, w.alert = healthy, resolved
		return action.Result{Done: true}, nil
	}
	w.fire("web")
	w.pass(5 * time.Minute)
	require.Equal(t, store.NotHealed, w.onlyRun().Outcome)
}

// Two playbooks that are not exclusive both want the target: the second begins
// when the first has ended, never in between.
func TestRunsOnOneTargetDoNotInterleave(t *testing.T) {
	t.Parallel()
	w := setup(t, doc("aa", "  exclusive: false\n"+restart), doc("bb", "  exclusive: false\n"+restart))
	var active []string
	w.health = func() kube.Health {
		n := 0
		for _, r := range w.runs() {
			if r.Phase == store.Active {
				n++
				active = append(active, r.Playbook)
			}
		}
		require.LessOrEqual(t, n, 1, "two runs hold the same target")
		return kube.Health{State: kube.Unhealthy}
	}
	w.fire("web")
	w.pass(12 * time.Minute)
	require.Len(t, w.calls, 2)
	require.Contains(t, active, "aa")
	require.Contains(t, active, "bb")
}

// Between two calls of one step the guards are asked again; what the step itself
// brought about, such as the end of the alert's series, does not stop it.
func TestTheStepsOwnEffectIsNoObjection(t *testing.T) {
	t.Parallel()
	w := setup(t, doc("restart", restart))
	w.apply = func(_ action.Plan, n int) (action.Result, error) {
		if n == 1 {
			w.alert = resolved // the change itself ends the alert's series
			return action.Result{Again: 5 * time.Second, Message: "terminating"}, nil
		}
		w.health = healthy
		return action.Result{Done: true}, nil
	}
	w.fire("web")
	w.pass(3 * time.Minute)
	require.Equal(t, store.Healed, w.onlyRun().Outcome, w.onlyRun().Message)
	require.Len(t, w.calls, 2)
}

// A run that waits for a person takes no slot from those that can act; approved,
// it waits for one like everybody else.
func TestWaitingForApprovalTakesNoSlot(t *testing.T) {
	t.Parallel()
	w := setup(t, doc("ask", "  mode: Approve\n"+restart), doc("act", `  matchers: [alertname = Broken, kind = quick]
  priority: 5
  target: {kind: Workload}
  remedies:
  - name: restart
    steps: [{name: restart, action: workload.restart}]
    verify: {timeout: 5m, stableFor: 1m}
`))
	for _, n := range []string{"a", "b", "c", "d", "e"} {
		w.targets[n] = deployment(n)
		w.fire(n) // five questions, as many as there are slots
	}
	w.work()
	require.Len(t, w.runs(), 5)
	for _, r := range w.runs() {
		require.Equal(t, store.WaitApproval, r.Wait, r.Message)
	}
	w.fire("web", "kind", "quick")
	w.pass(time.Minute)
	require.Equal(t, []string{"workload.restart Deployment/shop/web"}, w.calls)
}

// Two nodes are being worked on; each counts against the budget of the third
// although the evidence shows it healthy by now.
func TestReservationsCountAgainstTheBudget(t *testing.T) {
	t.Parallel()
	w := setup(t, doc("cordon", `  matchers: [alertname = Broken]
  target: {kind: Node}
  remedies: [{name: cordon, steps: [{name: cordon, action: node.cordon}], verify: {timeout: 50m, stableFor: 1m}}]
`))
	for _, n := range []string{"n2", "n3"} {
		w.targets[n] = node(n)
	}
	w.nodes = &guard.NodeEvidence{Total: 20}
	limits := w.engine.Limits
	w.engine.Limits = func(pb *playbooks.Playbook, r *playbooks.Remedy) guard.Limits {
		l := limits(pb, r)
		l.MaxConcurrentRuns = 5 // so that the budget decides
		return l
	}
	w.fire("n1")
	w.work()
	w.fire("n2")
	w.work()
	require.Len(t, w.calls, 2)
	w.fire("n3")
	w.pass(time.Minute)
	require.Len(t, w.calls, 2, "a third one is refused: two are allowed")
	require.Contains(t, w.log(), "guard.decided delay unhealthy-budget")
}

// Runs that begin by looking keep no slot from each other: each is let through
// when its turn comes.
func TestRunsThatOnlyLookTakeNoSlot(t *testing.T) {
	t.Parallel()
	w := setup(t, doc("look", `  matchers: [alertname = Broken]
  target: {kind: Workload}
  remedies: [{name: restart, steps: [{name: look, action: diagnose}, {name: restart, action: workload.restart}], verify: {timeout: 5m, stableFor: 15s}}]
`))
	w.engine.Limits = func(*playbooks.Playbook, *playbooks.Remedy) guard.Limits { return scriptedLimits(1) }
	w.targets["third"] = deployment("third")
	w.health = func() kube.Health { return kube.Health{State: kube.Healthy} }
	w.alert = func(alert.Alert) guard.AlertEvidence { return guard.AlertEvidence{State: guard.AlertFiring} }
	for _, name := range []string{"web", "db", "third"} {
		w.fire(name)
	}
	for _, c := range w.mustClaim() {
		w.engine.resolve(t.Context(), c)
	}
	w.pass(time.Minute)
	changed := func() (out []string) {
		for _, call := range w.calls {
			if strings.HasPrefix(call, "workload.restart") {
				out = append(out, call)
			}
		}
		return out
	}
	require.Len(t, changed(), 1)
	w.pass(30 * time.Minute)
	require.Len(t, changed(), 3)
}

func (w *world) mustClaim() []store.Candidate {
	cands, err := w.store.ClaimCandidates(w.t.Context(), w.engine.Owner, w.engine.Lease, 10)
	require.NoError(w.t, err)
	return cands
}
