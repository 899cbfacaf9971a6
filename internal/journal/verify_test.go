package journal_test

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alertmedic/alertmedic/internal/journal"
)

// pruned makes n entries, of which the one at seq anchor says that all up to seq
// (with hash, "" for the true one) were removed.
func prunedChain(t *testing.T, n, anchor int, seq int64, hash string) []journal.Entry {
	t.Helper()
	var out []journal.Entry
	prev := ""
	for i := 1; i <= n; i++ {
		e := journal.Entry{ID: fmt.Sprint(i), Kind: journal.RunCreated, At: time.Unix(int64(i), 0)}
		if i == anchor {
			p := journal.Pruned{Seq: seq, Hash: hash}
			if hash == "" {
				p.Hash = out[seq-1].Hash
			}
			e.Kind = journal.JournalPruned
			data, err := json.Marshal(p)
			require.NoError(t, err)
			e.Data = data
		}
		require.NoError(t, journal.Seal(prev, int64(i), &e))
		prev = e.Hash
		out = append(out, e)
	}
	return out
}

func verify(entries []journal.Entry) (*journal.Verifier, error) {
	var v journal.Verifier
	for _, e := range entries {
		if err := v.Add(e); err != nil {
			return &v, err
		}
	}
	return &v, v.End()
}

func TestVerifier(t *testing.T) {
	t.Parallel()
	whole := prunedChain(t, 10, 8, 5, "")
	for name, from := range map[string]int{"whole": 0, "half removed": 3, "removed": 5} {
		v, err := verify(whole[from:])
		require.NoError(t, err, name)
		require.Equal(t, journal.Head{Seq: 10, Hash: whole[9].Hash}, v.Head(), name)
		require.EqualValues(t, from, v.Removed(), name)
	}
	_, err := verify(nil)
	require.NoError(t, err)

	altered := append([]journal.Entry{}, whole...)
	altered[6].Message = "nothing happened"
	for name, tt := range map[string]struct {
		entries []journal.Entry
		seq     int64
		how     journal.Break
	}{
		"more removed than was said":   {whole[6:], 1, journal.BreakGap},
		"the word for it removed, too": {whole[8:], 1, journal.BreakGap},
		"never said":                   {prunedChain(t, 10, 0, 0, "")[2:], 1, journal.BreakGap},
		"of another journal":           {prunedChain(t, 10, 8, 5, "beef")[5:], 6, journal.BreakPrevHash},
		"said of what comes after":     {prunedChain(t, 10, 8, 9, "beef")[5:], 1, journal.BreakGap},
		"altered":                      {altered[5:], 7, journal.BreakHash},
		"one left out":                 {append(append([]journal.Entry{}, whole[:3]...), whole[4:]...), 4, journal.BreakGap},
	} {
		_, err := verify(tt.entries)
		var chain *journal.ChainError
		require.ErrorAs(t, err, &chain, name)
		require.Equal(t, tt.seq, chain.Seq, name)
		require.Equal(t, tt.how, chain.Break, name)
	}
}
