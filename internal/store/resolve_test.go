package store_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alertmedic/alertmedic/internal/action"
	"github.com/alertmedic/alertmedic/internal/journal"
	"github.com/alertmedic/alertmedic/internal/store"
)

func TestCandidatesJoinUntilTheFirstIntentAndAreAttachedAfter(t *testing.T) {
	contract(t, func(t *testing.T, f *fixture) {
		pb, web := playbook("a", 0), deployment("web")
		f.accept(t, firing("x", pb))
		f.pass(t, time.Minute)
		f.accept(t, firing("y", pb), firing("z", pb))
		cands := f.candidates(t, 10)
		require.Len(t, cands, 3)
		require.Equal(t, "x", cands[0].Episode.Signal.Fingerprint, "the longest due first")

		second := f.resolve(t, cands[1], web)
		require.True(t, second.Created)
		first := f.resolve(t, cands[0], web)
		require.Equal(t, store.ResolveResult{RunID: second.RunID}, first)
		require.Equal(t, cands[0].Episode.OpenedAt, mustRun(t, f, first.RunID).FiredAt, "the earliest firing counts")

		run := f.claim(t, first.RunID, "w")
		require.Equal(t, store.Queued, run.Phase)
		require.JSONEq(t, `{"stage":"plan"}`, string(run.State))
		require.Equal(t, web, run.Target)
		f.apply(t, intent(run, f.time(t)))
		third := f.resolve(t, cands[2], web)
		require.Equal(t, store.ResolveResult{RunID: run.ID, Attached: true}, third)

		joined, err := f.RunCandidates(tctx, run.ID)
		require.NoError(t, err)
		require.Len(t, joined, 3)
		require.Equal(t, []bool{false, false, true}, []bool{joined[0].Attached, joined[1].Attached, joined[2].Attached})
		require.Equal(t, "x", joined[0].Episode.Alert.Labels["fp"])

		f.apply(t, end(mustRun(t, f, run.ID), store.Healed, ""))
		f.accept(t, firing("late", pb))
		require.True(t, f.resolve(t, f.candidates(t, 1)[0], web).Created, "an ended run is not joined")
		var kinds []journal.Kind
		for _, e := range f.entries(t) {
			if e.RunID != "" {
				kinds = append(kinds, e.Kind)
			}
		}
		require.Equal(t, []journal.Kind{journal.RunCreated, journal.RunJoined, journal.StepIntent, journal.RunAttached, journal.RunEnded, journal.RunCreated}, kinds)
	})
}

// A run that was made for a workload takes the pod that a later alert names, as
// long as it has not begun; the first pod stays.
func TestARunTakesThePodOfAnAlertThatJoins(t *testing.T) {
	contract(t, func(t *testing.T, f *fixture) {
		pb, web := playbook("a", 0), deployment("web")
		f.accept(t, firing("x", pb))
		f.pass(t, time.Minute)
		f.accept(t, firing("y", pb), firing("z", pb))
		cands := f.candidates(t, 10)
		run := f.resolve(t, cands[0], web)
		named := func(pod string) action.Target {
			out := web
			out.Pod, out.Container = &action.Ref{Kind: action.KindPod, Namespace: "shop", Name: pod, UID: "uid-" + pod}, "app"
			return out
		}
		f.resolve(t, cands[1], named("web-1"))
		require.Equal(t, named("web-1"), mustRun(t, f, run.RunID).Target)
		f.resolve(t, cands[2], named("web-2"))
		require.Equal(t, named("web-1"), mustRun(t, f, run.RunID).Target)
	})
}

func TestConcurrentResolutionsMakeOneRun(t *testing.T) {
	contract(t, func(t *testing.T, f *fixture) {
		other := f.replica(t)
		for i := range 20 {
			f.accept(t, firing(fmt.Sprint("fp-", i), playbook("a", 0)))
		}
		cands := f.candidates(t, 100)
		ids := make([]string, len(cands))
		created := make([]bool, len(cands))
		var wg sync.WaitGroup
		for i, c := range cands {
			s := f.Store
			if i%2 == 1 {
				s = other
			}
			wg.Go(func() {
				res, err := s.ResolveCandidate(tctx, c, template(c, deployment("web")))
				if err != nil {
					t.Error(err)
				}
				ids[i], created[i] = res.RunID, res.Created
			})
		}
		wg.Wait()
		n := 0
		for i := range ids {
			require.Equal(t, ids[0], ids[i])
			if created[i] {
				n++
			}
		}
		require.Equal(t, 1, n)
	})
}

