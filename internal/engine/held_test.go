package engine

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alertmedic/alertmedic/internal/action"
	"github.com/alertmedic/alertmedic/internal/guard"
	"github.com/alertmedic/alertmedic/internal/kube"
	"github.com/alertmedic/alertmedic/internal/store"
	"github.com/alertmedic/alertmedic/playbooks"
)

const twoRungs = `  matchers: [alertname = Broken]
  target: {kind: Workload}
  remedies:
  - name: restart
    steps: [{name: restart, action: workload.restart}]
    verify: {timeout: 2m, stableFor: 30s}
  - name: scale
    steps: [{name: scale, action: workload.scale}]
    verify: {timeout: 2m, stableFor: 30s}
`

func (w *world) pause() {
	w.t.Helper()
	require.NoError(w.t, w.store.SetPause(w.t.Context(), guard.Pause{Scope: guard.PauseGlobal, By: "ada", Why: "release", At: w.now}))
}

func (w *world) resume() {
	w.t.Helper()
	require.NoError(w.t, w.store.ClearPause(w.t.Context(), guard.PauseGlobal, "", "ada", "done"))
}

// held is a run whose first remedy has not healed and whose second is held back.
func held(t *testing.T) *world {
	w := setup(t, doc("ladder", twoRungs))
	w.pause()
	w.fire("web")
	w.pass(40 * time.Minute) // its alert is not young any more when it begins
	w.resume()
	w.apply = func(_ action.Plan, n int) (action.Result, error) {
		if n == 1 {
			w.pause()
		}
		return action.Result{Done: true}, nil
	}
	w.pass(5 * time.Minute)
	run := w.onlyRun()
	require.Equal(t, store.WaitGuard, run.Wait, run.Message)
	require.Equal(t, 1, run.Remedy)
	require.Len(t, w.calls, 1)
	return w
}

// What took longer than its verification has healed all the same: the next
// remedy does not begin, neither while it waits nor when nothing holds it back.
func TestHealedWhileTheNextRemedyIsHeldBack(t *testing.T) {
	t.Parallel()
	w := held(t)
	w.health, w.alert = healthy, resolved
	w.pass(20 * time.Second)
	w.resume() // healthy, but not for long enough: still it does not begin
	w.pass(10 * time.Second)
	require.Equal(t, store.Active, w.onlyRun().Phase)
	w.pass(time.Minute)
	run := w.onlyRun()
	require.Equal(t, store.Healed, run.Outcome, run.Message)
	require.Contains(t, run.Message, "healthy after restart")
	require.Len(t, w.calls, 1)
	require.Contains(t, w.log(), "verify.verdict healed")
}

func TestSickAgainWhileTheNextRemedyIsHeldBack(t *testing.T) {
	t.Parallel()
	w := held(t)
	sick := w.health
	w.health, w.alert = healthy, resolved
	w.pass(20 * time.Second)
	w.health = sick
	w.pass(30 * time.Second)
	w.health = healthy // for a moment that is too short again
	w.pass(20 * time.Second)
	w.health = sick
	require.Equal(t, store.Active, w.onlyRun().Phase)
	require.Len(t, w.calls, 1)
	w.resume()
	w.pass(time.Minute)
	require.Len(t, w.calls, 2)
}

// A run that has changed something does not hold the lock of its target for ever.
func TestHeldTooLongAfterAChange(t *testing.T) {
	t.Parallel()
	w := held(t)
	w.pass(2 * time.Hour)
	run := w.onlyRun()
	require.Equal(t, store.Escalated, run.Outcome, run.Message)
	require.Equal(t, "expired", run.Reason)
	require.Contains(t, run.Message, "held back by paused")
	require.Contains(t, run.Message, "a person must look")
	require.Len(t, w.calls, 1)
	require.InDelta(t, 100*time.Minute, run.EndedAt.Sub(run.CreatedAt), float64(time.Minute), "an hour after the change")
}

// Half of a remedy that cannot go on is what its onFailure is for.
func TestHeldTooLongAmongTheSteps(t *testing.T) {
	t.Parallel()
	w := setup(t, doc("two", `  matchers: [alertname = Broken]
  target: {kind: Workload}
  remedies:
  - name: both
    steps: [{name: scale, action: workload.scale}, {name: restart, action: workload.restart}]
    onFailure: Revert
`))
	w.apply = func(action.Plan, int) (action.Result, error) {
		w.pause()
		return action.Result{Done: true}, nil
	}
	w.fire("web")
	w.pass(50 * time.Minute)
	require.Equal(t, store.Active, w.onlyRun().Phase)
	require.Empty(t, w.undone)
	w.pass(20 * time.Minute)
	run := w.onlyRun()
	require.Equal(t, store.Escalated, run.Outcome, run.Message)
	require.Equal(t, []string{"workload.scale Deployment/shop/web"}, w.calls)
	require.Empty(t, w.undone, "a pause holds reverts as well")
	require.Contains(t, w.log(), "step.failed failed timeout")
	require.Contains(t, w.log(), "step.revert-failed failed paused")
}

