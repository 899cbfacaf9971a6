package store_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alertmedic/alertmedic/internal/guard"
	"github.com/alertmedic/alertmedic/internal/journal"
	"github.com/alertmedic/alertmedic/internal/store"
)

func TestAClaimIsExclusiveAndFenced(t *testing.T) {
	contract(t, func(t *testing.T, f *fixture) {
		id := f.newRun(t, "a", deployment("web"))
		first := f.claim(t, id, "w1")
		require.False(t, first.TakenOver)
		none, err := f.ClaimRuns(tctx, "w2", time.Minute, 10)
		require.NoError(t, err)
		require.Empty(t, none)

		f.pass(t, 50*time.Second)
		require.Empty(t, f.renew(t, first))
		f.pass(t, 50*time.Second)
		none, err = f.ClaimRuns(tctx, "w2", time.Minute, 10)
		require.NoError(t, err)
		require.Empty(t, none, "the lease was renewed")

		f.pass(t, 11*time.Second)
		second := f.claim(t, id, "w2")
		require.True(t, second.TakenOver)
		require.Greater(t, second.Lease.Epoch, first.Lease.Epoch)
		for name, err := range map[string]error{
			"apply": errOf(f.Apply(tctx, intent(first, f.time(t)))),
			"admit": errOf(f.Admit(tctx, query(first), first.Fence(), func(guard.Ledger) (store.Transition, error) { return intent(first, begun), nil })),
		} {
			require.ErrorIs(t, err, store.ErrFenced, name)
		}
		require.True(t, mustRun(t, f, id).IntentAt.IsZero(), "the fenced worker changed nothing")
		require.Equal(t, store.Lost{id: true}, f.renew(t, first))
		nobody := first
		nobody.Lease.Owner = ""
		require.Equal(t, store.Lost{id: true}, f.renew(t, nobody))
		require.Empty(t, f.renew(t, second))

		rel := store.Transition{Fence: second.Fence(), Run: second, Release: true}
		rel.Run.DueAt = f.time(t).Add(time.Hour)
		require.Empty(t, f.apply(t, rel).Lease.Owner)
		require.ErrorIs(t, errOf(f.Apply(tctx, rel)), store.ErrFenced, "a lease that was given back is over")
		f.pass(t, time.Hour+time.Second)
		require.False(t, f.claim(t, id, "w3").TakenOver)
	})
}

// A worker that takes its own run again after its lease ran out must not be
// overtaken by what it had begun before: the epoch tells the two apart.
func TestAnOwnerIsFencedFromItsOwnEarlierClaim(t *testing.T) {
	contract(t, func(t *testing.T, f *fixture) {
		id := f.newRun(t, "a", deployment("web"))
		first := f.claim(t, id, "w")
		f.pass(t, time.Minute+time.Second)
		second := f.claim(t, id, "w")
		require.ErrorIs(t, errOf(f.Apply(tctx, intent(first, f.time(t)))), store.ErrFenced)
		require.Equal(t, store.Lost{id: true}, f.renew(t, first))
		f.apply(t, intent(second, f.time(t)))
	})
}

func errOf(_ store.Run, err error) error { return err }

