package store_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/stretchr/testify/require"

	"github.com/alertmedic/alertmedic/internal/action"
	"github.com/alertmedic/alertmedic/internal/alert"
	"github.com/alertmedic/alertmedic/internal/guard"
	"github.com/alertmedic/alertmedic/internal/journal"
	"github.com/alertmedic/alertmedic/internal/store"
	"github.com/alertmedic/alertmedic/internal/testcluster"
)

// The contract suite: every test in this file runs on both databases.
func both(t *testing.T, test func(t *testing.T, dsn string)) {
	t.Parallel()
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		test(t, filepath.Join(t.TempDir(), "medic.db"))
	})
	t.Run("postgresql", func(t *testing.T) {
		t.Parallel()
		dsn, ok := testcluster.Database(t)
		if !ok {
			pg, err := testcluster.StartPostgres(t.Context(), testcluster.PostgresOptions{})
			require.NoError(t, err)
			t.Cleanup(func() { require.NoError(t, pg.Stop()) })
			dsn = pg.DSN
		}
		test(t, dsn)
	})
}

func open(t *testing.T, dsn string) *store.Store {
	t.Helper()
	s, err := store.Open(t.Context(), store.Options{DSN: dsn, Logger: slog.New(slog.DiscardHandler), FlapDwell: time.Minute})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

func makeAlert(status alert.Status, start time.Time, pairs ...string) alert.Alert {
	labels := map[string]string{"alertname": "Broken"}
	set := model.LabelSet{"alertname": "Broken"}
	for i := 0; i+1 < len(pairs); i += 2 {
		labels[pairs[i]] = pairs[i+1]
		set[model.LabelName(pairs[i])] = model.LabelValue(pairs[i+1])
	}
	a := alert.Alert{Status: status, Labels: labels, StartsAt: start, Fingerprint: set.Fingerprint().String()}
	if status == alert.Resolved {
		a.EndsAt = start.Add(time.Minute)
	}
	return a
}

func batch(a alert.Alert, names ...string) store.Batch {
	o := store.Observation{Source: "am", Cluster: "c1", Alert: a}
	for _, n := range names {
		o.Playbooks = append(o.Playbooks, store.MatchedPlaybook{Name: n, Hash: "hash-" + n, Exclusive: true, ExpireAfter: time.Hour})
	}
	return store.Batch{Observations: []store.Observation{o}}
}

func target(name string) action.Target {
	ref := action.Ref{Group: "apps", Kind: action.KindDeployment, Namespace: "shop", Name: name, UID: "uid-" + name}
	return action.Target{Cluster: "c1", Ref: ref, Top: ref}
}

// newRun makes a queued run on the named target through an alert of its own.
func newRun(t *testing.T, s *store.Store, name, playbook string) {
	t.Helper()
	ctx := t.Context()
	_, err := s.Accept(ctx, batch(makeAlert(alert.Firing, time.Now(), "target", name, "for", playbook), playbook))
	require.NoError(t, err)
	cands, err := s.ClaimCandidates(ctx, "resolver", time.Minute, 100)
	require.NoError(t, err)
	require.Len(t, cands, 1)
	tg := target(name)
	now, err := s.Now(ctx)
	require.NoError(t, err)
	_, err = s.ResolveCandidate(ctx, cands[0], store.Resolution{Run: &store.Run{Playbook: playbook, PlaybookHash: "h", Exclusive: true, Source: "am", Target: tg,
		TargetKey: tg.String() + tg.UID, AttemptKey: tg.AttemptKey(), AlertName: "Broken", DueAt: now, ExpiresAt: now.Add(time.Hour), State: []byte(`{}`)}})
	require.NoError(t, err)
}

func claim(t *testing.T, s *store.Store, owner string) []store.Run {
	t.Helper()
	runs, err := s.ClaimRuns(t.Context(), owner, time.Minute, 100)
	require.NoError(t, err)
	return runs
}

// The same webhook a hundred times at once: one episode, one candidate.
func TestAcceptIsIdempotentUnderConcurrency(t *testing.T) {
	both(t, func(t *testing.T, dsn string) {
		s := open(t, dsn)
		b := batch(makeAlert(alert.Firing, time.Now(), "pod", "web-1"), "pb")
		var wg sync.WaitGroup
		errs := make(chan error, 100)
		for range 100 {
			wg.Go(func() {
				_, err := s.Accept(context.Background(), b)
				errs <- err
			})
		}
		wg.Wait()
		close(errs)
		for err := range errs {
			require.NoError(t, err)
		}
		open, err := s.OpenEpisodes(t.Context(), "am")
		require.NoError(t, err)
		require.Len(t, open, 1)
		cands, err := s.ClaimCandidates(t.Context(), "w", time.Minute, 100)
		require.NoError(t, err)
		require.Len(t, cands, 1)
	})
}

func TestFoldingOfLateAndEarlyReports(t *testing.T) {
	both(t, func(t *testing.T, dsn string) {
		s := open(t, dsn)
		start := time.Now().Add(-time.Minute)
		accept := func(a alert.Alert) store.AcceptResult {
			t.Helper()
			r, err := s.Accept(t.Context(), batch(a, "pb"))
			require.NoError(t, err)
			return r
		}
		orphan := makeAlert(alert.Resolved, start, "pod", "never")
		require.Equal(t, 1, accept(orphan).Orphaned)
		require.Zero(t, accept(orphan).Orphaned, "told once")
		firing := makeAlert(alert.Firing, start, "pod", "a")
		require.Equal(t, 1, accept(firing).Opened)
		require.Equal(t, 1, accept(firing).Repeated)
		moved := firing
		moved.StartsAt = start.Add(30 * time.Second) // another Prometheus replica
		require.Equal(t, 1, accept(moved).Repeated)
		late := makeAlert(alert.Resolved, start.Add(-time.Hour), "pod", "a")
		require.Equal(t, 1, accept(late).Stale, "a resolution of before the firing")
		resolved := firing
		resolved.Status, resolved.EndsAt = alert.Resolved, time.Now()
		require.Equal(t, 1, accept(resolved).Closed)
		require.Equal(t, 1, accept(firing).Reopened, "within flapDwell it is the same episode")
		cands, err := s.ClaimCandidates(t.Context(), "w", time.Minute, 100)
		require.NoError(t, err)
		require.Len(t, cands, 1, "and starts nothing again")
	})
}

func TestClaimsAreExclusiveAndFenced(t *testing.T) {
	both(t, func(t *testing.T, dsn string) {
		s := open(t, dsn)
		newRun(t, s, "web", "pb")
		first := claim(t, s, "worker-1")
		require.Len(t, first, 1)
		require.Empty(t, claim(t, s, "worker-2"), "leased")
		require.NoError(t, s.ExtendLease(t.Context(), first[0].Fence(), -time.Minute)) // as if it had run out
		second := claim(t, s, "worker-2")
		require.Len(t, second, 1)
		require.True(t, second[0].TakenOver)
		_, err := s.Apply(t.Context(), store.Transition{Fence: first[0].Fence(), Run: first[0]})
		require.ErrorIs(t, err, store.ErrFenced)
		run := second[0]
		run.Message = "still mine"
		got, err := s.Apply(t.Context(), store.Transition{Fence: run.Fence(), Run: run, Release: true})
		require.NoError(t, err)
		require.Equal(t, "still mine", got.Message)
		_, err = s.Apply(t.Context(), store.Transition{Fence: run.Fence(), Run: run})
		require.ErrorIs(t, err, store.ErrFenced, "given back is given back")
	})
}

func TestLocksExclude(t *testing.T) {
	both(t, func(t *testing.T, dsn string) {
		s := open(t, dsn)
		newRun(t, s, "web", "aa")
		newRun(t, s, "web", "bb")
		runs := claim(t, s, "w")
		require.Len(t, runs, 2)
		key := runs[0].Target.LockKey()
		holder, other := runs[0], runs[1]
		holder.Phase = store.Active
		holder, err := s.Apply(t.Context(), store.Transition{Fence: holder.Fence(), Run: holder, Locks: []string{key, "c1/Node//n1"}})
		require.NoError(t, err)
		_, err = s.Apply(t.Context(), store.Transition{Fence: other.Fence(), Run: other, Locks: []string{"c1/Node//free", key}})
		var locked *store.LockedError
		require.ErrorAs(t, err, &locked)
		require.Equal(t, holder.ID, locked.HolderRun)
		_, err = s.Apply(t.Context(), store.Transition{Fence: other.Fence(), Run: other, Release: true})
		require.NoError(t, err)
		require.Empty(t, claim(t, s, "w"), "passed over while its lock is held")
		holder.Phase, holder.Outcome, holder.EndedAt = store.Done, store.Healed, time.Now()
		_, err = s.Apply(t.Context(), store.Transition{Fence: holder.Fence(), Run: holder})
		require.NoError(t, err)
		require.Len(t, claim(t, s, "w"), 1, "free again, and woken")
	})
}

// Twenty runs ask at once, three may: admission and its count are one
// transaction.
func TestAdmissionNeverExceedsTheCap(t *testing.T) {
	both(t, func(t *testing.T, dsn string) {
		s := open(t, dsn)
		for i := range 20 {
			newRun(t, s, fmt.Sprintf("web-%d", i), "pb")
		}
		runs := claim(t, s, "w")
		require.Len(t, runs, 20)
		denied := errors.New("denied")
		var wg sync.WaitGroup
		results := make(chan error, len(runs))
		for _, run := range runs {
			wg.Go(func() {
				_, err := s.Admit(context.Background(), guard.Query{RunID: run.ID, AttemptKey: run.AttemptKey, Scopes: []string{"global/c1"}, PastSince: time.Now()}, run.Fence(),
					func(l guard.Ledger) (store.Transition, error) {
						if len(l.Active) >= 3 {
							return store.Transition{}, denied
						}
						next := run
						next.Phase = store.Active
						return store.Transition{Fence: run.Fence(), Run: next, Locks: []string{run.Target.LockKey()}}, nil
					})
				results <- err
			})
		}
		wg.Wait()
		close(results)
		admitted := 0
		for err := range results {
			if err == nil {
				admitted++
				continue
			}
			require.ErrorIs(t, err, denied)
		}
		require.Equal(t, 3, admitted)
	})
}

func TestJournalIsSealedInOneChain(t *testing.T) {
	both(t, func(t *testing.T, dsn string) {
		s := open(t, dsn)
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				for j := range 25 {
					if err := s.Append(context.Background(), journal.Entry{Kind: journal.PauseSet, Message: fmt.Sprintf("%d/%d", i, j)}); err != nil {
						t.Error(err)
					}
					if _, err := s.Seal(context.Background(), fmt.Sprintf("sealer-%d", i)); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		// The lease of one sealer may keep the others out: it is the one to finish.
		for i := range 8 {
			_, err := s.Seal(t.Context(), fmt.Sprintf("sealer-%d", i))
			require.NoError(t, err)
		}
		var entries iter.Seq2[journal.Entry, error] = func(yield func(journal.Entry, error) bool) {
			stop := errors.New("stop")
			err := s.LogIter(t.Context(), store.LogFilter{}, func(en journal.Entry) error {
				if !yield(en, nil) {
					return stop
				}
				return nil
			})
			if err != nil && !errors.Is(err, stop) {
				yield(journal.Entry{}, err)
			}
		}
		head, err := journal.VerifyChain(journal.Head{}, entries)
		require.NoError(t, err)
		require.EqualValues(t, 200, head.Seq)
		seq, hash, err := s.LastSealed(t.Context())
		require.NoError(t, err)
		require.Equal(t, head, journal.Head{Seq: seq, Hash: hash})
	})
}

// Pages neither repeat nor lose anything while more is written.
func TestPagesAreStable(t *testing.T) {
	both(t, func(t *testing.T, dsn string) {
		s := open(t, dsn)
		write := func(n int) {
			for i := range n {
				require.NoError(t, s.Append(t.Context(), journal.Entry{Kind: journal.PauseSet, Message: fmt.Sprint(i)}))
			}
			for {
				sealed, err := s.Seal(t.Context(), "me")
				require.NoError(t, err)
				if sealed == 0 {
					return
				}
			}
		}
		write(25)
		var seen []int64
		cursor := ""
		for {
			page, next, err := s.Log(t.Context(), store.LogFilter{}, store.Page{Limit: 10, Cursor: cursor})
			require.NoError(t, err)
			for _, en := range page {
				seen = append(seen, en.Seq)
			}
			if len(seen) == 10 {
				write(5)
			}
			if next == "" {
				break
			}
			cursor = next
		}
		require.Len(t, seen, 30)
		for i, seq := range seen {
			require.EqualValues(t, i+1, seq)
		}
		_, _, err := s.Log(t.Context(), store.LogFilter{}, store.Page{Limit: 10, Cursor: "made up"})
		require.ErrorIs(t, err, store.ErrBadCursor)
	})
}

func TestApprovalsAreDecidedOnce(t *testing.T) {
	both(t, func(t *testing.T, dsn string) {
		s := open(t, dsn)
		newRun(t, s, "web", "pb")
		run := claim(t, s, "w")[0]
		run.Phase, run.Wait, run.DueAt = store.Active, store.WaitApproval, time.Now().Add(time.Hour)
		_, err := s.Apply(t.Context(), store.Transition{Fence: run.Fence(), Run: run, Release: true,
			Approval: &store.Approval{RunID: run.ID, PlanHash: "p1", TargetUID: run.Target.UID, Status: store.ApprovalPending, AskedAt: time.Now()}})
		require.NoError(t, err)
		require.Empty(t, claim(t, s, "w"))
		_, err = s.Decide(t.Context(), store.Decision{RunID: run.ID, Approve: true, PlanHash: "p2", By: "ada"})
		require.ErrorIs(t, err, store.ErrPlanChanged)
		_, err = s.Decide(t.Context(), store.Decision{RunID: run.ID, Approve: true, PlanHash: "p1", By: "ada"})
		require.NoError(t, err)
		_, err = s.Decide(t.Context(), store.Decision{RunID: run.ID, PlanHash: "p1", By: "bob"})
		require.ErrorIs(t, err, store.ErrNoApproval)
		require.ErrorContains(t, err, "ada", "says who decided")
		require.Len(t, claim(t, s, "w"), 1, "a decision wakes the run")
	})
}

// What is committed is there after a restart.
func TestRestart(t *testing.T) {
	both(t, func(t *testing.T, dsn string) {
		s := open(t, dsn)
		newRun(t, s, "web", "pb")
		require.NoError(t, s.SetPause(t.Context(), guard.Pause{Scope: guard.PauseGlobal, By: "ada", Why: "release", At: time.Now()}))
		require.NoError(t, s.Close())
		s = open(t, dsn)
		pauses, err := s.Pauses(t.Context())
		require.NoError(t, err)
		require.Len(t, pauses, 1)
		require.Len(t, claim(t, s, "w"), 1)
	})
}

// The outbox delivers in order within a key and keeps what failed.
func TestOutbox(t *testing.T) {
	both(t, func(t *testing.T, dsn string) {
		s := open(t, dsn)
		for i := range 3 {
			require.NoError(t, s.Post(t.Context(), store.Message{Channel: "slack", RunID: "r1", Key: "r1", Payload: fmt.Appendf(nil, `{"n":%d}`, i)}))
		}
		for i := range 3 {
			msgs, err := s.ClaimMessages(t.Context(), "slack", "w", time.Minute, 10)
			require.NoError(t, err)
			require.Len(t, msgs, 1, "only the head of a key")
			require.JSONEq(t, fmt.Sprintf(`{"n":%d}`, i), string(msgs[0].Payload))
			if i == 1 {
				require.NoError(t, s.MessageFailed(t.Context(), msgs[0], time.Now().Add(-time.Second), "boom", false))
				msgs, err = s.ClaimMessages(t.Context(), "slack", "w", time.Minute, 10)
				require.NoError(t, err)
				require.Len(t, msgs, 1)
				require.Equal(t, 2, msgs[0].Attempts, "this one included")
			}
			require.NoError(t, s.MessageDelivered(t.Context(), msgs[0]))
		}
		pending, err := s.PendingMessages(t.Context())
		require.NoError(t, err)
		require.Empty(t, pending)
	})
}
