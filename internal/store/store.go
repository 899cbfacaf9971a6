package store

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Options say where a store lies and how it tells the time.
type Options struct {
	// DSN is "file:/path/x.db", a bare path, or postgres://...
	DSN string
	// Clock is the wall clock of SQLite; nil is time.Now. PostgreSQL's own clock
	// is used there, because replicas must agree.
	Clock  func() time.Time
	Logger *slog.Logger // nil: silent
	// FlapDwell is how long after its end an episode is reopened, and not
	// followed by another, when its signal fires again.
	FlapDwell  time.Duration
	Registerer prometheus.Registerer // nil: no metrics
	MaxOpen    int                   // connections; default 8 (on SQLite: that read)
	Wrap       Wrap                  // between the store and its driver, for tests and tracing; nil: nothing
}

// Store is an open database. Make one with Open.
type Store struct {
	dialect   *dialect
	loc       location
	db        *sql.DB // writes; on SQLite a single connection
	read      *sql.DB // reads; the same pool on PostgreSQL
	lock      *fileLock
	anchor    *sql.Conn  // of SQLite: see watchFiles
	clock     *wallClock // nil on PostgreSQL
	turn      *turn      // nil on PostgreSQL
	log       *slog.Logger
	flapDwell time.Duration
	metrics   *metrics
	changes   changes
	health    health
	checked   chan struct{} // closed when the whole file has been checked
	// ord orders what is written at the same microsecond. It starts at the time
	// of the start, so that it ascends across restarts as well.
	ord atomic.Int64

	accepts  chan acceptRequest
	closing  chan struct{}
	stop     context.CancelFunc // ends the check of the file; nil where none goes on
	closeOne sync.Once
	closeErr error
	workers  sync.WaitGroup
}

// Open opens the database, checks it and migrates it. The error wraps
// ErrNewerSchema, ErrCorrupt, ErrBusy or ErrUnavailable where one of them is
// meant, says what to do, and never holds a password. A large SQLite file is
// checked while webhooks are accepted already: wait for Sound before acting on
// what is in it.
func Open(ctx context.Context, o Options) (*Store, error) {
	loc, err := parseDSN(o.DSN)
	if err != nil {
		return nil, err
	}
	s, err := newStore(loc, o)
	if err != nil {
		return nil, err
	}
	if loc.file != "" {
		if err := loc.checkPlace(); err != nil {
			return nil, fmt.Errorf("open the database: %w", err)
		}
		if s.lock, err = lockFile(loc.file); err != nil {
			return nil, s.wrap("open the database", err)
		}
		if err := s.checkThere(); err != nil {
			return nil, errors.Join(s.wrap("open the database", err), s.closeFiles())
		}
	}
	if err := s.open(ctx, o); err != nil {
		return nil, errors.Join(err, s.closeFiles())
	}
	if s.lock != nil {
		if err := errors.Join(s.endLeases(ctx), s.lock.mark(), s.watchFiles(ctx)); err != nil {
			return nil, errors.Join(s.wrap("open the database", err), s.closeFiles())
		}
	}
	for range s.dialect.committers {
		s.workers.Go(s.committer)
	}
	s.checkOn(ctx)
	return s, nil
}

// newStore makes a store that is not open yet.
func newStore(loc location, o Options) (*Store, error) {
	m, err := newMetrics(o.Registerer)
	if err != nil {
		return nil, err
	}
	s := &Store{
		dialect: &sqliteDialect, loc: loc, log: cmp.Or(o.Logger, slog.New(slog.DiscardHandler)), flapDwell: o.FlapDwell, metrics: m,
		accepts: make(chan acceptRequest), closing: make(chan struct{}), checked: make(chan struct{}),
	}
	s.ord.Store(time.Now().UnixNano())
	if loc.url != "" {
		s.dialect = &postgresDialect
	} else {
		s.turn = &turn{}
	}
	return s, nil
}

