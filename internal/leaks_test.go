package internal_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Every package with tests fails when its tests, or what they test, leave a
// goroutine behind: its TestMain calls goleak.
func TestEveryPackageChecksForLeaks(t *testing.T) {
	t.Parallel()
	const format = `{{if or .TestGoFiles .XTestGoFiles}}{{.Dir}}{{range .TestGoFiles}},{{.}}{{end}}{{range .XTestGoFiles}},{{.}}{{end}}{{end}}`
	out, err := exec.CommandContext(t.Context(), "go", "list", "-f", format, module+"/...").Output()
	require.NoError(t, err)
	packages := strings.Fields(string(out))
	require.Greater(t, len(packages), 20)
	for _, p := range packages {
		parts := strings.Split(p, ",")
		dir, files := parts[0], parts[1:]
		if !checksForLeaks(t, dir, files) {
			t.Errorf("%s has tests and no leak check: give it a TestMain with goleak.VerifyTestMain, as the other packages have", dir)
		}
	}
}

// checksForLeaks reports whether the package's TestMain, or a function of the
// same file that it calls, calls goleak.
func checksForLeaks(t *testing.T, dir string, files []string) bool {
	t.Helper()
	for _, name := range files {
		f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(dir, name), nil, parser.SkipObjectResolution)
		require.NoError(t, err)
		main := function(f, "TestMain")
		if main == nil {
			continue
		}
		found := false
		var look func(ast.Node) bool
		look = func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return !found
			}
			switch fun := call.Fun.(type) {
			case *ast.SelectorExpr:
				if x, ok := fun.X.(*ast.Ident); ok && x.Name == "goleak" && (fun.Sel.Name == "VerifyTestMain" || fun.Sel.Name == "Find") {
					found = true
				}
			case *ast.Ident:
				if called := function(f, fun.Name); called != nil && called != main {
					ast.Inspect(called, look)
				}
			}
			return !found
		}
		ast.Inspect(main, look)
		return found
	}
	return false
}

func function(f *ast.File, name string) *ast.FuncDecl {
	for _, d := range f.Decls {
		if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == name {
			return fn
		}
	}
	return nil
}
