package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// ErrNotEmpty says that a restore would replace something.
var ErrNotEmpty = errors.New("the database is not empty")

// RestoreOptions say where a backup goes.
type RestoreOptions struct {
	DSN string
	// Force replaces what is there. On SQLite the file before is kept.
	Force bool
	// Move is for a backup that was taken with the service stopped, which has not
	// run since: runs go on where they were, and nothing is paused.
	Move bool
	// BrokenLog restores a backup all the same whose log was tampered with.
	BrokenLog bool
	Actor     string // who restores, for the journal
	Logger    *slog.Logger
}

// Restored is what a restore did.
type Restored struct {
	Backup   BackupInfo `json:"backup"`
	Database string     `json:"database"` // without its password
	// Kept is the file of the database before, "" when there was none.
	Kept string `json:"kept,omitempty"`
	Settled
}

// Restore fills a database with a backup, taken from either kind of database and
// by this or an earlier version. Either all of it is there afterwards, or the
// database is as it was. Unless Move is set, everything live is ended: what
// happened after the backup is not known; see settle.
//
// The error wraps ErrBadBackup, ErrNewerSchema, ErrNotEmpty, or ErrBusy while a
// service runs on the database.
func Restore(ctx context.Context, r io.Reader, o RestoreOptions) (Restored, error) {
	loc, err := parseDSN(o.DSN)
	if err != nil {
		return Restored{}, err
	}
	b, err := newBackupReader(r)
	if err != nil {
		return Restored{}, err
	}
	if o.Move && !b.header.Stopped {
		return Restored{}, fmt.Errorf("%w: it was taken while the service ran, so runs may have gone on since: stop the service and take another with --config, or restore without --move", ErrBadBackup)
	}
	s, err := newStore(loc, Options{Logger: o.Logger})
	if err != nil {
		return Restored{}, err
	}
	out := Restored{Database: loc.shown}
	if loc.file != "" {
		err = s.restoreFile(ctx, b, o, &out)
	} else {
		err = s.restoreServer(ctx, b, o, &out)
	}
	return out, s.wrap("restore", err)
}

// restoreFile makes a new SQLite file beside the old one and puts it in its
// place when it is complete.
func (s *Store) restoreFile(ctx context.Context, b *backupReader, o RestoreOptions, out *Restored) (err error) {
	if err := s.loc.checkPlace(); err != nil {
		return err
	}
	if s.lock, err = lockFile(s.loc.file); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.lock.release()) }()
	there, err := s.describeFile(ctx)
	if err != nil {
		return err
	}
	if there != "" && !o.Force {
		return notEmpty(s.loc.shown, there, b.header, "; the file is kept beside it")
	}
	fresh := s.loc.file + ".restoring"
	if err := removeDatabase(fresh); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, removeDatabase(fresh)) }()
	if err := s.buildFile(ctx, fresh, b, o, out); err != nil {
		return err
	}
	if there != "" {
		out.Kept = s.loc.file + ".before-restore-" + time.Now().UTC().Format("20060102T150405Z")
	}
	return s.replaceFile(fresh, out.Kept)
}

// describeFile says what the SQLite file holds, "" for nothing.
func (s *Store) describeFile(ctx context.Context) (string, error) {
	info, err := os.Stat(s.loc.file)
	if errors.Is(err, fs.ErrNotExist) || err == nil && info.Size() == 0 {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("look at the database: %w", err)
	}
	db, read, err := s.dialect.open(ctx, s.loc, 2, nil)
	if err != nil {
		return fmt.Sprintf("something that cannot be read (%v)", err), nil
	}
	what := ""
	var rows map[string]int64
	if err = quickCheck(ctx, db); err == nil {
		rows, err = countRows(ctx, db)
	}
	switch {
	case err != nil:
		what = fmt.Sprintf("something that cannot be read (%v)", err)
	case len(rows) > 0:
		what = describe(rows)
	}
	// What the write-ahead log holds goes into the file, which then stands alone.
	_, err = db.ExecContext(ctx, "PRAGMA wal_checkpoint(TRUNCATE)")
	if what != "" {
		err = nil // a damaged file is moved away together with its log
	}
	return what, errors.Join(err, read.Close(), db.Close())
}

