package store

import (
	"container/list"
	"context"
	"database/sql/driver"
	"errors"
	"strings"
)

// statementsKept bounds how many prepared statements a connection keeps.
const statementsKept = 128

// preparing makes connections that keep the statements which they have prepared,
// as pgx does by itself: SQLite would parse and plan each one anew for every
// row, which takes longer than to run it.
type preparing struct{ driver.Connector }

// Connect implements driver.Connector.
func (p preparing) Connect(ctx context.Context) (driver.Conn, error) {
	c, err := p.Connector.Connect(ctx)
	if err != nil {
		return nil, err //nolint:wrapcheck // the driver's own
	}
	full, ok := c.(sqliteConn)
	if !ok {
		return nil, errors.Join(errors.New("the SQLite driver lacks a method that the store needs"), c.Close())
	}
	return &preparedConn{sqliteConn: full, kept: map[string]*list.Element{}}, nil
}

// sqliteConn is what database/sql uses of a connection of the driver.
type sqliteConn interface {
	driver.Conn
	driver.ConnPrepareContext
	driver.ConnBeginTx
	driver.ExecerContext
	driver.QueryerContext
	driver.Pinger
	driver.SessionResetter
	driver.Validator
}

// preparedConn is a connection with its statements, the one used last in front.
// database/sql lets one goroutine at a time use it.
type preparedConn struct {
	sqliteConn
	kept   map[string]*list.Element
	recent list.List // of *preparedStmt
}

type sqliteStmt interface {
	driver.Stmt
	driver.StmtExecContext
	driver.StmtQueryContext
}

type preparedStmt struct {
	sqliteStmt
	query string
	open  bool // its rows are being read
}

// statement returns the prepared form of a query, nil when it has none or it is
// being read from.
func (c *preparedConn) statement(ctx context.Context, query string) (*preparedStmt, error) {
	if el, ok := c.kept[query]; ok {
		c.recent.MoveToFront(el)
		if s := el.Value.(*preparedStmt); !s.open { //nolint:forcetypeassert // nothing else is put in
			return s, nil
		}
		return nil, nil
	}
	if !keepable(query) {
		return nil, nil
	}
	made, err := c.PrepareContext(ctx, query)
	if err != nil {
		return nil, err //nolint:wrapcheck // the driver's own
	}
	full, ok := made.(sqliteStmt)
	if !ok {
		return nil, made.Close() //nolint:wrapcheck // the driver's own
	}
	s := &preparedStmt{sqliteStmt: full, query: query}
	c.kept[query] = c.recent.PushFront(s)
	return s, c.shrink()
}

// shrink closes the statements that were used the longest time ago.
func (c *preparedConn) shrink() error {
	var errs []error
	for el := c.recent.Back(); el != nil && c.recent.Len() > statementsKept; {
		s, before := el.Value.(*preparedStmt), el.Prev() //nolint:forcetypeassert // nothing else is put in
		if !s.open {
			c.recent.Remove(el)
			delete(c.kept, s.query)
			errs = append(errs, s.Close())
		}
		el = before
	}
	return errors.Join(errs...)
}

// keepable tells a query that comes again from the statements of migrations and
// settings, which may be several in one text.
func keepable(query string) bool {
	const longest = 16 << 10
	if len(query) > longest {
		return false
	}
	for _, verb := range [...]string{"SELECT ", "INSERT ", "UPDATE ", "DELETE ", "WITH "} {
		if strings.HasPrefix(query, verb) {
			return true
		}
	}
	return false
}

// ExecContext implements driver.ExecerContext.
func (c *preparedConn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	s, err := c.statement(ctx, query)
	switch {
	case err != nil:
		return nil, err
	case s == nil:
		return c.sqliteConn.ExecContext(ctx, query, args) //nolint:wrapcheck // the driver's own
	}
	return s.ExecContext(ctx, args) //nolint:wrapcheck // the driver's own
}

// QueryContext implements driver.QueryerContext.
func (c *preparedConn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	s, err := c.statement(ctx, query)
	switch {
	case err != nil:
		return nil, err
	case s == nil:
		return c.sqliteConn.QueryContext(ctx, query, args) //nolint:wrapcheck // the driver's own
	}
	rows, err := s.QueryContext(ctx, args)
	if err != nil {
		return nil, err //nolint:wrapcheck // the driver's own
	}
	s.open = true
	return &preparedRows{rows, s}, nil
}

// Close implements driver.Conn.
func (c *preparedConn) Close() error {
	var errs []error
	for el := c.recent.Front(); el != nil; el = el.Next() {
		errs = append(errs, el.Value.(*preparedStmt).Close()) //nolint:forcetypeassert // nothing else is put in
	}
	c.recent.Init()
	clear(c.kept)
	return errors.Join(append(errs, c.sqliteConn.Close())...)
}

// preparedRows give their statement back.
type preparedRows struct {
	driver.Rows
	from *preparedStmt
}

// Close implements driver.Rows.
func (r *preparedRows) Close() error {
	r.from.open = false
	return r.Rows.Close() //nolint:wrapcheck // the driver's own
}
