package engine

import (
	"context"
	"errors"
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

func TestHealed(t *testing.T) {
	t.Parallel()
	w := setup(t, doc("restart", restart))
	w.apply = func(action.Plan, int) (action.Result, error) {
		w.health, w.alert = healthy, resolved
		return action.Result{Done: true}, nil
	}
	w.fire("web")
	w.pass(30 * time.Second)
	require.Equal(t, store.WaitVerify, w.onlyRun().Wait, "healthy for 30s, 1m is asked for")
	w.pass(time.Minute)
	run := w.onlyRun()
	require.Equal(t, store.Healed, run.Outcome, run.Message)
	require.Equal(t, []string{"workload.restart Deployment/shop/web"}, w.calls)
	require.Equal(t, []string{
		"episode.opened", "run.created", "guard.decided admit", "run.planned", "step.intent", "step.done done",
		"verify.started", "verify.verdict healed", "run.ended healed",
	}, w.log())
}

// The same alert again, and again, and a second alert about the same object:
// one run, one action.
func TestRepeatsActOnce(t *testing.T) {
	t.Parallel()
	w := setup(t, doc("restart", restart))
	for range 5 {
		w.fire("web")
	}
	w.fire("web", "severity", "critical")
	w.pass(2 * time.Minute)
	w.fire("web")
	w.pass(time.Minute)
	w.onlyRun()
	require.Len(t, w.calls, 1)
}

// Only what was positively observed climbs the ladder; the last rung ends with
// a person.
func TestLadder(t *testing.T) {
	t.Parallel()
	w := setup(t, doc("ladder", `  matchers: [alertname = Broken]
  target: {kind: Workload}
  remedies:
  - name: restart
    steps: [{name: restart, action: workload.restart}]
    verify: {timeout: 2m, stableFor: 30s}
  - name: never
    when: "facts.rolledOutWithin('1h')"
    steps: [{name: x, action: pod.label}]
  - name: scale
    steps: [{name: scale, action: workload.scale}]
    verify: {timeout: 2m, stableFor: 30s}
    onFailure: Revert
`))
	long := w.now.Add(-24 * time.Hour)
	w.facts = playbooks.Facts{RolledOutAt: &long}
	w.fire("web")
	w.pass(10 * time.Minute)
	run := w.onlyRun()
	require.Equal(t, store.NotHealed, run.Outcome)
	require.Equal(t, []string{"workload.restart Deployment/shop/web", "workload.scale Deployment/shop/web"}, w.calls)
	require.Equal(t, []string{"workload.scale"}, w.undone)
	require.Contains(t, w.log(), "remedy.failed skipped condition")
	require.Contains(t, w.log(), "step.reverted reverted")
}

func TestResolvedAloneIsNotHealed(t *testing.T) {
	t.Parallel()
	// Cordoning a node resolves KubeNodeNotReady within seconds: the alert is
	// gone, the node is as sick as before.
	w := setup(t, doc("cordon", `  matchers: [alertname = Broken]
  target: {kind: Node}
  remedies:
  - name: cordon
    steps: [{name: cordon, action: node.cordon}]
    verify: {timeout: 5m, stableFor: 1m}
`))
	w.nodes = &guard.NodeEvidence{Total: 10, Unhealthy: []string{node("n1").LockKey()}}
	w.apply = func(action.Plan, int) (action.Result, error) {
		w.alert = resolved
		return action.Result{Done: true}, nil
	}
	w.fire("n1")
	w.pass(10 * time.Minute)
	require.Equal(t, store.NotHealed, w.onlyRun().Outcome)
}

func TestUnknownVerdictNeverClimbs(t *testing.T) {
	t.Parallel()
	w := setup(t, doc("two", restart+`  - name: scale
    steps: [{name: scale, action: workload.scale}]
`))
	w.apply = func(action.Plan, int) (action.Result, error) {
		w.health = healthy
		w.alert = func(alert.Alert) guard.AlertEvidence {
			return guard.AlertEvidence{State: guard.AlertUnknown, By: "Prometheus does not answer"}
		}
		return action.Result{Done: true}, nil
	}
	w.fire("web")
	w.pass(20 * time.Minute)
	run := w.onlyRun()
	require.Equal(t, store.Escalated, run.Outcome)
	require.Equal(t, "verdict-unknown", run.Reason)
	require.Len(t, w.calls, 1, "the second rung was not tried")
}

func TestGuardsHoldBackAndLetGo(t *testing.T) {
	t.Parallel()
	w := setup(t, doc("restart", restart))
	require.NoError(t, w.store.SetPause(t.Context(), guard.Pause{Scope: guard.PauseGlobal, By: "ada", Why: "release", At: w.now}))
	w.fire("web")
	w.pass(5 * time.Minute)
	run := w.onlyRun()
	require.Empty(t, w.calls)
	require.Equal(t, store.Queued, run.Phase)
	require.Equal(t, store.WaitGuard, run.Wait)
	require.Contains(t, run.Message, "paused (global) by ada")
	require.NoError(t, w.store.ClearPause(t.Context(), guard.PauseGlobal, "", "ada", "done"))
	w.pass(30 * time.Second)
	require.Len(t, w.calls, 1)
	denials := 0
	for _, line := range w.log() {
		if line == "guard.decided delay paused" {
			denials++
		}
	}
	require.Equal(t, 1, denials, "the same denial is written once")
}

func TestPausedTooLongExpires(t *testing.T) {
	t.Parallel()
	w := setup(t, doc("restart", restart))
	require.NoError(t, w.store.SetPause(t.Context(), guard.Pause{Scope: guard.PauseGlobal, By: "ada", Why: "release", At: w.now}))
	w.fire("web")
	w.pass(61 * time.Minute)
	run := w.onlyRun()
	require.Equal(t, store.Expired, run.Outcome)
	require.Contains(t, run.Message, "held back by paused")
	require.Empty(t, w.calls)
}

func TestResolvedBeforeItStarted(t *testing.T) {
	t.Parallel()
	w := setup(t, doc("restart", restart))
	w.alert = resolved
	w.fire("web")
	w.pass(time.Minute)
	run := w.onlyRun()
	require.Equal(t, store.Suppressed, run.Outcome)
	require.Equal(t, "resolved", run.Reason)
	require.Empty(t, w.calls)
}

func TestReplacedTargetIsNotTouched(t *testing.T) {
	t.Parallel()
	w := setup(t, doc("restart", restart))
	w.uid = "another"
	w.fire("web")
	w.pass(time.Minute)
	require.NotEmpty(t, w.runs())
	for _, run := range w.runs() {
		require.Equal(t, "target-replaced", run.Reason)
	}
	require.Empty(t, w.calls)
}

func TestMissingPermissionStopsBeforeTheFirstStep(t *testing.T) {
	t.Parallel()
	w := setup(t, doc("restart", restart))
	w.missing = []string{"patch deployments.apps"}
	w.fire("web")
	w.pass(time.Minute)
	run := w.onlyRun()
	require.Equal(t, store.Escalated, run.Outcome)
	require.Empty(t, w.calls)
	require.Contains(t, w.log(), "remedy.failed failed forbidden")
}

func TestAttemptsEndInAPerson(t *testing.T) {
	t.Parallel()
	w := setup(t, doc("restart", restart))
	for i := range 4 {
		// Another alert each time: an episode is acted on once.
		w.fire("web", "round", string(rune('a'+i)))
		w.pass(80 * time.Minute)
	}
	runs := w.runs()
	require.Len(t, runs, 4)
	require.Len(t, w.calls, 3)
	last := runs[0]
	for _, r := range runs {
		if r.CreatedAt.After(last.CreatedAt) {
			last = r
		}
	}
	require.Equal(t, store.Escalated, last.Outcome)
	require.Equal(t, "attempts", last.Reason)
}

func TestObserveSendsNothing(t *testing.T) {
	t.Parallel()
	w := setup(t, doc("restart", "  mode: Observe\n"+restart))
	w.fire("web")
	w.pass(time.Minute)
	require.Equal(t, store.Simulated, w.onlyRun().Outcome)
	require.Empty(t, w.calls)
	require.Equal(t, []string{"workload.restart Deployment/shop/web"}, w.dryRuns)
	require.Contains(t, w.log(), "step.simulated would-apply")
}

func TestRetriesThenSucceeds(t *testing.T) {
	t.Parallel()
	w := setup(t, doc("restart", restart))
	w.apply = func(_ action.Plan, n int) (action.Result, error) {
		if n < 4 {
			return action.Result{}, action.Errorf(action.ReasonUnavailable, "connection refused")
		}
		w.health, w.alert = healthy, resolved
		return action.Result{Done: true}, nil
	}
	w.fire("web")
	w.pass(5 * time.Minute)
	require.Equal(t, store.Healed, w.onlyRun().Outcome)
	require.Len(t, w.calls, 4)
}

func TestRetriesEndWithTheStep(t *testing.T) {
	t.Parallel()
	w := setup(t, doc("restart", restart))
	w.apply = func(action.Plan, int) (action.Result, error) {
		return action.Result{}, action.Errorf(action.ReasonBlocked, "budget web-pdb allows no disruption")
	}
	w.fire("web")
	w.pass(5 * time.Minute)
	run := w.onlyRun()
	require.Equal(t, store.Escalated, run.Outcome)
	require.Contains(t, w.log(), "step.failed failed timeout")
}

func TestStepThatWaitsNeverHoldsAWorker(t *testing.T) {
	t.Parallel()
	w := setup(t, doc("restart", restart))
	w.apply = func(_ action.Plan, n int) (action.Result, error) {
		if n < 3 {
			return action.Result{Again: 10 * time.Second, State: raw(`{"n":1}`), Message: "evicting"}, nil
		}
		w.health, w.alert = healthy, resolved
		return action.Result{Done: true}, nil
	}
	w.fire("web")
	w.work()
	run := w.onlyRun()
	require.Equal(t, store.WaitStep, run.Wait)
	require.Equal(t, w.now.Add(10*time.Second), run.DueAt)
	w.pass(3 * time.Minute)
	require.Equal(t, store.Healed, w.onlyRun().Outcome)
}

// What may be done about a call of unknown fate follows from the replay class.
func TestUnclearFate(t *testing.T) {
	t.Parallel()
	playbook := func(name string) string {
		return doc("x", `  matchers: [alertname = Broken]
  target: {kind: Workload}
  remedies: [{name: r, steps: [{name: s, action: `+name+`}], verify: {timeout: 2m, stableFor: 30s}}]
`)
	}
	tests := map[string]struct {
		action  string
		seen    action.Observation
		err     error
		outcome store.Outcome
		calls   int
	}{
		"observable, seen":         {"workload.restart", action.Applied, nil, store.Healed, 1},
		"observable, not there":    {"workload.restart", action.NotApplied, nil, store.Healed, 2},
		"observable, cannot tell":  {"workload.restart", action.Undetermined, nil, store.OutcomeUnknown, 1},
		"observable, cannot look":  {"workload.restart", "", errors.New("boom"), store.OutcomeUnknown, 1},
		"idempotent is sent again": {"pod.label", "", nil, store.Healed, 2},
		"at most once is never":    {"pod.exec", "", nil, store.OutcomeUnknown, 1},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := setup(t, playbook(tt.action))
			var first time.Time
			w.apply = func(_ action.Plan, n int) (action.Result, error) {
				if n == 1 {
					first = w.now
					return action.Result{}, action.Errorf(action.ReasonUnclear, "the connection was cut")
				}
				if tt.action == "workload.restart" {
					require.Greater(t, w.now.Sub(first), w.engine.CallTimeout+w.engine.ServerTimeout-time.Second, "sent again while the first may still be under way")
				}
				return action.Result{Done: true}, nil
			}
			w.observe = func(action.Plan) (action.Observation, error) { return tt.seen, tt.err }
			w.health = func() kube.Health {
				if len(w.calls) >= tt.calls {
					w.alert = resolved
					return healthy()
				}
				return kube.Health{State: kube.Unhealthy}
			}
			w.fire("web")
			w.pass(10 * time.Minute)
			run := w.onlyRun()
			require.Equal(t, tt.outcome, run.Outcome, run.Message)
			require.Len(t, w.calls, tt.calls)
		})
	}
}

