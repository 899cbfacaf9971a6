package store_test

import (
	"bytes"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/alertmedic/alertmedic/internal/guard"
	"github.com/alertmedic/alertmedic/internal/journal"
	"github.com/alertmedic/alertmedic/internal/store"
)

const day = 24 * time.Hour

// week keeps everything but the log for seven days.
var week = store.Retention{Runs: 7 * day}

func (f *fixture) prune(t *testing.T, r store.Retention) store.Pruned {
	t.Helper()
	p, err := f.Prune(tctx, "pruner", r)
	require.NoError(t, err)
	return p
}

func (f *fixture) count(t *testing.T, table string) int {
	t.Helper()
	n, err := f.Count(tctx, "SELECT count(*) FROM "+table)
	require.NoError(t, err)
	return n
}

// What ended longer ago than the retention goes, with everything about it; what
// is live, or is named by what is, or counts for a cooldown, stays.
func TestRetentionRemovesWhatIsOldAndNothingElse(t *testing.T) {
	contract(t, func(t *testing.T, f *fixture) {
		s := seed(t, f)
		require.NoError(t, f.PutPlaybook(tctx, "hash-unused", []byte("unused")))
		require.NoError(t, f.PutPlaybook(tctx, "hash-loaded", []byte("loaded")))
		msgs, err := f.ClaimMessages(tctx, "slack", "w", time.Minute, 1)
		require.NoError(t, err)
		require.NoError(t, f.MessageFailed(tctx, msgs[0], time.Time{}, "channel_not_found", true))
		require.Empty(t, f.prune(t, week))

		f.pass(t, 6*day)
		require.Empty(t, f.prune(t, week), "too young, all of it")
		n, err := f.KeepPlaybooks(tctx, []string{"hash-loaded", "hash-never-stored"})
		require.NoError(t, err)
		require.Equal(t, 1, n)
		f.pass(t, 2*day)
		got := f.prune(t, week)
		require.Equal(t, store.Pruned{"signals": 2, "episodes": 1, "outbox": 1, "playbooks": 1}, got,
			"the closed episode, the orphan, the message and the snapshot; the healed run is of an episode that is open")
		require.Empty(t, f.prune(t, week))

		f.accept(t, resolved("fp-healed-healed", f.time(t)))
		_, err = f.KeepPlaybooks(tctx, []string{"hash-loaded"})
		require.NoError(t, err)
		f.pass(t, 6*day)
		require.Empty(t, f.prune(t, week))
		ledger, err := f.Ledger(tctx, guard.Query{AttemptKey: deployment("healed").AttemptKey()})
		require.NoError(t, err)
		require.Len(t, ledger.Past, 1, "it counts for cooldown and attempts")
		_, err = f.KeepPlaybooks(tctx, []string{"hash-loaded"})
		require.NoError(t, err)
		f.pass(t, 2*day)
		require.Equal(t, store.Pruned{"candidates": 1, "signals": 1, "episodes": 1, "runs": 1, "steps": 1, "reservations": 1, "kv": 1, "playbooks": 1}, f.prune(t, week))
		_, err = f.GetPlaybook(tctx, "hash-loaded")
		require.NoError(t, err)
		_, err = f.Run(tctx, s.healed)
		require.ErrorIs(t, err, store.ErrNotFound)

		// The rest is live and whole.
		for _, id := range []string{s.calling, s.verifying, s.asking, s.queued} {
			require.NotEqual(t, store.Done, mustRun(t, f, id).Phase)
			cands, err := f.RunCandidates(tctx, id)
			require.NoError(t, err)
			require.Len(t, cands, 1)
		}
		require.Equal(t, 2, f.count(t, "run_locks"))
		_, err = f.PendingApproval(tctx, s.asking)
		require.NoError(t, err)
		require.Equal(t, 6, f.count(t, "episodes"))
		require.Equal(t, 6, f.count(t, "signals"))

		// What is gone can come again.
		require.Equal(t, store.AcceptResult{Opened: 2, Unmatched: 2}, f.accept(t, firing("fp-closed"), firing("fp-healed-healed")))
		require.Equal(t, 2, len(slices.DeleteFunc(f.kinds(t), func(k journal.Kind) bool { return k != journal.RetentionApplied })))
	})
}