// countRows counts the rows of the tables that backups hold; of those that are
// empty there is no count.
func countRows(ctx context.Context, q querier) (map[string]int64, error) {
	out := map[string]int64{}
	for _, t := range backupTables {
		var n int64
		if err := q.QueryRowContext(ctx, "SELECT count(*) FROM "+t.name).Scan(&n); err != nil {
			return nil, err
		}
		if n > 0 {
			out[t.name] = n
		}
	}
	return out, nil
}

func notEmpty(database, there string, h BackupHeader, more string) error {
	return fmt.Errorf("%w: %s holds %s; --force replaces all of it with the backup of %s%s",
		ErrNotEmpty, database, there, h.TakenAt.Format(time.RFC3339), more)
}

// buildFile makes a database of the backup in a file that nobody else knows.
func (s *Store) buildFile(ctx context.Context, file string, b *backupReader, o RestoreOptions, out *Restored) (err error) {
	fresh, err := s.loadFile(ctx, file, b, o, &out.Backup)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, fresh.db.Close()) }()
	// Before the mark of the clock is written: time goes on from the backup's.
	fresh.clock = newWallClock(time.Now, out.Backup.TakenAt, func(time.Duration) {})
	return fresh.inTx(ctx, "settle what was restored", func(t *txn) error {
		out.Settled, err = t.settle(ctx, out.Backup, o)
		return err
	})
}

// loadFile makes a SQLite file of the backup, with the schema of today.
func (s *Store) loadFile(ctx context.Context, file string, b *backupReader, o RestoreOptions, info *BackupInfo) (_ *Store, err error) {
	// Until it is complete nobody reads the file, and it is thrown away when
	// anything fails: durability comes at the end, by one fsync.
	q := url.Values{"_txlock": {"immediate"}, "_pragma": {"journal_mode(MEMORY)", "synchronous(OFF)", "foreign_keys(1)", "cache_size(-8192)"}}
	db, err := sql.Open("sqlite", (&url.URL{Scheme: "file", Path: file, RawQuery: q.Encode()}).String())
	if err != nil {
		return nil, fmt.Errorf("make the database: %w", err)
	}
	db.SetMaxOpenConns(1)
	defer func() {
		if err != nil {
			err = errors.Join(err, db.Close())
		}
	}()
	fresh := &Store{dialect: &sqliteDialect, loc: location{file: file, shown: s.loc.shown}, db: db, read: db, metrics: s.metrics,
		log: slog.New(slog.DiscardHandler), closing: make(chan struct{}), checked: make(chan struct{})}
	close(fresh.checked) // nobody else has written it
	fresh.ord.Store(time.Now().UnixNano())
	if err := fresh.migrateTo(ctx, b.header.Schema); err != nil {
		return nil, err
	}
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return nil, fmt.Errorf("begin: %w", err)
	}
	defer func() { _ = tx.Rollback() }()
	if *info, err = load(ctx, tx, &sqliteDialect, b, o.BrokenLog); err != nil {
		return nil, err
	}
	if err := tx.Commit(); err != nil {
		return nil, fmt.Errorf("commit: %w", err)
	}
	return fresh, fresh.migrateTo(ctx, latestSchema())
}

// replaceFile puts the finished file in its place. It is on the disk before; the
// old one, when it is to be kept, has its other name before it loses its own.
func (s *Store) replaceFile(fresh, kept string) error {
	f, err := os.OpenFile(fresh, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("finish the database: %w", err)
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("finish the database: %w", err)
	}
	if info, err := os.Stat(s.loc.file); err == nil {
		if err := os.Chmod(fresh, info.Mode().Perm()); err != nil {
			return fmt.Errorf("give the database the mode of the one before: %w", err)
		}
	}
	if kept != "" {
		if err := os.Link(s.loc.file, kept); err != nil {
			return fmt.Errorf("keep the database before: %w", err)
		}
	}
	for _, suffix := range []string{"-wal", "-shm"} { // they belong to the file before
		err := os.Remove(s.loc.file + suffix)
		if kept != "" && suffix == "-wal" {
			err = os.Rename(s.loc.file+suffix, kept+suffix)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("put the log of the database before aside: %w", err)
		}
	}
	if err := os.Rename(fresh, s.loc.file); err != nil {
		return fmt.Errorf("put the database in its place: %w", err)
	}
	dir, err := os.Open(filepath.Dir(s.loc.file))
	if err != nil {
		return fmt.Errorf("make the restore durable: %w", err)
	}
	if err := errors.Join(dir.Sync(), dir.Close()); err != nil {
		return fmt.Errorf("make the restore durable: %w", err)
	}
	return nil
}

