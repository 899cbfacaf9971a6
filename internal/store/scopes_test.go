package store_test

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alertmedic/alertmedic/internal/guard"
	"github.com/alertmedic/alertmedic/internal/store"
)

// Two admissions whose scopes overlap must not wait for each other in a ring: each
// locks its scopes in the one order, in whatever order they are named, and gives
// them back with its transaction. Two of no common scope do not wait.
func TestScopesAreLockedInOneOrder(t *testing.T) {
	t.Parallel()
	if server == "" {
		return // said once by TestMain
	}
	f := openPostgres(t, t)
	run := f.claim(t, f.newRun(t, "a", deployment("web")), "w")
	free := f.claim(t, f.newRun(t, "b", deployment("db")), "w")
	db, err := sql.Open("pgx", f.dsn)
	require.NoError(t, err)
	defer db.Close()
	const key = "hashtextextended(current_schema() || '/' || $1, 1634497905)"
	var scopes []string
	keys := map[string]int64{}
	for i := range 9 {
		scope := fmt.Sprint("scope/", i)
		var k int64
		require.NoError(t, db.QueryRowContext(tctx, "SELECT "+key, scope).Scan(&k))
		scopes, keys[scope] = append(scopes, scope), k
	}
	inOrder := slices.SortedFunc(slices.Values(scopes), func(a, b string) int {
		if keys[a] < keys[b] {
			return -1
		}
		return 1
	})
	require.NotEqual(t, inOrder, scopes, "or the order of the names would pass")

	admit := func(ctx context.Context, r store.Run, scopes []string) error {
		q := guard.Query{RunID: r.ID, AttemptKey: r.AttemptKey, Scopes: scopes}
		_, err := f.Admit(ctx, q, r.Fence(), func(l guard.Ledger) (store.Transition, error) { return intent(r, l.Now), nil })
		return err
	}
	held, err := db.BeginTx(tctx, nil)
	require.NoError(t, err)
	defer func() { _ = held.Rollback() }()
	const middle = 4
	_, err = held.ExecContext(tctx, "SELECT pg_advisory_xact_lock("+key+")", inOrder[middle])
	require.NoError(t, err)
	done := make(chan error, 1)
	go func() { done <- admit(tctx, run, scopes) }()
	// The locks of whoever waits for the one that is held here.
	const mine = `SELECT count(*) FROM pg_locks mine JOIN pg_locks waits ON waits.pid = mine.pid
		WHERE mine.locktype = 'advisory' AND mine.granted AND waits.locktype = 'advisory' AND NOT waits.granted
		AND (waits.classid::bigint << 32 | waits.objid::bigint) = ` + key
	var have int
	require.Eventually(t, func() bool {
		require.NoError(t, db.QueryRowContext(tctx, "SELECT count(*) FROM pg_locks WHERE NOT granted AND (classid::bigint << 32 | objid::bigint) = "+key, inOrder[middle]).Scan(&have))
		return have == 1
	}, time.Minute, time.Millisecond)
	require.NoError(t, db.QueryRowContext(tctx, mine, inOrder[middle]).Scan(&have))
	require.Equal(t, middle, have, "those before it in the order, and none after it")
	require.NoError(t, admit(tctx, free, inOrder[middle+1:]), "what the waiting one has not come to is free")
	require.NoError(t, held.Rollback())
	require.NoError(t, <-done)
	// An ended transaction holds none of them.
	for _, scope := range scopes {
		var ok bool
		require.NoError(t, db.QueryRowContext(tctx, "SELECT pg_try_advisory_xact_lock("+key+")", scope).Scan(&ok))
		require.True(t, ok, scope)
	}
}
