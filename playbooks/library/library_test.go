// Package library_test checks the playbooks that are shipped with the actions
// that there are.
package library_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/alertmedic/alertmedic/k8sactions"
	"github.com/alertmedic/alertmedic/playbooks"
)

func TestLibraryLoadsWithoutProblems(t *testing.T) {
	t.Parallel()
	catalogue, err := k8sactions.New(nil, k8sactions.Options{})
	require.NoError(t, err)
	set, problems := playbooks.Load([]string{"."}, playbooks.LoadOptions{Catalogue: catalogue})
	require.Empty(t, problems)
	require.NotEmpty(t, set.All())
	for _, p := range set.All() {
		require.NotEmpty(t, p.Description, p.Name)
		require.NotEmpty(t, p.ServiceAccountName, p.Name)
	}
}
