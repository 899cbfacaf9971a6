package store

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/alertmedic/alertmedic/internal/journal"
)

// The format of a backup: lines of JSON, mostly gzipped. The first is the
// header. Then comes, for each table, a line that names its columns and a line
// for each row, an array. The last one counts the rows and holds the SHA-256 of
// every byte before it, so that a file that was cut off or altered is noticed.
// Nothing in it depends on the kind of database.
const (
	backupFormat  = "alertmedic-backup"
	backupVersion = 1
)

// BackupHeader is the first line of a backup.
type BackupHeader struct {
	Format  string `json:"format"`
	Version int    `json:"version"` // of the format
	Schema  int64  `json:"schema"`  // version of the database's schema
	Dialect string `json:"dialect"` // of the database that it was taken from
	// TakenAt is the time of the snapshot: whatever was acknowledged before is in
	// the backup.
	TakenAt time.Time `json:"takenAt"`
	// Stopped says that no service ran on the database.
	Stopped bool `json:"stopped"`
	// Program is the version that took it.
	Program string       `json:"program,omitempty"`
	Journal journal.Head `json:"journal"` // the last sealed entry
}

// BackupInfo is what a backup holds.
type BackupInfo struct {
	BackupHeader
	Rows   map[string]int64 `json:"rows"` // by table
	SHA256 string           `json:"sha256"`
	// BrokenLog says where the chain of the log breaks, "" if it holds.
	BrokenLog string `json:"brokenLog,omitempty"`
}

type tableLine struct {
	Table   string   `json:"table"`
	Columns []string `json:"columns"`
}

type endLine struct {
	Rows   map[string]int64 `json:"rows"`
	SHA256 string           `json:"sha256"`
}

// table is one table of the schema, as backups treat it.
type table struct {
	name string
	// since is the schema version that made it.
	since int64
	// queries select its rows in order; empty: any order. They are what stands
	// after SELECT *.
	queries []string
}

// backupTables are the tables of a backup, each after those that it refers to.
var backupTables = []table{
	{name: "playbooks", since: 1},
	{name: "signals", since: 1},
	{name: "episodes", since: 1},
	{name: "candidates", since: 1},
	{name: "runs", since: 1},
	{name: "steps", since: 1},
	{name: "run_locks", since: 1},
	{name: "reservations", since: 1},
	{name: "pauses", since: 1},
	{name: "guard_buckets", since: 4},
	{name: "guard_storms", since: 4},
	{name: "approvals", since: 1},
	{name: "outbox", since: 1},
	{name: "kv", since: 1},
	{name: "journal", since: 1, queries: []string{"FROM journal WHERE seq IS NOT NULL ORDER BY seq", "FROM journal WHERE seq IS NULL ORDER BY recorded, ord, id"}},
}

// leftOut are the tables that mean something to a running service only, or that
// follow from the others.
var leftOut = []string{"clock", "leases", "journal_blocks"}

// BackupOptions are what a backup says of itself.
type BackupOptions struct {
	Program string
	// Stopped says that no service runs on the database; see OpenForBackup.
	Stopped bool
}

// Backup writes a consistent snapshot to w, gzipped: whatever was acknowledged
// before the call, and nothing of any transaction that had not ended. Work goes
// on meanwhile. It holds a few rows at a time, and one read transaction until w
// has taken everything, so w must not stand still.
func (s *Store) Backup(ctx context.Context, w io.Writer, o BackupOptions) (BackupInfo, error) {
	info, err := s.backup(ctx, w, o)
	if err != nil {
		return info, s.wrap("take a backup", err)
	}
	return info, nil
}

