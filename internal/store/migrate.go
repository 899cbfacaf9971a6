package store

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"slices"
	"strconv"
	"strings"

	"github.com/pressly/goose/v3"
)

//go:embed migrations
var migrationFiles embed.FS

// migrations are those of one database: what is portable, and in a folder of its
// name what only it needs. A version number is either the one or the other, so
// that a backup of a version fits both.
type migrations struct{ shared, own fs.FS }

func (d *dialect) migrations() (migrations, error) {
	shared, err := fs.Sub(migrationFiles, "migrations")
	if err != nil {
		return migrations{}, fmt.Errorf("read the embedded migrations: %w", err)
	}
	own, err := fs.Sub(shared, d.name)
	if err != nil {
		return migrations{}, fmt.Errorf("read the embedded migrations for %s: %w", d.name, err)
	}
	return migrations{shared: shared, own: own}, nil
}

// Open implements fs.FS.
func (m migrations) Open(name string) (fs.File, error) {
	f, err := m.own.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return m.shared.Open(name)
	}
	return f, err
}

// ReadDir implements fs.ReadDirFS: the files of both, in the order of their
// versions.
func (m migrations) ReadDir(name string) ([]fs.DirEntry, error) {
	shared, err := fs.ReadDir(m.shared, name)
	if err != nil {
		return nil, err
	}
	own, err := fs.ReadDir(m.own, name)
	if err != nil {
		return nil, err
	}
	return slices.SortedFunc(slices.Values(append(own, shared...)), func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) }), nil
}

// latestSchema is the schema version that this program writes, on each database.
func latestSchema() int64 {
	all, err := sqliteDialect.migrations()
	if err != nil {
		panic(err) // they are embedded
	}
	entries, err := all.ReadDir(".")
	if err != nil {
		panic(err)
	}
	var latest int64
	for _, e := range entries {
		number, _, _ := strings.Cut(e.Name(), "_")
		if v, err := strconv.ParseInt(number, 10, 64); err == nil {
			latest = max(latest, v)
		}
	}
	return latest
}

// migrate brings the schema up to date and refuses one that a newer version of
// the program has written: going on could destroy what it means.
func (s *Store) migrate(ctx context.Context) error {
	unlock, err := s.lockMigrations(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	return s.migrateTo(ctx, latestSchema())
}

// lockMigrations waits until no other replica migrates or restores. The lock
// lives in a transaction of its own connection until unlock.
func (s *Store) lockMigrations(ctx context.Context) (unlock func(), err error) {
	if s.dialect.migrationLock == "" {
		return func() {}, nil
	}
	guard, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return nil, s.wrap("begin the migration", err)
	}
	unlock = func() { _ = guard.Rollback() }
	if _, err := guard.ExecContext(ctx, s.dialect.migrationLock); err != nil {
		unlock()
		return nil, s.wrap("wait for another replica's migration", err)
	}
	return unlock, nil
}

// migrateTo brings the schema up to a version.
func (s *Store) migrateTo(ctx context.Context, version int64) error {
	dir, err := s.dialect.migrations()
	if err != nil {
		return err
	}
	p, err := goose.NewProvider(s.dialect.goose, s.db, dir, goose.WithSlog(slog.New(slog.DiscardHandler)), goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return fmt.Errorf("prepare the migrations: %w", err)
	}
	have, want, err := p.GetVersions(ctx)
	if err != nil {
		return s.wrap("read the schema version of "+s.loc.shown, err)
	}
	if have > want {
		return newerSchema(s.loc.shown, have, want)
	}
	applied, err := p.UpTo(ctx, version)
	if err != nil {
		return s.wrap(fmt.Sprintf("migrate %s from schema version %d to %d", s.loc.shown, have, version), err)
	}
	if len(applied) > 0 {
		s.log.Info("migrated the database", "from", have, "to", version, "database", s.loc.shown)
	}
	return nil
}

func newerSchema(what string, have, want int64) error {
	return fmt.Errorf("%w: %s has schema version %d and this program knows up to %d: start the newer version, or restore a backup from before the upgrade",
		ErrNewerSchema, what, have, want)
}

// highWater reads the stored mark of the clock.
func (s *Store) highWater(ctx context.Context) (int64, error) {
	var us int64
	err := s.db.QueryRowContext(ctx, "SELECT high_water FROM clock WHERE id = 1").Scan(&us)
	if err == sql.ErrNoRows {
		return 0, nil
	}
	return us, s.wrap("read the clock's high-water mark", err)
}
