package engine

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alertmedic/alertmedic/internal/action"
	"github.com/alertmedic/alertmedic/internal/guard"
	"github.com/alertmedic/alertmedic/internal/store"
)

// A run that can never be planned ends when its time is over, not a back-off
// later, and says what was in the way.
func TestExpiresOnTimeAndSaysWhy(t *testing.T) {
	t.Parallel()
	w := setup(t, doc("restart", restart))
	w.planner = func(action.Request) (action.Plan, error) {
		return action.Plan{}, action.Errorf(action.ReasonUnavailable, "the API server is on holiday")
	}
	w.fire("web")
	w.pass(70 * time.Minute)
	run := w.onlyRun()
	require.Equal(t, store.Expired, run.Outcome)
	require.Contains(t, run.Message, "the API server is on holiday")
	require.Empty(t, w.calls)
	require.Less(t, run.EndedAt.Sub(run.ExpiresAt), 10*time.Second, "the test's clock moves by 5s")
}

// freeze lets nothing be changed in that time.
func (w *world) freeze(from, until time.Time) {
	w.limit(func(l *guard.Limits) {
		l.Windows = append(l.Windows, guard.Window{Name: "freeze", Freeze: true, From: from, Until: until})
	})
}

// A guard is asked after the look at the run's time. One that holds the run when
// the time has run out in between does not keep it until it would let it go.
func TestExpiresOnTimeThoughTheTimeRanOutWhileItWasAsked(t *testing.T) {
	t.Parallel()
	w := setup(t, doc("restart", restart))
	shortBefore := w.now.Add(time.Hour - 2*time.Second)
	w.freeze(w.now, shortBefore)
	w.freeze(shortBefore, w.now.Add(6*time.Hour))
	w.witness = func(*guard.Evidence) {
		if !w.now.Before(shortBefore) {
			w.now = w.now.Add(5 * time.Second) // reading the evidence takes its time
		}
	}
	w.fire("web")
	w.pass(time.Hour - 2*time.Second)
	w.witness = nil
	w.pass(10 * time.Second)
	run := w.onlyRun()
	require.Equal(t, store.Expired, run.Outcome, run.Message)
	require.Contains(t, run.Message, "held back by window")
	require.Less(t, run.EndedAt.Sub(run.ExpiresAt), 10*time.Second)
	require.Empty(t, w.calls)
}

// A step that has begun and is held by a guard ends when the time that it may take
// is over, not when the guard would let it go on.
func TestAStepThatHasBegunIsHeldNoLongerThanItMayTake(t *testing.T) {
	t.Parallel()
	w := setup(t, doc("restart", restart))
	w.apply = func(action.Plan, int) (action.Result, error) {
		w.freeze(w.now, w.now.Add(6*time.Hour))
		return action.Result{State: []byte(`{"sent":true}`), Message: "rolling out"}, nil
	}
	w.fire("web")
	w.pass(time.Minute)
	run := w.onlyRun()
	require.Equal(t, store.Active, run.Phase, run.Message)
	require.Equal(t, store.WaitGuard, run.Wait, run.Message)
	w.pass(2 * time.Minute) // the timeout of a step
	require.Contains(t, w.log(), "step.failed failed timeout")
	require.Len(t, w.calls, 1)
}
