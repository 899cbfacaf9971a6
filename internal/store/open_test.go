package store_test

import (
	"bytes"
	"database/sql"
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"github.com/alertmedic/alertmedic/internal/guard"
	"github.com/alertmedic/alertmedic/internal/journal"
	"github.com/alertmedic/alertmedic/internal/store"
)

// unwritable is a directory in which not even root can make a file.
func unwritable(t *testing.T) string {
	if os.Geteuid() == 0 {
		return "/proc"
	}
	dir := t.TempDir()
	require.NoError(t, os.Chmod(dir, 0o500))
	return dir
}

// What cannot be opened is refused with a reason and a way out.
func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	write := func(content string) func(t *testing.T) string {
		return func(t *testing.T) string {
			file := filepath.Join(t.TempDir(), "medic.db")
			require.NoError(t, os.WriteFile(file, []byte(content), 0o600))
			return file
		}
	}
	plain := func(dsn string) func(*testing.T) string { return func(*testing.T) string { return dsn } }
	tests := map[string]struct {
		dsn  func(t *testing.T) string
		is   error
		says []string
	}{
		"a damaged file":         {write("SQLite format 3\x00" + strings.Repeat("\x00", 4096)), store.ErrCorrupt, []string{"restore a backup", ".recover"}},
		"a file of another kind": {write("this is a shopping list, long enough to be one: milk, bread, butter, apples"), store.ErrCorrupt, nil},
		"a missing directory": {func(t *testing.T) string { return filepath.Join(t.TempDir(), "no", "such", "dir", "medic.db") },
			nil, []string{"/no/such/dir does not exist: make it, writable for the user that alertmedic runs as"}},
		"a directory":             {func(t *testing.T) string { return t.TempDir() }, nil, []string{" is a directory: name the file of the database in it, such as ", "/alertmedic.db"}},
		"an unwritable directory": {func(t *testing.T) string { return filepath.Join(unwritable(t), "medic.db") }, nil, []string{"medic.db.lock"}},
		"nothing":                 {plain(""), nil, []string{"is empty"}},
		"memory":                  {plain(":memory:"), nil, []string{"must name a database file"}},
		"options":                 {plain("file:/tmp/x.db?_pragma=foreign_keys(0)"), nil, []string{"carries options"}},
		"a host":                  {plain("file://elsewhere/x.db"), nil, []string{"names a host"}},
		"another database":        {plain("mysql://root:hunter2@127.0.0.1/x"), nil, []string{"postgres://"}},
		"keywords":                {plain("host=db password=hunter2 dbname=x"), nil, []string{"keyword form"}},
		"no database":             {plain("postgres://medic:hunter2@127.0.0.1/"), nil, []string{"names no database"}},
		"no URL":                  {plain("postgres://medic:hunter2%zz@127.0.0.1/x"), nil, []string{"percent-encoded"}},
		"a bad option":            {plain("postgres://medic:hunter2@127.0.0.1/x?sslmode=maybe&password=hunter2"), nil, []string{"check host, port and options"}},
		"a server that is not there": {plain("postgres://medic:hunter2@127.0.0.1:1/medic?connect_timeout=2"),
			store.ErrUnavailable, []string{"127.0.0.1:1", "check that it runs and can be reached"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := store.Open(t.Context(), store.Options{DSN: tt.dsn(t)})
			require.Error(t, err)
			if tt.is != nil {
				require.ErrorIs(t, err, tt.is)
			}
			for _, part := range tt.says {
				require.ErrorContains(t, err, part)
			}
			require.NotContains(t, err.Error(), "hunter2", "no password in an error")
		})
	}
	require.Equal(t, "postgres://medic:xxxxx@db:5432/x?sslpassword=xxxxx", store.Redact("postgres://medic:hunter2@db:5432/x?sslpassword=hunter2"))
	require.NotContains(t, store.Redact("mysql://root:hunter2@x/y"), "hunter2")
}

func TestOpenRefusesADatabaseOrUserThatTheServerDoesNotKnow(t *testing.T) {
	t.Parallel()
	if server == "" {
		return // said once by TestMain
	}
	u, err := url.Parse(server)
	require.NoError(t, err)
	u.Path = "/no_such_database"
	_, err = store.Open(t.Context(), store.Options{DSN: u.String()})
	require.ErrorContains(t, err, "no_such_database")
	if password, ok := u.User.Password(); ok {
		require.NotContains(t, err.Error(), password)
	}
}

