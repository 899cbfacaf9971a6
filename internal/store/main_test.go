package store_test

import (
	"context"
	"crypto/rand"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/alertmedic/alertmedic/internal/store"
	"github.com/alertmedic/alertmedic/internal/testcluster"
)

// server is the PostgreSQL of the run: that of testcluster.EnvPostgres, or one
// of its own. "" only where none can be started and none is required.
var server string

// requirePostgres makes a run fail where PostgreSQL cannot be had.
const requirePostgres = "ALERTMEDIC_REQUIRE_POSTGRES"

func TestMain(m *testing.M) {
	if role := os.Getenv(helperEnv); role != "" {
		os.Exit(helper(role))
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	server = os.Getenv(testcluster.EnvPostgres)
	stop := func() error { return nil }
	if server == "" {
		pg, err := testcluster.StartPostgres(context.Background(), testcluster.PostgresOptions{})
		switch {
		case err == nil:
			server, stop = pg.DSN, pg.Stop
		case os.Getenv(requirePostgres) != "":
			fmt.Fprintf(os.Stderr, "%s is set and PostgreSQL is not to be had: install it, or set %s: %v\n", requirePostgres, testcluster.EnvPostgres, err)
			return 1
		default:
			fmt.Fprintf(os.Stderr, "THE POSTGRESQL HALF OF THE SUITE DOES NOT RUN: %v\n", err)
		}
	}
	// testcluster keeps a thread for ever, to which the kernel ties its programs.
	before := goleak.IgnoreCurrent()
	code := m.Run()
	if err := stop(); err != nil {
		fmt.Fprintln(os.Stderr, "stop PostgreSQL:", err)
		code = 1
	}
	if err := goleak.Find(before); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	return code
}

// fixture is one fresh database with a store on it.
type fixture struct {
	*store.Store
	dsn string

	mu  sync.Mutex
	now time.Time // of SQLite
}

// tctx is for calls whose end no test waits for; go test bounds them all.
var tctx = context.Background()

const dwell = 2 * time.Minute

// dialects is the one list of databases that every contract test runs on.
var dialects = []struct {
	name string
	ok   func() bool
	open func(t require.TestingT, c cleaner) *fixture
}{
	{"sqlite", func() bool { return true }, openSQLite},
	{"postgres", func() bool { return server != "" }, openPostgres},
}

// cleaner is the part of testing.TB that rapid's T lacks.
type cleaner interface {
	Cleanup(func())
	Context() context.Context
}

// contract runs a test on each database.
func contract(t *testing.T, fn func(t *testing.T, f *fixture)) {
	t.Helper()
	t.Parallel()
	for _, d := range dialects {
		if !d.ok() {
			continue
		}
		t.Run(d.name, func(t *testing.T) {
			t.Parallel()
			fn(t, d.open(t, t))
		})
	}
}

func openSQLite(t require.TestingT, c cleaner) *fixture {
	dir, err := os.MkdirTemp("", "store-test-")
	require.NoError(t, err)
	c.Cleanup(func() { _ = os.RemoveAll(dir) })
	f := &fixture{dsn: filepath.Join(dir, "medic.db"), now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}
	f.Store = f.open(t, c)
	return f
}

func openPostgres(t require.TestingT, c cleaner) *fixture {
	admin, err := sql.Open("pgx", server)
	require.NoError(t, err)
	admin.SetMaxIdleConns(0) // a test may make hundreds of databases
	schema := "t_" + strings.ToLower(rand.Text())
	_, err = admin.ExecContext(c.Context(), "CREATE SCHEMA "+schema)
	require.NoError(t, err)
	c.Cleanup(func() {
		_, err := admin.ExecContext(context.Background(), "DROP SCHEMA "+schema+" CASCADE")
		require.NoError(t, err)
		require.NoError(t, admin.Close())
	})
	u, err := url.Parse(server)
	require.NoError(t, err)
	q := u.Query()
	q.Set("search_path", schema)
	q.Set("connect_timeout", "60")
	u.RawQuery = q.Encode()
	f := &fixture{dsn: u.String()}
	f.Store = f.open(t, c)
	return f
}

// open opens the database once more: another replica on PostgreSQL, a restart
// on SQLite.
func (f *fixture) open(t require.TestingT, c cleaner) *store.Store {
	s, err := store.Open(c.Context(), f.options())
	require.NoError(t, err)
	if s.Dialect() == "postgres" {
		s.UseShiftedClock()
	}
	c.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

func (f *fixture) options() store.Options {
	o := store.Options{DSN: f.dsn, Clock: f.clock, FlapDwell: dwell, Logger: slog.New(slog.DiscardHandler)}
	if strings.HasPrefix(f.dsn, "postgres:") {
		o.Wrap = func(c driver.Connector) driver.Connector { return patient{c} }
	}
	return o
}

// patient makes connections to a server that does not take a machine which
// stands still for a replica that is gone.
type patient struct{ driver.Connector }

func (p patient) Connect(ctx context.Context) (driver.Conn, error) {
	c, err := p.Connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	if _, err := c.(driver.ExecerContext).ExecContext(ctx, "SET idle_in_transaction_session_timeout = '5min'", nil); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

func (f *fixture) clock() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.now
}

// pass lets time go by.
func (f *fixture) pass(t require.TestingT, d time.Duration) {
	if f.Dialect() == "postgres" {
		require.NoError(t, f.ShiftClock(context.Background(), d))
		return
	}
	f.mu.Lock()
	f.now = f.now.Add(d)
	f.mu.Unlock()
}

// replica is a second store on the same database where that can be, and the
// same one on SQLite, which serves one process.
func (f *fixture) replica(t *testing.T) *store.Store {
	if f.Dialect() == "sqlite" {
		return f.Store
	}
	return f.open(t, t)
}
