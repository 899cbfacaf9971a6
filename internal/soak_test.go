package internal_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// `make soak` runs the long forms by their names: each test that has one is among
// them, and none of the names is left over.
func TestSoakRunsEveryLongForm(t *testing.T) {
	t.Parallel()
	makefile, err := os.ReadFile("../Makefile")
	require.NoError(t, err)
	found := regexp.MustCompile(`(?m)^LONG *= *(\S+)$`).FindSubmatch(makefile)
	require.NotNil(t, found, "the Makefile says by LONG which tests have a long form")
	named := append(strings.Split(string(found[1]), "|"), "TestKillSQLite", "TestKillPostgres")
	long := longForms(t)
	slices.Sort(named)
	slices.Sort(long)
	require.Equal(t, long, named)
}

// longForms returns the tests that ask for ALERTMEDIC_SOAK, themselves or by what
// they use of their package.
func longForms(t *testing.T) []string {
	t.Helper()
	packages := map[string][]*ast.File{}
	require.NoError(t, filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		dir := filepath.Dir(path)
		packages[dir] = append(packages[dir], file)
		return err
	}))
	var out []string
	for _, files := range packages {
		long := map[string]bool{`"ALERTMEDIC_SOAK"`: true}
		for before := 0; before < len(long); { // until nothing new is found
			before = len(long)
			for _, file := range files {
				for name, node := range declared(file) {
					ast.Inspect(node, func(n ast.Node) bool {
						switch n := n.(type) {
						case *ast.BasicLit:
							long[name] = long[name] || long[n.Value]
						case *ast.Ident:
							long[name] = long[name] || long[n.Name]
						}
						return true
					})
					if !long[name] {
						delete(long, name)
					}
				}
			}
		}
		for name := range long {
			if strings.HasPrefix(name, "Test") {
				out = append(out, name)
			}
		}
	}
	return out
}

// declared returns the functions and variables of a file; methods are known by
// the functions that they are used in.
func declared(file *ast.File) map[string]ast.Node {
	out := map[string]ast.Node{}
	for _, decl := range file.Decls {
		switch decl := decl.(type) {
		case *ast.FuncDecl:
			if decl.Body != nil && decl.Recv == nil {
				out[decl.Name.Name] = decl.Body
			}
		case *ast.GenDecl:
			for _, spec := range decl.Specs {
				if values, ok := spec.(*ast.ValueSpec); ok {
					for i, name := range values.Names {
						if i < len(values.Values) {
							out[name.Name] = values.Values[i]
						}
					}
				}
			}
		}
	}
	return out
}
