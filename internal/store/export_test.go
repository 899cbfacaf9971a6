package store

import (
	"context"
	"errors"
	"io/fs"
	"time"
)

// UseShiftedClock makes the clock of a PostgreSQL store run ahead of the
// server's by what the clock table says, so that tests move time without
// sleeping. Replicas on one database share the shift, as they share the clock.
func (s *Store) UseShiftedClock() {
	d := *s.dialect
	d.now = `CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000000 AS BIGINT) + COALESCE((SELECT high_water FROM clock WHERE id = 1), 0)`
	s.dialect = &d
}

// ShiftClock moves the shifted clock.
func (s *Store) ShiftClock(ctx context.Context, d time.Duration) error {
	_, err := s.db.ExecContext(ctx, `INSERT INTO clock (id, high_water) VALUES (1, $1)
		ON CONFLICT (id) DO UPDATE SET high_water = clock.high_water + excluded.high_water`, d.Microseconds())
	return err
}

// ExecRaw changes the database behind the store's back.
func (s *Store) ExecRaw(ctx context.Context, query string, args ...any) error {
	_, err := s.db.ExecContext(ctx, query, args...)
	return err
}

// InTx runs fn in a write transaction that is then abandoned.
func (s *Store) InTx(ctx context.Context, fn func(exec func(query string, args ...any) error) error) error {
	return s.inTx(ctx, "test", func(t *txn) error {
		return fn(func(query string, args ...any) error { return t.exec(ctx, query, args...) })
	})
}

// LatestSchema is the schema version of this program.
func LatestSchema() int64 { return latestSchema() }

// SchemaVersion is that of the database.
func (s *Store) SchemaVersion(ctx context.Context) (int64, error) { return schemaVersion(ctx, s.read) }

// BackupTables are the tables that backups know of, in them or not.
func BackupTables() []string {
	out := append([]string{"goose_db_version"}, leftOut...)
	for _, t := range backupTables {
		out = append(out, t.name)
	}
	return out
}

// Tables are those of the database.
func (s *Store) Tables(ctx context.Context) ([]string, error) {
	query := "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
	if s.dialect.name == "postgres" {
		query = "SELECT table_name FROM information_schema.tables WHERE table_schema = current_schema()"
	}
	return collect(ctx, s.read, scanString, query)
}

// Count runs a query that counts.
func (s *Store) Count(ctx context.Context, query string) (n int, err error) {
	err = s.read.QueryRowContext(ctx, query).Scan(&n)
	return n, err
}

// IdleLimit is how long the server lets a transaction stand still, and one of a
// migration.
func (s *Store) IdleLimit(ctx context.Context, migrates bool) (limit string, err error) {
	if migrates {
		ctx = patient(ctx)
	}
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, tx.Rollback()) }()
	err = tx.QueryRowContext(ctx, "SHOW idle_in_transaction_session_timeout").Scan(&limit)
	return limit, err
}

// MigrationFiles are the names of the migrations of a database, in their order.
func MigrationFiles(database string) ([]string, error) {
	d := map[string]*dialect{"sqlite": &sqliteDialect, "postgres": &postgresDialect}[database]
	all, err := d.migrations()
	if err != nil {
		return nil, err
	}
	return fs.Glob(all, "*.sql")
}
