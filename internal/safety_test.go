package internal_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/alertmedic/alertmedic/internal/guard"
)

// docs/safety.md has a row for each guard, in order, and the tests that it names
// exist.
func TestTheTableOfSafetyIsWhole(t *testing.T) {
	t.Parallel()
	doc, err := os.ReadFile("../docs/safety.md")
	require.NoError(t, err)
	var rows, want []string
	for line := range strings.Lines(string(doc)) {
		if name, found := strings.CutPrefix(line, "| `"); found {
			name, _, _ = strings.Cut(name, "`")
			rows = append(rows, name)
		}
	}
	for _, g := range guard.List() {
		want = append(want, g.Name)
	}
	require.Equal(t, want, rows)
	var tests strings.Builder
	require.NoError(t, filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		tests.Write(text)
		return err
	}))
	for _, name := range regexp.MustCompile("`(Test[A-Za-z]+)`").FindAllStringSubmatch(string(doc), -1) {
		require.Contains(t, tests.String(), "func "+name[1]+"(", "docs/safety.md names a test that is not there")
	}
}
