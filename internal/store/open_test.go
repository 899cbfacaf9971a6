package store_test

import (
	"database/sql"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alertmedic/alertmedic/internal/guard"
	"github.com/alertmedic/alertmedic/internal/store"
)

// What cannot be opened is refused with a reason and a way out, and nothing is
// made or changed.
func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		dsn  func(t *testing.T) string
		is   error
		says []string
	}{
		"a damaged file": {func(t *testing.T) string {
			file := filepath.Join(t.TempDir(), "medic.db")
			require.NoError(t, os.WriteFile(file, append([]byte("SQLite format 3\x00"), make([]byte, 4096)...), 0o600))
			return file
		}, store.ErrCorrupt, []string{"restore a backup", ".recover"}},
		"a file of another kind": {func(t *testing.T) string {
			file := filepath.Join(t.TempDir(), "medic.db")
			require.NoError(t, os.WriteFile(file, []byte("this is a shopping list, long enough to be one: milk, bread, butter, apples"), 0o600))
			return file
		}, store.ErrCorrupt, nil},
		"a missing directory": {func(t *testing.T) string { return filepath.Join(t.TempDir(), "no", "such", "dir", "medic.db") },
			nil, []string{"dir"}},
		"another database": {func(*testing.T) string { return "mysql://root:hunter2@127.0.0.1/x" }, nil, []string{"postgres://"}},
		"a server that is not there": {func(*testing.T) string { return "postgres://medic:hunter2@127.0.0.1:1/medic?connect_timeout=2" },
			store.ErrUnavailable, []string{"127.0.0.1:1"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := store.Open(t.Context(), store.Options{DSN: tt.dsn(t)})
			require.Error(t, err)
			if tt.is != nil {
				require.ErrorIs(t, err, tt.is)
			}
			for _, part := range tt.says {
				require.ErrorContains(t, err, part)
			}
			require.NotContains(t, err.Error(), "hunter2", "no password in an error")
		})
	}
}

func TestOpenRefusesASecondProcess(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "medic.db")
	open(t, file)
	_, err := store.Open(t.Context(), store.Options{DSN: file})
	require.ErrorIs(t, err, store.ErrBusy)
}

func TestOpenRefusesANewerSchema(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "medic.db")
	s, err := store.Open(t.Context(), store.Options{DSN: file})
	require.NoError(t, err)
	require.NoError(t, s.Close())
	db, err := sql.Open("sqlite", file)
	require.NoError(t, err)
	_, err = db.ExecContext(t.Context(), "INSERT INTO goose_db_version (version_id, is_applied) VALUES (999, 1)")
	require.NoError(t, err)
	require.NoError(t, db.Close())
	_, err = store.Open(t.Context(), store.Options{DSN: file})
	require.ErrorIs(t, err, store.ErrNewerSchema)
	require.ErrorContains(t, err, "999")
}

// A clock that is set back never shortens a cooldown: the store's time does not
// go back, not even across a restart.
func TestTimeNeverGoesBack(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "medic.db")
	clock := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	options := store.Options{DSN: file, Clock: func() time.Time { return clock }}
	s, err := store.Open(t.Context(), options)
	require.NoError(t, err)
	require.NoError(t, s.SetPause(t.Context(), guard.Pause{Scope: guard.PauseGlobal, By: "ada", Why: "x", At: clock}))
	before, err := s.Now(t.Context())
	require.NoError(t, err)
	clock = clock.Add(-time.Hour)
	now, err := s.Now(t.Context())
	require.NoError(t, err)
	require.False(t, now.Before(before))
	require.NoError(t, s.Close())
	s, err = store.Open(t.Context(), options)
	require.NoError(t, err)
	defer s.Close()
	now, err = s.Now(t.Context())
	require.NoError(t, err)
	require.False(t, now.Before(before), "%s after a restart, %s before", now, before)
}
