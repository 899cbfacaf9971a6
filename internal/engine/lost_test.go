package engine

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alertmedic/alertmedic/internal/action"
	"github.com/alertmedic/alertmedic/internal/alert"
	"github.com/alertmedic/alertmedic/internal/guard"
	"github.com/alertmedic/alertmedic/internal/journal"
	"github.com/alertmedic/alertmedic/internal/kube"
	"github.com/alertmedic/alertmedic/internal/store"
)

// listener keeps the reports.
type listener struct{ reports []Report }

func (r *listener) Messages(rep Report) []store.Message {
	r.reports = append(r.reports, rep)
	return nil
}

func (r *listener) StormMessages(Storm) []store.Message { return nil }

// A run that the program panics of is given up after some minutes, and people
// hear of it; until then it is tried ever more seldom.
func TestARunThatPanicsIsGivenUp(t *testing.T) {
	t.Parallel()
	w := setup(t, doc("restart", restart))
	r := &listener{}
	w.engine.Reporter = r
	looks := 0
	w.health = func() kube.Health {
		looks++
		panic("nil map")
	}
	w.fire("web")
	w.pass(2 * time.Minute)
	require.Equal(t, store.Active, w.onlyRun().Phase, "it is given up too soon")
	w.pass(8 * time.Minute)
	run := w.onlyRun()
	require.Equal(t, []any{store.Done, store.Escalated, string(action.ReasonInternal)}, []any{run.Phase, run.Outcome, run.Reason})
	require.Contains(t, run.Message, "10 workers in a row")
	require.Equal(t, maxLost, looks)
	require.Contains(t, w.log(), "run.ended escalated internal")
	last := r.reports[len(r.reports)-1]
	require.Equal(t, journal.RunEnded, last.Event)
	require.Len(t, last.Alerts, 1)
	require.Len(t, w.calls, 1)
}

// The messages are what panics: the run ends without them.
func TestARunOfWhichNobodyCanBeToldIsGivenUp(t *testing.T) {
	t.Parallel()
	w := setup(t, doc("restart", restart))
	w.engine.Reporter = speechless{}
	w.fire("web")
	w.pass(10 * time.Minute)
	require.Equal(t, string(action.ReasonInternal), w.onlyRun().Reason)
	require.Empty(t, w.calls, "what could not be recorded was not sent")
}

type speechless struct{}

func (speechless) Messages(Report) []store.Message     { panic("nil map") }
func (speechless) StormMessages(Storm) []store.Message { panic("nil map") }

// A run whose workers all die after the intent is not given up before its call can
// have no effect any more, and then says that its effect is not known.
func TestWhatIsGivenUpMayHaveBeenSent(t *testing.T) {
	t.Parallel()
	w := setup(t, doc("restart", strings.Replace(restart, "action: workload.restart", "action: workload.restart, timeout: 40m", 1)))
	w.apply = func(action.Plan, int) (action.Result, error) { panic("killed") }
	w.observe = func(action.Plan) (action.Observation, error) { panic("killed") }
	w.engine.CallTimeout = 30 * time.Minute // far longer than what ten claims take
	w.fire("web")
	w.pass(20 * time.Minute)
	run := w.onlyRun()
	require.Equal(t, store.Active, run.Phase, "the call may still be on its way")
	w.pass(30 * time.Minute)
	run = w.onlyRun()
	require.Equal(t, []any{store.Done, store.OutcomeUnknown}, []any{run.Phase, run.Outcome})
	steps, err := w.store.Steps(t.Context(), run.ID)
	require.NoError(t, err)
	require.Equal(t, store.StepUnknown, steps[0].Status)
	require.Contains(t, w.log(), "step.unknown unknown outcome-unknown")
	require.Len(t, w.calls, 1)
}

