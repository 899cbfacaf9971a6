package store_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/alertmedic/alertmedic/internal/journal"
	"github.com/alertmedic/alertmedic/internal/store"
)

func TestConcurrentCopiesOfAWebhookOpenOneEpisode(t *testing.T) {
	contract(t, func(t *testing.T, f *fixture) {
		other := f.replica(t)
		batch := store.Batch{}
		for i := range 5 {
			batch.Observations = append(batch.Observations, firing(fmt.Sprint("fp-", i), playbook("a", 0), playbook("b", 1)))
		}
		var wg sync.WaitGroup
		var mu sync.Mutex
		var sum store.AcceptResult
		for i := range 100 {
			s := f.Store
			b := batch
			if i%2 == 1 {
				s = other
				// HA peers list the alerts in another order.
				b = store.Batch{Observations: append([]store.Observation{}, batch.Observations[3], batch.Observations[4], batch.Observations[0], batch.Observations[2], batch.Observations[1])}
			}
			wg.Go(func() {
				res, err := s.Accept(tctx, b)
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				sum.Opened += res.Opened
				sum.Candidates += res.Candidates
				sum.Repeated += res.Repeated
			})
		}
		wg.Wait()
		require.Equal(t, store.AcceptResult{Opened: 5, Candidates: 10, Repeated: 495}, sum)
		open, err := f.OpenEpisodes(tctx, "am")
		require.NoError(t, err)
		require.Len(t, open, 5)
		require.Len(t, f.candidates(t, 100), 10)
		require.Len(t, f.entries(t), 10, "a repeat writes no entry")
	})
}

func TestFolding(t *testing.T) {
	contract(t, func(t *testing.T, f *fixture) {
		pb := playbook("a", 0)
		start := f.time(t)

		require.Equal(t, store.AcceptResult{Orphaned: 1}, f.accept(t, resolved("x", start)), "resolved, never seen firing")
		require.Equal(t, store.AcceptResult{Repeated: 1}, f.accept(t, resolved("x", start)), "and once only")
		require.Equal(t, store.AcceptResult{Opened: 1, Candidates: 1}, f.accept(t, firing("x", pb)))

		again := firing("x", pb, playbook("added-later", 3))
		again.Alert.StartsAt = begun.Add(time.Minute)
		require.Equal(t, store.AcceptResult{Repeated: 1, Candidates: 1}, f.accept(t, again), "a new playbook is queued, the old one is not doubled")
		open, err := f.OpenEpisodes(tctx, "")
		require.NoError(t, err)
		require.Len(t, open, 1)
		require.Equal(t, begun.Add(time.Minute), open[0].Alert.StartsAt.UTC(), "startsAt is an attribute")

		require.Equal(t, store.AcceptResult{Stale: 1}, f.accept(t, resolved("x", begun.Add(30*time.Second))), "ended before what fires now began")
		require.Equal(t, store.AcceptResult{Stale: 1}, f.accept(t, resolved("x", start.Add(-6*time.Minute))), "ended long before the episode was opened")
		require.Equal(t, store.AcceptResult{Closed: 1}, f.accept(t, resolved("x", start.Add(-time.Minute))), "clocks differ a little")
		require.Equal(t, store.AcceptResult{Repeated: 1}, f.accept(t, resolved("x", start)))

		f.pass(t, dwell/2)
		require.Equal(t, store.AcceptResult{Reopened: 1}, f.accept(t, firing("x", pb)))
		ep, err := f.Episode(tctx, open[0].ID)
		require.NoError(t, err)
		require.True(t, ep.Open)
		require.True(t, ep.ClosedAt.IsZero())

		require.Equal(t, store.AcceptResult{Closed: 1}, f.accept(t, resolved("x", time.Time{})))
		f.pass(t, dwell)
		require.Equal(t, store.AcceptResult{Opened: 1, Candidates: 1}, f.accept(t, firing("x", pb)), "after the dwell time it is another episode")

		require.Equal(t, []journal.Kind{journal.AlertOrphan, journal.EpisodeOpened, journal.CandidateCreated, journal.EpisodeClosed,
			journal.EpisodeReopened, journal.EpisodeClosed, journal.EpisodeOpened}, f.kinds(t))
		_, err = f.Episode(tctx, "nope")
		require.ErrorIs(t, err, store.ErrNotFound)
	})
}