func (s *Store) open(ctx context.Context, o Options) error {
	var err error
	wrap := o.Wrap
	if s.loc.url != "" {
		wrap = impatiently(wrap)
	}
	if s.db, s.read, err = s.dialect.open(ctx, s.loc, cmp.Or(o.MaxOpen, 8), wrap); err != nil {
		return s.wrap("open the database "+s.loc.shown, err)
	}
	if err := s.checkBeforeUse(ctx); err != nil {
		return s.wrap("open the database "+s.loc.shown, err)
	}
	if err := s.migrate(patient(ctx)); err != nil {
		return err
	}
	if s.dialect.now == "" {
		mark, err := s.highWater(ctx)
		if err != nil {
			return err
		}
		read := o.Clock
		if read == nil {
			read = time.Now
		}
		s.clock = newWallClock(read, fromMicros(mark), s.clockAhead())
	}
	return nil
}

// clockAhead reports a wall clock that was set: once for each time it happens in
// the log, and all the while as a metric.
func (s *Store) clockAhead() func(time.Duration) {
	told := 0 // 1 or -1 while it is ahead or behind and has been said to be
	return func(d time.Duration) {
		s.metrics.clockAhead.Set(d.Seconds())
		switch {
		case d >= clockTolerance && told != 1:
			told = 1
			s.log.Warn("the wall clock was set back; the store's time goes on a tenth slower until it has caught up, so that no cooldown gets shorter",
				"ahead", d.String(), "fix", "let NTP keep the clock; after a step of days, restore the clock or start with a new database")
		case d <= -clockTolerance && told != -1:
			told = -1
			s.log.Warn("the wall clock was set forward; the store's time follows a tenth faster until it has caught up, so that cooldowns and leases do not end at once",
				"behind", (-d).String(), "fix", "let NTP keep the clock; a restart takes the wall clock's time at once")
		case d == 0 || d < 0 && told == 1 || d > 0 && told == -1:
			told = 0
		}
	}
}

// Wall returns what clocks outside show at a time of this store, for comparing
// it with what others have recorded: the two differ while the store catches up
// with a wall clock that was set. On PostgreSQL it is the same.
func (s *Store) Wall(t time.Time) time.Time {
	if s.clock == nil || t.IsZero() {
		return t
	}
	return s.clock.wallTime(t)
}

// Close finishes what is being committed and closes the database. Calls after it
// fail. It may be called more than once.
func (s *Store) Close() error {
	s.closeOne.Do(func() {
		close(s.closing)
		if s.stop != nil {
			s.stop()
		}
		s.workers.Wait()
		s.changes.notify()
		s.closeErr = s.closeFiles()
	})
	return s.closeErr
}

func (s *Store) closeFiles() error {
	var errs []error
	if s.anchor != nil {
		errs = append(errs, s.anchor.Close())
	}
	if s.read != nil && s.read != s.db {
		errs = append(errs, s.read.Close())
	}
	if s.db != nil {
		errs = append(errs, s.db.Close())
	}
	if s.lock != nil {
		errs = append(errs, s.lock.release())
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("close the database: %w", err)
	}
	return nil
}

// Dialect is "sqlite" or "postgres".
func (s *Store) Dialect() string { return s.dialect.name }

// Now is the clock by which everything here is timed: the database's on
// PostgreSQL, on SQLite the wall clock, which never steps backward. It is in
// UTC, in whole microseconds.
func (s *Store) Now(ctx context.Context) (time.Time, error) {
	return s.now(ctx, s.read)
}

func (s *Store) now(ctx context.Context, q querier) (time.Time, error) {
	if s.dialect.now == "" {
		return s.clock.now(), nil
	}
	var us int64
	if err := q.QueryRowContext(ctx, "SELECT "+s.dialect.now).Scan(&us); err != nil {
		return time.Time{}, s.wrap("read the database's clock", err)
	}
	return fromMicros(us), nil
}
