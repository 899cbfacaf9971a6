package store_test

import (
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alertmedic/alertmedic/internal/action"
	"github.com/alertmedic/alertmedic/internal/alert"
	"github.com/alertmedic/alertmedic/internal/journal"
	"github.com/alertmedic/alertmedic/internal/store"
)

func TestTheChainIsContiguousWhateverIsWrittenMeanwhile(t *testing.T) {
	contract(t, func(t *testing.T, f *fixture) {
		other := f.replica(t)
		const writers, each = 6, 25
		var writing, sealing sync.WaitGroup
		for i := range writers {
			s := f.Store
			if i%2 == 1 {
				s = other
			}
			writing.Go(func() {
				for j := range each {
					if err := s.Append(tctx, journal.Entry{Kind: journal.StepProgress, RunID: fmt.Sprint("run-", i), Step: fmt.Sprint(j)},
						journal.Entry{Kind: journal.StepDone, RunID: fmt.Sprint("run-", i), Step: fmt.Sprint(j)}); err != nil {
						t.Error(err)
					}
				}
			})
		}
		written := make(chan struct{})
		total := make([]int, 2)
		for i, s := range []*store.Store{f.Store, other} {
			sealing.Go(func() {
				for {
					n, err := s.Seal(tctx, fmt.Sprint("sealer-", i))
					if err != nil {
						t.Error(err)
						return
					}
					total[i] += n
					select {
					case <-written:
						return
					default:
					}
				}
			})
		}
		writing.Wait()
		close(written)
		sealing.Wait()
		f.pass(t, time.Minute) // the lease of a sealer that went away runs out
		entries := f.entries(t)
		require.Len(t, entries, 2*writers*each)
		next := map[string]int{}
		for _, e := range entries {
			want := fmt.Sprint(next[e.RunID] / 2)
			require.Equal(t, want, e.Step, "the entries of one writer keep their order")
			next[e.RunID]++
		}
		seq, hash, err := f.LastSealed(tctx)
		require.NoError(t, err)
		require.Equal(t, entries[len(entries)-1].Seq, seq)
		require.Equal(t, entries[len(entries)-1].Hash, hash)
		n, _, err := f.Unsealed(tctx)
		require.NoError(t, err)
		require.Zero(t, n)
	})
}

func TestOneSealerAtATime(t *testing.T) {
	contract(t, func(t *testing.T, f *fixture) {
		add := func() { require.NoError(t, f.Append(tctx, journal.Entry{Kind: journal.ServiceStarted})) }
		seal := func(owner string) int {
			n, err := f.Seal(tctx, owner)
			require.NoError(t, err)
			return n
		}
		seq, hash, err := f.LastSealed(tctx)
		require.NoError(t, err)
		require.Zero(t, seq)
		require.Empty(t, hash)
		require.Zero(t, seal("a"))
		add()
		require.Equal(t, 1, seal("a"))
		add()
		require.Zero(t, seal("b"), "a holds the lease")
		items, _, err := f.Log(tctx, store.LogFilter{}, store.Page{})
		require.NoError(t, err)
		require.Len(t, items, 1, "what is not sealed is not read")
		n, oldest, err := f.Unsealed(tctx)
		require.NoError(t, err)
		require.Equal(t, 1, n)
		require.False(t, oldest.IsZero())
		f.pass(t, time.Minute)
		require.Equal(t, 1, seal("b"), "a's lease ran out")
	})
}

func TestTamperingBreaksTheChain(t *testing.T) {
	contract(t, func(t *testing.T, f *fixture) {
		for i := range 3 {
			require.NoError(t, f.Append(tctx, journal.Entry{Kind: journal.StepDone, Message: fmt.Sprint("entry ", i)}))
		}
		f.entries(t)
		require.NoError(t, f.ExecRaw(tctx, "UPDATE journal SET doc = REPLACE(doc, 'entry 1', 'entry 9')"))
		head := journal.Head{}
		err := f.LogIter(tctx, store.LogFilter{}, func(e journal.Entry) error {
			var err error
			head, err = head.Next(e)
			return err
		})
		var ce *journal.ChainError
		require.ErrorAs(t, err, &ce)
		require.Equal(t, int64(2), ce.Seq)
		require.Equal(t, journal.BreakHash, ce.Break)
	})
}