// A revert waits for a pause, for a freeze and for an object that opted out, and
// is made when they let it.
func TestRevertsAreHeldBack(t *testing.T) {
	t.Parallel()
	ladder := doc("ladder", `  matchers: [alertname = Broken]
  target: {kind: Workload}
  remedies:
  - name: scale
    steps: [{name: scale, action: workload.scale}]
    onFailure: Revert
    verify: {timeout: 1m, stableFor: 30s}
`)
	for name, row := range map[string]struct{ hold, lift func(w *world) }{
		"pause": {func(w *world) { w.pause() }, func(w *world) { w.resume() }},
		"window": {func(w *world) {
			freeze := guard.Window{Name: "freeze", Freeze: true, From: w.now, Until: w.now.Add(10 * time.Minute)}
			w.engine.Limits = func(*playbooks.Playbook, *playbooks.Remedy) guard.Limits {
				l := scriptedLimits(2)
				l.Windows = []guard.Window{freeze}
				return l
			}
		}, func(*world) {}},
		"unknown": {func(w *world) { w.errs = []string{"reading Deployment/shop/web: unavailable"} }, func(w *world) { w.errs = nil }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := setup(t, ladder)
			w.fire("web")
			w.pass(30 * time.Second)
			row.hold(w)
			w.pass(9 * time.Minute)
			require.Empty(t, w.undone)
			require.Equal(t, store.WaitGuard, w.onlyRun().Wait)
			row.lift(w)
			w.pass(5 * time.Minute)
			require.Equal(t, []string{"workload.scale"}, w.undone)
			require.Equal(t, store.NotHealed, w.onlyRun().Outcome)
		})
	}
	t.Run("opted out", func(t *testing.T) {
		t.Parallel()
		w := setup(t, ladder)
		w.fire("web")
		w.pass(30 * time.Second)
		w.witness = func(ev *guard.Evidence) { ev.Target.Skip = "Deployment/shop/web" }
		w.pass(5 * time.Minute)
		require.Empty(t, w.undone)
		require.Equal(t, store.Escalated, w.onlyRun().Outcome)
		require.Contains(t, w.log(), "step.revert-failed failed opted-out")
	})
}

// What a person approved is not carried out half a day later.
func TestApprovedAndHeldTooLong(t *testing.T) {
	t.Parallel()
	w := setup(t, doc("restart", "  mode: Approve\n"+restart))
	w.fire("web")
	w.pass(time.Minute)
	run := w.onlyRun()
	require.Equal(t, store.WaitApproval, run.Wait, run.Message)
	ap, err := w.store.PendingApproval(t.Context(), run.ID)
	require.NoError(t, err)
	w.pass(50 * time.Minute)
	w.pause()
	_, err = w.store.Decide(t.Context(), store.Decision{RunID: run.ID, Approve: true, PlanHash: ap.PlanHash, By: "ada", Why: "go"})
	require.NoError(t, err)
	w.pass(30 * time.Minute) // the alert is older than an hour now, the approval is not
	require.Equal(t, store.WaitGuard, w.onlyRun().Wait)
	w.pass(2 * time.Hour)
	w.resume()
	w.pass(time.Minute)
	run = w.onlyRun()
	require.Equal(t, store.Expired, run.Outcome, run.Message)
	require.Contains(t, run.Message, "held back by paused")
	require.Empty(t, w.calls)
}

// A person who approves the next remedy does not see that the last one has
// healed by now.
func TestHealedBeforeTheApproval(t *testing.T) {
	t.Parallel()
	w := setup(t, doc("ladder", twoRungs+"    mode: Approve\n"))
	w.fire("web")
	w.pass(5 * time.Minute)
	run := w.onlyRun()
	require.Equal(t, store.WaitApproval, run.Wait, run.Message)
	require.Len(t, w.calls, 1)
	ap, err := w.store.PendingApproval(t.Context(), run.ID)
	require.NoError(t, err)
	w.health, w.alert = healthy, resolved
	_, err = w.store.Decide(t.Context(), store.Decision{RunID: run.ID, Approve: true, PlanHash: ap.PlanHash, By: "ada", Why: "go"})
	require.NoError(t, err)
	w.pass(time.Minute)
	require.Equal(t, store.Healed, w.onlyRun().Outcome, w.onlyRun().Message)
	require.Len(t, w.calls, 1)
}

// A verdict that cannot be given holds nothing back: the guards still decide.
func TestUnknownWhileHeldBackIsNotHealed(t *testing.T) {
	t.Parallel()
	w := held(t)
	w.health = func() kube.Health { return kube.Health{State: kube.Unknown} }
	w.alert = resolved
	w.resume()
	w.pass(time.Minute)
	require.Len(t, w.calls, 2)
}

// After the last remedy as well: an API server that is away when its time is over
// keeps the run from ending, and what is healthy when it is back has healed.
func TestHealedWhileTheEndIsHeldBack(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]store.Outcome{"healthy": store.Healed, "sick": store.NotHealed} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := setup(t, doc("ladder", "  onResolve: Revert\n"+twoRungs))
			w.apply = func(_ action.Plan, n int) (action.Result, error) {
				if n == 2 {
					w.unread = action.Errorf(action.ReasonUnavailable, "the API server is away")
				}
				return action.Result{Done: true}, nil
			}
			w.fire("web")
			w.pass(10 * time.Minute)
			run := w.onlyRun()
			require.Equal(t, store.WaitRetry, run.Wait, run.Message)
			require.Equal(t, 2, run.Remedy, "past the end")
			w.unread = nil
			if name == "healthy" {
				w.health, w.alert = healthy, resolved
			}
			w.pass(10 * time.Minute)
			run = w.onlyRun()
			require.Equal(t, want, run.Outcome, run.Message)
			require.Len(t, w.calls, 2)
			if name == "healthy" {
				require.Equal(t, []string{"workload.scale"}, w.undone, "onResolve takes back what can be")
			}
		})
	}
}
