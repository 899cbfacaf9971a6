package playbooks

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"
)

// The schema of the real catalogue is kept current where it is wired; this one
// pins the form with a catalogue of our own.
func TestJSONSchema(t *testing.T) {
	t.Parallel()
	const golden = "../testdata/playbooks/schema.golden.json"
	got, err := JSONSchema(catalogue())
	require.NoError(t, err)
	if os.Getenv("UPDATE") == "1" {
		require.NoError(t, os.WriteFile(golden, got, 0o600))
	}
	want, err := os.ReadFile(golden)
	require.NoError(t, err)
	require.Equal(t, string(want), string(got), "run with UPDATE=1 if the change is meant")
	again, err := JSONSchema(catalogue())
	require.NoError(t, err)
	require.Equal(t, got, again)
}