func TestConcurrentClaimsShareTheWork(t *testing.T) {
	contract(t, func(t *testing.T, f *fixture) {
		other := f.replica(t)
		for i := range 30 {
			f.newRun(t, "a", deployment(fmt.Sprint("web-", i)))
		}
		var wg sync.WaitGroup
		var mu sync.Mutex
		seen := map[string]int{}
		for i := range 8 {
			s := f.Store
			if i%2 == 1 {
				s = other
			}
			wg.Go(func() {
				for range 10 {
					runs, err := s.ClaimRuns(tctx, fmt.Sprint("w", i), time.Minute, 3)
					if err != nil {
						t.Error(err)
					}
					mu.Lock()
					for _, r := range runs {
						seen[r.ID]++
					}
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		require.Len(t, seen, 30)
		for id, n := range seen {
			require.Equal(t, 1, n, id)
		}
	})
}

func TestATransitionIsOneAtomicChange(t *testing.T) {
	contract(t, func(t *testing.T, f *fixture) {
		blocker := f.claim(t, f.newRun(t, "b", deployment("db")), "w")
		id := f.newRun(t, "a", deployment("web"))
		run := f.claim(t, id, "w")
		tr := intent(blocker, f.time(t))
		tr.Locks = append(tr.Locks, "c1/extra")
		f.apply(t, tr)

		before := len(f.entries(t))
		tr = intent(run, f.time(t))
		tr.Locks = []string{"c1/extra", "c1/a-free-one", run.Target.LockKey()}
		tr.Steps = []store.Step{{Name: "restart", Status: store.StepIntended}}
		tr.Outbox = []store.Message{{Channel: "slack", Key: id, Payload: []byte(`{}`)}}
		tr.Reserve = []guard.Reservation{{Scope: "nodes/c1", TargetKey: "n1"}}
		_, err := f.Apply(tctx, tr)
		var locked *store.LockedError
		require.ErrorAs(t, err, &locked)
		require.Equal(t, store.LockedError{Key: "c1/extra", HolderRun: blocker.ID}, *locked)
		require.Len(t, f.entries(t), before, "all or nothing")
		require.Equal(t, store.Queued, mustRun(t, f, id).Phase)
		steps, err := f.Steps(tctx, id)
		require.NoError(t, err)
		require.Empty(t, steps)

		tr.Locks = []string{"c1/a-free-one", run.Target.LockKey()}
		got := f.apply(t, tr)
		require.Equal(t, store.Active, got.Phase)
		require.Equal(t, run.Lease.Owner, got.Lease.Owner, "the lease stays without Release")
		steps, err = f.Steps(tctx, id)
		require.NoError(t, err)
		require.Equal(t, []store.Step{{RunID: id, Name: "restart", Status: store.StepIntended}}, steps)

		// What was set once stays, whatever a later row says.
		later := got
		later.IntentAt, later.AdmittedAt, later.Remedy = time.Time{}, f.time(t).Add(time.Hour), 1
		after := f.apply(t, store.Transition{Fence: got.Fence(), Run: later, Steps: []store.Step{{Name: "restart", Status: store.StepDone}, {Remedy: 1, Name: "undo"}}})
		require.Equal(t, got.IntentAt, after.IntentAt)
		require.Equal(t, got.AdmittedAt, after.AdmittedAt)
		require.Equal(t, 1, after.Remedy)
		steps, err = f.Steps(tctx, id)
		require.NoError(t, err)
		require.Len(t, steps, 2)
		require.Equal(t, store.StepDone, steps[0].Status)

		ended := f.apply(t, end(after, store.NotHealed, "ladder-exhausted"))
		require.Empty(t, ended.Lease.Owner)
		require.False(t, ended.EndedAt.IsZero())
		l, err := f.Ledger(tctx, guard.Query{AttemptKey: run.AttemptKey, Since: f.time(t).Add(-time.Minute)})
		require.NoError(t, err)
		require.Len(t, l.Reservations, 1)
		require.NotNil(t, l.Reservations[0].Released)
		require.Equal(t, []guard.Past{{RunID: id, Playbook: "a", Outcome: "not-healed", Started: got.IntentAt, Ended: ended.EndedAt}}, l.Past)

		bad := intent(blocker, f.time(t))
		bad.Entries = []journal.Entry{{Kind: journal.StepDone, Data: []byte("{")}}
		require.ErrorIs(t, errOf(f.Apply(tctx, bad)), store.ErrInvalid)
	})
}

func TestLockedRunsArePassedOverAndWokenByTheRelease(t *testing.T) {
	contract(t, func(t *testing.T, f *fixture) {
		web := deployment("web")
		holder := f.apply(t, intent(f.claim(t, f.newRun(t, "a", web), "w"), f.time(t)))
		waiting := f.newRun(t, "b", web)
		runs, err := f.ClaimRuns(tctx, "w2", time.Minute, 10)
		require.NoError(t, err)
		require.Empty(t, runs)
		pushed := mustRun(t, f, waiting)
		require.Equal(t, store.WaitLock, pushed.Wait)
		require.True(t, pushed.DueAt.After(f.time(t)))
		counts, err := f.CountRuns(tctx)
		require.NoError(t, err)
		require.Equal(t, map[store.RunCount]int{{Phase: store.Active, Playbook: "a"}: 1, {Phase: store.Queued, Wait: store.WaitLock, Playbook: "b"}: 1}, counts)

		changed := f.Changed()
		f.apply(t, end(holder, store.Healed, ""))
		select {
		case <-changed:
		case <-t.Context().Done():
			t.Fatal("nobody was woken")
		}
		f.claim(t, waiting, "w2")
	})
}

func TestALockedRunEndsInTimeOnceExpired(t *testing.T) {
	contract(t, func(t *testing.T, f *fixture) {
		web := deployment("web")
		f.apply(t, intent(f.claim(t, f.newRun(t, "a", web), "w"), f.time(t)))
		waiting := f.newRun(t, "b", web)
		f.pass(t, time.Hour+time.Second)
		f.claim(t, waiting, "w2")
	})
}

func TestContendedLocksGoToOneRunAtATime(t *testing.T) {
	contract(t, func(t *testing.T, f *fixture) {
		other := f.replica(t)
		const n = 12
		runs := make([]store.Run, n)
		for i := range runs {
			runs[i] = f.claim(t, f.newRun(t, "a", deployment(fmt.Sprint("web-", i))), fmt.Sprint("w", i))
		}
		won := make([]bool, n)
		var wg sync.WaitGroup
		for i, r := range runs {
			s := f.Store
			if i%2 == 1 {
				s = other
			}
			wg.Go(func() {
				tr := intent(r, begun)
				tr.Locks = []string{"shared/1", "shared/2", "shared/3"}
				if i%3 == 0 {
					tr.Locks = []string{"shared/3", "shared/1"}
				}
				_, err := s.Apply(tctx, tr)
				var locked *store.LockedError
				switch {
				case err == nil:
					won[i] = true
				case !asErr(err, &locked):
					t.Error(err)
				}
			})
		}
		wg.Wait()
		wins := 0
		for _, w := range won {
			if w {
				wins++
			}
		}
		require.Equal(t, 1, wins)
	})
}

func TestRunsAreListedByFilterAndFoundByPrefix(t *testing.T) {
	contract(t, func(t *testing.T, f *fixture) {
		var ids []string
		for i := range 7 {
			ids = append(ids, f.newRun(t, fmt.Sprint("pb-", i%2), deployment(fmt.Sprint("web-", i))))
		}
		seen := map[string]bool{}
		page := store.Page{Limit: 2}
		for {
			items, next, err := f.Runs(tctx, store.RunFilter{}, page)
			require.NoError(t, err)
			for _, r := range items {
				require.False(t, seen[r.ID])
				seen[r.ID] = true
			}
			if len(seen) == 4 { // what is added meanwhile neither repeats nor hides anything
				f.newRun(t, "new", deployment("new"))
			}
			if next == "" {
				break
			}
			page.Cursor = next
		}
		require.Len(t, seen, 8)
		newest, next, err := f.Runs(tctx, store.RunFilter{Playbook: "pb-0"}, store.Page{Limit: 1, Descending: true})
		require.NoError(t, err)
		require.Equal(t, ids[6], newest[0].ID)
		_, _, err = f.Runs(tctx, store.RunFilter{}, store.Page{Cursor: next})
		require.ErrorIs(t, err, store.ErrBadCursor, "a cursor belongs to its order")
		for _, bad := range []string{"x", "!!", "MXxydW5zfGZhbHNlfHh8eA", "MXxsb2d8ZmFsc2V8MXw"} {
			_, _, err = f.Runs(tctx, store.RunFilter{}, store.Page{Cursor: bad})
			require.ErrorIs(t, err, store.ErrBadCursor, bad)
		}
		for _, filter := range []store.RunFilter{{TargetName: "web-3"}, {TargetName: "web-3", Kind: "Deployment", Namespace: "shop", AlertName: "Broken", Phase: "queued", Since: f.time(t).Add(-time.Hour), Until: f.time(t).Add(time.Hour)}} {
			items, _, err := f.Runs(tctx, filter, store.Page{})
			require.NoError(t, err)
			require.Len(t, items, 1)
			require.Equal(t, ids[3], items[0].ID)
		}
		none, _, err := f.Runs(tctx, store.RunFilter{Outcome: "healed"}, store.Page{})
		require.NoError(t, err)
		require.Empty(t, none)

		got, err := f.FindRun(tctx, ids[2])
		require.NoError(t, err)
		require.Equal(t, ids[2], got.ID)
		_, err = f.FindRun(tctx, ids[2][:2])
		require.ErrorIs(t, err, store.ErrAmbiguous)
		require.ErrorContains(t, err, ids[0])
		for _, none := range []string{"zz", "%", "_", "\x00"} {
			_, err = f.FindRun(tctx, none)
			require.ErrorIs(t, err, store.ErrNotFound, none)
		}
		_, err = f.FindRun(tctx, "")
		require.ErrorIs(t, err, store.ErrInvalid)
		_, err = f.Run(tctx, "nope")
		require.ErrorIs(t, err, store.ErrNotFound)
	})
}
