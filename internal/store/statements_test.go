package store_test

import (
	"context"
	"database/sql/driver"
	"fmt"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/alertmedic/alertmedic/internal/store"
)

// What accepting alerts asks of the database does not grow without being
// noticed. On PostgreSQL, where a round trip is what costs, it is the same for
// any number of alerts; on SQLite it is a read for all of them, and a statement
// for each row: a signal, an episode, a candidate and a journal entry, and one for
// the mark of the clock.
func TestStatementsOfAnAccept(t *testing.T) {
	contract(t, func(t *testing.T, f *fixture) {
		c := &counter{}
		require.NoError(t, f.Close())
		o := f.options()
		inner := o.Wrap
		o.Wrap = func(to driver.Connector) driver.Connector {
			if inner != nil {
				to = inner(to)
			}
			return counted{to, c}
		}
		s, err := store.Open(tctx, o)
		require.NoError(t, err)
		defer func() { require.NoError(t, s.Close()) }()
		sqlite := s.Dialect() == "sqlite"
		for round, n := range []int{1, 1, 7, 100} {
			var batch store.Batch
			for i := range n {
				batch.Observations = append(batch.Observations, firing(fmt.Sprintf("%08x%08x", round, i), playbook("restart", 0)))
			}
			for _, repeated := range []bool{false, true} {
				_ = c.take()
				got, err := s.Accept(tctx, batch)
				require.NoError(t, err)
				if repeated {
					require.Equal(t, n, got.Repeated)
				} else {
					require.Equal(t, n, got.Candidates)
				}
				statements := c.take()
				if round == 0 && !repeated {
					continue // connections are made
				}
				want := 2 // the signals are locked and read; what was folded is written
				switch {
				case sqlite && repeated:
					want = 1 + 2*n + n + 1 // all signals; each episode and its candidates; each episode again; the clock
				case sqlite:
					want = 1 + 4*n + 1
				case repeated:
					want = 4 // the episodes and their candidates are read as well
				}
				require.Len(t, statements, want, "%d alerts, repeated %t", n, repeated)
			}
		}
	})
}

// counter keeps the statements of transactions that accept.
type counter struct {
	mu   sync.Mutex
	seen []string
}

func (c *counter) saw(query string) {
	c.mu.Lock()
	c.seen = append(c.seen, query)
	c.mu.Unlock()
}

func (c *counter) take() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	seen := c.seen
	c.seen = nil
	return seen
}

// counted makes connections whose statements are counted.
type counted struct {
	driver.Connector
	c *counter
}

func (k counted) Connect(ctx context.Context) (driver.Conn, error) {
	conn, err := k.Connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	return &countedConn{fullConn: conn.(fullConn), c: k.c}, nil
}

// fullConn is what the drivers can do and the store uses.
type fullConn interface {
	driver.Conn
	driver.ConnPrepareContext
	driver.ConnBeginTx
	driver.ExecerContext
	driver.QueryerContext
	driver.Pinger
}

type countedConn struct {
	fullConn
	c       *counter
	accepts bool // the transaction under way does
}

func (k *countedConn) BeginTx(ctx context.Context, opts driver.TxOptions) (driver.Tx, error) {
	k.accepts = store.Operation(ctx) == "accept"
	return k.fullConn.BeginTx(ctx, opts)
}

func (k *countedConn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	if k.accepts {
		k.c.saw(query)
	}
	return k.fullConn.ExecContext(ctx, query, args)
}

func (k *countedConn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	if k.accepts {
		k.c.saw(query)
	}
	return k.fullConn.QueryContext(ctx, query, args)
}

func (k *countedConn) CheckNamedValue(v *driver.NamedValue) error {
	if n, ok := k.fullConn.(driver.NamedValueChecker); ok {
		return n.CheckNamedValue(v)
	}
	return driver.ErrSkip
}