// A run whose state cannot be read is not begun anew: what it has done is not
// known to be nothing.
func TestARunWhoseStateCannotBeRead(t *testing.T) {
	t.Parallel()
	w := setup(t, doc("restart", restart))
	w.fire("web")
	w.work()
	require.Len(t, w.calls, 1)
	w.now = w.now.Add(5 * time.Second)
	claimed, err := w.store.ClaimRuns(t.Context(), "worker-0", w.engine.Lease, 1)
	require.NoError(t, err)
	broken := claimed[0]
	broken.State = raw(`{"stage": 7}`)
	_, err = w.store.Apply(t.Context(), store.Transition{Fence: broken.Fence(), Run: broken, Release: true})
	require.NoError(t, err)
	w.pass(time.Minute)
	run := w.onlyRun()
	require.Equal(t, []any{store.Escalated, string(action.ReasonInternal)}, []any{run.Outcome, run.Reason})
	require.Contains(t, run.Message, "decode the state of the run")
	require.Len(t, w.calls, 1)
}

// A snapshot that is not in the database does not keep its runs for ever.
func TestARunWithoutItsPlaybook(t *testing.T) {
	t.Parallel()
	w := setup(t, doc("restart", restart))
	w.pause()
	w.fire("web")
	w.work()
	other := w.newEngine("worker-2")
	claimed, err := w.store.ClaimRuns(t.Context(), other.Owner, other.Lease, 1)
	require.NoError(t, err)
	require.Empty(t, claimed)
	w.now = w.now.Add(time.Minute)
	claimed, err = w.store.ClaimRuns(t.Context(), other.Owner, other.Lease, 1)
	require.NoError(t, err)
	claimed[0].PlaybookHash = "nowhere"
	other.drive(t.Context(), claimed[0])
	run := w.onlyRun()
	require.Equal(t, []any{store.Escalated, "playbook-broken"}, []any{run.Outcome, run.Reason})
}

// The pod of a StatefulSet is replaced while its run waits: the alert, which goes
// on firing under the same labels, is about the new one.
func TestAReplacedTargetIsLookedForAnew(t *testing.T) {
	t.Parallel()
	w := setup(t, doc("restart", restart))
	w.pause()
	w.fire("web")
	w.pass(time.Minute)
	replace := func(uid string) {
		next := deployment("web")
		next.UID, next.Top.UID = uid, uid
		w.targets["web"], w.uid, w.created = next, uid, w.now
	}
	replace("uid-2")
	w.resume()
	w.pass(time.Minute)
	runs := w.runs()
	require.Len(t, runs, 2)
	require.Equal(t, []any{store.Suppressed, string(guard.ReasonTargetReplaced)}, []any{runs[0].Outcome, runs[0].Reason})
	require.Equal(t, "uid-2", runs[1].Target.UID)
	require.Len(t, w.calls, 1)
	require.Contains(t, w.log(), "candidate.requeued")
	w.health, w.alert = healthy, resolved
	w.pass(5 * time.Minute)
	require.Equal(t, store.Healed, w.runs()[1].Outcome)
}

// Whose target is not there ends with that as its reason.
func TestAGoneTargetIsLookedForAnewAndNotFound(t *testing.T) {
	t.Parallel()
	w := setup(t, doc("restart", restart))
	w.pause()
	w.fire("web")
	w.pass(time.Minute)
	w.gone = true
	delete(w.targets, "web")
	w.resume()
	w.pass(time.Minute)
	require.Equal(t, store.Suppressed, w.onlyRun().Outcome)
	require.Contains(t, w.log(), "candidate.ended failed target-gone")
	require.Empty(t, w.calls)
}

// A world that goes on saying that the target was replaced is believed in the end,
// and people hear of the alert that fires on.
func TestATargetIsLookedForOnlySoOften(t *testing.T) {
	t.Parallel()
	w := setup(t, doc("restart", restart))
	r := &listener{}
	w.engine.Reporter = r
	w.uid = "another"
	w.fire("web")
	w.pass(30 * time.Minute)
	runs := w.runs()
	require.Len(t, runs, store.MaxRequeues+1)
	require.Equal(t, store.MaxRequeues, count(w.log(), "candidate.requeued"))
	last := runs[len(runs)-1]
	require.Equal(t, []any{store.Escalated, string(guard.ReasonTargetReplaced)}, []any{last.Outcome, last.Reason})
	require.Contains(t, last.Message, "a person must look")
	require.Len(t, r.reports, 1)
	require.Empty(t, w.calls)
}