func (s *Store) backup(ctx context.Context, w io.Writer, o BackupOptions) (BackupInfo, error) {
	ctx = patient(ctx)                         // to put a long log in order takes a server a while
	buffered := bufio.NewWriterSize(w, 64<<10) // gzip writes some hundred bytes at a time
	zip, err := gzip.NewWriterLevel(buffered, gzip.BestSpeed)
	if err != nil {
		return BackupInfo{}, fmt.Errorf("compress: %w", err)
	}
	out := newBackupWriter(zip)
	// One transaction for all tables: a run without its locks, or an episode
	// without its candidates, is a state that never was. The tables read one after
	// the other would show just that.
	tx, err := s.read.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelRepeatableRead, ReadOnly: true})
	if err != nil {
		return BackupInfo{}, fmt.Errorf("begin the snapshot: %w", err)
	}
	defer func() { _ = tx.Rollback() }()
	if s.dialect.longRead != "" {
		if _, err := tx.ExecContext(ctx, s.dialect.longRead); err != nil {
			return BackupInfo{}, fmt.Errorf("prepare the snapshot: %w", err)
		}
	}
	header := BackupHeader{Format: backupFormat, Version: backupVersion, Dialect: s.dialect.name, Stopped: o.Stopped, Program: o.Program}
	if header.Schema, err = schemaVersion(ctx, tx); err != nil { // the first statement: the snapshot is of now
		return BackupInfo{}, err
	}
	if header.TakenAt, err = s.now(ctx, tx); err != nil {
		return BackupInfo{}, err
	}
	if header.Journal, err = lastSealed(ctx, tx); err != nil {
		return BackupInfo{}, err
	}
	if err := out.line(header); err != nil {
		return BackupInfo{}, err
	}
	for _, t := range backupTables {
		if t.since > header.Schema {
			continue
		}
		if err := out.table(ctx, tx, t); err != nil {
			return BackupInfo{}, fmt.Errorf("table %s: %w", t.name, err)
		}
	}
	// A damage may hide rows from a reader: without its end this is no backup.
	if err := s.Sound(ctx); err != nil {
		return BackupInfo{}, err
	}
	info := BackupInfo{BackupHeader: header, Rows: out.rows}
	if info.SHA256, err = out.end(); err != nil {
		return info, err
	}
	if err := errors.Join(zip.Close(), buffered.Flush()); err != nil {
		return info, fmt.Errorf("write: %w", err)
	}
	return info, nil
}

func schemaVersion(ctx context.Context, q querier) (int64, error) {
	var v int64
	if err := q.QueryRowContext(ctx, "SELECT COALESCE(MAX(version_id), 0) FROM goose_db_version WHERE is_applied").Scan(&v); err != nil {
		return 0, fmt.Errorf("read the schema version: %w", err)
	}
	return v, nil
}

// backupWriter writes lines and sums up what it wrote.
type backupWriter struct {
	w    *bufio.Writer
	sum  hash.Hash
	enc  *json.Encoder
	buf  bytes.Buffer
	rows map[string]int64
}

func newBackupWriter(w io.Writer) *backupWriter {
	b := &backupWriter{w: bufio.NewWriterSize(w, 64<<10), sum: sha256.New(), rows: map[string]int64{}}
	b.enc = json.NewEncoder(&b.buf)
	b.enc.SetEscapeHTML(false)
	return b
}

func (b *backupWriter) line(v any) error {
	b.buf.Reset()
	if err := b.enc.Encode(v); err != nil {
		return fmt.Errorf("encode: %w", err)
	}
	b.sum.Write(b.buf.Bytes())
	if _, err := b.w.Write(b.buf.Bytes()); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	return nil
}

func (b *backupWriter) end() (string, error) {
	sum := hex.EncodeToString(b.sum.Sum(nil))
	if err := b.line(endLine{Rows: b.rows, SHA256: sum}); err != nil {
		return "", err
	}
	if err := b.w.Flush(); err != nil {
		return "", fmt.Errorf("write: %w", err)
	}
	return sum, nil
}

func (b *backupWriter) table(ctx context.Context, tx *sql.Tx, t table) error {
	queries := t.queries
	if len(queries) == 0 {
		queries = []string{"FROM " + t.name}
	}
	b.rows[t.name] = 0
	for i, query := range queries {
		n, err := b.selected(ctx, tx, t.name, query, i == 0)
		if err != nil {
			return err
		}
		b.rows[t.name] += n
	}
	return nil
}

