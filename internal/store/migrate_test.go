package store_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/alertmedic/alertmedic/internal/store"
)

// A version means the same on both databases, or a backup of the one would not
// fit the other: the same files, counted from 1 without a gap or a second one.
func TestMigrationsAreTheSameVersionsOnBothDatabases(t *testing.T) {
	t.Parallel()
	sqlite, err := store.MigrationFiles("sqlite")
	require.NoError(t, err)
	postgres, err := store.MigrationFiles("postgres")
	require.NoError(t, err)
	require.Equal(t, sqlite, postgres)
	require.Len(t, sqlite, int(store.LatestSchema()))
	for i, file := range sqlite {
		require.Regexp(t, fmt.Sprintf(`^%05d_[a-z_]+\.sql$`, i+1), file)
	}
}