// Nor is it looked for when the time of its alert is over.
func TestATargetThatIsLostAtTheEndIsNotLookedForAnew(t *testing.T) {
	t.Parallel()
	w := setup(t, doc("restart", restart))
	w.pause()
	w.fire("web")
	w.pass(time.Hour - 3*time.Second)
	w.uid = "another"
	w.resume()
	w.work()
	run := w.onlyRun()
	require.Equal(t, []any{store.Escalated, string(guard.ReasonTargetReplaced)}, []any{run.Outcome, run.Reason})
	require.NotContains(t, w.log(), "candidate.requeued")
}

// A process that dies whenever it takes a change back, or shows what it would do,
// dies only so often.
func TestARunThatKillsInEveryMoveIsGivenUp(t *testing.T) {
	t.Parallel()
	const scale = `  matchers: [alertname = Broken]
  target: {kind: Workload}
  mode: %s
  remedies:
  - name: scale
    steps: [{name: scale, action: workload.scale}, {name: restart, action: workload.restart}]
    onFailure: Revert
`
	for mode, outcome := range map[string]store.Outcome{"Auto": store.OutcomeUnknown, "Observe": store.Escalated} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			w := setup(t, doc("scale", fmt.Sprintf(scale, mode)))
			w.apply = func(p action.Plan, _ int) (action.Result, error) {
				if p.Request.Action == "workload.restart" {
					return action.Result{}, action.Errorf(action.ReasonForbidden, "no")
				}
				return action.Result{Done: true}, nil
			}
			deaths := 0
			w.reverts = func(action.Plan) (action.Result, error) { deaths++; panic("killed") }
			w.dryRun = func() { deaths++; panic("killed") }
			w.fire("web")
			w.pass(20 * time.Minute)
			run := w.onlyRun()
			require.Equal(t, []any{store.Done, outcome}, []any{run.Phase, run.Outcome}, "%s", w.log())
			require.Equal(t, maxLost, deaths)
			require.Equal(t, maxLost, count(w.log(), "run.taken-over"), "each is told of once")
		})
	}
}

// An alert that has resolved is not queued again with the run that lost its target.
func TestAResolvedAlertIsNotQueuedAgain(t *testing.T) {
	t.Parallel()
	w := setup(t, doc("restart", restart))
	w.pause()
	a := w.fire("web")
	w.pass(time.Minute)
	a.Status, a.EndsAt = alert.Resolved, w.now
	_, err := w.store.Accept(t.Context(), store.Batch{Observations: []store.Observation{{Source: "am", Cluster: "c1", Alert: a}}})
	require.NoError(t, err)
	w.uid = "another"
	w.resume()
	w.pass(time.Minute)
	require.Equal(t, store.Done, w.onlyRun().Phase)
	require.NotContains(t, w.log(), "candidate.requeued")
}

// A drain cordons the node, gets no further and fails: the cordon is taken back,
// whether the remedy failed of it or went on.
func TestWhatAFailedStepHasChangedIsTakenBack(t *testing.T) {
	t.Parallel()
	const drain = `  matchers: [alertname = Broken]
  target: {kind: Node}
  onResolve: Revert
  remedies:
  - name: drain
    steps: [{name: drain, action: node.cordon, %s}]
    onFailure: Revert
    verify: {timeout: 5m, stableFor: 1m}
`
	for name, after := range map[string]string{"fails": "timeout: 1m", "goes on": "timeout: 1m, continueOnError: true"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := setup(t, doc("drain", fmt.Sprintf(drain, after)))
			w.nodes = &guard.NodeEvidence{Total: 20}
			w.apply = func(action.Plan, int) (action.Result, error) {
				return action.Result{Again: 5 * time.Second, State: raw(`{"cordoned": true}`), Message: "0 of 3 pods are gone"}, nil
			}
			w.fire("n1")
			w.pass(70 * time.Second)
			w.health, w.alert = healthy, resolved
			w.pass(5 * time.Minute)
			require.Equal(t, store.Done, w.onlyRun().Phase)
			require.Equal(t, []string{"node.cordon"}, w.undone, w.log())
			require.True(t, slices.ContainsFunc(w.log(), func(l string) bool { return l == "step.reverted reverted" }), w.log())
		})
	}
}

