package engine

import (
	"cmp"
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/alertmedic/alertmedic/internal/store"
)

// errDead is what every call of a process gets from the instant of its death.
var errDead = errors.New("the process is dead")

// point is an instant at which a process can die: before or after one call that
// leaves it.
type point struct {
	op    string // the store's transaction, "no transaction" outside of one; "api" and "notify" for other calls
	call  string
	after bool
	// settles says that the call changes what survives: a commit, a statement
	// outside of a transaction, or a call that is not the database's.
	settles bool
}

func (p point) String() string {
	when := "before"
	if p.after {
		when = "after"
	}
	return fmt.Sprintf("%s %s: %s", when, p.op, p.call)
}

// gate stands between one process and everything outside of it. It lists the
// points in their order, and at one of them the process dies: from then on
// nothing passes. It is safe for concurrent use.
type gate struct {
	mu      sync.Mutex
	dieAt   int // index of the point in trace; -1: lives on
	trace   []point
	dead    bool
	onDeath func()           // saves what a power cut would leave
	clock   func() time.Time // answers the database's clock
	// unrecorded is what has reached Slack since the last commit about Slack: what
	// the next process may send once more.
	unrecorded []string
	// call is the call of an action that has arrived since the last intent.
	call     *sent
	admitted bool
}

// at passes a point, or dies at it.
func (g *gate) at(p point) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.dead {
		return errDead
	}
	g.trace = append(g.trace, p)
	if len(g.trace)-1 == g.dieAt {
		g.dead = true
		g.onDeath()
		return errDead
	}
	return nil
}

func (g *gate) died() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.dead
}

// do makes a call between its two points.
func (g *gate) do(p point, call func() error) error {
	if err := g.at(p); err != nil {
		return err
	}
	err := call()
	p.after = true
	if dead := g.at(p); dead != nil {
		return dead
	}
	return err
}

// outside marks the reads of the test itself, which pass every gate.
type outside struct{}

func (outside) Deadline() (time.Time, bool) { return time.Time{}, false }
func (outside) Done() <-chan struct{}       { return nil }
func (outside) Err() error                  { return nil }
func (outside) Value(key any) any {
	if _, ok := key.(outside); ok {
		return true
	}
	return nil
}

// db makes a call of the database.
func (g *gate) db(ctx context.Context, what, op string, call func() error) error {
	if ctx.Value(outside{}) != nil {
		return call()
	}
	settles := what == "commit"
	if op == "" {
		op, settles = "no transaction", !strings.HasPrefix(what, "SELECT")
	}
	return g.do(point{op: op, call: what, settles: settles}, func() error {
		err := call()
		if what == "commit" && op == "store the value" && err == nil {
			g.unrecorded = nil
		}
		if what == "commit" && op == "admit" && err == nil {
			g.call, g.admitted = nil, true
		}
		return err
	})
}

var (
	written = regexp.MustCompile(`(?i)(INSERT INTO|UPDATE|DELETE FROM) (\w+)`)
	read    = regexp.MustCompile(`(?i)FROM (\w+)`)
)

// brief names a statement by what it does to which table.
func brief(query string) string {
	if m := written.FindStringSubmatch(query); m != nil && !strings.Contains(query, "FOR UPDATE") {
		return m[1] + " " + m[2]
	}
	if m := read.FindStringSubmatch(query); m != nil {
		return "SELECT " + m[1]
	}
	return strings.Join(strings.Fields(query), " ")
}

// tap makes a store's connections pass the gate.
func (g *gate) tap(c driver.Connector) driver.Connector {
	return tapped{c, g, strings.Contains(fmt.Sprintf("%T", c.Driver()), "sqlite")}
}

type tapped struct {
	driver.Connector
	gate   *gate
	sqlite bool
}

func (t tapped) Connect(ctx context.Context) (driver.Conn, error) {
	if t.gate.died() {
		return nil, errDead
	}
	c, err := t.Connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	if e, ok := c.(driver.ExecerContext); ok && t.sqlite {
		// A death of the process, and not of the machine, is what is tried: nothing
		// need wait for the disk.
		if _, err := e.ExecContext(ctx, "PRAGMA synchronous=OFF", nil); err != nil {
			return nil, errors.Join(err, c.Close())
		}
	}
	if e, ok := c.(driver.ExecerContext); ok && !t.sqlite {
		// The server must not take a machine that stands still for a process that is gone.
		if _, err := e.ExecContext(ctx, "SET idle_in_transaction_session_timeout = '5min'", nil); err != nil {
			return nil, errors.Join(err, c.Close())
		}
	}
	return &tappedConn{Conn: c, gate: t.gate}, nil
}

type tappedConn struct {
	driver.Conn
	gate *gate
	op   string // the transaction that is open, as the store calls it; "" outside of one
}