func removeDatabase(file string) error {
	for _, suffix := range []string{"", "-wal", "-shm", "-journal"} {
		if err := os.Remove(file + suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove an unfinished restore: %w", err)
		}
	}
	return nil
}

// restoreServer fills a PostgreSQL database, in one transaction.
func (s *Store) restoreServer(ctx context.Context, b *backupReader, o RestoreOptions, out *Restored) (err error) {
	if s.db, s.read, err = s.dialect.open(ctx, s.loc, 3, nil); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.db.Close()) }()
	// A service that starts meanwhile waits for this lock before it does anything.
	unlock, err := s.lockMigrations(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if err := s.migrateTo(ctx, latestSchema()); err != nil {
		return err
	}
	original := b.header
	if original.Schema < latestSchema() {
		dir, err := os.MkdirTemp("", "alertmedic-restore-")
		if err != nil {
			return fmt.Errorf("make room for the upgrade of the backup: %w", err)
		}
		defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
		upgraded, closer, err := s.upgradeBackup(ctx, filepath.Join(dir, "upgrade.db"), b, o)
		if err != nil {
			return err
		}
		defer closer()
		b = upgraded
	}
	return s.tryTx(ctx, func(t *txn) error { // not inTx: the backup can be read once
		if present, err := s.present(ctx, t); err != nil {
			return err
		} else if len(present) > 0 {
			return fmt.Errorf("%w: on %s runs %s: stop it, or wait if it is gone already", ErrBusy, s.loc.shown, strings.Join(present, ", "))
		}
		rows, err := countRows(ctx, t)
		if err != nil {
			return err
		}
		if len(rows) > 0 && !o.Force {
			return notEmpty(s.loc.shown, describe(rows), original, ", and cannot be undone")
		}
		// This also keeps off whoever did not announce itself, until the commit.
		var names []string
		for _, t := range backupTables {
			names = append(names, t.name)
		}
		for _, name := range leftOut {
			if name != "clock" { // time goes on from there
				names = append(names, name)
			}
		}
		if err := t.exec(ctx, "TRUNCATE "+strings.Join(names, ", ")); err != nil {
			return fmt.Errorf("empty the tables: %w", err)
		}
		info, err := load(ctx, t.Tx, s.dialect, b, o.BrokenLog)
		if err != nil {
			return err
		}
		info.BackupHeader = original
		out.Backup = info
		out.Settled, err = t.settle(ctx, info, o)
		return err
	})
}

// upgradeBackup turns a backup of an earlier schema into one of today's, by way
// of a temporary SQLite file: a version means the same data in both databases.
func (s *Store) upgradeBackup(ctx context.Context, file string, b *backupReader, o RestoreOptions) (*backupReader, func(), error) {
	var info BackupInfo
	fresh, err := s.loadFile(ctx, file, b, o, &info)
	if err != nil {
		return nil, nil, err
	}
	fresh.clock = newWallClock(time.Now, info.TakenAt, func(time.Duration) {})
	pr, pw := io.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, err := fresh.backup(ctx, pw, BackupOptions{})
		pw.CloseWithError(err)
	}()
	closer := func() {
		_ = pr.Close()
		<-done
		_ = fresh.db.Close()
	}
	upgraded, err := newBackupReader(pr)
	if err != nil {
		closer()
		return nil, nil, err
	}
	return upgraded, closer, nil
}

