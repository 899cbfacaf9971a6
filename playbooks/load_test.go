package playbooks

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestLoadGood(t *testing.T) {
	t.Parallel()
	set, problems := Load([]string{"../testdata/playbooks/good"}, LoadOptions{Catalogue: catalogue()})
	require.Empty(t, problems)
	require.Equal(t, 3, set.Len())
}
