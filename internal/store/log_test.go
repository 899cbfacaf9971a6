package store_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alertmedic/alertmedic/internal/journal"
	"github.com/alertmedic/alertmedic/internal/store"
)

// What any filter selects, in any order and by pages of any size, is what reading
// everything and comparing would: with clocks that go to and fro, with blocks
// that an earlier version did not count, after the log's beginning was removed
// and after it was restored from a backup.
func TestAnyFilterSelectsWhatAScanWould(t *testing.T) {
	contract(t, func(t *testing.T, f *fixture) {
		seed := rand.Uint64()
		t.Logf("seed %d", seed)
		r := rand.New(rand.NewPCG(seed, 1))
		began := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
		at, step := began, time.Second
		for part := range 6 {
			var batch []journal.Entry
			for range 700 {
				at = at.Add(step + time.Duration(r.Int64N(int64(4*time.Second))) - 2*time.Second)
				batch = append(batch, journal.Entry{Kind: journal.StepDone, At: at, Playbook: fmt.Sprint("p", r.IntN(3)), Reason: fmt.Sprint("r", r.IntN(700)),
					AlertName: fmt.Sprint("a", r.IntN(2)), Message: fmt.Sprint("part ", part)})
			}
			require.NoError(t, f.Append(tctx, batch...))
			f.entries(t) // seals them
			switch part {
			case 1: // the clock is set back
				at = at.Add(-20 * time.Minute)
			case 2: // the earlier version counts no blocks
				require.NoError(t, f.ExecRaw(tctx, "DELETE FROM journal_blocks"))
			case 4:
				at = at.Add(2 * time.Hour)
			}
		}
		counted, err := f.Count(tctx, "SELECT count(*) FROM journal_blocks")
		require.NoError(t, err)
		require.Equal(t, 5, counted)
		same := func(s *store.Store, all []journal.Entry) {
			t.Helper()
			for range 60 {
				requireScanned(t, s, all, someFilter(r, all), r)
			}
		}
		all := f.entries(t)
		require.Len(t, all, 4200)
		same(f.Store, all)

		var file bytes.Buffer
		_, err = f.Backup(tctx, &file, store.BackupOptions{})
		require.NoError(t, err)

		// The newest are sealed and not counted, and the oldest removed.
		last := slices.MaxFunc(all[2999:3900], func(a, b journal.Entry) int { return a.At.Compare(b.At) })
		require.NoError(t, f.ExecRaw(tctx, "UPDATE journal_blocks SET last_seq = 3900, max_at = $1 WHERE block = 3", last.At.UnixMicro()))
		require.NoError(t, f.ExecRaw(tctx, "DELETE FROM journal_blocks WHERE block = 4"))
		require.NoError(t, f.ExecRaw(tctx, "DELETE FROM journal WHERE seq <= 1300"))
		same(f.Store, all[1300:])

		to := empty(t, openSQLite)
		_, err = store.Restore(tctx, &file, store.RestoreOptions{DSN: to.dsn})
		require.NoError(t, err)
		to.Store = to.open(t, t)
		counted, err = to.Count(tctx, "SELECT count(*) FROM journal_blocks")
		require.NoError(t, err)
		require.Equal(t, 5, counted, "a restored log has its blocks")
		same(to.Store, to.entries(t))
	})
}

func someFilter(r *rand.Rand, all []journal.Entry) store.LogFilter {
	one := all[r.IntN(len(all))]
	var f store.LogFilter
	moment := func() time.Time {
		if r.IntN(8) == 0 {
			return one.At.Add(time.Duration(r.IntN(9)-4) * 10 * time.Hour) // often outside of all
		}
		return all[r.IntN(len(all))].At.Add(time.Duration(r.IntN(3)-1) * time.Microsecond)
	}
	for i, set := range []func(){
		func() { f.Since = moment() }, func() { f.Until = moment() }, func() { f.Playbook = one.Playbook },
		func() { f.Reason = one.Reason }, func() { f.AlertName = one.AlertName }, func() { f.AfterSeq = r.Int64N(4300) },
		func() { f.Kind = string(one.Kind) }, func() { f.Playbook = "absent" },
	} {
		if odds := []int{2, 2, 3, 5, 3, 3, 3, 20}; r.IntN(odds[i]) == 0 {
			set()
		}
	}
	return f
}

func requireScanned(t *testing.T, s *store.Store, all []journal.Entry, f store.LogFilter, r *rand.Rand) {
	t.Helper()
	var want []int64
	for _, e := range all {
		if e.Seq > f.AfterSeq && (f.Since.IsZero() || !e.At.Before(f.Since)) && (f.Until.IsZero() || e.At.Before(f.Until)) &&
			(f.Playbook == "" || f.Playbook == e.Playbook) && (f.Reason == "" || f.Reason == e.Reason) &&
			(f.AlertName == "" || f.AlertName == e.AlertName) && (f.Kind == "" || f.Kind == string(e.Kind)) {
			want = append(want, e.Seq)
		}
	}
	var read []int64
	require.NoError(t, s.LogIter(tctx, f, func(e journal.Entry) error {
		read = append(read, e.Seq)
		return nil
	}))
	require.Equal(t, want, read, "%+v", f)
	for _, descending := range []bool{false, true} {
		p := store.Page{Limit: 50 + r.IntN(900), Descending: descending}
		var seqs []int64
		for {
			items, next, err := s.Log(tctx, f, p)
			require.NoError(t, err)
			for _, e := range items {
				seqs = append(seqs, e.Seq)
			}
			if next == "" {
				break
			}
			p.Cursor = next
		}
		if descending {
			slices.Reverse(seqs)
		}
		require.Equal(t, want, seqs, "%+v, descending %t", f, descending)
	}
}