// load writes everything that a backup holds.
func load(ctx context.Context, tx *sql.Tx, d *dialect, b *backupReader, brokenLog bool) (BackupInfo, error) {
	l := &loader{ctx: ctx, tx: tx, dialect: d, schema: b.header.Schema}
	info, err := b.read(backupSink{table: l.begin, row: l.add})
	if brokenLog && errors.Is(err, ErrBrokenLog) {
		err = nil
	}
	if err != nil {
		l.rows = 0 // nothing more of it
	}
	return info, errors.Join(err, l.end())
}

// loadParams bounds the parameters of one statement on PostgreSQL, where each
// statement is a round trip. SQLite takes a row a statement: the cost of naming
// parameters grows with the square of their number.
const loadParams = 2000

// loader inserts rows, some of them at a time.
type loader struct {
	ctx     context.Context
	tx      *sql.Tx
	dialect *dialect
	schema  int64
	table   string
	columns []string
	rows    int
	args    []any
	full    *sql.Stmt // for a full batch
}

// batch is how many rows a full statement has.
func (l *loader) batch() int {
	if l.dialect.name == sqliteDialect.name {
		return 1
	}
	return loadParams / len(l.columns)
}

// begin checks that a table is one that this schema has, column by column.
func (l *loader) begin(name string, columns []string) error {
	if err := l.end(); err != nil {
		return err
	}
	known := slices.ContainsFunc(backupTables, func(t table) bool { return t.name == name && t.since <= l.schema })
	if !known {
		return fmt.Errorf("%w: it has a table %q, and schema version %d has none", ErrBadBackup, name, l.schema)
	}
	have, err := l.columnsOf(name)
	if err != nil {
		return fmt.Errorf("look at table %s: %w", name, err)
	}
	slices.Sort(have)
	if want := slices.Sorted(slices.Values(columns)); !slices.Equal(have, want) {
		return fmt.Errorf("%w: table %s has the columns %v, and schema version %d has %v", ErrBadBackup, name, want, l.schema, have)
	}
	l.table, l.columns = name, columns
	return nil
}

func (l *loader) columnsOf(table string) ([]string, error) {
	rows, err := l.tx.QueryContext(l.ctx, "SELECT * FROM "+table+" LIMIT 0")
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	columns, err := rows.Columns()
	return columns, errors.Join(err, rows.Err())
}

func (l *loader) add(values []any) error {
	for i, v := range values {
		if s, ok := v.(string); ok {
			values[i] = text(s)
		}
	}
	l.args = append(l.args, values...)
	if l.rows++; l.rows == l.batch() {
		return l.flush()
	}
	return nil
}

// end finishes a table.
func (l *loader) end() error {
	err := l.flush()
	if l.full != nil {
		err = errors.Join(err, l.full.Close())
		l.full = nil
	}
	return err
}

func (l *loader) flush() error {
	if l.rows == 0 {
		return nil
	}
	exec := func() (sql.Result, error) { return l.tx.ExecContext(l.ctx, l.insert(), l.args...) }
	if l.rows == l.batch() {
		if l.full == nil {
			var err error
			if l.full, err = l.tx.PrepareContext(l.ctx, l.insert()); err != nil {
				return fmt.Errorf("prepare to write table %s: %w", l.table, err)
			}
		}
		exec = func() (sql.Result, error) { return l.full.ExecContext(l.ctx, l.args...) }
	}
	if _, err := exec(); err != nil {
		return fmt.Errorf("write table %s: %w", l.table, err)
	}
	l.rows, l.args = 0, l.args[:0]
	return nil
}

func (l *loader) insert() string {
	var q strings.Builder
	fmt.Fprintf(&q, "INSERT INTO %s (%s) VALUES ", l.table, strings.Join(l.columns, ", "))
	for row := range l.rows {
		if row > 0 {
			q.WriteString(", ")
		}
		for col := range l.columns {
			sep := "("
			if col > 0 {
				sep = ", "
			}
			fmt.Fprintf(&q, "%s$%d", sep, row*len(l.columns)+col+1)
		}
		q.WriteString(")")
	}
	return q.String()
}
