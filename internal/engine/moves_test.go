package engine

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alertmedic/alertmedic/internal/action"
	"github.com/alertmedic/alertmedic/internal/alert"
	"github.com/alertmedic/alertmedic/internal/guard"
	"github.com/alertmedic/alertmedic/internal/journal"
	"github.com/alertmedic/alertmedic/internal/kube"
	"github.com/alertmedic/alertmedic/internal/store"
)

// onLog calls fn for each record.
type onLog struct {
	slog.Handler
	fn func(r slog.Record)
}

func (o onLog) Enabled(context.Context, slog.Level) bool { return true }

func (o onLog) Handle(_ context.Context, r slog.Record) error {
	o.fn(r)
	return nil
}

func (o onLog) WithAttrs([]slog.Attr) slog.Handler { return o }

// fragile is a world whose database cannot be written from breakDB on until the
// engine has noticed.
func fragile(t *testing.T, docs ...string) (w *world, breakDB func()) {
	w = setup(t, docs...)
	file := filepath.Join(t.TempDir(), "medic.db")
	require.NoError(t, w.store.Close())
	var err error
	w.store, err = store.Open(t.Context(), store.Options{DSN: file, Clock: w.clock, Logger: slog.New(slog.DiscardHandler), FlapDwell: 2 * time.Minute})
	require.NoError(t, err)
	for _, pb := range w.set.All() {
		require.NoError(t, w.store.PutPlaybook(t.Context(), pb.Hash, pb.Doc))
	}
	w.engine = w.newEngine("worker-1")
	broken := false
	w.engine.Logger = slog.New(onLog{fn: func(r slog.Record) {
		if broken && strings.HasPrefix(r.Message, "work on the run") {
			require.NoError(t, os.Rename(file+".away", file))
			broken = false
		}
	}})
	return w, func() {
		require.NoError(t, os.Rename(file, file+".away"))
		broken = true
	}
}

// One write fails as a run ends: the end is recorded later, as a whole.
func TestAnEndThatCouldNotBeWrittenIsJournalled(t *testing.T) {
	t.Parallel()
	w, breakDB := fragile(t, doc("restart", restart))
	once := false
	w.fire("web")
	w.work()
	require.Len(t, w.calls, 1)
	w.alert = resolved
	start := w.now
	w.health = func() kube.Health {
		if w.now.Sub(start) >= 65*time.Second && !once {
			once = true
			breakDB()
		}
		return healthy()
	}
	w.pass(5 * time.Minute)
	require.True(t, once)
	require.Equal(t, store.Healed, w.onlyRun().Outcome)
	require.Contains(t, w.log(), "run.ended healed")
}

// One write fails as the failure of a step is recorded: no remedy follows a step
// whose outcome is not written down.
func TestAFailureThatCouldNotBeWrittenIsJournalled(t *testing.T) {
	t.Parallel()
	w, breakDB := fragile(t, doc("ladder", twoRungs))
	w.apply = func(_ action.Plan, n int) (action.Result, error) {
		if n == 1 {
			breakDB()
			return action.Result{}, action.Errorf(action.ReasonInvalid, "no")
		}
		return action.Result{Done: true}, nil
	}
	w.observe = func(action.Plan) (action.Observation, error) { return action.NotApplied, nil }
	w.fire("web")
	w.pass(10 * time.Minute)
	run := w.onlyRun()
	require.Equal(t, store.Done, run.Phase)
	steps, err := w.store.Steps(t.Context(), run.ID)
	require.NoError(t, err)
	for _, s := range steps {
		require.NotEqual(t, store.StepIntended, s.Status, "the run has ended, and its step has not")
	}
}

// joining is a reader by which an alert can come in while another is read.
type joining struct {
	*world
	hook func(a alert.Alert) guard.AlertEvidence
}

func (j joining) State(_ context.Context, a alert.Alert, _ time.Time) guard.AlertEvidence {
	return j.hook(a)
}