// The fate of a drain's first call is unclear and the next is refused: no state tells
// of a cordon, which may be there.
func TestWhatAnUnclearCallMayHaveChangedIsTakenBack(t *testing.T) {
	t.Parallel()
	w := setup(t, doc("drain", `  matchers: [alertname = Broken]
  target: {kind: Node}
  remedies:
  - name: drain
    steps: [{name: drain, action: node.drain}]
    onFailure: Revert
`))
	w.nodes = &guard.NodeEvidence{Total: 20}
	w.apply = func(_ action.Plan, n int) (action.Result, error) {
		if n == 1 {
			return action.Result{}, action.Errorf(action.ReasonUnclear, "cut off")
		}
		return action.Result{}, action.Errorf(action.ReasonForbidden, "no")
	}
	w.fire("n1")
	w.pass(5 * time.Minute)
	require.Equal(t, store.Done, w.onlyRun().Phase)
	require.Len(t, w.calls, 2)
	require.Equal(t, []string{"node.drain"}, w.undone, w.log())
}

// What was looked for and found not to be there is not taken back.
func TestWhatIsSeenNotToBeThereIsNotTakenBack(t *testing.T) {
	t.Parallel()
	w := setup(t, doc("scale", `  matchers: [alertname = Broken]
  target: {kind: Workload}
  remedies:
  - name: scale
    steps: [{name: scale, action: workload.scale}]
    onFailure: Revert
`))
	w.observe = func(action.Plan) (action.Observation, error) { return action.NotApplied, nil }
	w.apply = func(_ action.Plan, n int) (action.Result, error) {
		if n == 1 {
			return action.Result{}, action.Errorf(action.ReasonUnclear, "cut off")
		}
		return action.Result{}, action.Errorf(action.ReasonForbidden, "no")
	}
	w.fire("web")
	w.pass(5 * time.Minute)
	require.Equal(t, store.Done, w.onlyRun().Phase)
	require.Len(t, w.calls, 2)
	require.Empty(t, w.undone)
}

// Versions before this one did not note in the state that something may have
// changed: the steps tell.
func TestTheStateOfAnOlderVersionCountsAsTouched(t *testing.T) {
	t.Parallel()
	w := setup(t, doc("restart", restart))
	w.fire("web")
	w.work()
	require.Len(t, w.calls, 1)
	w.now = w.now.Add(5 * time.Second)
	claimed, err := w.store.ClaimRuns(t.Context(), "worker-0", w.engine.Lease, 1)
	require.NoError(t, err)
	old := claimed[0]
	require.Contains(t, string(old.State), `"touched":true,`)
	old.State = raw(strings.Replace(string(old.State), `"touched":true,`, "", 1))
	_, err = w.store.Apply(t.Context(), store.Transition{Fence: old.Fence(), Run: old, Release: true})
	require.NoError(t, err)
	w.gone = true
	w.pass(10 * time.Minute)
	require.Equal(t, store.Escalated, w.onlyRun().Outcome, "it had changed something, and does not end quietly: %s", w.log())
}

// A step that never came so far has nothing to take back.
func TestAStepThatFailedAtOnceIsNotTakenBack(t *testing.T) {
	t.Parallel()
	w := setup(t, doc("scale", `  matchers: [alertname = Broken]
  target: {kind: Workload}
  remedies:
  - name: scale
    steps: [{name: scale, action: workload.scale}]
    onFailure: Revert
`))
	w.apply = func(action.Plan, int) (action.Result, error) {
		return action.Result{}, action.Errorf(action.ReasonForbidden, "no")
	}
	w.fire("web")
	w.pass(5 * time.Minute)
	require.Equal(t, store.Done, w.onlyRun().Phase)
	require.Empty(t, w.undone)
}