// PostgreSQL refuses an entry of an index that is longer than a third of a page:
// such an alert must not end the sealing of all that come after it.
func TestALongAlertnameIsSealedAndFound(t *testing.T) {
	contract(t, func(t *testing.T, f *fixture) {
		random := make([]byte, 8<<10) // hexadecimal digits of chance, which no compression shortens below a page
		for i := range random {
			random[i] = byte(rand.IntN(256))
		}
		name := "é" + hex.EncodeToString(random)[:16<<10-2]
		a := firing("x", playbook("a", 0))
		a.Alert.Labels["alertname"] = name
		a.Alert.Fingerprint = alert.Fingerprint(a.Alert.Labels)
		require.Equal(t, 1, f.accept(t, a).Opened)
		f.accept(t, firing("y"))
		require.Equal(t, []journal.Kind{journal.EpisodeOpened, journal.EpisodeOpened, journal.AlertUnmatched}, f.kinds(t))
		items, _, err := f.Log(tctx, store.LogFilter{AlertName: name}, store.Page{})
		require.NoError(t, err)
		require.Len(t, items, 1)
		require.Equal(t, name, items[0].AlertName, "the entry has all of it")
	})
}

func TestTheLogIsFilteredAndPaged(t *testing.T) {
	contract(t, func(t *testing.T, f *fixture) {
		at := time.Date(2026, 3, 1, 12, 0, 0, 123456789, time.UTC)
		target := &action.Target{Cluster: "c1", Ref: action.Ref{Kind: action.KindPod, Namespace: "shop", Name: "web-1"}}
		full := journal.Entry{Kind: journal.StepDone, At: at, Cluster: "c1", Source: "am", Fingerprint: "fp", AlertName: "Broken", EpisodeID: "e", RunID: "r",
			Playbook: "p", Action: "pod.delete", Outcome: "o", Reason: "y", Target: target, Message: "<é>", Data: []byte(`{"b": 1, "a": 2}`)}
		var batch []journal.Entry
		for i := range 1203 { // more than LogIter holds at once
			batch = append(batch, journal.Entry{Kind: journal.StepProgress, At: at.Add(time.Duration(i) * time.Second)})
		}
		require.NoError(t, f.Append(tctx, full))
		require.NoError(t, f.Append(tctx, batch...))
		all := f.entries(t)
		require.Len(t, all, 1204)
		require.Equal(t, at.Truncate(time.Microsecond), all[0].At)
		require.Equal(t, target, all[0].Target)
		require.Equal(t, "<é>", all[0].Message)

		for name, filter := range map[string]store.LogFilter{
			"kind": {Kind: "step.done"}, "playbook": {Playbook: "p"}, "namespace": {Namespace: "shop"}, "run": {RunID: "r"}, "episode": {EpisodeID: "e"},
			"fingerprint": {Fingerprint: "fp"}, "alert": {AlertName: "Broken"}, "action": {Action: "pod.delete"}, "outcome": {Outcome: "o"}, "reason": {Reason: "y"},
			"target": {TargetKind: "Pod", TargetName: "web-1"}, "time": {Since: at.Add(-time.Second), Until: at.Add(time.Millisecond), Kind: "step.done"},
		} {
			items, next, err := f.Log(tctx, filter, store.Page{})
			require.NoError(t, err, name)
			require.Len(t, items, 1, name)
			require.Equal(t, full.Fingerprint, items[0].Fingerprint)
			require.Empty(t, next)
		}
		after, _, err := f.Log(tctx, store.LogFilter{AfterSeq: 1202}, store.Page{})
		require.NoError(t, err)
		require.Len(t, after, 2)

		for _, descending := range []bool{false, true} {
			page := store.Page{Limit: 500, Descending: descending}
			var seqs []int64
			for {
				items, next, err := f.Log(tctx, store.LogFilter{}, page)
				require.NoError(t, err)
				for _, e := range items {
					seqs = append(seqs, e.Seq)
				}
				if next == "" {
					break
				}
				page.Cursor = next
				// Entries that come meanwhile are at the end, or not in what is left.
				require.NoError(t, f.Append(tctx, journal.Entry{Kind: journal.ServiceStopped}))
				_, err = f.Seal(tctx, "sealer")
				require.NoError(t, err)
			}
			step := int64(1)
			if descending {
				step = -1
			}
			for i := range seqs[1:] {
				require.Equal(t, step, seqs[i+1]-seqs[i])
			}
		}
		_, _, err = f.Log(tctx, store.LogFilter{}, store.Page{Cursor: "MXxydW5zfGZhbHNlfDF8eA"})
		require.ErrorIs(t, err, store.ErrBadCursor, "a cursor of runs")
		stop := errors.New("enough")
		require.Equal(t, stop, f.LogIter(tctx, store.LogFilter{}, func(journal.Entry) error { return stop }))
		require.ErrorIs(t, f.Append(tctx, journal.Entry{}), store.ErrInvalid)
	})
}