func (c *tappedConn) BeginTx(ctx context.Context, opts driver.TxOptions) (driver.Tx, error) {
	var tx driver.Tx
	op := cmp.Or(store.Operation(ctx), "a transaction without a name")
	err := c.gate.db(ctx, "begin", op, func() (err error) {
		tx, err = c.Conn.(driver.ConnBeginTx).BeginTx(ctx, opts)
		return err
	})
	if err != nil {
		if tx != nil {
			_ = tx.Rollback()
		}
		return nil, err
	}
	c.op = op
	return &tappedTx{tx, ctx, c}, nil
}

func (c *tappedConn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	var res driver.Result
	err := c.gate.db(ctx, brief(query), c.op, func() (err error) {
		res, err = c.Conn.(driver.ExecerContext).ExecContext(ctx, query, args)
		return err
	})
	return res, err
}

func (c *tappedConn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	if strings.HasPrefix(query, "SELECT CAST(EXTRACT(EPOCH FROM clock_timestamp())") && !strings.Contains(query, ",") {
		if c.gate.died() {
			return nil, errDead
		}
		return &clockRows{now: c.gate.clock().UnixMicro()}, nil
	}
	query = strings.ReplaceAll(query, "clock_timestamp()", fmt.Sprintf("to_timestamp(%d / 1000000.0)", c.gate.clock().UnixMicro()))
	return c.queried(ctx, brief(query), func() (driver.Rows, error) {
		return c.Conn.(driver.QueryerContext).QueryContext(ctx, query, args)
	})
}

// queried makes a query; the rows of one whose answer is lost are closed.
func (c *tappedConn) queried(ctx context.Context, what string, query func() (driver.Rows, error)) (driver.Rows, error) {
	var rows driver.Rows
	err := c.gate.db(ctx, what, c.op, func() (err error) {
		rows, err = query()
		return err
	})
	if err != nil && rows != nil {
		_ = rows.Close()
		rows = nil
	}
	return rows, err
}

func (c *tappedConn) PrepareContext(ctx context.Context, query string) (driver.Stmt, error) {
	if c.gate.died() {
		return nil, errDead
	}
	s, err := c.Conn.(driver.ConnPrepareContext).PrepareContext(ctx, query)
	if err != nil {
		return nil, err
	}
	return &tappedStmt{s, brief(query), c}, nil
}

func (c *tappedConn) Ping(ctx context.Context) error {
	if c.gate.died() {
		return errDead
	}
	if p, ok := c.Conn.(driver.Pinger); ok {
		return p.Ping(ctx)
	}
	return nil
}

func (c *tappedConn) CheckNamedValue(v *driver.NamedValue) error {
	if n, ok := c.Conn.(driver.NamedValueChecker); ok {
		return n.CheckNamedValue(v)
	}
	return driver.ErrSkip
}

func (c *tappedConn) ResetSession(ctx context.Context) error {
	if r, ok := c.Conn.(driver.SessionResetter); ok && !c.gate.died() {
		return r.ResetSession(ctx)
	}
	return nil
}

func (c *tappedConn) IsValid() bool {
	v, ok := c.Conn.(driver.Validator)
	return !c.gate.died() && (!ok || v.IsValid())
}

type tappedTx struct {
	driver.Tx
	ctx  context.Context //nolint:containedctx // of BeginTx, which the driver's Commit is not given again
	conn *tappedConn
}

func (t *tappedTx) Commit() error {
	err := t.conn.gate.db(t.ctx, "commit", t.conn.op, t.Tx.Commit)
	if errors.Is(err, errDead) {
		_ = t.Tx.Rollback() // nothing is left to undo when the commit was made
	}
	t.conn.op = ""
	return err
}

// Rollback passes a dead gate as well: a death undoes what was not committed.
func (t *tappedTx) Rollback() error {
	t.conn.op = ""
	return t.Tx.Rollback()
}

type tappedStmt struct {
	driver.Stmt
	what string
	conn *tappedConn
}

func (s *tappedStmt) ExecContext(ctx context.Context, args []driver.NamedValue) (driver.Result, error) {
	var res driver.Result
	err := s.conn.gate.db(ctx, s.what, s.conn.op, func() (err error) {
		res, err = s.Stmt.(driver.StmtExecContext).ExecContext(ctx, args)
		return err
	})
	return res, err
}

func (s *tappedStmt) QueryContext(ctx context.Context, args []driver.NamedValue) (driver.Rows, error) {
	return s.conn.queried(ctx, s.what, func() (driver.Rows, error) {
		return s.Stmt.(driver.StmtQueryContext).QueryContext(ctx, args)
	})
}

// clockRows is the answer of the database's clock: one number.
type clockRows struct {
	now  int64
	read bool
}

func (*clockRows) Columns() []string { return []string{"now"} }
func (*clockRows) Close() error      { return nil }
func (r *clockRows) Next(dest []driver.Value) error {
	if r.read {
		return io.EOF
	}
	r.read, dest[0] = true, r.now
	return nil
}
