package store

import (
	"context"
	"database/sql"
	"embed"
	"fmt"
	"io/fs"
	"log/slog"

	"github.com/pressly/goose/v3"
)

//go:embed migrations/*.sql
var migrationFiles embed.FS

// migrate brings the schema up to date and refuses one that a newer version of
// the program has written: going on could destroy what it means.
func (s *Store) migrate(ctx context.Context) (err error) {
	dir, err := fs.Sub(migrationFiles, "migrations")
	if err != nil {
		return fmt.Errorf("read the embedded migrations: %w", err)
	}
	if s.dialect.migrationLock != "" {
		// The lock lives in a transaction of its own connection until the
		// migrations, on another one, are through.
		guard, err := s.db.BeginTx(ctx, nil)
		if err != nil {
			return s.wrap("begin the migration", err)
		}
		defer func() { _ = guard.Rollback() }()
		if _, err := guard.ExecContext(ctx, s.dialect.migrationLock); err != nil {
			return s.wrap("wait for another replica's migration", err)
		}
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
		return fmt.Errorf("%w: %s has schema version %d and this program knows up to %d: start the newer version, or restore a backup from before the upgrade",
			ErrNewerSchema, s.loc.shown, have, want)
	}
	applied, err := p.Up(ctx)
	if err != nil {
		return s.wrap(fmt.Sprintf("migrate %s from schema version %d to %d", s.loc.shown, have, want), err)
	}
	if len(applied) > 0 {
		s.log.Info("migrated the database", "from", have, "to", want, "database", s.loc.shown)
	}
	return nil
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
