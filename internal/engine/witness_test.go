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
