package store

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/url"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// dialect is every difference between the two databases. Everything else is
// portable SQL with $N parameters.
type dialect struct {
	name  string
	goose goose.Dialect
	// forUpdate locks the rows that a SELECT of a write transaction returns;
	// SQLite has one writer and needs none.
	forUpdate string
	// skipLocked does so for rows that nobody else has locked.
	skipLocked string
	// lockNames locks the names in an array until the transaction ends, in the one
	// order, so that two transactions never wait for each other in a ring. Two names
	// of one hash only wait more than they must. The lock is the database's, so the
	// schema is part of it.
	lockNames string
	// now is the expression of the database's clock, taken anew wherever it stands;
	// "" takes the process's wallClock.
	now string
	// inOrder has the statements of a transaction read an index in its order, see
	// claimTx; "" where nothing needs to be said.
	inOrder string
	// arrays says that a parameter can be an array, see bulk.
	arrays bool
	// committers is how many groups of webhooks are committed at once: on
	// PostgreSQL one is written while another waits for the disk.
	committers int
	// migrationLock keeps two replicas that start at once from migrating twice.
	migrationLock string
	// longRead lets a transaction wait for whoever takes what it reads: for longer
	// than any reader may stand still.
	longRead string
	open     func(ctx context.Context, loc location, maxOpen int, wrap Wrap) (writer, reader *sql.DB, err error)
	fault    func(error) fault
}

// busyTimeout bounds the wait for SQLite's own locks; with the exclusive file
// lock there is nobody to wait for but this process's checkpoints.
const busyTimeout = 5 * time.Second

var sqliteDialect = dialect{
	name:       "sqlite",
	committers: 1,
	goose:      goose.DialectSQLite3,
	open:       openSQLite,
	fault:      sqliteFault,
}

var postgresDialect = dialect{
	name:       "postgres",
	goose:      goose.DialectPostgres,
	forUpdate:  " FOR UPDATE",
	skipLocked: " FOR UPDATE SKIP LOCKED",
	lockNames: `SELECT pg_advisory_xact_lock(key) FROM (
		SELECT DISTINCT hashtextextended(current_schema() || '/' || name, 1634497905) AS key FROM unnest($1::text[]) AS names (name) ORDER BY key) AS keys`,
	now:           "CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000000 AS BIGINT)",
	inOrder:       "set_config('enable_bitmapscan', 'off', true)",
	arrays:        true,
	committers:    2,
	migrationLock: "SELECT set_config('idle_in_transaction_session_timeout', '0', true), pg_advisory_xact_lock(1634497905, hashtext(current_schema()))",
	longRead:      patientlyIdle,
	open:          openPostgres,
	fault:         postgresFault,
}

// openSQLite opens one connection that writes and a pool that reads. WAL lets
// them work side by side; synchronous=FULL makes a commit durable before it
// returns, which is what a 2xx promises. The file is checked by who opens it.
func openSQLite(ctx context.Context, loc location, maxOpen int, wrap Wrap) (*sql.DB, *sql.DB, error) {
	pool := func(txlock string, conns int, extra ...string) (*sql.DB, error) {
		q := url.Values{"mode": {"rw"}, "_txlock": {txlock}, "_pragma": append([]string{
			fmt.Sprintf("busy_timeout(%d)", busyTimeout.Milliseconds()),
			"journal_mode(WAL)", "synchronous(FULL)", "foreign_keys(1)",
		}, extra...)}
		dsn := url.URL{Scheme: "file", Path: loc.file, RawQuery: q.Encode()}
		db, err := sql.Open("sqlite", dsn.String())
		if err != nil {
			return nil, fmt.Errorf("open the SQLite file: %w", err)
		}
		db = wrap.connected(db, dsn.String())
		db.SetMaxOpenConns(conns)
		db.SetMaxIdleConns(conns)
		return db, nil
	}
	if err := checkLog(loc.file); err != nil {
		return nil, nil, err
	}
	// Made here, and by no connection: one that is opened after the file was
	// deleted must not put an empty database in its place.
	f, err := os.OpenFile(loc.file, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, nil, fmt.Errorf("open the SQLite file: %w", err)
	}
	if err := f.Close(); err != nil {
		return nil, nil, fmt.Errorf("open the SQLite file: %w", err)
	}
	// The writer keeps the pages of the indexes that a new alert lands anywhere
	// in, up to 16 MiB of them, and takes the log over into the file less often:
	// pages that are written again and again are taken over once.
	writer, err := pool("immediate", 1, "cache_size(-16384)", "wal_autocheckpoint(4000)")
	if err != nil {
		return nil, nil, err
	}
	if err := writer.PingContext(ctx); err != nil {
		return nil, nil, errors.Join(err, writer.Close())
	}
	reader, err := pool("deferred", max(2, maxOpen)+2, "query_only(1)") // one is the anchor, one checks the file
	if err != nil {
		return nil, nil, errors.Join(err, writer.Close())
	}
	return writer, reader, nil
}

