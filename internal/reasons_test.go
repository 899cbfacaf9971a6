package internal_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/alertmedic/alertmedic/internal/journal"
	"github.com/alertmedic/alertmedic/internal/store"
)

// The tables of operations.md that people look things up in at night have every
// outcome, reason and wait that the code can record, and no other.
func TestOperationsExplainsEveryOutcomeReasonAndWait(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile("../docs/operations.md")
	require.NoError(t, err)
	doc := string(data)

	reasons := constants(t, "guard", "Reason")
	reasons = append(reasons, constants(t, "action", "Reason")...)
	reasons = append(reasons, constants(t, "kube", "ResolveReason")...)
	reasons = append(reasons, endings(t)...)
	reasons = append(reasons, "restored") // of the store, after a restore
	require.ElementsMatch(t, unique(reasons), table(t, doc, "| reason |"), "reasons")

	outcomes := slices.DeleteFunc(constants(t, "store", "Outcome"), func(o string) bool {
		return o == "joined" // of a candidate: what counts is the outcome of its run
	})
	require.ElementsMatch(t, outcomes, table(t, doc, "| outcome |"), "outcomes")

	waits := slices.DeleteFunc(constants(t, "store", "Wait"), func(w string) bool { return w == "" })
	require.ElementsMatch(t, waits, table(t, doc, "| `wait` |"), "waits")
}

// Whoever filters by a kind or an outcome is told when there is none of the name:
// the lists have all that there are.
func TestListsAreWhole(t *testing.T) {
	t.Parallel()
	var kinds, outcomes []string
	for _, k := range journal.Kinds() {
		kinds = append(kinds, string(k))
	}
	require.ElementsMatch(t, constants(t, "journal", "Kind"), kinds)
	for _, o := range store.Outcomes() {
		outcomes = append(outcomes, string(o))
	}
	data, err := os.ReadFile("api/runs.go")
	require.NoError(t, err)
	found := regexp.MustCompile(`query:"outcome" enum:"([^"]+)"`).FindSubmatch(data)
	require.NotNil(t, found)
	require.ElementsMatch(t, outcomes, strings.Split(string(found[1]), ","))
}

func unique(list []string) []string {
	slices.Sort(list)
	return slices.Compact(list)
}

// table lists what the first cells of a table have in backquotes.
func table(t *testing.T, doc, head string) []string {
	t.Helper()
	_, rest, found := strings.Cut(doc, "\n"+head)
	require.True(t, found, "no table that begins with %s", head)
	var out []string
	for line := range strings.Lines(rest[strings.IndexByte(rest, '\n')+1:]) {
		cell, found := strings.CutPrefix(line, "| ")
		if !found {
			if strings.HasPrefix(line, "|") {
				continue // the rule under the head
			}
			break
		}
		cell, _, _ = strings.Cut(cell, " |")
		for _, m := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(cell, -1) {
			out = append(out, m[1])
		}
	}
	return out
}

// sources parses the files of a package of internal/, without tests.
func sources(t *testing.T, pkg string) []*ast.File {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(pkg, "*.go"))
	require.NoError(t, err)
	var out []*ast.File
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		require.NoError(t, err)
		out = append(out, f)
	}
	require.NotEmpty(t, out, pkg)
	return out
}

// constants lists the values of a package's constants of one string type.
func constants(t *testing.T, pkg, typeName string) []string {
	t.Helper()
	var out []string
	for _, f := range sources(t, pkg) {
		ast.Inspect(f, func(n ast.Node) bool {
			spec, ok := n.(*ast.ValueSpec)
			if !ok {
				return true
			}
			if id, ok := spec.Type.(*ast.Ident); !ok || id.Name != typeName {
				return true
			}
			for _, v := range spec.Values {
				if text, ok := literal(v); ok {
					out = append(out, text)
				}
			}
			return true
		})
	}
	require.NotEmpty(t, out, "%s.%s", pkg, typeName)
	return out
}

// endings lists the reasons that the engine writes as literals where it ends a
// run, a remedy or a candidate.
func endings(t *testing.T) []string {
	t.Helper()
	word := regexp.MustCompile(`^[a-z]+(-[a-z]+)*$`)
	var out []string
	for _, f := range sources(t, "engine") {
		ast.Inspect(f, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			name := ""
			switch fun := call.Fun.(type) {
			case *ast.SelectorExpr:
				name = fun.Sel.Name
			case *ast.Ident:
				name = fun.Name
			}
			if !slices.Contains([]string{"end", "ending", "ended", "abandon", "failRemedy"}, name) {
				return true
			}
			for _, arg := range call.Args[:len(call.Args)-1] { // the reason comes before the message
				if text, ok := literal(arg); ok && word.MatchString(text) {
					out = append(out, text)
					break
				}
			}
			return true
		})
	}
	require.Greater(t, len(out), 10)
	return out
}

func literal(e ast.Expr) (string, bool) {
	lit, ok := e.(*ast.BasicLit)
	if !ok || lit.Kind != token.STRING {
		return "", false
	}
	text, err := strconv.Unquote(lit.Value)
	return text, err == nil
}