// An alert joins the run while that asks whether the first one still fires: it is
// not lost with a run that ends as resolved.
func TestAnAlertThatJoinsWhileItsRunEnds(t *testing.T) {
	t.Parallel()
	w := setup(t, doc("restart", restart))
	joined := false
	w.engine.Sources["am"] = Source{Name: "am", Cluster: "c1", Reader: joining{w, func(a alert.Alert) guard.AlertEvidence {
		if a.Labels["pod"] == "b" {
			return guard.AlertEvidence{State: guard.AlertFiring}
		}
		if !joined {
			joined = true
			w.fire("web", "pod", "b")
			cands, err := w.store.ClaimCandidates(t.Context(), "worker-2", w.engine.Lease, 10)
			require.NoError(t, err)
			for _, c := range cands {
				w.engine.resolve(t.Context(), c)
			}
		}
		return guard.AlertEvidence{State: guard.AlertResolved}
	}}}
	w.fire("web", "pod", "a")
	for range 30 {
		w.pass(time.Minute)
		w.fire("web", "pod", "b")
	}
	require.NotEmpty(t, w.calls, "pod b fires for half an hour, and nothing is done")
}

// The same at the verdict: what fires is not healed.
func TestAnAlertThatAttachesAtTheVerdict(t *testing.T) {
	t.Parallel()
	w := setup(t, doc("restart", restart))
	joined := false
	start := w.now
	w.engine.Sources["am"] = Source{Name: "am", Cluster: "c1", Reader: joining{w, func(a alert.Alert) guard.AlertEvidence {
		if a.Labels["pod"] == "b" || len(w.calls) == 0 {
			return guard.AlertEvidence{State: guard.AlertFiring}
		}
		if !joined && w.now.Sub(start) >= 65*time.Second {
			joined = true
			w.fire("web", "pod", "b")
			cands, err := w.store.ClaimCandidates(t.Context(), "worker-2", w.engine.Lease, 10)
			require.NoError(t, err)
			for _, c := range cands {
				w.engine.resolve(t.Context(), c)
			}
		}
		return guard.AlertEvidence{State: guard.AlertResolved}
	}}}
	w.health = healthy
	w.fire("web", "pod", "a")
	w.pass(3 * time.Minute)
	require.True(t, joined)
	require.NotEqual(t, store.Healed, w.onlyRun().Outcome)
}

// The API server is away for a day from the moment of the approval.
func TestWhatWasApprovedAndCannotBePlannedExpires(t *testing.T) {
	t.Parallel()
	w := setup(t, doc("restart", "  mode: Approve\n"+restart))
	w.fire("web")
	w.pass(time.Minute)
	run := w.onlyRun()
	w.unread = action.Errorf(action.ReasonUnavailable, "the API server is away")
	_, err := w.store.Decide(t.Context(), store.Decision{RunID: run.ID, Approve: true, By: "ada", Why: "go"})
	require.NoError(t, err)
	w.pass(time.Minute)
	for range 24 {
		w.now = w.now.Add(time.Hour)
		w.work()
	}
	phase := w.onlyRun().Phase
	w.unread = nil
	w.pass(time.Minute)
	require.Empty(t, w.calls, "approved a day ago")
	require.Equal(t, store.Done, phase)
}

// Six steps, each of which takes 18 of its 20 seconds, in one remedy: a worker lets
// go of the run in between, and no call is cut.
func TestARemedyOfManySlowStepsIsNotCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := setup(t, doc("slow", `  matchers: [alertname = Broken]
  target: {kind: Workload}
  remedies:
  - name: slow
    steps:
    - {name: a, action: pod.exec}
    - {name: b, action: pod.exec}
    - {name: c, action: pod.exec}
    - {name: d, action: pod.exec}
    - {name: e, action: pod.exec}
    - {name: f, action: pod.exec}
`))
		w.now, w.ticks = time.Now(), true
		w.engine.leases = newLeases(w.engine.Lease)
		renewing, stop := context.WithCancel(t.Context())
		go w.engine.renewLoop(renewing)
		w.hang = func(ctx context.Context) error {
			select {
			case <-time.After(18 * time.Second):
				return nil
			case <-ctx.Done():
				return action.Errorf(action.ReasonUnclear, "%w", context.Cause(ctx))
			}
		}
		w.fire("web")
		for range 400 {
			w.now = time.Now()
			w.work()
			if runs := w.runs(); len(runs) == 1 && (runs[0].Phase == store.Done || runs[0].Wait == store.WaitVerify) {
				break
			}
			time.Sleep(time.Second)
		}
		stop()
		synctest.Wait()
		require.NotEqual(t, store.OutcomeUnknown, w.onlyRun().Outcome)
	})
}