// openPostgres opens one pool for everything.
func openPostgres(ctx context.Context, loc location, maxOpen int, wrap Wrap) (*sql.DB, *sql.DB, error) {
	cfg, err := pgx.ParseConfig(loc.url)
	if err != nil {
		// The parser's error may hold parts of the DSN.
		return nil, nil, fmt.Errorf("the DSN %s cannot be used: check host, port and options", loc.shown)
	}
	if cfg.ConnectTimeout == 0 {
		cfg.ConnectTimeout = maxSilence / 2 // of each address
	}
	pool := stdlib.GetConnector(*cfg, stdlib.OptionAfterConnect(durableCommits))
	if wrap != nil {
		pool = wrap(pool)
	}
	db := sql.OpenDB(pool)
	db.SetMaxOpenConns(max(2, maxOpen))
	db.SetMaxIdleConns(max(2, maxOpen))
	db.SetConnMaxLifetime(30 * time.Minute)
	if err := db.PingContext(ctx); err != nil {
		return nil, nil, errors.Join(err, db.Close())
	}
	return db, db, nil
}

// durableCommits undoes a server's or role's synchronous_commit=off: a commit
// that a crash of the server can undo must not be acknowledged.
func durableCommits(ctx context.Context, conn *pgx.Conn) error {
	var mode string
	if err := conn.QueryRow(ctx, "SHOW synchronous_commit").Scan(&mode); err != nil {
		return fmt.Errorf("read synchronous_commit: %w", err)
	}
	if mode != "off" {
		return nil
	}
	if _, err := conn.Exec(ctx, "SET synchronous_commit = on"); err != nil {
		return fmt.Errorf("set synchronous_commit: %w", err)
	}
	return nil
}

func sqliteFault(err error) fault {
	if errors.Is(err, errQuickCheck) || errors.Is(err, errDamagedLog) {
		return faultCorrupt
	}
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EROFS) {
		return faultReadOnly
	}
	var se *sqlite.Error
	if !errors.As(err, &se) {
		if errors.Is(err, sql.ErrConnDone) {
			return faultUnavailable
		}
		return faultOther
	}
	switch se.Code() {
	case sqlite3.SQLITE_CONSTRAINT_UNIQUE, sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY:
		return faultUnique
	}
	switch se.Code() & 0xff {
	case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED:
		return faultBusy
	case sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB:
		return faultCorrupt
	case sqlite3.SQLITE_FULL:
		return faultFull
	case sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM:
		return faultReadOnly
	case sqlite3.SQLITE_IOERR:
		return faultUnavailable
	}
	return faultOther
}

func postgresFault(err error) fault {
	var pe *pgconn.PgError
	if errors.As(err, &pe) {
		switch {
		case pe.Code == "40001" || pe.Code == "40P01":
			return faultRetry
		case pe.Code == "23505":
			return faultUnique
		case pe.Code == "53100":
			return faultFull
		case pe.Code == "25006":
			return faultReadOnly
		case pe.Code == "XX001" || pe.Code == "XX002":
			return faultCorrupt
		case pe.Code == "XX000", strings.HasPrefix(pe.Code, "08"), strings.HasPrefix(pe.Code, "53"), strings.HasPrefix(pe.Code, "57P"),
			strings.HasPrefix(pe.Code, "58"):
			return faultUnavailable
		}
		return faultOther
	}
	var ce *pgconn.ConnectError
	var ne net.Error
	if errors.As(err, &ce) || errors.As(err, &ne) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) ||
		errors.Is(err, sql.ErrConnDone) || errors.Is(err, driver.ErrBadConn) || errors.Is(err, net.ErrClosed) || errors.Is(err, syscall.ECONNREFUSED) ||
		errors.Is(err, os.ErrDeadlineExceeded) || pgconn.Timeout(err) || strings.Contains(err.Error(), "conn closed") {
		return faultUnavailable
	}
	return faultOther
}
