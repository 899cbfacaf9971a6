package store_test

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alertmedic/alertmedic/internal/action"
	"github.com/alertmedic/alertmedic/internal/guard"
	"github.com/alertmedic/alertmedic/internal/store"
)

// The cap must hold however many workers and replicas decide at once.
func TestAdmissionNeverExceedsTheCap(t *testing.T) {
	contract(t, func(t *testing.T, f *fixture) {
		const runs, cap = 20, 4
		other := f.replica(t)
		claimed := make([]store.Run, runs)
		for i := range claimed {
			claimed[i] = f.claim(t, f.newRun(t, "a", deployment(fmt.Sprint("web-", i))), fmt.Sprint("w", i))
		}
		full := errors.New("the cap is reached")
		var wg sync.WaitGroup
		for i, r := range claimed {
			s := f.Store
			if i%2 == 1 {
				s = other
			}
			wg.Go(func() {
				_, err := s.Admit(tctx, query(r), r.Fence(), func(l guard.Ledger) (store.Transition, error) {
					if len(l.Active) >= cap {
						return store.Transition{}, full
					}
					return intent(r, l.Now), nil
				})
				if err != nil && !errors.Is(err, full) {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		l, err := f.Ledger(tctx, guard.Query{})
		require.NoError(t, err)
		require.Len(t, l.Active, cap)
	})
}

func TestTheLedgerCountsWhatItShould(t *testing.T) {
	contract(t, func(t *testing.T, f *fixture) {
		web := deployment("web")
		start := f.time(t)
		past := f.claim(t, f.newRun(t, "a", web), "w")
		past = f.apply(t, intent(past, f.time(t)))
		f.pass(t, time.Minute)
		past = f.apply(t, end(past, store.Healed, ""))
		quiet := f.claim(t, f.newRun(t, "b", web), "w")
		f.apply(t, end(quiet, store.Suppressed, "x")) // sent nothing: no attempt

		target := deployment("db")
		target.NodePool, target.Zone = "pool", "zone"
		active := f.claim(t, f.newRun(t, "c", target), "w")
		active.Disruptive = true
		tr := intent(active, f.time(t))
		tr.Reserve = []guard.Reservation{{Scope: "nodes/c1", TargetKey: "n1"}}
		f.apply(t, tr)
		require.NoError(t, f.SetPause(tctx, guard.Pause{Scope: guard.PausePlaybook, Value: "a", By: "ada", Why: "release"}))

		// One that waits for a person holds its locks and takes no slot.
		f.apply(t, asking(f.claim(t, f.newRun(t, "e", deployment("asks")), "w"), "plan", f.time(t).Add(time.Hour)))

		run := f.claim(t, f.newRun(t, "d", web), "w")
		q := query(run)
		q.PastSince, q.Since = start, f.time(t)
		var seen guard.Ledger
		_, err := f.Admit(tctx, q, run.Fence(), func(l guard.Ledger) (store.Transition, error) {
			seen = l
			return intent(run, l.Now), nil
		})
		require.NoError(t, err)
		require.WithinDuration(t, f.time(t), seen.Now, 10*time.Second)
		require.Equal(t, []guard.Active{{RunID: active.ID, Playbook: "c", Namespace: "shop", TargetKey: active.TargetKey, AttemptKey: active.AttemptKey,
			Kind: action.KindDeployment, NodePool: "pool", Zone: "zone", Disruptive: true}}, seen.Active, "without the run itself")
		require.Equal(t, []guard.Past{{RunID: past.ID, Playbook: "a", Outcome: "healed", Healed: true, Started: past.IntentAt, Ended: past.EndedAt}}, seen.Past)
		require.Len(t, seen.Reservations, 1)
		require.Nil(t, seen.Reservations[0].Released)
		require.Len(t, seen.Pauses, 1)
		require.Equal(t, "ada", seen.Pauses[0].By)
		require.False(t, seen.Pauses[0].At.IsZero())

		q.PastSince = f.time(t).Add(time.Minute)
		later, err := f.Ledger(tctx, q)
		require.NoError(t, err)
		require.Empty(t, later.Past)

		// A reservation counts for evidence from before its release, not after.
		f.apply(t, end(mustRun(t, f, active.ID), store.Healed, ""))
		l, err := f.Ledger(tctx, guard.Query{Since: f.time(t).Add(-time.Minute)})
		require.NoError(t, err)
		require.Len(t, l.Reservations, 1)
		l, err = f.Ledger(tctx, guard.Query{Since: f.time(t).Add(time.Minute)})
		require.NoError(t, err)
		require.Empty(t, l.Reservations)
	})
}

func TestADecisionThatFailsChangesNothing(t *testing.T) {
	contract(t, func(t *testing.T, f *fixture) {
		run := f.claim(t, f.newRun(t, "a", deployment("web")), "w")
		boom := errors.New("boom")
		_, err := f.Admit(tctx, query(run), run.Fence(), func(guard.Ledger) (store.Transition, error) { return store.Transition{}, boom })
		require.ErrorIs(t, err, boom)
		other := run.Fence()
		other.Epoch++
		_, err = f.Admit(tctx, query(run), run.Fence(), func(l guard.Ledger) (store.Transition, error) {
			tr := intent(run, l.Now)
			tr.Fence = other
			return tr, nil
		})
		require.ErrorIs(t, err, store.ErrInvalid)
		require.Panics(t, func() {
			_, _ = f.Admit(tctx, query(run), run.Fence(), func(guard.Ledger) (store.Transition, error) { panic("boom") })
		})
		require.Equal(t, store.Queued, mustRun(t, f, run.ID).Phase)
		f.apply(t, intent(run, f.time(t))) // and the store still works
	})
}
