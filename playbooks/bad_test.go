package playbooks

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Every file and every directory under bad/ and warn/ breaks one rule, or
// several on purpose, and has the exact problems beside it in a .err file.
// UPDATE=1 rewrites those; read the difference.
func TestBadFixtures(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"bad", "warn"} {
		root := filepath.Join("../testdata/playbooks", kind)
		entries, err := os.ReadDir(root)
		require.NoError(t, err)
		ran := 0
		for _, e := range entries {
			if strings.HasSuffix(e.Name(), ".err") {
				continue
			}
			ran++
			t.Run(kind+"/"+e.Name(), func(t *testing.T) {
				t.Parallel()
				path := filepath.Join(root, e.Name())
				set, problems := Load([]string{path}, LoadOptions{Catalogue: catalogue()})
				got := strings.ReplaceAll(problems.String(), root+"/", "") + "\n"
				golden := strings.TrimSuffix(path, ".yaml") + ".err"
				if os.Getenv("UPDATE") == "1" {
					require.NoError(t, os.WriteFile(golden, []byte(got), 0o600))
				}
				want, err := os.ReadFile(golden)
				require.NoError(t, err)
				require.Equal(t, string(want), got)
				if kind == "bad" {
					require.Nil(t, set)
					require.Error(t, problems.Err())
				} else {
					require.NotNil(t, set)
					require.NoError(t, problems.Err())
					require.NotEmpty(t, problems.Warnings())
				}
			})
		}
		require.Greater(t, ran, 4)
	}
}
