package internal_test

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Each direct dependency has its reason in docs/dependencies.md, and nothing
// else has.
func TestEveryDependencyIsJustified(t *testing.T) {
	t.Parallel()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{if not (or .Indirect .Main)}}{{.Path}}{{end}}", "all").Output()
	require.NoError(t, err)
	direct := strings.Fields(string(out))
	require.NotEmpty(t, direct)
	doc, err := os.ReadFile("../docs/dependencies.md")
	require.NoError(t, err)
	listed := map[string]bool{}
	for line := range strings.Lines(string(doc)) {
		cell, found := strings.CutPrefix(line, "| ")
		if !found {
			continue
		}
		names, _, _ := strings.Cut(cell, " |")
		for _, name := range strings.Split(names, ", ") {
			if strings.Contains(name, ".") {
				listed[name] = true
			}
		}
	}
	for _, d := range direct {
		require.True(t, listed[d], "%s is not in docs/dependencies.md", d)
		delete(listed, d)
	}
	require.Empty(t, listed, "docs/dependencies.md has modules that are no direct dependency")
}
