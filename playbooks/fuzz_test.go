package playbooks

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	yamlv3 "go.yaml.in/yaml/v3"
)

// FuzzLoad feeds the loader anything. Whatever it loads must compile again
// from its snapshot to the same playbook, and must say what another YAML parser
// reads in the same text: a parser that drops or joins words would change what
// a playbook does.
func FuzzLoad(f *testing.F) {
	for _, pattern := range []string{"good/*.yaml", "bad/*.yaml", "bad/*/*.yaml", "warn/*.yaml"} {
		files, err := filepath.Glob("../testdata/playbooks/" + pattern)
		require.NoError(f, err)
		require.NotEmpty(f, files)
		for _, file := range files {
			data, err := os.ReadFile(file)
			require.NoError(f, err)
			f.Add(data)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		set, problems := LoadBytes("f.yaml", data, LoadOptions{Catalogue: catalogue()})
		require.Equal(t, problems.Err() == nil, set != nil)
		sorted := slices.Clone(problems)
		sorted.sort()
		require.Equal(t, sorted, problems)
		lines := strings.Count(string(data), "\n") + 1
		for _, p := range problems {
			require.Equal(t, "f.yaml", p.File)
			require.NotEmpty(t, p.Message)
			require.Less(t, len(p.String()), 4096)
			if strings.HasSuffix(p.Message, "more problems are not shown") {
				continue
			}
			require.True(t, p.Line >= 1 && p.Line <= lines && p.Column >= 1, p.String())
			require.NotContains(t, p.String(), "the YAML parser failed")
		}
		for _, p := range set.All() {
			again, err := Compile(p.Doc, catalogue())
			require.NoError(t, err)
			requireSamePlaybook(t, p, again)
		}
		report := newReporter("f.yaml")
		for _, d := range splitDocuments([]byte(strings.ReplaceAll(string(data), "\r\n", "\n")), report) {
			if root := parseYAML(d, report); root != nil {
				var other yamlv3.Node
				require.NoError(t, yamlv3.Unmarshal(d.text, &other))
				requireSameText(t, root, other.Content[0])
			}
		}
	})
}