// A damage in the middle of the file is found at open, and one that appears later
// is told as what it is.
func TestADamagedPageIsFound(t *testing.T) {
	t.Parallel()
	f := openSQLite(t, t)
	for range 200 {
		require.NoError(t, f.Append(tctx, journal.Entry{Kind: journal.StepDone, Message: strings.Repeat("x", 1000)}))
	}
	require.NoError(t, f.Close())
	raw, err := os.ReadFile(f.dsn)
	require.NoError(t, err)
	for at := 20 * 4096; at < len(raw); at += 4096 {
		copy(raw[at:], bytes.Repeat([]byte{0xee}, 512))
	}
	require.NoError(t, os.WriteFile(f.dsn, raw, 0o600))
	_, err = store.Open(tctx, f.options())
	require.ErrorIs(t, err, store.ErrCorrupt)
	require.ErrorContains(t, err, ".recover")
}

func TestOpenRefusesANewerSchema(t *testing.T) {
	contract(t, func(t *testing.T, f *fixture) {
		require.NoError(t, f.ExecRaw(tctx, "INSERT INTO goose_db_version (version_id, is_applied) VALUES (999, "+map[string]string{"sqlite": "1", "postgres": "true"}[f.Dialect()]+")"))
		require.NoError(t, f.Close())
		_, err := store.Open(tctx, f.options())
		require.ErrorIs(t, err, store.ErrNewerSchema)
		require.ErrorContains(t, err, "999")
		if f.Dialect() == "sqlite" {
			_, err = store.Open(tctx, f.options())
			require.ErrorIs(t, err, store.ErrNewerSchema, "a failed open leaves no lock behind")
		}
	})
}

