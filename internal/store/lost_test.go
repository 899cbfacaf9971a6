package store_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alertmedic/alertmedic/internal/guard"
	"github.com/alertmedic/alertmedic/internal/journal"
	"github.com/alertmedic/alertmedic/internal/store"
)

// A run whose workers are lost one after another waits longer and longer, and
// counts them, until one gets on with it.
func TestLostClaimsAreCountedAndSlowedDown(t *testing.T) {
	contract(t, func(t *testing.T, f *fixture) {
		id := f.newRun(t, "a", deployment("web"))
		claim := func() []store.Run {
			runs, err := f.ClaimRuns(tctx, "w", time.Second, 10)
			require.NoError(t, err)
			return runs
		}
		require.Zero(t, claim()[0].WorkersLost)
		for lost, wait := range []time.Duration{1, 1, 1, 2, 4, 8, 16, 32, 60, 60, 60} { // seconds; the lease is one
			if wait > 1 {
				f.pass(t, wait*time.Second-500*time.Millisecond)
				require.Empty(t, claim(), "after %d", lost)
				f.pass(t, time.Second)
			} else {
				f.pass(t, 1500*time.Millisecond)
			}
			runs := claim()
			require.Len(t, runs, 1, "after %d", lost)
			require.True(t, runs[0].TakenOver)
			require.Equal(t, lost+1, runs[0].WorkersLost)
			require.False(t, runs[0].DueAt.After(f.time(t)), "it is due")
		}
		f.pass(t, 2*time.Minute)
		run := claim()[0]
		run = f.apply(t, store.Transition{Fence: run.Fence(), Run: run})
		require.False(t, run.TakenOver)
		require.Equal(t, 12, run.WorkersLost, "that it recorded something says nothing about what comes next")
		f.apply(t, store.Transition{Fence: run.Fence(), Run: run, Release: true, StillLost: true})
		run = claim()[0]
		require.False(t, run.TakenOver)
		require.Equal(t, 12, run.WorkersLost)
		f.apply(t, store.Transition{Fence: run.Fence(), Run: run, Release: true})
		require.Zero(t, claim()[0].WorkersLost, "it got on")
		f.pass(t, 2*time.Second)
		require.Equal(t, 1, claim()[0].WorkersLost, "the next may take over soon again")
		require.Equal(t, id, run.ID)
	})
}

// The candidates of a run that ends for want of its target are queued again, and
// no others.
func TestCandidatesAreQueuedAgain(t *testing.T) {
	contract(t, func(t *testing.T, f *fixture) {
		ends := func(id string) {
			tr := end(f.claim(t, id, "w1"), store.Suppressed, string(guard.ReasonTargetReplaced))
			tr.RequeueAt = f.time(t).Add(time.Minute)
			f.apply(t, tr)
		}
		first := f.newRun(t, "a", deployment("web"))
		ends(first)
		require.Empty(t, f.candidates(t, 10), "not before its time")
		f.pass(t, 61*time.Second)
		again := f.candidates(t, 10)
		require.Len(t, again, 1)
		require.Zero(t, again[0].Attempts, "those of a new search")
		require.Equal(t, 1, again[0].Requeues)
		require.Empty(t, again[0].RunID)
		require.Contains(t, f.kinds(t), journal.CandidateRequeued)
		for n := range store.MaxRequeues {
			require.Equal(t, n+1, again[0].Requeues)
			if n == 2 { // an outage uses up attempts, and nothing else
				for range 20 {
					_, err := f.ResolveCandidate(tctx, again[0], store.Resolution{RetryAt: f.time(t), Message: "the API server is away"})
					require.NoError(t, err)
					again = f.candidates(t, 10)
				}
			}
			due := f.time(t).Add(time.Minute)
			res := f.resolve(t, again[0], deployment("web"))
			require.True(t, res.Created)
			ends(res.RunID)
			f.pass(t, 61*time.Second)
			again = f.candidates(t, 10)
			require.Equal(t, n+1 < store.MaxRequeues, len(again) == 1, n)
			if len(again) == 1 {
				require.WithinDuration(t, due, again[0].RequeuedAt, 5*time.Second)
			}
		}
		require.Empty(t, again, "it is not queued for ever")
	})
}

// A candidate that has expired, or whose alert has resolved, ends with its run.
func TestCandidatesThatAreOverAreNotQueuedAgain(t *testing.T) {
	contract(t, func(t *testing.T, f *fixture) {
		for _, c := range []struct {
			name string
			over func(fp string)
		}{
			{"resolved", func(fp string) { f.accept(t, resolved(fp, f.time(t))) }},
			{"expired", func(string) { f.pass(t, 2*time.Hour) }},
			{"neither", func(string) {}},
		} {
			run := f.claim(t, f.newRun(t, c.name, deployment("web")), "w1")
			c.over("fp-" + c.name + "-web")
			run, err := f.Run(tctx, run.ID)
			require.NoError(t, err)
			if !run.Lease.Until.After(f.time(t)) {
				run = f.claim(t, run.ID, "w1")
			}
			tr := end(run, store.Suppressed, string(guard.ReasonTargetGone))
			tr.RequeueAt = f.time(t).Add(time.Second)
			f.apply(t, tr)
			f.pass(t, 2*time.Second)
			require.Equal(t, c.name == "neither", len(f.candidates(t, 10)) == 1, c.name)
		}
	})
}

// An alert that comes back is about what is there by now: candidates that had lost
// their target are queued again, and their count begins anew.
func TestALostTargetIsLookedForWhenTheAlertComesBack(t *testing.T) {
	contract(t, func(t *testing.T, f *fixture) {
		back := func(fp string, pb store.MatchedPlaybook) {
			f.accept(t, resolved(fp, f.time(t)))
			f.pass(t, time.Second)
			require.Equal(t, 1, f.accept(t, firing(fp, pb)).Reopened)
		}
		for _, reason := range []string{string(guard.ReasonTargetReplaced), string(guard.ReasonTargetGone)} {
			t.Run(reason, func(t *testing.T) {
				pb, fp := playbook("run-"+reason, 0), "fp-run-"+reason
				f.accept(t, firing(fp, pb))
				run := f.claim(t, f.resolve(t, f.candidates(t, 1)[0], deployment("web")).RunID, "w1")
				f.accept(t, resolved(fp, f.time(t)))
				tr := end(run, store.Suppressed, reason)
				tr.RequeueAt = f.time(t)
				f.apply(t, tr)
				require.Empty(t, f.candidates(t, 10), "it has resolved")
				f.pass(t, time.Second)
				require.Equal(t, 1, f.accept(t, firing(fp, pb)).Reopened)
				again := f.candidates(t, 10)
				require.Len(t, again, 1)
				require.Zero(t, again[0].Requeues)

				pb, fp = playbook("none-"+reason, 0), "fp-none-"+reason
				f.accept(t, firing(fp, pb))
				_, err := f.ResolveCandidate(tctx, f.candidates(t, 1)[0], store.Resolution{Outcome: store.Failed, Reason: reason})
				require.NoError(t, err)
				back(fp, pb)
				require.Len(t, f.candidates(t, 10), 1, "a candidate for which no target was found")
			})
		}
		pb := playbook("other", 0)
		f.accept(t, firing("fp-other", pb))
		_, err := f.ResolveCandidate(tctx, f.candidates(t, 1)[0], store.Resolution{Outcome: store.Failed, Reason: "ambiguous"})
		require.NoError(t, err)
		back("fp-other", pb)
		require.Empty(t, f.candidates(t, 10), "what failed for another reason stays so")
	})
}