// A worker dies between intent and outcome; another one goes on after the lease.
func TestTakeover(t *testing.T) {
	t.Parallel()
	w := setup(t, doc("restart", restart))
	w.fire("web")
	w.apply = func(_ action.Plan, n int) (action.Result, error) {
		if n == 1 {
			panic("the process dies here")
		}
		return action.Result{Done: true}, nil
	}
	w.observe = func(action.Plan) (action.Observation, error) {
		w.health, w.alert = healthy, resolved
		return action.Applied, nil
	}
	w.work()
	require.Len(t, w.calls, 1)
	w.engine = w.newEngine("worker-2")
	w.pass(2 * time.Second)
	require.NotContains(t, w.log(), "run.taken-over", "the lease still holds")
	w.pass(3 * time.Minute)
	run := w.onlyRun()
	require.Equal(t, store.Healed, run.Outcome)
	require.Len(t, w.calls, 1, "the change was there: it is not sent again")
	require.Contains(t, w.log(), "run.taken-over")
	require.Contains(t, w.log(), "step.observed Applied")
}

func TestApproval(t *testing.T) {
	t.Parallel()
	approve := doc("restart", "  mode: Approve\n"+restart)
	start := func(t *testing.T) (*world, store.Run, store.Approval) {
		w := setup(t, approve)
		w.apply = func(action.Plan, int) (action.Result, error) {
			w.health, w.alert = healthy, resolved
			return action.Result{Done: true}, nil
		}
		w.fire("web")
		w.pass(time.Minute)
		run := w.onlyRun()
		require.Equal(t, store.WaitApproval, run.Wait, run.Message)
		require.Empty(t, w.calls)
		ap, err := w.store.PendingApproval(t.Context(), run.ID)
		require.NoError(t, err)
		require.Equal(t, "uid-web", ap.TargetUID)
		return w, run, ap
	}
	decide := func(w *world, run store.Run, hash string, yes bool) error {
		_, err := w.store.Decide(w.t.Context(), store.Decision{RunID: run.ID, Approve: yes, PlanHash: hash, By: "ada", Why: "looks right"})
		return err
	}
	t.Run("approved", func(t *testing.T) {
		t.Parallel()
		w, run, ap := start(t)
		require.NoError(t, decide(w, run, ap.PlanHash, true))
		w.pass(2 * time.Minute)
		require.Equal(t, store.Healed, w.onlyRun().Outcome)
		require.Len(t, w.calls, 1)
		require.ErrorIs(t, decide(w, run, ap.PlanHash, true), store.ErrNoApproval)
	})
	t.Run("rejected", func(t *testing.T) {
		t.Parallel()
		w, run, ap := start(t)
		require.NoError(t, decide(w, run, ap.PlanHash, false))
		w.pass(time.Minute)
		require.Equal(t, store.Cancelled, w.onlyRun().Outcome)
		require.Contains(t, w.onlyRun().Message, "rejected by ada: looks right")
		require.Empty(t, w.calls)
	})
	t.Run("another plan is refused", func(t *testing.T) {
		t.Parallel()
		w, run, _ := start(t)
		require.ErrorIs(t, decide(w, run, "0123456789abcdef", true), store.ErrPlanChanged)
	})
	t.Run("nobody decides", func(t *testing.T) {
		t.Parallel()
		w, _, _ := start(t)
		w.pass(61 * time.Minute)
		require.Equal(t, store.Expired, w.onlyRun().Outcome)
		require.Equal(t, "approval-expired", w.onlyRun().Reason)
	})
	t.Run("drift asks again", func(t *testing.T) {
		t.Parallel()
		w, run, ap := start(t)
		w.planner = func(req action.Request) (action.Plan, error) {
			return action.Plan{Request: req, Summary: "something else"}, nil
		}
		require.NoError(t, decide(w, run, ap.PlanHash, true))
		w.pass(time.Minute)
		require.Empty(t, w.calls)
		again, err := w.store.PendingApproval(t.Context(), run.ID)
		require.NoError(t, err)
		require.NotEqual(t, ap.PlanHash, again.PlanHash)
		require.NoError(t, decide(w, run, again.PlanHash, true))
		w.pass(2 * time.Minute)
		require.Equal(t, store.Healed, w.onlyRun().Outcome)
	})
	t.Run("resolved while it waited", func(t *testing.T) {
		t.Parallel()
		w, run, ap := start(t)
		w.alert = resolved
		require.NoError(t, decide(w, run, ap.PlanHash, true))
		w.pass(time.Minute)
		require.Equal(t, "resolved", w.onlyRun().Reason)
		require.Empty(t, w.calls)
	})
	t.Run("holds its lock", func(t *testing.T) {
		t.Parallel()
		w, _, _ := start(t)
		w.fire("web", "other", "alert")
		w.pass(2 * time.Minute)
		require.Empty(t, w.calls)
		require.LessOrEqual(t, len(w.runs()), 2)
	})
}

