package engine

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alertmedic/alertmedic/internal/action"
	"github.com/alertmedic/alertmedic/internal/alert"
	"github.com/alertmedic/alertmedic/internal/guard"
	"github.com/alertmedic/alertmedic/internal/kube"
	"github.com/alertmedic/alertmedic/internal/store"
)

const cordonThenScale = `  matchers: [alertname = Broken]
  target: {kind: Workload}
  onResolve: Revert
  remedies:
  - {name: scale, steps: [{name: scale, action: workload.scale}], verify: {timeout: 1m, stableFor: 15s}}
  - {name: again, steps: [{name: restart, action: workload.restart}, {name: more, action: workload.scale}], verify: {timeout: 5m, stableFor: 15s}}
`

// heals after the calls so many.
func healsAfter(w *world, calls int) {
	well := func() bool { return len(w.calls) >= calls }
	w.health = func() kube.Health {
		if well() {
			return kube.Health{State: kube.Healthy}
		}
		return kube.Health{State: kube.Unhealthy, Message: "0 of 3 replicas"}
	}
	w.alert = func(alert.Alert) guard.AlertEvidence {
		if well() {
			return guard.AlertEvidence{State: guard.AlertResolved}
		}
		return guard.AlertEvidence{State: guard.AlertFiring}
	}
}

// What every remedy changed is taken back when the target is well again, the
// last change first; what cannot be taken back, such as a restart, is not.
func TestWhatHealedIsTakenBackWhenThePlaybookSaysSo(t *testing.T) {
	t.Parallel()
	w := setup(t, doc("undo", cordonThenScale))
	healsAfter(w, 3)
	w.fire("web")
	w.pass(6 * time.Minute)
	run := w.onlyRun()
	require.Equal(t, store.Healed, run.Outcome, "%s: %s", run.Phase, run.Message)
	require.Equal(t, []string{"workload.scale", "workload.scale"}, w.undone)
	require.Equal(t, "Deployment/shop/web is healthy; taken back: again/more, scale/scale", run.Message)
}

// A process that dies in the middle goes on with what is left.
func TestTakingBackGoesOnAfterARestart(t *testing.T) {
	t.Parallel()
	w := setup(t, doc("undo", cordonThenScale))
	healsAfter(w, 3)
	died := false
	w.reverts = func(action.Plan) (action.Result, error) {
		if !died {
			died = true
			w.engine = w.newEngine("worker-2")
			return action.Result{}, action.Errorf(action.ReasonUnavailable, "503")
		}
		return action.Result{Done: true}, nil
	}
	w.fire("web")
	w.pass(8 * time.Minute)
	require.Equal(t, store.Healed, w.onlyRun().Outcome)
	require.Len(t, w.undone, 3, "one of which failed")
}

// What somebody else has changed since stays, and the run has healed all the same.
func TestWhatSomebodyTookStays(t *testing.T) {
	t.Parallel()
	w := setup(t, doc("undo", cordonThenScale))
	healsAfter(w, 1)
	w.reverts = func(action.Plan) (action.Result, error) {
		return action.Result{}, action.Errorf(action.ReasonRevertConflict, "kubectl took spec.replicas")
	}
	w.fire("web")
	w.pass(3 * time.Minute)
	run := w.onlyRun()
	require.Equal(t, store.Healed, run.Outcome)
	require.Equal(t, string(action.ReasonRevertConflict), run.Reason)
	require.Contains(t, run.Message, "not everything could be taken back")
	require.Contains(t, w.log(), "step.revert-failed failed revert-conflict")
}

// Keep is the default.
func TestWhatHealedStaysOtherwise(t *testing.T) {
	t.Parallel()
	w := setup(t, doc("keep", `  matchers: [alertname = Broken]
  target: {kind: Workload}
  remedies: [{name: scale, steps: [{name: scale, action: workload.scale}], verify: {timeout: 1m, stableFor: 15s}}]
`))
	healsAfter(w, 1)
	w.fire("web")
	w.pass(3 * time.Minute)
	require.Equal(t, store.Healed, w.onlyRun().Outcome)
	require.Empty(t, w.undone)
}
