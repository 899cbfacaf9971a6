package journal_test

import (
	"errors"
	"fmt"
	"iter"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alertmedic/alertmedic/internal/journal"
)

func chain(t *testing.T, n int) []journal.Entry {
	t.Helper()
	var out []journal.Entry
	prev := ""
	for i := range n {
		e := journal.Entry{ID: fmt.Sprint("id-", i), At: time.UnixMicro(int64(i)), Kind: journal.StepDone, Message: fmt.Sprint("entry ", i)}
		require.NoError(t, journal.Seal(prev, int64(i+1), &e))
		prev = e.Hash
		out = append(out, e)
	}
	return out
}

func seq(entries []journal.Entry) iter.Seq2[journal.Entry, error] {
	return func(yield func(journal.Entry, error) bool) {
		for _, e := range entries {
			if !yield(e, nil) {
				return
			}
		}
	}
}

func TestVerifyChain(t *testing.T) {
	t.Parallel()
	good := chain(t, 5)
	head, err := journal.VerifyChain(journal.Head{}, seq(good))
	require.NoError(t, err)
	require.Equal(t, journal.Head{Seq: 5, Hash: good[4].Hash}, head)
	// A part verifies from the head before it.
	_, err = journal.VerifyChain(journal.Head{Seq: 2, Hash: good[1].Hash}, seq(good[2:]))
	require.NoError(t, err)

	tests := map[string]struct {
		tamper func([]journal.Entry) []journal.Entry
		seq    int64
		why    journal.Break
	}{
		"changed message":    {func(e []journal.Entry) []journal.Entry { e[2].Message = "x"; return e }, 3, journal.BreakHash},
		"changed time":       {func(e []journal.Entry) []journal.Entry { e[2].At = e[2].At.Add(time.Microsecond); return e }, 3, journal.BreakHash},
		"added data":         {func(e []journal.Entry) []journal.Entry { e[2].Data = []byte(`{}`); return e }, 3, journal.BreakHash},
		"broken data":        {func(e []journal.Entry) []journal.Entry { e[2].Data = []byte(`{`); return e }, 3, journal.BreakUnhashed},
		"removed":            {func(e []journal.Entry) []journal.Entry { return slices.Delete(e, 2, 3) }, 3, journal.BreakGap},
		"doubled":            {func(e []journal.Entry) []journal.Entry { return slices.Insert(e, 2, e[1]) }, 3, journal.BreakGap},
		"swapped":            {func(e []journal.Entry) []journal.Entry { e[2], e[3] = e[3], e[2]; return e }, 3, journal.BreakGap},
		"first removed":      {func(e []journal.Entry) []journal.Entry { return e[1:] }, 1, journal.BreakGap},
		"seq of another":     {func(e []journal.Entry) []journal.Entry { e[2].Seq = 9; return e }, 3, journal.BreakGap},
		"hash of another":    {func(e []journal.Entry) []journal.Entry { e[2].Hash = e[1].Hash; return e }, 3, journal.BreakHash},
		"prevHash":           {func(e []journal.Entry) []journal.Entry { e[2].PrevHash = "00"; return e }, 3, journal.BreakPrevHash},
		"not sealed":         {func(e []journal.Entry) []journal.Entry { e[2].Hash = ""; return e }, 3, journal.BreakUnsealed},
		"hashed by a forger": {forge, 4, journal.BreakPrevHash},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			head, err := journal.VerifyChain(journal.Head{}, seq(tt.tamper(slices.Clone(good))))
			var ce *journal.ChainError
			require.ErrorAs(t, err, &ce)
			require.Equal(t, tt.seq, ce.Seq)
			require.Equal(t, tt.why, ce.Break)
			require.Equal(t, tt.seq-1, head.Seq, "the last good head")
		})
	}
}

// forge changes an entry and gives it the right hash, as one who knows the
// format would.
func forge(e []journal.Entry) []journal.Entry {
	e[2].Message = "forged"
	h, err := journal.HashOf(e[1].Hash, e[2])
	if err != nil {
		panic(err)
	}
	e[2].Hash = h
	return e
}

func TestVerifyChainPassesTheReadersErrorOn(t *testing.T) {
	t.Parallel()
	boom := errors.New("boom")
	_, err := journal.VerifyChain(journal.Head{}, func(yield func(journal.Entry, error) bool) { yield(journal.Entry{}, boom) })
	require.ErrorIs(t, err, boom)
}

func TestSealRefusesAPlaceThatCannotBe(t *testing.T) {
	t.Parallel()
	e := journal.Entry{ID: "x", Kind: journal.StepDone}
	require.Error(t, journal.Seal("", 2, &e))
	require.Error(t, journal.Seal("ab", 1, &e))
	require.Error(t, journal.Seal("", 0, &e))
}