// Replicas that start together migrate once.
func TestReplicasStartTogether(t *testing.T) {
	t.Parallel()
	if server == "" {
		return // said once by TestMain
	}
	f := openPostgres(t, t)
	db, err := sql.Open("pgx", f.dsn)
	require.NoError(t, err)
	defer db.Close()
	var schema string
	require.NoError(t, db.QueryRowContext(tctx, "SELECT current_schema()").Scan(&schema))
	require.NoError(t, f.Close())
	_, err = db.ExecContext(tctx, "DROP SCHEMA "+schema+" CASCADE; CREATE SCHEMA "+schema)
	require.NoError(t, err)
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() {
			s, err := store.Open(tctx, f.options())
			if err == nil {
				err = errors.Join(s.SetValue(tctx, "k", "v"), s.Close())
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

// A connection that the server cuts fails one call, visibly, and no more.
func TestACutConnectionIsTemporary(t *testing.T) {
	t.Parallel()
	if server == "" {
		return // said once by TestMain
	}
	f := openPostgres(t, t)
	u, err := url.Parse(f.dsn)
	require.NoError(t, err)
	q := u.Query()
	q.Set("application_name", "victim-"+q.Get("search_path"))
	u.RawQuery = q.Encode()
	s, err := store.Open(tctx, store.Options{DSN: u.String(), MaxOpen: 2})
	require.NoError(t, err)
	defer func() { require.NoError(t, s.Close()) }()
	err = s.InTx(tctx, func(exec func(string, ...any) error) error {
		require.NoError(t, f.ExecRaw(tctx, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1", q.Get("application_name")))
		return exec("INSERT INTO kv (k, v, updated_at) VALUES ('cut', '', 1)")
	})
	require.ErrorIs(t, err, store.ErrUnavailable)
	// database/sql throws the dead connections away, each at its first use.
	require.Eventually(t, func() bool { return s.SetValue(tctx, "k", "v") == nil }, 2*time.Minute, time.Millisecond)
}

// The server soon lets go of a transaction whose replica is gone, but not of a
// migration on a machine that stands still.
func TestAMigrationMayStandStill(t *testing.T) {
	t.Parallel()
	if server == "" {
		return // main_test.go says so
	}
	f := openPostgres(t, t)
	s, err := store.Open(tctx, store.Options{DSN: f.dsn})
	require.NoError(t, err)
	defer func() { require.NoError(t, s.Close()) }()
	for _, tc := range []struct {
		migrates bool
		want     string
	}{{false, "5s"}, {true, "2min"}, {false, "5s"}} {
		limit, err := s.IdleLimit(tctx, tc.migrates)
		require.NoError(t, err)
		require.Equal(t, tc.want, limit)
	}
}

func TestWhatIsCommittedIsThereAfterARestart(t *testing.T) {
	contract(t, func(t *testing.T, f *fixture) {
		id := f.newRun(t, "a", deployment("web"))
		require.NoError(t, f.SetPause(tctx, guard.Pause{Scope: guard.PauseGlobal, By: "ada", Why: "release"}))
		f.entries(t)
		require.NoError(t, f.Close())
		f.Store = f.open(t, t)
		pauses, err := f.Pauses(tctx)
		require.NoError(t, err)
		require.Len(t, pauses, 1)
		f.claim(t, id, "w")
		require.NoError(t, f.Append(tctx, journal.Entry{Kind: journal.ServiceStarted}))
		entries := f.entries(t)
		require.Equal(t, journal.ServiceStarted, entries[len(entries)-1].Kind, "the chain goes on")
	})
}

// A clock that is set back never shortens a cooldown: the store's time does not
// go back, not even across a restart, and it does not stand still either.
func TestTimeNeverGoesBack(t *testing.T) {
	t.Parallel()
	f := openSQLite(t, t)
	require.NoError(t, f.SetValue(tctx, "k", "v"))
	before := f.time(t)
	f.pass(t, -time.Hour)
	require.Equal(t, before, f.time(t))
	f.pass(t, 10*time.Second)
	require.Equal(t, before.Add(9*time.Second), f.time(t), "a tenth slower")
	require.NoError(t, f.SetValue(tctx, "k", "w"))
	require.NoError(t, f.Close())
	f.Store = f.open(t, t)
	require.Equal(t, before.Add(9*time.Second), f.time(t), "after a restart")
	for range 660 {
		f.pass(t, time.Minute)
		require.False(t, f.time(t).Before(f.clock()))
	}
	require.Equal(t, f.clock(), f.time(t), "the wall clock has caught up")
}

// The real clock advances by its monotonic reading.
func TestTheRealClockAdvances(t *testing.T) {
	t.Parallel()
	s, err := store.Open(t.Context(), store.Options{DSN: filepath.Join(t.TempDir(), "medic.db")})
	require.NoError(t, err)
	defer func() { require.NoError(t, s.Close()) }()
	last := time.Time{}
	for range 1000 {
		now, err := s.Now(t.Context())
		require.NoError(t, err)
		require.False(t, now.Before(last))
		last = now
	}
	require.WithinDuration(t, time.Now(), last, time.Minute)
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewPedanticRegistry()
	o := store.Options{DSN: filepath.Join(t.TempDir(), "medic.db"), Registerer: reg}
	s, err := store.Open(t.Context(), o)
	require.NoError(t, err)
	defer func() { require.NoError(t, s.Close()) }()
	for range 2 {
		_, err = s.Accept(t.Context(), store.Batch{Observations: []store.Observation{firing("x")}})
		require.NoError(t, err)
	}
	require.NoError(t, testutil.GatherAndCompare(reg, strings.NewReader(`
# HELP alertmedic_store_observations_total Accepted observations of alerts by what became of them.
# TYPE alertmedic_store_observations_total counter
alertmedic_store_observations_total{result="closed"} 0
alertmedic_store_observations_total{result="opened"} 1
alertmedic_store_observations_total{result="orphaned"} 0
alertmedic_store_observations_total{result="reopened"} 0
alertmedic_store_observations_total{result="repeated"} 1
alertmedic_store_observations_total{result="stale"} 0
`), "alertmedic_store_observations_total"))
	problems, err := testutil.GatherAndLint(reg)
	require.NoError(t, err)
	require.Empty(t, problems)
	_, err = store.Open(t.Context(), store.Options{DSN: filepath.Join(t.TempDir(), "other.db"), Registerer: reg})
	require.ErrorContains(t, err, "register")
}