func TestPrecedenceWithinAnEpisode(t *testing.T) {
	web, db := deployment("web"), deployment("db")
	three := func(f *fixture, t *testing.T) []store.Candidate {
		f.accept(t, firing("x", playbook("low", 1), playbook("high-b", 9), playbook("high-a", 9)))
		cands := f.candidates(t, 10)
		require.Equal(t, []string{"high-a", "high-b", "low"}, []string{cands[0].Playbook, cands[1].Playbook, cands[2].Playbook})
		return cands
	}
	t.Run("the highest priority wins, then the name", func(t *testing.T) {
		contract(t, func(t *testing.T, f *fixture) {
			cands := three(f, t)
			won := f.resolve(t, cands[0], web)
			for _, c := range cands[1:] {
				res := f.resolve(t, c, web)
				require.True(t, res.Superseded)
				require.Equal(t, "high-a", res.Winner)
			}
			all, err := f.EpisodeCandidates(tctx, cands[0].EpisodeID)
			require.NoError(t, err)
			require.Equal(t, []store.Outcome{store.Joined, store.Superseded, store.Superseded}, []store.Outcome{all[0].Outcome, all[1].Outcome, all[2].Outcome})
			require.Equal(t, "high-a", all[2].Reason)
			runs, _, err := f.Runs(tctx, store.RunFilter{}, store.Page{})
			require.NoError(t, err)
			require.Len(t, runs, 1)
			require.Equal(t, won.RunID, runs[0].ID)
		})
	})
	t.Run("whatever the order", func(t *testing.T) {
		contract(t, func(t *testing.T, f *fixture) {
			cands := three(f, t)
			require.True(t, f.resolve(t, cands[2], web).Deferred)
			require.Empty(t, f.candidates(t, 10), "it waits for the others")
			_, err := f.ResolveCandidate(tctx, cands[0], store.Resolution{Outcome: store.Failed, Reason: "gone"})
			require.NoError(t, err)
			again := f.candidates(t, 10)
			require.Len(t, again, 1, "woken by the first of them")
			require.Zero(t, again[0].Attempts, "a deferral is no attempt")
			require.True(t, f.resolve(t, again[0], web).Deferred, "the second is not resolved yet")
			f.resolve(t, cands[1], web)
			again = f.candidates(t, 10)
			require.Len(t, again, 1)
			require.Equal(t, "high-b", f.resolve(t, again[0], web).Winner)
		})
	})
	t.Run("on other targets all run", func(t *testing.T) {
		contract(t, func(t *testing.T, f *fixture) {
			cands := three(f, t)
			require.True(t, f.resolve(t, cands[0], web).Created)
			require.True(t, f.resolve(t, cands[1], db).Created)
			require.True(t, f.resolve(t, cands[2], deployment("third")).Created)
		})
	})
	t.Run("one that failed to resolve is no winner", func(t *testing.T) {
		contract(t, func(t *testing.T, f *fixture) {
			cands := three(f, t)
			for _, c := range cands[:2] {
				_, err := f.ResolveCandidate(tctx, c, store.Resolution{Outcome: store.Failed, Reason: "gone", Message: "no such object"})
				require.NoError(t, err)
			}
			require.True(t, f.resolve(t, cands[2], web).Created)
		})
	})
	t.Run("a healed or admitted run still wins, a suppressed one does not", func(t *testing.T) {
		for outcome, wins := range map[store.Outcome]bool{store.Healed: true, store.Suppressed: false} {
			t.Run(string(outcome), func(t *testing.T) {
				contract(t, func(t *testing.T, f *fixture) {
					cands := three(f, t)
					run := f.claim(t, f.resolve(t, cands[0], web).RunID, "w")
					f.apply(t, end(run, outcome, "x"))
					require.Equal(t, wins, f.resolve(t, cands[1], web).Superseded)
				})
			})
		}
	})
	t.Run("not exclusive, not superseded", func(t *testing.T) {
		contract(t, func(t *testing.T, f *fixture) {
			low := playbook("low", 1)
			low.Exclusive = false
			f.accept(t, firing("x", low, playbook("high", 9)))
			cands := f.candidates(t, 10)
			require.True(t, f.resolve(t, cands[1], web).Created)
			require.True(t, f.resolve(t, cands[0], web).Created)
			runs, _, err := f.Runs(tctx, store.RunFilter{Phase: "queued"}, store.Page{})
			require.NoError(t, err)
			require.Len(t, runs, 2)
		})
	})
}

