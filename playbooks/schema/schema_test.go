// Package schema_test keeps the JSON Schema of playbooks current. Editors read
// the file beside it; UPDATE=1 writes it anew.
package schema_test

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/alertmedic/alertmedic/k8sactions"
	"github.com/alertmedic/alertmedic/playbooks"
)

const file = "playbook.v1alpha1.schema.json"

func TestGeneratedSchemaIsCurrent(t *testing.T) {
	t.Parallel()
	catalogue, err := k8sactions.New(nil, k8sactions.Options{})
	require.NoError(t, err)
	want, err := playbooks.JSONSchema(catalogue)
	require.NoError(t, err)
	if os.Getenv("UPDATE") != "" {
		require.NoError(t, os.WriteFile(file, want, 0o644))
	}
	got, err := os.ReadFile(file)
	require.NoError(t, err, "run make generate")
	require.Equal(t, string(want), string(got), "an action's parameters or the format changed: run make generate")
}