// An episode that is closed keeps a run for as long as the run is young, or
// live, and a run keeps nothing but itself.
func TestRetentionKeepsWhatALiveRunNeeds(t *testing.T) {
	contract(t, func(t *testing.T, f *fixture) {
		id := f.newRun(t, "a", deployment("web"))
		f.apply(t, intent(f.claim(t, id, "w"), f.time(t)))
		f.accept(t, resolved("fp-a-web", f.time(t)))
		f.pass(t, 30*day)
		require.Empty(t, f.prune(t, week))
		f.apply(t, end(f.claim(t, id, "w"), store.Healed, ""))
		f.pass(t, 6*day)
		require.Empty(t, f.prune(t, week))
		f.pass(t, 2*day)
		require.Equal(t, store.Pruned{"candidates": 1, "signals": 1, "episodes": 1, "runs": 1}, f.prune(t, week))
	})
}

// A token bucket that has long been full is the same as none.
func TestRetentionRemovesFullBuckets(t *testing.T) {
	contract(t, func(t *testing.T, f *fixture) {
		draw := func(pb, target string) {
			run := f.claim(t, f.newRun(t, pb, deployment(target)), "w")
			tr := intent(run, f.time(t))
			tr.Buckets = []guard.Bucket{{Scope: "rate/c1", Tokens: 3, At: f.time(t)}, {Scope: "rate/c1/playbook/" + pb, Tokens: 1, At: f.time(t)}}
			f.apply(t, tr)
		}
		draw("a", "web")
		f.pass(t, 6*day)
		require.Empty(t, f.prune(t, week))
		draw("b", "db")
		f.pass(t, 2*day)
		require.Equal(t, store.Pruned{"guard_buckets": 1}, f.prune(t, week), "that of playbook a: the cluster's was drawn from since")
		l, err := f.Ledger(tctx, guard.Query{Scopes: []string{"rate/c1", "rate/c1/playbook/a", "rate/c1/playbook/b"}})
		require.NoError(t, err)
		require.Equal(t, []float64{3, 1}, []float64{l.Buckets[0].Tokens, l.Buckets[1].Tokens})
		require.Len(t, l.Buckets, 2)
	})
}

func (f *fixture) appendMany(t *testing.T, n int) {
	t.Helper()
	var entries []journal.Entry
	for i := range n {
		entries = append(entries, journal.Entry{Kind: journal.ConfigReloaded, Message: fmt.Sprint(i)})
	}
	require.NoError(t, f.Append(tctx, entries...))
	for {
		sealed, err := f.Seal(tctx, "sealer")
		require.NoError(t, err)
		if sealed == 0 {
			return
		}
	}
}

// The beginning of the log goes only after the log itself says so, and what is
// left can be checked, backed up and restored.
func TestRetentionOfTheJournalKeepsTheChain(t *testing.T) {
	contract(t, func(t *testing.T, f *fixture) {
		month := store.Retention{Journal: 30 * day}
		f.appendMany(t, 1000)
		require.Empty(t, f.prune(t, month))
		f.pass(t, 31*day)
		f.appendMany(t, 5)
		require.Empty(t, f.prune(t, month), "first the word for it")
		require.Empty(t, f.prune(t, month), "which must be sealed")
		require.Equal(t, 1006, f.count(t, "journal"))
		f.appendMany(t, 0)
		require.Equal(t, store.Pruned{"journal": 1000}, f.prune(t, month))
		f.appendMany(t, 1)
		seq, _, err := f.LastSealed(tctx)
		require.NoError(t, err)
		require.EqualValues(t, 1008, seq, "numbers go on: 1000 and 5, the word, what was done, and one")
		first, _, err := f.Log(tctx, store.LogFilter{}, store.Page{Limit: 1})
		require.NoError(t, err)
		require.EqualValues(t, 1001, first[0].Seq)

		backup := takeBackup(t, f.Store, store.BackupOptions{Stopped: true})
		to := empty(t, openSQLite)
		restore(t, to, backup, store.RestoreOptions{Move: true})
		takeBackup(t, to.Store, store.BackupOptions{})

		// Nobody else may shorten it.
		require.NoError(t, f.ExecRaw(tctx, "DELETE FROM journal WHERE seq = 1001"))
		var zipped bytes.Buffer
		_, err = f.Backup(tctx, &zipped, store.BackupOptions{})
		require.NoError(t, err)
		_, err = store.VerifyBackup(&zipped)
		require.ErrorContains(t, err, "the journal begins at seq 1002")
	})
}

