package store

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/jackc/pgx/v5/stdlib"
)

// The bounds of a silence between a service and PostgreSQL. A network that drops
// packets, or a server that is gone without a goodbye, leaves connections on
// which nothing ever comes again; TCP notices after a quarter of an hour, and
// until then the pool would be full of them.
const (
	// maxSilence is how long one call to the server may take. It is longer than
	// idleInTransaction: whoever waits for a lock of a replica that is gone gets it.
	maxSilence = 10 * time.Second
	// idleInTransaction is when the server gives up a transaction whose replica
	// says nothing, and with it the locks for which the others wait.
	idleInTransaction = 5 * time.Second
	// patientlyIdle is the same for a transaction that may stand still for longer.
	patientlyIdle = "SET LOCAL idle_in_transaction_session_timeout = '2min'"
)

// impatient makes connections to PostgreSQL that give up a call which the server
// does not answer. Contexts bound what somebody waits for; this bounds the rest.
type impatient struct {
	driver.Connector
	limit time.Duration
}

// Connect implements driver.Connector.
func (i impatient) Connect(ctx context.Context) (driver.Conn, error) {
	c, err := i.Connector.Connect(ctx)
	if err != nil {
		return nil, err //nolint:wrapcheck // the driver's own
	}
	inner, ok := c.(*stdlib.Conn)
	if !ok {
		return nil, errors.Join(fmt.Errorf("the PostgreSQL driver makes connections of type %T", c), c.Close())
	}
	out := &impatientConn{Conn: inner, limit: i.limit}
	if _, err := out.ExecContext(ctx, fmt.Sprintf("SET idle_in_transaction_session_timeout = %d", idleInTransaction.Milliseconds()), nil); err != nil {
		return nil, errors.Join(fmt.Errorf("set idle_in_transaction_session_timeout: %w", err), c.Close())
	}
	return out, nil
}

type impatientConn struct {
	*stdlib.Conn
	limit time.Duration
}

// patience is a context that ends when a call under way takes too long.
type patience struct {
	context.Context
	cancel context.CancelFunc
	timer  *time.Timer
	limit  time.Duration
}

// begin starts the first call.
func (c *impatientConn) begin(ctx context.Context) *patience {
	limit := c.limit
	if ctx.Value(patientKey{}) != nil {
		limit = 24 * time.Hour
	}
	ctx, cancel := context.WithCancel(ctx)
	return &patience{Context: ctx, cancel: cancel, timer: time.AfterFunc(limit, cancel), limit: limit}
}

type patientKey struct{}

// patient is a context for what may rightly take the server long: migrations,
// and waiting for another replica's.
func patient(ctx context.Context) context.Context {
	return context.WithValue(ctx, patientKey{}, true)
}

// impatiently puts the bounds below a wrap.
func impatiently(wrap Wrap) Wrap {
	return func(c driver.Connector) driver.Connector {
		c = impatient{c, maxSilence}
		if wrap != nil {
			c = wrap(c)
		}
		return c
	}
}

// again starts another call of the same statement or transaction.
func (p *patience) again() { p.timer.Reset(p.limit) }

// over ends a call and says what its error means.
func (p *patience) over(err error) error {
	if !p.timer.Stop() && err != nil && p.Err() != nil {
		return fmt.Errorf("the server was silent for %s: %w (%w)", p.limit, os.ErrDeadlineExceeded, err)
	}
	return err
}

// ExecContext implements driver.ExecerContext.
func (c *impatientConn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	p := c.begin(ctx)
	defer p.cancel()
	res, err := c.Conn.ExecContext(p, query, args)
	return res, p.over(err)
}

// QueryContext implements driver.QueryerContext.
func (c *impatientConn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	p := c.begin(ctx)
	rows, err := c.Conn.QueryContext(p, query, args)
	if err = p.over(err); err != nil {
		p.cancel()
		return nil, err
	}
	inner, ok := rows.(*stdlib.Rows)
	if !ok {
		p.cancel()
		return nil, errors.Join(fmt.Errorf("the PostgreSQL driver returns rows of type %T", rows), rows.Close())
	}
	return &impatientRows{Rows: inner, p: p}, nil
}

// BeginTx implements driver.ConnBeginTx. The transactions of a migration may
// stand still for longer than others: one that the server gives up on a busy
// machine ends the process at its start.
func (c *impatientConn) BeginTx(ctx context.Context, opts driver.TxOptions) (driver.Tx, error) {
	p := c.begin(ctx)
	tx, err := c.Conn.BeginTx(p, opts) // its context is that of Commit, too
	if err == nil && ctx.Value(patientKey{}) != nil {
		if _, err = c.Conn.ExecContext(p, patientlyIdle, nil); err != nil {
			err = errors.Join(err, tx.Rollback())
		}
	}
	if err = p.over(err); err != nil {
		p.cancel()
		return nil, err
	}
	return &impatientTx{tx: tx, p: p}, nil
}

// Ping implements driver.Pinger.
func (c *impatientConn) Ping(ctx context.Context) error {
	p := c.begin(ctx)
	defer p.cancel()
	return p.over(c.Conn.Ping(p))
}

// ResetSession implements driver.SessionResetter: it pings a connection that has
// not been used for a while.
func (c *impatientConn) ResetSession(ctx context.Context) error {
	p := c.begin(ctx)
	defer p.cancel()
	if err := c.Conn.ResetSession(p); err != nil {
		return driver.ErrBadConn
	}
	p.timer.Stop()
	return nil
}

type impatientRows struct {
	*stdlib.Rows
	p *patience
}

func (r *impatientRows) Next(dest []driver.Value) error {
	r.p.again()
	return r.p.over(r.Rows.Next(dest))
}

func (r *impatientRows) Close() error {
	r.p.again()
	defer r.p.cancel()
	return r.p.over(r.Rows.Close())
}

type impatientTx struct {
	tx driver.Tx
	p  *patience
}

func (t *impatientTx) Commit() error {
	t.p.again()
	defer t.p.cancel()
	return t.p.over(t.tx.Commit())
}

func (t *impatientTx) Rollback() error {
	t.p.again()
	defer t.p.cancel()
	return t.p.over(t.tx.Rollback())
}
