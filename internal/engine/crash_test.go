package engine

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alertmedic/alertmedic/internal/alert"
	"github.com/alertmedic/alertmedic/internal/guard"
	"github.com/alertmedic/alertmedic/internal/store"
	"github.com/alertmedic/alertmedic/internal/testcluster"
	"github.com/alertmedic/alertmedic/playbooks"
)

// scenario is a story that the service lives through.
type scenario struct {
	playbooks []string
	todo      func() []happening
}

func always(*life, *process) bool { return true }

// resting waits until every run has ended.
func resting(_ *life, p *process) bool {
	for _, r := range p.runs() {
		if r.Phase != store.Done {
			return false
		}
	}
	_, waiting, err := p.store.NextDue(outside{})
	return err == nil && !waiting
}

// asked waits until a person is asked.
func asked(_ *life, p *process) bool {
	for _, r := range p.runs() {
		if r.Wait == store.WaitApproval {
			return true
		}
	}
	return false
}

func acted(_ *life, p *process) bool {
	for _, r := range p.runs() {
		if !r.IntentAt.IsZero() {
			return true
		}
	}
	return false
}

// waiting waits until every candidate is resolved and a guard holds the run.
func waiting(_ *life, p *process) bool {
	runs := p.runs()
	return len(runs) > 0 && runs[0].Wait == store.WaitGuard
}

func crashDoc(name, alertname, target, body string) string {
	return doc(name, fmt.Sprintf("  matchers: [alertname = %s, target = %s]\n%s", alertname, target, body))
}

var scenarios = map[string]scenario{
	// A ladder: a remedy that does not heal and is taken back, then one that a
	// person approves; alerts that are repeated, join, come late and resolve;
	// playbooks that yield; a pause; a second run that waits for the lock.
	"ladder": {
		playbooks: []string{
			crashDoc("shop", "Broken", "web", `  priority: 10
  target: {kind: Workload}
  remedies:
  - name: scale
    steps: [{name: look, action: diagnose}, {name: scale, action: workload.scale}]
    verify: {timeout: 40s, stableFor: 20s}
    onFailure: Revert
  - name: restart
    mode: Approve
    steps: [{name: label, action: pod.label}, {name: restart, action: workload.restart}]
    verify: {timeout: 5m, stableFor: 20s}
`),
			crashDoc("yields", "Broken", "web", restartOnly),
			crashDoc("waits", "Other", "web", restartOnly),
		},
		todo: func() []happening {
			return []happening{
				{always, func(p *process) error {
					if there, err := p.store.Pauses(context.Background()); err != nil || len(there) > 0 {
						return err
					}
					return p.store.SetPause(context.Background(), guard.Pause{Scope: guard.PauseGlobal, By: "ada", Why: "release"})
				}},
				{always, report(alert.Firing, "web")},
				{always, report(alert.Firing, "web")},
				{waiting, report(alert.Firing, "web", "pod", "2")},
				{waiting, func(p *process) error {
					err := p.store.ClearPause(context.Background(), guard.PauseGlobal, "", "ada", "done")
					if errors.Is(err, store.ErrNotFound) {
						return nil
					}
					return err
				}},
				{acted, report(alert.Firing, "web", "pod", "3")},
				{acted, report(alert.Firing, "web", "alertname", "Other")},
				{asked, decide(true)},
				{resting, report(alert.Resolved, "web")},
				{always, report(alert.Resolved, "web", "pod", "2")},
				{always, report(alert.Resolved, "web", "pod", "3")},
				{always, report(alert.Resolved, "web", "alertname", "Other")},
			}
		},
	},
	// A step of many calls, of which the first is refused, under a reservation.
	"drain": {
		playbooks: []string{crashDoc("drain", "Broken", "n1", `  target: {kind: Node}
  remedies: [{name: drain, steps: [{name: drain, action: node.drain}], verify: {timeout: 5m, stableFor: 20s}}]
`)},
		todo: func() []happening {
			return []happening{{always, report(alert.Firing, "n1")}, {resting, report(alert.Resolved, "n1")}}
		},
	},
	// A change that must not be made twice and cannot be looked for.
	"once": {
		playbooks: []string{crashDoc("once", "Broken", "job", `  target: {kind: Workload}
  remedies: [{name: exec, steps: [{name: exec, action: pod.exec}], verify: {timeout: 5m, stableFor: 20s}}]
`)},
		todo: func() []happening {
			return []happening{{always, report(alert.Firing, "job")}, {resting, report(alert.Resolved, "job")}}
		},
	},
	// An object that changes under its plan, a plan that is only shown, and one
	// that is rejected.
	"others": {
		playbooks: []string{
			crashDoc("drifts", "Broken", "api", restartOnly),
			crashDoc("shows", "Broken", "web", "  mode: Observe\n"+restartOnly),
			crashDoc("asks", "Broken", "job", "  mode: Approve\n"+restartOnly),
		},
		todo: func() []happening {
			return []happening{
				{always, report(alert.Firing, "api")}, {resting, report(alert.Resolved, "api")},
				{always, report(alert.Firing, "web")},
				{resting, report(alert.Firing, "job")}, {asked, decide(false)},
			}
		},
	},
}