func TestAPlaybookAddedLaterSupersedesAQueuedRun(t *testing.T) {
	web := deployment("web")
	low, high := playbook("low", 1), playbook("high", 9)
	start := func(t *testing.T, f *fixture) (string, store.Candidate) {
		f.accept(t, firing("x", low))
		id := f.resolve(t, f.candidates(t, 1)[0], web).RunID
		f.accept(t, firing("x", low, high))
		return id, f.candidates(t, 1)[0]
	}
	t.Run("queued", func(t *testing.T) {
		contract(t, func(t *testing.T, f *fixture) {
			id, c := start(t, f)
			held := f.claim(t, id, "w")
			res := f.resolve(t, c, web)
			require.Equal(t, []string{id}, res.EndedRuns)
			run := mustRun(t, f, id)
			require.Equal(t, store.Superseded, run.Outcome)
			require.False(t, run.EndedAt.IsZero())
			_, err := f.Apply(tctx, intent(held, f.time(t)))
			require.ErrorIs(t, err, store.ErrFenced, "the worker that held it is fenced off")
			kinds := f.kinds(t)
			require.Equal(t, journal.RunEnded, kinds[len(kinds)-1])
		})
	})
	t.Run("admitted", func(t *testing.T) {
		contract(t, func(t *testing.T, f *fixture) {
			id, c := start(t, f)
			f.apply(t, intent(f.claim(t, id, "w"), f.time(t)))
			require.Empty(t, f.resolve(t, c, web).EndedRuns)
			require.Equal(t, store.Active, mustRun(t, f, id).Phase)
		})
	})
	t.Run("needed by another episode", func(t *testing.T) {
		contract(t, func(t *testing.T, f *fixture) {
			id, c := start(t, f)
			f.accept(t, firing("y", low))
			require.Equal(t, id, f.resolve(t, f.candidates(t, 1)[0], web).RunID)
			require.Empty(t, f.resolve(t, c, web).EndedRuns)
			require.Equal(t, store.Queued, mustRun(t, f, id).Phase)
		})
	})
}

func TestResolutionIsFencedAndChecked(t *testing.T) {
	contract(t, func(t *testing.T, f *fixture) {
		f.accept(t, firing("x", playbook("a", 0)))
		old := f.candidates(t, 1)[0]
		require.Empty(t, f.candidates(t, 1), "leased")
		f.pass(t, time.Minute+time.Second)
		now := f.candidates(t, 1)[0]
		require.Greater(t, now.Lease.Epoch, old.Lease.Epoch)
		_, err := f.ResolveCandidate(tctx, old, template(old, deployment("web")))
		require.ErrorIs(t, err, store.ErrFenced)

		_, err = f.ResolveCandidate(tctx, now, store.Resolution{})
		require.ErrorIs(t, err, store.ErrInvalid)
		empty := template(now, deployment("web"))
		empty.Run.Target.Name = ""
		_, err = f.ResolveCandidate(tctx, now, empty)
		require.ErrorIs(t, err, store.ErrInvalid, "an empty target never means everything")

		_, err = f.ResolveCandidate(tctx, now, store.Resolution{RetryAt: f.time(t).Add(time.Minute), Entries: []journal.Entry{{Kind: journal.StepObserved}}})
		require.NoError(t, err)
		require.Empty(t, f.candidates(t, 1))
		next, ok, err := f.NextDue(tctx)
		require.NoError(t, err)
		require.True(t, ok)
		require.WithinDuration(t, f.time(t).Add(time.Minute), next, 10*time.Second)
		f.pass(t, time.Minute)
		again := f.candidates(t, 1)[0]
		require.Equal(t, 1, again.Attempts)
		_, err = f.ResolveCandidate(tctx, again, store.Resolution{Outcome: store.Failed, Reason: "gone", Message: "why"})
		require.NoError(t, err)
		_, err = f.ResolveCandidate(tctx, again, store.Resolution{Outcome: store.Failed})
		require.ErrorIs(t, err, store.ErrFenced, "it has ended")
		entries := f.entries(t)
		last := entries[len(entries)-1]
		require.Equal(t, []any{journal.CandidateEnded, "failed", "gone", "why", again.ID}, []any{last.Kind, last.Outcome, last.Reason, last.Message, last.CandidateID})
	})
}

// A claim that is given back can be claimed again at once; one that was lost, or
// whose candidate has met its fate, cannot be given back.
func TestReleasedCandidateIsClaimedAgainAtOnce(t *testing.T) {
	contract(t, func(t *testing.T, f *fixture) {
		f.accept(t, firing("x", playbook("a", 0)))
		first := f.candidates(t, 1)[0]
		none, err := f.ClaimCandidates(tctx, "other", time.Minute, 1)
		require.NoError(t, err)
		require.Empty(t, none)
		require.NoError(t, f.ReleaseCandidate(tctx, first))
		second := f.candidates(t, 1)[0]
		require.Equal(t, first.ID, second.ID)
		require.ErrorIs(t, f.ReleaseCandidate(tctx, first), store.ErrFenced, "claimed by another since")
		f.resolve(t, second, deployment("web"))
		require.ErrorIs(t, f.ReleaseCandidate(tctx, second), store.ErrFenced, "resolved since")
	})
}