// The retries of a step do not count against those of its revert.
func TestARevertHasRetriesOfItsOwn(t *testing.T) {
	t.Parallel()
	w := setup(t, doc("two", `  matchers: [alertname = Broken]
  target: {kind: Workload}
  remedies:
  - name: both
    steps: [{name: scale, action: workload.scale, timeout: 30m}, {name: exec, action: pod.exec}]
    onFailure: Revert
`))
	w.apply = func(p action.Plan, n int) (action.Result, error) {
		switch {
		case p.Request.Action == "pod.exec":
			return action.Result{}, action.Errorf(action.ReasonInvalid, "no")
		case n <= 10:
			return action.Result{}, action.Errorf(action.ReasonBlocked, "a budget")
		}
		return action.Result{Done: true}, nil
	}
	w.reverts = func(action.Plan) (action.Result, error) {
		if len(w.undone) == 1 {
			return action.Result{}, action.Errorf(action.ReasonUnavailable, "503")
		}
		return action.Result{Done: true}, nil
	}
	w.fire("web")
	w.pass(20 * time.Minute)
	require.Len(t, w.undone, 2)
}

// The log says of a revert which remedy it takes back.
func TestARevertIsOfItsOwnRemedy(t *testing.T) {
	t.Parallel()
	w := setup(t, doc("ladder", `  matchers: [alertname = Broken]
  target: {kind: Workload}
  onResolve: Revert
  remedies:
  - name: first
    steps: [{name: scale, action: workload.scale}]
    verify: {timeout: 2m, stableFor: 30s}
  - name: second
    steps: [{name: restart, action: workload.restart}]
    verify: {timeout: 2m, stableFor: 30s}
`))
	w.fire("web")
	w.pass(3 * time.Minute)
	require.Len(t, w.calls, 2)
	w.health, w.alert = healthy, resolved
	w.pass(3 * time.Minute)
	require.Equal(t, []string{"workload.scale"}, w.undone)
	w.log() // seals what is read next
	reverted := 0
	require.NoError(t, w.store.LogIter(t.Context(), store.LogFilter{}, func(en journal.Entry) error {
		if en.Kind == journal.StepReverted {
			reverted++
			require.Equal(t, "first", en.Remedy)
		}
		return nil
	}))
	require.Equal(t, 1, reverted)
}

// An alert whose target makes the program panic does not end the process, which
// takes the alerts of all.
func TestAResolutionThatPanics(t *testing.T) {
	t.Parallel()
	w := setup(t, doc("restart", restart))
	w.targets = nil
	w.fire("web")
	w.engine.Cluster = panicking{w}
	require.NotPanics(t, w.work)
}

type panicking struct{ *world }

func (p panicking) Resolve(context.Context, kube.Request) (kube.Resolved, error) { panic("nil map") }

// The alert is resolved just when its run asks, and fires again before Alertmanager
// would tell: it only repeats it.
func TestAnAlertThatWasAwayForAMomentIsNotForgotten(t *testing.T) {
	t.Parallel()
	w := setup(t, doc("restart", restart))
	w.pause()
	w.fire("web")
	w.pass(time.Minute)
	w.alert = resolved
	w.resume()
	w.pass(10 * time.Second)
	require.Equal(t, "resolved", w.onlyRun().Reason)
	w.alert = func(alert.Alert) guard.AlertEvidence { return guard.AlertEvidence{State: guard.AlertFiring} }
	for range 30 { // Alertmanager repeats it, and each resync reads it
		w.fire("web")
		w.pass(time.Minute)
	}
	eps, err := w.store.OpenEpisodes(t.Context(), "am")
	require.NoError(t, err)
	require.Len(t, eps, 1)
	require.NotEmpty(t, w.calls, "an alert fires for half an hour, and nothing is done")
}