const restartOnly = `  target: {kind: Workload}
  remedies: [{name: restart, steps: [{name: restart, action: workload.restart}], verify: {timeout: 5m, stableFor: 20s}}]
`

func (s scenario) load(t testing.TB) *playbooks.Set {
	set, problems := playbooks.LoadBytes("test.yaml", []byte("---\n"+strings.Join(s.playbooks, "---\n")), playbooks.LoadOptions{Catalogue: inside{}})
	require.Empty(t, problems.Errors())
	return set
}

// live runs a story; the processes die at the given points in turn.
func (s scenario) live(t testing.TB, set *playbooks.Set, db database, dieAt ...int) *life {
	t.Helper()
	db.fresh(t)
	l := &life{t: t, db: db, out: newOuter(), set: set, todo: s.todo(), dieAt: dieAt}
	l.run()
	return l
}

// chosen picks the points to die at: all, or a few of each kind, each kind's own
// ones along the story. What settles nothing leaves what the point before it
// left, so that one of a kind is enough.
func chosen(trace []point, all bool, settling, others int) []int {
	kinds := map[string][]int{}
	var order []string
	for i, p := range trace {
		k := p.String()
		if kinds[k] == nil {
			order = append(order, k)
		}
		kinds[k] = append(kinds[k], i)
	}
	var out []int
	for i, k := range order {
		at, n := kinds[k], others
		if trace[at[0]].settles {
			n = settling
		}
		switch {
		case all || n >= len(at):
			out = append(out, at...)
		case n > 0:
			for j := range n {
				out = append(out, at[(i*7+j*len(at)/n)%len(at)])
			}
		case n < 0 && i%-n == 0: // of every so many kinds
			out = append(out, at[i*7%len(at)])
		}
	}
	return out
}

// A process may die at any instant. The suite lets it die before and after each
// call of the database, the API server, the sources and Slack, starts another on
// what is left, and compares the end with that of an undisturbed life.
//
// ALERTMEDIC_SOAK makes it die at every point on both databases; otherwise it is
// two of each kind that settles something on SQLite, with some of the others, and
// one of each on PostgreSQL.
func TestCrashAtEveryPoint(t *testing.T) {
	t.Parallel()
	soak := os.Getenv("ALERTMEDIC_SOAK") != ""
	for name, s := range scenarios {
		t.Run("sqlite/"+name, func(t *testing.T) {
			t.Parallel()
			crash(t, s, newSQLiteFile, soak, 2, -8)
		})
	}
	server := postgresServer(t)
	for name, s := range scenarios {
		t.Run("postgres/"+name, func(t *testing.T) {
			t.Parallel()
			crash(t, s, func(t testing.TB, set *playbooks.Set) database { return newPostgresSchema(t, server, set) }, soak, 1, 0)
		})
	}
}

func crash(t *testing.T, s scenario, open func(testing.TB, *playbooks.Set) database, soak bool, settling, others int) {
	set := s.load(t)
	db := open(t, set)
	base := s.live(t, set, db)
	want := base.end()
	trace := base.traces[0]
	points := chosen(trace, soak, settling, others)
	t.Logf("%d points, of which %d are tried; %d calls of actions, %d journal entries", len(trace), len(points), len(base.out.sent), len(base.entries()))
	for i, n := range points {
		t.Run(fmt.Sprintf("%d %s", n, trace[n]), func(t *testing.T) {
			dieAt := []int{n}
			if i%5 == 4 {
				dieAt = append(dieAt, n*7%97) // and once more, soon after
			}
			l := s.live(t, set, db, dieAt...)
			require.Equal(t, trace[n], l.died[0], "the lives must pass the same points")
			l.requireSameEnd(want)
		})
	}
}

