package store_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alertmedic/alertmedic/internal/store"
)

func TestCandidatesLeasesAreRenewed(t *testing.T) {
	contract(t, func(t *testing.T, f *fixture) {
		f.accept(t, firing("a", playbook("p", 0)))
		first := f.candidates(t, 1)
		require.Len(t, first, 1)
		renew := func() store.Lost {
			lost, err := f.RenewLeases(tctx, store.Held{Candidates: first}, time.Minute)
			require.NoError(t, err)
			return lost
		}
		f.pass(t, 50*time.Second)
		require.Empty(t, renew())
		f.pass(t, 50*time.Second)
		require.Empty(t, f.candidates(t, 1), "the lease was renewed")
		f.pass(t, 11*time.Second)
		second := f.candidates(t, 1)
		require.Len(t, second, 1)
		require.Equal(t, store.Lost{first[0].ID: true}, renew())
		f.resolve(t, second[0], deployment("web"))
		lost, err := f.RenewLeases(tctx, store.Held{Candidates: second}, time.Minute)
		require.NoError(t, err)
		require.Equal(t, store.Lost{first[0].ID: true}, lost, "a resolved candidate is held by nobody")
	})
}

// The lock of the SQLite file proves that its last process is gone: what it held
// is free at once.
func TestARestartOnSQLiteFreesWhatTheProcessBeforeHeld(t *testing.T) {
	t.Parallel()
	f := openSQLite(t, t)
	id := f.newRun(t, "a", deployment("web"))
	f.accept(t, firing("another", playbook("b", 0)))
	f.claim(t, id, "before")
	require.Len(t, f.candidates(t, 1), 1)
	f.accept(t, firing("sealed"))
	require.NotEmpty(t, f.entries(t))
	require.NoError(t, f.Close())

	f.Store = f.open(t, t)
	require.True(t, f.claim(t, id, "after").TakenOver)
	require.Len(t, f.candidates(t, 1), 1)
	f.accept(t, firing("more"))
	n, err := f.Seal(tctx, "after")
	require.NoError(t, err)
	require.NotZero(t, n, "the sealer's lease is free as well")
}