func TestDriftPlansAgain(t *testing.T) {
	t.Parallel()
	w := setup(t, doc("restart", restart))
	w.apply = func(_ action.Plan, n int) (action.Result, error) {
		if n == 1 {
			return action.Result{}, action.Errorf(action.ReasonDrift, "spec.template changed")
		}
		w.health, w.alert = healthy, resolved
		return action.Result{Done: true}, nil
	}
	w.fire("web")
	w.pass(3 * time.Minute)
	require.Equal(t, store.Healed, w.onlyRun().Outcome, w.onlyRun().Message)
	require.Len(t, w.calls, 2)
}

func TestOnFailureStop(t *testing.T) {
	t.Parallel()
	w := setup(t, doc("stop", `  matchers: [alertname = Broken]
  target: {kind: Workload}
  remedies:
  - name: first
    steps: [{name: restart, action: workload.restart}]
    verify: {timeout: 1m, stableFor: 30s}
    onFailure: Stop
  - name: second
    steps: [{name: scale, action: workload.scale}]
`))
	w.fire("web")
	w.pass(10 * time.Minute)
	require.Equal(t, store.Escalated, w.onlyRun().Outcome)
	require.Len(t, w.calls, 1)
}

func TestRevertConflictIsSaid(t *testing.T) {
	t.Parallel()
	w := setup(t, doc("scale", `  matchers: [alertname = Broken]
  target: {kind: Workload}
  remedies:
  - name: scale
    steps: [{name: scale, action: workload.scale}]
    verify: {timeout: 1m, stableFor: 30s}
    onFailure: Revert
`))
	w.reverts = func(action.Plan) (action.Result, error) {
		return action.Result{}, action.Errorf(action.ReasonRevertConflict, "kubectl took spec.replicas")
	}
	w.fire("web")
	w.pass(10 * time.Minute)
	require.Equal(t, store.Escalated, w.onlyRun().Outcome)
	require.Contains(t, w.log(), "step.revert-failed failed revert-conflict")
}