// A live run's entries stay, and with them all that came after.
func TestRetentionOfTheJournalStopsAtLiveRuns(t *testing.T) {
	contract(t, func(t *testing.T, f *fixture) {
		f.appendMany(t, 10)
		id := f.newRun(t, "a", deployment("web"))
		f.appendMany(t, 10)
		f.pass(t, 60*day)
		month := store.Retention{Journal: 30 * day}
		for range 3 {
			f.prune(t, month)
			f.entriesLeft(t)
		}
		entries := f.entriesLeft(t)
		at := slices.IndexFunc(entries, func(e journal.Entry) bool { return e.RunID == id })
		require.Equal(t, 0, at, "it is the first: what was before it is gone")
		require.NoError(t, (&journal.Verifier{}).Add(entries[0]))
	})
}

// entriesLeft seals and returns the log, having verified it.
func (f *fixture) entriesLeft(t *testing.T) []journal.Entry {
	t.Helper()
	f.appendMany(t, 0)
	var out []journal.Entry
	var v journal.Verifier
	require.NoError(t, f.LogIter(tctx, store.LogFilter{}, func(e journal.Entry) error {
		out = append(out, e)
		return v.Add(e)
	}))
	require.NoError(t, v.End())
	return out
}

// One replica does it.
func TestRetentionIsAppliedByOneReplica(t *testing.T) {
	contract(t, func(t *testing.T, f *fixture) {
		f.accept(t, firing("a"), firing("b"))
		f.accept(t, resolved("a", f.time(t)))
		f.pass(t, 30*day)
		require.Equal(t, store.Pruned{"signals": 1, "episodes": 1}, f.prune(t, week))
		f.accept(t, resolved("b", f.time(t)))
		f.pass(t, 30*day)
		other := f.replica(t)
		// The lease ran out with time, so the other one takes it.
		p, err := other.Prune(tctx, "other", week)
		require.NoError(t, err)
		require.Equal(t, store.Pruned{"signals": 1, "episodes": 1}, p)
		require.NoError(t, f.Append(tctx))
		f.accept(t, firing("c"))
		f.accept(t, resolved("c", f.time(t)))
		f.pass(t, 7*day-30*time.Second)
		require.NoError(t, f.ExecRaw(tctx, "UPDATE leases SET lease_until = $1 WHERE name = 'retention'", f.time(t).Add(time.Hour).UnixMicro()))
		f.pass(t, time.Minute)
		require.Empty(t, f.prune(t, week), "the other one holds the lease")
		p, err = other.Prune(tctx, "other", week)
		require.NoError(t, err)
		require.NotEmpty(t, p)
	})
}

// A report about a signal that is just being removed is accepted all the same.
func TestRetentionDoesNotDisturbAccepting(t *testing.T) {
	contract(t, func(t *testing.T, f *fixture) {
		const signals = 500
		var all []store.Observation
		for i := range signals {
			all = append(all, firing(fmt.Sprintf("fp-%03d", i), playbook("a", 0)))
		}
		f.accept(t, all...)
		require.NoError(t, f.ExecRaw(tctx, "UPDATE candidates SET phase = 'done', outcome = 'suppressed'"))
		for i := range all {
			f.accept(t, resolved(fmt.Sprintf("fp-%03d", i), f.time(t)))
		}
		f.pass(t, 30*day)
		var g errgroup.Group
		g.Go(func() error {
			_, err := f.Prune(tctx, "pruner", week)
			return err
		})
		for part := range 4 {
			g.Go(func() error {
				for i := part; i < signals; i += 4 {
					res, err := f.Accept(tctx, store.Batch{Observations: all[i : i+1]})
					if err != nil || res.Opened != 1 {
						return fmt.Errorf("signal %d: %+v, %w", i, res, err)
					}
				}
				return nil
			})
		}
		require.NoError(t, g.Wait())
		f.prune(t, week)
		require.Equal(t, signals, f.count(t, "signals"))
		require.Equal(t, signals, f.count(t, "episodes"), "the old ones are gone")
		require.Equal(t, signals, f.count(t, "candidates"))
	})
}