func TestSourcesAreApart(t *testing.T) {
	contract(t, func(t *testing.T, f *fixture) {
		a, b := firing("x", playbook("a", 0)), firing("x", playbook("a", 0))
		b.Source = "other"
		require.Equal(t, store.AcceptResult{Opened: 2, Candidates: 2}, f.accept(t, a, b))
		open, err := f.OpenEpisodes(tctx, "other")
		require.NoError(t, err)
		require.Len(t, open, 1)
	})
}

func TestUnmatchedAlertIsJournalledOnce(t *testing.T) {
	contract(t, func(t *testing.T, f *fixture) {
		require.Equal(t, store.AcceptResult{Opened: 1, Unmatched: 1}, f.accept(t, firing("x")))
		require.Equal(t, store.AcceptResult{Repeated: 1}, f.accept(t, firing("x")))
		require.Equal(t, []journal.Kind{journal.EpisodeOpened, journal.AlertUnmatched}, f.kinds(t))
	})
}

// The entry that opens an episode names the first of its candidates; each further
// one has an entry of its own, whenever it comes.
func TestEachCandidateIsToldOfOnce(t *testing.T) {
	contract(t, func(t *testing.T, f *fixture) {
		first, second, third := playbook("first", 2), playbook("second", 1), playbook("third", 0)
		f.accept(t, firing("x", first, second), firing("x", first, third), firing("none"))
		f.accept(t, firing("x", first, second, third), firing("none", first))
		var told []string
		byID := map[string]string{}
		for _, e := range f.entries(t) {
			if e.CreatesCandidate() {
				told = append(told, string(e.Kind)+" "+e.Fingerprint+" "+e.Playbook)
				byID[e.CandidateID] = e.Playbook
			}
		}
		require.Equal(t, []string{"episode.opened x first", "candidate.created x second", "candidate.created x third", "candidate.created none first"}, told)
		cands := f.candidates(t, 10)
		require.Len(t, cands, len(told))
		for _, c := range cands {
			require.Equal(t, c.Playbook, byID[c.ID])
		}
		found, _, err := f.Log(tctx, store.LogFilter{Playbook: "first", Fingerprint: "x"}, store.Page{})
		require.NoError(t, err)
		require.Len(t, found, 1)
	})
}

func TestReopeningQueuesAgainWhatWasSuppressedByTheResolution(t *testing.T) {
	contract(t, func(t *testing.T, f *fixture) {
		f.accept(t, firing("x", playbook("ended", 9), playbook("ran", 8), playbook("refused", 7), playbook("sent", 6), playbook("other-reason", 5)))
		cands := f.candidates(t, 10)
		require.Len(t, cands, 5)
		for i, c := range cands {
			if c.Playbook == "ended" || c.Playbook == "other-reason" {
				reason := map[string]string{"ended": "resolved", "other-reason": "condition"}[c.Playbook]
				_, err := f.ResolveCandidate(tctx, c, store.Resolution{Outcome: store.Suppressed, Reason: reason})
				require.NoError(t, err)
				continue
			}
			f.resolve(t, c, deployment(fmt.Sprint("web-", i)))
		}
		runs, err := f.ClaimRuns(tctx, "w", time.Minute, 10)
		require.NoError(t, err)
		for _, r := range runs {
			switch r.Playbook {
			case "ran":
				f.apply(t, end(r, store.Suppressed, "resolved"))
			case "refused": // the API server refused all that it sent
				f.apply(t, end(f.apply(t, intent(r, f.time(t))), store.Suppressed, "resolved"))
			case "sent": // what may have changed something is never ended as suppressed
				f.apply(t, end(f.apply(t, intent(r, f.time(t))), store.Escalated, "resolved"))
			}
		}
		f.accept(t, resolved("x", time.Time{}))
		require.Empty(t, f.candidates(t, 10))
		f.pass(t, time.Second)
		require.Equal(t, 1, f.accept(t, firing("x")).Reopened)
		var names []string
		for _, c := range f.candidates(t, 10) {
			names = append(names, c.Playbook)
			require.Equal(t, time.Hour, c.ExpiresAt.Sub(c.CreatedAt))
			require.Empty(t, c.RunID)
		}
		require.Equal(t, []string{"ended", "ran", "refused"}, names, "for these nothing was changed")
	})
}

