package engine

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alertmedic/alertmedic/internal/action"
	"github.com/alertmedic/alertmedic/internal/store"
)

// bubble makes a world in which time goes by itself, with one run to work on.
func bubble(t *testing.T, fn func(t *testing.T, w *world, run store.Run)) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := setup(t, doc("restart", restart))
		w.now, w.ticks = time.Now(), true
		w.engine.leases = newLeases(w.engine.Lease)
		w.fire("web")
		cands, err := w.store.ClaimCandidates(t.Context(), "worker-1", w.engine.Lease, 1)
		require.NoError(t, err)
		require.Len(t, cands, 1)
		w.engine.resolve(t.Context(), cands[0])
		runs, err := w.store.ClaimRuns(t.Context(), "worker-1", w.engine.Lease, 1)
		require.NoError(t, err)
		require.Len(t, runs, 1)
		fn(t, w, runs[0])
	})
}

func (w *world) rivals() []store.Run {
	runs, err := w.store.ClaimRuns(w.t.Context(), "worker-2", w.engine.Lease, 10)
	require.NoError(w.t, err)
	return runs
}

func TestACallMayLastLongerThanTheLease(t *testing.T) {
	bubble(t, func(t *testing.T, w *world, run store.Run) {
		renewing, stop := context.WithCancel(t.Context())
		go w.engine.renewLoop(renewing)
		w.hang = func(ctx context.Context) error {
			time.Sleep(5 * w.engine.Lease)
			require.Empty(t, w.rivals(), "the run was given away in the middle of a call")
			return ctx.Err()
		}
		w.engine.drive(t.Context(), run)
		require.Contains(t, w.log(), "step.done done")
		time.Sleep(2 * w.engine.Lease)
		require.Len(t, w.rivals(), 1, "the run was let go of, and nothing renews it")
		stop()
		synctest.Wait()
	})
}

// A process that stands still in the middle of a call (its clock does not) finds
// out that the run is another's, and gives the call up.
func TestALostLeaseEndsTheCall(t *testing.T) {
	bubble(t, func(t *testing.T, w *world, run store.Run) {
		var cause error
		w.hang = func(ctx context.Context) error {
			time.Sleep(2 * w.engine.Lease)
			taken := w.rivals()
			require.Len(t, taken, 1)
			require.True(t, taken[0].TakenOver)
			require.NoError(t, w.engine.leases.renew(t.Context(), w.store))
			<-ctx.Done()
			cause = context.Cause(ctx)
			return action.Errorf(action.ReasonUnclear, "%w", ctx.Err())
		}
		w.engine.drive(t.Context(), run)
		require.ErrorIs(t, cause, store.ErrFenced)
		steps, err := w.store.Steps(t.Context(), run.ID)
		require.NoError(t, err)
		require.Equal(t, store.StepIntended, steps[0].Status, "the outcome is for the new owner to find out")
	})
}

func TestACallEndsWhenTheLeaseCannotBeRenewed(t *testing.T) {
	bubble(t, func(t *testing.T, w *world, run store.Run) {
		broken, cancel := context.WithCancel(t.Context())
		cancel()
		began := time.Now()
		var cause error
		w.hang = func(ctx context.Context) error {
			for ctx.Err() == nil { // the renewals of a database that does not answer
				time.Sleep(w.engine.Lease / 3)
				require.Error(t, w.engine.leases.renew(broken, w.store))
			}
			cause = context.Cause(ctx)
			return action.Errorf(action.ReasonUnclear, "%w", ctx.Err())
		}
		w.engine.drive(t.Context(), run)
		require.ErrorIs(t, cause, errLeaseUnsure)
		require.Equal(t, w.engine.Lease, time.Since(began))
	})
}

// A process that stands still between the intent and the call sends nothing: by
// then another one may have begun.
func TestAProcessThatStoodStillSendsNothing(t *testing.T) {
	bubble(t, func(t *testing.T, w *world, run store.Run) {
		w.engine.Reporter = standsStill(w.engine.Lease)
		w.engine.drive(t.Context(), run)
		require.Empty(t, w.calls)
		steps, err := w.store.Steps(t.Context(), run.ID)
		require.NoError(t, err)
		require.Equal(t, store.StepWaiting, steps[0].Status)
		require.Contains(t, steps[0].Message, "nothing was sent")
		w.engine.Reporter = nil
		time.Sleep(time.Minute)
		for _, r := range w.rivals() {
			w.engine.drive(t.Context(), r)
		}
		require.Len(t, w.calls, 1)
	})
}

// standsStill is a reporter that takes its time within the transaction.
type standsStill time.Duration

func (d standsStill) StormMessages(Storm) []store.Message { return nil }

func (d standsStill) Messages(Report) []store.Message {
	time.Sleep(time.Duration(d))
	return nil
}
