package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"
)

// querier is what *sql.DB and *sql.Tx have in common.
type querier interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// txn is one write transaction.
type txn struct {
	*sql.Tx
	s *Store
	// now is the time of the transaction. Call tick after waiting for a lock, so
	// that what is recorded later is never timed earlier.
	now time.Time
	// wakes says that the commit made work, or entries, that somebody waits for.
	wakes bool
}

// txRetries bounds how often a transaction is run again after a deadlock or a
// lost race for a unique key.
const txRetries = 8

// errRace asks inTx to run the transaction again: another one was faster.
var errRace = errors.New("another transaction was faster")

// inTx runs fn in a write transaction and commits it durably, or leaves nothing
// behind. fn may run more than once.
func (s *Store) inTx(ctx context.Context, what string, fn func(*txn) error) error {
	return s.inTimedTx(ctx, what, false, timed(ctx, fn))
}

// timed has the time taken before fn.
func timed(ctx context.Context, fn func(*txn) error) func(*txn) error {
	return func(t *txn) error {
		if err := t.tick(ctx); err != nil {
			return err
		}
		return fn(t)
	}
}

// inTimedTx is inTx for an fn that takes the time itself, by tick, before it
// writes anything that is timed. accept says that it is a group of webhooks, see turn.
func (s *Store) inTimedTx(ctx context.Context, what string, accept bool, fn func(*txn) error) error {
	var err error
	start := time.Now()
	ctx = withOperation(ctx, what)
	for range txRetries {
		err = s.tryTimedTx(ctx, accept, fn)
		if err == nil || !errors.Is(err, errRace) && s.dialect.fault(err) != faultRetry {
			break
		}
		s.metrics.retries.Inc()
		if ctx.Err() != nil {
			break
		}
	}
	err = s.wrap(what, err)
	s.health.wrote(err, s.log)
	s.metrics.observe(what, time.Since(start), err)
	return err
}

// tryTx runs fn in a write transaction once.
func (s *Store) tryTx(ctx context.Context, fn func(*txn) error) error {
	return s.tryTimedTx(ctx, false, timed(ctx, fn))
}

func (s *Store) tryTimedTx(ctx context.Context, accept bool, fn func(*txn) error) (err error) {
	select {
	case <-s.closing:
		return ErrClosed
	default:
	}
	if s.turn != nil {
		if err := s.turn.take(ctx, accept); err != nil {
			return fmt.Errorf("begin: %w", err)
		}
		defer s.turn.give()
	}
	tx, err := s.db.BeginTx(ctx, &sql.TxOptions{})
	if err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	defer func() { _ = tx.Rollback() }() // after a commit it does nothing; a panic must not keep the one writer
	t := &txn{Tx: tx, s: s}
	if err := fn(t); err != nil {
		return err
	}
	if s.clock != nil {
		// Written with every commit, so that no time that was recorded can come
		// again after a restart.
		if err := t.exec(ctx, `INSERT INTO clock (id, high_water) VALUES (1, $1)
			ON CONFLICT (id) DO UPDATE SET high_water = excluded.high_water WHERE clock.high_water < excluded.high_water`, micros(t.now)); err != nil {
			return err
		}
	}
	if err := s.health.writable(); err != nil {
		return err
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	if t.wakes {
		s.changes.notify()
	}
	return nil
}

// ExecContext, QueryContext and QueryRowContext run a statement to its end on
// SQLite, also when ctx ends meanwhile: it is there or it fails at once, and the
// watch that its driver would keep costs more than a statement.
func (t *txn) ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return t.Tx.ExecContext(t.unwatched(ctx), query, args...)
}

// QueryContext is like ExecContext.
func (t *txn) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return t.Tx.QueryContext(t.unwatched(ctx), query, args...)
}

// QueryRowContext is like ExecContext.
func (t *txn) QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row {
	if ctx.Err() != nil {
		return t.Tx.QueryRowContext(ctx, query, args...)
	}
	return t.Tx.QueryRowContext(t.unwatched(ctx), query, args...)
}

func (t *txn) unwatched(ctx context.Context) context.Context {
	if t.s.clock == nil {
		return ctx
	}
	return context.WithoutCancel(ctx)
}

// tick reads the clock anew.
func (t *txn) tick(ctx context.Context) error {
	now, err := t.s.now(ctx, t.Tx)
	t.now = now
	return err
}

func (t *txn) exec(ctx context.Context, query string, args ...any) error {
	_, err := t.ExecContext(ctx, query, args...)
	return err
}

// affected runs a statement and returns the number of rows that it changed.
func (t *txn) affected(ctx context.Context, query string, args ...any) (int64, error) {
	res, err := t.ExecContext(ctx, query, args...)
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}

// exists reports whether a query has a row.
func exists(ctx context.Context, q querier, query string, args ...any) (bool, error) {
	var one int
	err := q.QueryRowContext(ctx, query, args...).Scan(&one)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	return err == nil, err
}

// scanner is what *sql.Row and *sql.Rows have in common.
type scanner interface{ Scan(dest ...any) error }

// collect reads every row of a query.
func collect[T any](ctx context.Context, q querier, scan func(scanner) (T, error), query string, args ...any) ([]T, error) {
	rows, err := q.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out []T
	for rows.Next() {
		v, err := scan(rows)
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, rows.Err()
}