func TestABadBatchFailsAlone(t *testing.T) {
	contract(t, func(t *testing.T, f *fixture) {
		var wg sync.WaitGroup
		for i := range 40 {
			wg.Go(func() {
				o := firing(fmt.Sprint("fp-", i), playbook("a", 0))
				batch := store.Batch{Observations: []store.Observation{o}}
				if i%4 == 0 {
					batch.Observations = append(batch.Observations, store.Observation{Source: "am"})
				}
				if i%4 == 1 {
					batch.Rejected = []journal.Entry{{Kind: journal.AlertRejected, Data: []byte("{")}}
				}
				_, err := f.Accept(tctx, batch)
				if i%4 < 2 {
					if !isErr(err, store.ErrInvalid) {
						t.Errorf("batch %d: %v", i, err)
					}
				} else if err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		open, err := f.OpenEpisodes(tctx, "am")
		require.NoError(t, err)
		require.Len(t, open, 20, "nothing of a bad batch stays, all of the good ones do")
	})
}

func TestUntrustedTextIsStorable(t *testing.T) {
	contract(t, func(t *testing.T, f *fixture) {
		o := firing("zero\x00byte", playbook("a", 0))
		o.Alert.Labels["alertname"] = "no\xffutf8\x00"
		o.Alert.Annotations = map[string]string{"x": "'; DROP TABLE runs; --"}
		res, err := f.Accept(tctx, store.Batch{Observations: []store.Observation{o},
			Rejected: []journal.Entry{{Kind: journal.AlertRejected, Message: "\x00\xff", AlertName: "\x00", Reason: "\xff"}}})
		require.NoError(t, err)
		require.Equal(t, 1, res.Opened)
		require.Equal(t, 1, f.accept(t, o).Repeated)
		require.Len(t, f.entries(t), 2)
	})
}

func TestAcceptReturnsWhenItsCallerGivesUp(t *testing.T) {
	contract(t, func(t *testing.T, f *fixture) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := f.Accept(ctx, store.Batch{Observations: []store.Observation{firing("x")}})
		if err != nil { // it may also have been committed before
			require.ErrorIs(t, err, context.Canceled)
		}
		require.NoError(t, f.Close())
		_, err = f.Accept(t.Context(), store.Batch{})
		require.ErrorIs(t, err, store.ErrClosed)
		require.NoError(t, f.Close(), "closing twice is harmless")
	})
}

// Whatever order and number of copies a sequence of observations arrives in: no
// signal has two open episodes, no playbook two candidates in an episode, and
// within the dwell time everything is one episode.
func TestFoldingIsIdempotentInAnyOrder(t *testing.T) {
	t.Parallel()
	for _, d := range dialects {
		if !d.ok() {
			continue
		}
		t.Run(d.name, func(t *testing.T) {
			t.Parallel()
			f := d.open(t, t)
			n := 0
			rapid.Check(t, func(rt *rapid.T) {
				n++
				source := fmt.Sprint("am-", n)
				gen := rapid.Custom(func(t *rapid.T) store.Observation {
					o := firing(rapid.SampledFrom([]string{"x", "y"}).Draw(t, "fp"))
					if rapid.Bool().Draw(t, "resolved") {
						o = resolved(o.Alert.Fingerprint, begun.Add(time.Duration(rapid.IntRange(-60, 600).Draw(t, "ends"))*time.Minute))
					} else {
						for _, name := range rapid.SliceOfDistinct(rapid.SampledFrom([]string{"a", "b", "c"}), rapid.ID[string]).Draw(t, "playbooks") {
							o.Playbooks = append(o.Playbooks, playbook(name, 0))
						}
					}
					o.Source = source
					o.Alert.StartsAt = begun.Add(time.Duration(rapid.IntRange(-10, 10).Draw(t, "starts")) * time.Minute)
					return o
				})
				obs := rapid.SliceOfN(gen, 1, 8).Draw(rt, "observations")
				copies := append(append([]store.Observation{}, obs...), rapid.SliceOf(rapid.SampledFrom(obs)).Draw(rt, "duplicates")...)
				order := rapid.Permutation(copies).Draw(rt, "order")
				want := map[string]map[string]bool{}
				var sum store.AcceptResult
				for len(order) > 0 {
					k := rapid.IntRange(1, len(order)).Draw(rt, "batch")
					res := f.accept(rt, order[:k]...)
					sum.Opened += res.Opened
					sum.Candidates += res.Candidates
					order = order[k:]
				}
				for _, o := range obs {
					fp := o.Alert.Fingerprint
					if o.Alert.Status == "firing" && want[fp] == nil {
						want[fp] = map[string]bool{}
					}
					for _, p := range o.Playbooks {
						want[fp][p.Name] = true
					}
				}
				wantCands := 0
				for _, names := range want {
					wantCands += len(names)
				}
				if sum.Opened != len(want) || sum.Candidates != wantCands {
					rt.Fatalf("opened %d episodes with %d candidates, want %d with %d", sum.Opened, sum.Candidates, len(want), wantCands)
				}
			})
		})
	}
}
