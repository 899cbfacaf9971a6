package engine

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alertmedic/alertmedic/internal/action"
	"github.com/alertmedic/alertmedic/internal/alert"
	"github.com/alertmedic/alertmedic/internal/guard"
	"github.com/alertmedic/alertmedic/internal/store"
)

const deletePod = `  matchers: [alertname = Broken]
  target: {kind: %s}
  remedies:
  - name: delete
    steps: [{name: delete, action: pod.delete}]
    verify: {timeout: 5m, stableFor: 1m}
`

// podOf is a target of which the alert names the pod.
func podOf(t action.Target) action.Target {
	t.Pod = &action.Ref{Kind: action.KindPod, Namespace: "shop", Name: t.Name + "-1", UID: "uid-" + t.Name + "-1"}
	return t
}

// withPods lets the evidence count three pods of which the first n are not ready.
func (w *world) withPods(n *int) {
	w.witness = func(ev *guard.Evidence) {
		ev.Target.PodExists, ev.Target.PodUID = true, "uid-web-1"
		ev.Pods = &guard.PodEvidence{Desired: 3}
		for _, name := range []string{"web-1", "web-2", "web-3"}[:*n] {
			ev.Pods.Unavailable = append(ev.Pods.Unavailable, guard.PodKey("c1", "shop", name))
		}
	}
}

func workloadPod(kind string) string { return doc("delete", fmt.Sprintf(deletePod, kind)) }

// The API server refuses the call; before the next try the alert resolves by
// itself. Nothing was changed, so nothing is to be.
func TestARefusedCallIsNotMadeAnewForAnAlertThatResolved(t *testing.T) {
	t.Parallel()
	w := setup(t, workloadPod("Workload"))
	w.targets["web"] = podOf(deployment("web"))
	ill := 1
	w.withPods(&ill)
	w.apply = func(action.Plan, int) (action.Result, error) {
		w.alert = resolved
		return action.Result{}, action.Errorf(action.ReasonUnavailable, "connection refused")
	}
	w.fire("web")
	w.pass(5 * time.Minute)
	require.Len(t, w.calls, 1)
	run := w.onlyRun()
	require.Equal(t, []any{store.Suppressed, "resolved"}, []any{run.Outcome, run.Reason})
	require.Contains(t, w.log(), "episode.closed")

	// And when it fires again soon, it is not forgotten.
	w.alert = func(a alert.Alert) guard.AlertEvidence { return guard.AlertEvidence{State: guard.AlertFiring} }
	w.apply = nil
	w.pass(5 * time.Minute)
	w.fire("web")
	w.pass(time.Minute)
	require.Len(t, w.calls, 2)
}

// Before the next try the other pods fall ill: the budget is asked again.
func TestARefusedCallIsNotMadeAnewPastTheBudgetOfPods(t *testing.T) {
	t.Parallel()
	w := setup(t, workloadPod("Workload"))
	w.targets["web"] = podOf(deployment("web"))
	ill := 1
	w.withPods(&ill)
	w.apply = func(action.Plan, int) (action.Result, error) {
		ill = 3
		return action.Result{}, action.Errorf(action.ReasonUnavailable, "connection refused")
	}
	w.fire("web")
	w.pass(90 * time.Second)
	require.Len(t, w.calls, 1)
	require.Equal(t, string(guard.ReasonPodBudget), w.onlyRun().Reason)
}

// A guard holds the refused call for longer than the step may take: it waits for the
// guard, and neither fails of its time nor climbs to the next remedy.
func TestARefusedCallThatAGuardHoldsDoesNotClimb(t *testing.T) {
	t.Parallel()
	w := setup(t, doc("two", `  matchers: [alertname = Broken]
  target: {kind: Workload}
  remedies:
  - {name: delete, steps: [{name: delete, action: pod.delete}], verify: {timeout: 5m, stableFor: 1m}}
  - {name: restart, steps: [{name: restart, action: workload.restart}], verify: {timeout: 5m, stableFor: 1m}}
`))
	w.targets["web"] = podOf(deployment("web"))
	ill := 1
	w.withPods(&ill)
	w.apply = func(action.Plan, int) (action.Result, error) {
		ill = 3
		return action.Result{}, action.Errorf(action.ReasonUnavailable, "connection refused")
	}
	w.fire("web")
	w.pass(20 * time.Minute)
	run := w.onlyRun()
	require.Equal(t, []any{store.Active, string(guard.ReasonPodBudget), 0}, []any{run.Phase, run.Reason, run.Remedy})
	ill, w.apply = 1, nil
	w.pass(30 * time.Second)
	require.Equal(t, []string{"pod.delete Deployment/shop/web", "pod.delete Deployment/shop/web"}, w.calls)
}

// One that no guard ever admits expires, having changed nothing.
func TestARefusedCallThatAGuardHoldsExpires(t *testing.T) {
	t.Parallel()
	w := setup(t, workloadPod("Workload"))
	w.targets["web"] = podOf(deployment("web"))
	ill := 1
	w.withPods(&ill)
	w.apply = func(action.Plan, int) (action.Result, error) {
		ill = 3
		return action.Result{}, action.Errorf(action.ReasonUnavailable, "connection refused")
	}
	w.fire("web")
	w.pass(70 * time.Minute)
	run := w.onlyRun()
	require.Equal(t, []any{store.Done, store.Expired, "expired"}, []any{run.Phase, run.Outcome, run.Reason})
	require.Len(t, w.calls, 1)
}

// The pod that a run takes away is its own target: that it is gone is the success,
// and the remedy is verified.
func TestAPodThatIsTheTargetGoes(t *testing.T) {
	t.Parallel()
	w := setup(t, workloadPod("Pod"))
	pod := action.Ref{Kind: action.KindPod, Namespace: "shop", Name: "web-1", UID: "uid-web-1"}
	w.targets["web"] = action.Target{Cluster: "c1", Ref: pod, Top: pod, Pod: &pod}
	ill := 1
	w.withPods(&ill)
	w.apply = func(_ action.Plan, n int) (action.Result, error) {
		if n < 3 {
			w.gone = true
			return action.Result{Again: 2 * time.Second, State: raw(`{"sent": true}`), Message: "terminating"}, nil
		}
		return action.Result{Done: true, Message: "gone"}, nil
	}
	w.fire("web")
	w.pass(30 * time.Second)
	require.Len(t, w.calls, 3)
	w.health, w.alert = healthy, resolved
	w.pass(3 * time.Minute)
	require.Equal(t, store.Healed, w.onlyRun().Outcome)
}