func newSQLiteFile(t testing.TB, set *playbooks.Set) database {
	f := &sqliteFile{dir: filepath.Join(t.TempDir(), "lives"), template: t.TempDir()}
	prepare(t, filepath.Join(f.template, "medic.db"), set)
	writeToken(t, f.template)
	return f
}

func prepare(t testing.TB, dsn string, set *playbooks.Set) {
	s, err := store.Open(t.Context(), store.Options{DSN: dsn, Clock: func() time.Time { return newOuter().now }})
	require.NoError(t, err)
	for _, pb := range set.All() {
		require.NoError(t, s.PutPlaybook(t.Context(), pb.Hash, pb.Doc))
	}
	require.NoError(t, s.Close())
}

func writeToken(t testing.TB, dir string) {
	require.NoError(t, os.WriteFile(filepath.Join(dir, "token"), []byte("xoxb-1"), 0o600))
}

func (f *sqliteFile) end() (driver, dsn string) { return "sqlite", f.dsn() }

// dump asks the database of an ended life.
func (l *life) dump(query string) []string {
	l.t.Helper()
	if l.ended == nil {
		db, err := sql.Open(l.db.end())
		require.NoError(l.t, err)
		db.SetMaxOpenConns(1)
		l.ended = db
		l.t.Cleanup(func() { require.NoError(l.t, db.Close()) })
	}
	return dump(l.t, l.ended, query)
}

func dump(t testing.TB, db *sql.DB, query string) []string {
	t.Helper()
	rows, err := db.QueryContext(context.Background(), query)
	require.NoError(t, err)
	defer rows.Close()
	names, err := rows.Columns()
	require.NoError(t, err)
	out := []string{}
	for rows.Next() {
		cols, into := make([]string, len(names)), make([]any, len(names))
		for i := range cols {
			into[i] = &cols[i]
		}
		require.NoError(t, rows.Scan(into...))
		out = append(out, strings.Join(cols, "|"))
	}
	require.NoError(t, rows.Err())
	return out
}

// postgresSchema is a schema of its own on the server. What a death leaves is
// what the server has committed.
type postgresSchema struct {
	url, dir, tables string
	db               *sql.DB
}

func (s *postgresSchema) dsn() string               { return s.url }
func (s *postgresSchema) token() string             { return filepath.Join(s.dir, "token") }
func (s *postgresSchema) died(testing.TB)           {}
func (s *postgresSchema) end() (driver, dsn string) { return "pgx", s.url }

func (s *postgresSchema) fresh(t testing.TB) { s.exec(t, "TRUNCATE "+s.tables) }

func (s *postgresSchema) exec(t testing.TB, query string) {
	_, err := s.db.ExecContext(context.Background(), query)
	require.NoError(t, err)
}

func newPostgresSchema(t testing.TB, server string, set *playbooks.Set) database {
	u, err := url.Parse(server)
	require.NoError(t, err)
	name := "crash_" + strings.ToLower(rand.Text())
	q := u.Query()
	q.Set("search_path", name)
	q.Set("connect_timeout", "60")
	u.RawQuery = q.Encode()
	s := &postgresSchema{url: u.String(), dir: t.TempDir()}
	writeToken(t, s.dir)
	s.db, err = sql.Open("pgx", s.url)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.db.Close()) })
	s.exec(t, "CREATE SCHEMA "+name)
	t.Cleanup(func() { s.exec(t, "DROP SCHEMA "+name+" CASCADE") })
	prepare(t, s.url, set)
	s.tables = strings.Join(dump(t, s.db, `SELECT table_name FROM information_schema.tables
		WHERE table_schema = current_schema() AND table_name NOT IN ('goose_db_version', 'playbooks')`), ", ")
	return s
}

// postgresServer returns the server of the run, or starts one.
func postgresServer(t *testing.T) string {
	if dsn := os.Getenv(testcluster.EnvPostgres); dsn != "" {
		return dsn
	}
	pg, err := testcluster.StartPostgres(t.Context(), testcluster.PostgresOptions{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, pg.Stop()) })
	return pg.DSN
}