func (b *backupWriter) selected(ctx context.Context, tx *sql.Tx, name, query string, first bool) (int64, error) {
	rows, err := tx.QueryContext(ctx, "SELECT * "+query)
	if err != nil {
		return 0, err
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		return 0, err
	}
	if first {
		if err := b.line(tableLine{name, columns}); err != nil {
			return 0, err
		}
	}
	values := make([]any, len(columns))
	into := make([]any, len(columns))
	for i := range into {
		into[i] = &values[i]
	}
	var n int64
	for rows.Next() {
		if err := rows.Scan(into...); err != nil {
			return n, err
		}
		for i, v := range values {
			if values[i], err = portable(v); err != nil {
				return n, fmt.Errorf("column %s: %w", columns[i], err)
			}
		}
		if err := b.line(values); err != nil {
			return n, err
		}
		n++
	}
	return n, rows.Err()
}

// rawText is text that JSON cannot hold, which only SQLite takes.
type rawText struct {
	Base64 []byte `json:"base64"`
}

// portable turns what a driver returns into what both databases can be given.
func portable(v any) (any, error) {
	switch v := v.(type) {
	case nil, int64:
		return v, nil
	case string:
		if !utf8.ValidString(v) {
			return rawText{[]byte(v)}, nil
		}
		return v, nil
	case []byte:
		return portable(string(v))
	}
	return nil, fmt.Errorf("a value of type %T has no place in a backup", v)
}

// OpenForBackup opens a database on which no service of this process runs, to
// take a backup of it. Nothing is migrated, so that a backup can be taken before
// an upgrade, and no file is made. On SQLite it fails with ErrBusy while a
// service runs. stopped reports whether no service runs.
func OpenForBackup(ctx context.Context, dsn string) (s *Store, stopped bool, err error) {
	loc, err := parseDSN(dsn)
	if err != nil {
		return nil, false, err
	}
	if s, err = newStore(loc, Options{}); err != nil {
		return nil, false, err
	}
	if loc.file != "" {
		if _, err := os.Stat(loc.file); err != nil {
			return nil, false, fmt.Errorf("open the database: %w; is store.dsn right, and the working directory the service's?", err)
		}
		if s.lock, err = lockFile(loc.file); err != nil {
			return nil, false, s.wrap("open the database", err)
		}
	}
	defer func() {
		if err != nil {
			s, err = nil, errors.Join(err, s.closeFiles())
		}
	}()
	if s.db, s.read, err = s.dialect.open(ctx, loc, 2, nil); err != nil {
		return s, false, s.wrap("open the database "+loc.shown, err)
	}
	if err := s.checkWhole(ctx); err != nil {
		return s, false, s.wrap("open the database "+loc.shown, err)
	}
	have, err := schemaVersion(ctx, s.read)
	if err != nil {
		return s, false, s.wrap("read the schema of "+loc.shown+"; is this alertmedic's database?", err)
	}
	if want := latestSchema(); have > want {
		return s, false, newerSchema(loc.shown, have, want)
	}
	if s.dialect.now == "" {
		mark, err := s.highWater(ctx)
		if err != nil {
			return s, false, err
		}
		s.clock = newWallClock(time.Now, fromMicros(mark), func(time.Duration) {})
		return s, true, nil
	}
	present, err := s.present(ctx, s.read)
	if err != nil {
		return s, false, s.wrap("look for running services", err)
	}
	return s, len(present) == 0, nil
}

// describe counts what a database or backup holds, for people.
func describe(rows map[string]int64) string {
	var parts []string
	for _, t := range []struct{ table, name string }{{"runs", "runs"}, {"episodes", "episodes"}, {"journal", "journal entries"}} {
		parts = append(parts, fmt.Sprintf("%d %s", rows[t.table], t.name))
	}
	return strings.Join(parts, ", ")
}