func TestPriority(t *testing.T) {
	t.Parallel()
	w := setup(t, doc("aa-low", restart), doc("zz-high", "  priority: 10\n"+restart))
	w.fire("web")
	w.pass(2 * time.Minute)
	acted := 0
	for _, r := range w.runs() {
		if !r.IntentAt.IsZero() {
			require.Equal(t, "zz-high", r.Playbook)
			acted++
		}
	}
	require.Equal(t, 1, acted)
	require.Len(t, w.calls, 1)
}

func TestConcurrencyOfThePlaybookIsHeld(t *testing.T) {
	t.Parallel()
	w := setup(t, doc("restart", restart))
	for _, n := range []string{"a", "b", "c", "d"} {
		w.targets[n] = deployment(n)
		w.fire(n)
	}
	w.pass(time.Minute)
	require.Len(t, w.calls, 2, "maxConcurrentRuns is 2 in a namespace")
}

func TestUnhealthyBudgetOfNodes(t *testing.T) {
	t.Parallel()
	w := setup(t, doc("cordon", `  matchers: [alertname = Broken]
  target: {kind: Node}
  remedies: [{name: cordon, steps: [{name: cordon, action: node.cordon}], verify: {timeout: 5m, stableFor: 1m}}]
`))
	w.nodes = &guard.NodeEvidence{Total: 4, Unhealthy: []string{"c1/Node//n1", "c1/Node//n2", "c1/Node//n3"}}
	w.fire("n1")
	w.pass(61 * time.Minute)
	run := w.onlyRun()
	require.Empty(t, w.calls)
	require.Equal(t, store.Expired, run.Outcome)
	require.Contains(t, run.Message, "unhealthy-budget")
}

// What decides about a change is not older than the report that asked for it: an
// answer from before knows nothing of the alert.
func TestTheStateOfAnAlertIsNotOlderThanItsReport(t *testing.T) {
	t.Parallel()
	w := setup(t, doc("restart", restart))
	asked := make(chan time.Time, 10)
	w.engine.Sources["am"] = Source{Name: "am", Cluster: "c1", Reader: since{w, asked}}
	reported := w.now
	w.fire("web")
	w.work()
	require.Equal(t, reported, <-asked)
}

// since notes from when on an answer may be.
type since struct {
	*world
	asked chan time.Time
}

func (s since) State(ctx context.Context, a alert.Alert, since time.Time) guard.AlertEvidence {
	s.asked <- since
	return s.world.State(ctx, a, since)
}
