package journal

import (
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"iter"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alertmedic/alertmedic/internal/action"
)

func entry() Entry {
	ref := action.Ref{Group: "apps", Kind: action.KindDeployment, Namespace: "shop", Name: "web", UID: "u1"}
	return Entry{ID: "0197-a", At: time.Date(2026, 3, 1, 13, 0, 0, 123456789, time.FixedZone("CET", 3600)), Kind: StepDone, Cluster: "c1",
		RunID: "r1", Playbook: "pb", Action: "workload.restart", Target: &action.Target{Cluster: "c1", Ref: ref, Top: ref},
		Message: "a <b> & \"c\" ü", Data: json.RawMessage(`{"b":1.50,"a":{"z":[1,2],"y":null}}`)}
}

// The canonical form is what the hashes of every journal ever written rest on:
// a change of it makes all of them worthless.
func TestCanonicalFormIsFrozen(t *testing.T) {
	t.Parallel()
	e := entry()
	require.NoError(t, Seal("", 1, &e))
	got, err := Canonical(e)
	require.NoError(t, err)
	golden := filepath.Join("testdata", "canonical.golden.json")
	if os.Getenv("UPDATE") != "" {
		require.NoError(t, os.WriteFile(golden, append(got, '\n'), 0o644))
	}
	want, err := os.ReadFile(golden)
	require.NoError(t, err)
	require.Equal(t, string(want), string(got)+"\n")
	require.Equal(t, "2026-03-01T12:00:00.123456Z", Microseconds(e.At).Format(timeLayout))
}

// An entry keeps its hash through JSON, whichever way its data is laid out.
func TestHashSurvivesAnotherEncoder(t *testing.T) {
	t.Parallel()
	e := entry()
	require.NoError(t, Seal("", 1, &e))
	text, err := json.Marshal(e)
	require.NoError(t, err)
	var back Entry
	require.NoError(t, json.Unmarshal(text, &back))
	back.Data = json.RawMessage("{ \"a\": {\"y\":null, \"z\":[1,2]},\n \"b\":1.50 }")
	head, err := Head{}.Next(back)
	require.NoError(t, err)
	require.Equal(t, Head{Seq: 1, Hash: e.Hash}, head)
}

func chain(t *testing.T, n int) []Entry {
	t.Helper()
	var out []Entry
	prev := ""
	for i := range n {
		e := entry()
		e.Message = string(rune('a' + i))
		require.NoError(t, Seal(prev, int64(i+1), &e))
		prev = e.Hash
		out = append(out, e)
	}
	return out
}

func all(entries []Entry) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		for _, e := range entries {
			if !yield(e, nil) {
				return
			}
		}
	}
}

func TestTamperingIsFound(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		change func([]Entry) []Entry
		seq    int64
		how    Break
	}{
		"a changed message":     {func(e []Entry) []Entry { e[2].Message = "nothing happened"; return e }, 3, BreakHash},
		"a changed time":        {func(e []Entry) []Entry { e[2].At = e[2].At.Add(time.Hour); return e }, 3, BreakHash},
		"a changed target":      {func(e []Entry) []Entry { e[2].Target.Name = "other"; return e }, 3, BreakHash},
		"changed data":          {func(e []Entry) []Entry { e[2].Data = json.RawMessage(`{}`); return e }, 3, BreakHash},
		"a missing entry":       {func(e []Entry) []Entry { return append(e[:2:2], e[3:]...) }, 3, BreakGap},
		"a doubled entry":       {func(e []Entry) []Entry { return append(e[:3:3], e[2:]...) }, 4, BreakGap},
		"two entries swapped":   {func(e []Entry) []Entry { e[2], e[3] = e[3], e[2]; return e }, 3, BreakGap},
		"an entry sealed anew":  {func(e []Entry) []Entry { e[2].Message = "x"; e[2].Hash, _ = HashOf(e[2].PrevHash, e[2]); return e }, 4, BreakPrevHash},
		"an entry never sealed": {func(e []Entry) []Entry { e[2].Hash = ""; return e }, 3, BreakUnsealed},
		"data that is no JSON":  {func(e []Entry) []Entry { e[2].Data = json.RawMessage(`{`); return e }, 3, BreakUnhashed},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := VerifyChain(Head{}, all(tt.change(chain(t, 5))))
			var ce *ChainError
			require.ErrorAs(t, err, &ce)
			require.Equal(t, tt.how, ce.Break, ce.Error())
			require.Equal(t, tt.seq, ce.Seq)
		})
	}
	head, err := VerifyChain(Head{}, all(chain(t, 5)))
	require.NoError(t, err)
	require.EqualValues(t, 5, head.Seq)
}

func TestAReadErrorIsNotAGoodEnd(t *testing.T) {
	t.Parallel()
	boom := errors.New("boom")
	_, err := VerifyChain(Head{}, func(yield func(Entry, error) bool) { yield(Entry{}, boom) })
	require.ErrorIs(t, err, boom)
}

// A whole journal that was written anew verifies by itself, and not against a
// checkpoint that left the database before.
func TestCheckpointProvesARewrittenJournal(t *testing.T) {
	t.Parallel()
	key, err := GenerateKey()
	require.NoError(t, err)
	public := key.Public().(ed25519.PublicKey)
	before := chain(t, 3)
	cp := Sign(key, Head{Seq: 3, Hash: before[2].Hash}, time.Now())
	require.NoError(t, cp.Verify(public))
	require.NoError(t, cp.Matches(before[2]))

	forged := entry()
	require.NoError(t, Seal(before[1].Hash, 3, &forged))
	_, err = VerifyChain(Head{}, all([]Entry{before[0], before[1], forged}))
	require.NoError(t, err, "the forged chain is a chain")
	require.Error(t, cp.Matches(forged))

	cp.Hash = forged.Hash
	require.ErrorIs(t, cp.Verify(public), ErrSignature)
	other, err := GenerateKey()
	require.NoError(t, err)
	require.ErrorIs(t, Sign(other, Head{Seq: 3, Hash: forged.Hash}, time.Now()).Verify(public), ErrSignature)
}

func TestKeysAreKept(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "key.pem")
	first, err := LoadOrCreateKey(file)
	require.NoError(t, err)
	second, err := LoadOrCreateKey(file)
	require.NoError(t, err)
	require.Equal(t, first, second)
	info, err := os.Stat(file)
	require.NoError(t, err)
	require.Zero(t, info.Mode().Perm()&0o077, "nobody else reads the key")
	require.NoError(t, os.WriteFile(file, []byte("no key"), 0o600))
	_, err = LoadKey(file)
	require.ErrorIs(t, err, ErrKey)
}
