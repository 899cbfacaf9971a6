// Package internal_test checks the architecture: imports run one way.
package internal_test

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const module = "github.com/alertmedic/alertmedic"

// layers lists, from the bottom up, what each package of the product may import
// of this module. A package that is missing here fails the test: a new one must
// be given its place.
var layers = map[string][]string{
	"internal/parallel": {},
	"internal/alert":    {"internal/parallel"},
	"internal/action":   {},
	"internal/journal":  {"internal/action"},
	"internal/guard":    {"internal/action"},
	"internal/capacity": {},
	"playbooks":         {"internal/action", "internal/guard"},
	"internal/auth":     {},
	"internal/rbac":     {"internal/action", "playbooks"},
	"internal/kube":     {"internal/action", "internal/capacity", "internal/guard", "playbooks"},
	"internal/promapi":  {"internal/alert", "internal/guard", "internal/parallel"},
	"internal/store":    {"internal/action", "internal/alert", "internal/guard", "internal/journal", "internal/parallel"},
	"internal/config":   {"internal/action", "internal/guard", "internal/auth", "playbooks"},
	"internal/simulate": {"internal/action", "internal/guard"},
	"internal/engine": {"internal/simulate", "internal/parallel", "internal/action", "internal/alert", "internal/guard", "internal/journal", "internal/kube",
		"internal/store", "playbooks"},
	"internal/notify": {"internal/action", "internal/alert", "internal/journal", "internal/store"},
	"receiver":        {"internal/action", "internal/alert", "internal/auth", "internal/journal", "internal/store", "playbooks"},
	"internal/api":    {"internal/simulate", "internal/action", "internal/auth", "internal/guard", "internal/journal", "internal/store", "playbooks"},
}

// above are the packages that may import everything of the product: the wiring,
// the command, and what tests and shows it.
var above = []string{"cmd", "hack", "deploy", "rules", "internal", "internal/app", "internal/testcluster", "internal/durability", "internal/api/apitest",
	"internal/api/client", "playbooks/library", "playbooks/schema"}

// actions lists what the packages of actions may import besides each other.
var actions = []string{"internal/action", "internal/guard", "internal/kube"}

func allowed(name string) ([]string, bool) {
	if list, ok := layers[name]; ok {
		return list, true
	}
	return actions, within(name, "k8sactions")
}

func within(name, dir string) bool { return name == dir || strings.HasPrefix(name, dir+"/") }

type pkg struct {
	ImportPath string
	Imports    []string
}

func list(t *testing.T) []pkg {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Imports", module+"/...").Output()
	require.NoError(t, err)
	var all []pkg
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		err := dec.Decode(&p)
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
		all = append(all, p)
	}
	require.Greater(t, len(all), len(layers))
	return all
}

func TestImportsRunOneWay(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, p := range list(t) {
		name := strings.TrimPrefix(p.ImportPath, module+"/")
		may, ok := allowed(name)
		if !ok {
			if !slices.Contains(above, name) && !within(name, "hack") && !within(name, "cmd") {
				t.Errorf("%s has no place in the layers: give it one", name)
			}
			continue
		}
		seen[name] = true
		for _, imp := range p.Imports {
			own, found := strings.CutPrefix(imp, module+"/")
			if found && !slices.Contains(may, own) && !(within(name, "k8sactions") && within(own, "k8sactions")) {
				t.Errorf("%s imports %s, which is not below it", name, own)
			}
		}
	}
	for name := range layers {
		if !seen[name] {
			t.Errorf("package %s is in the list and not in the module", name)
		}
	}
}

// TestClientGoStaysInItsPlace keeps Kubernetes clients where mutations are
// guarded and reads are bounded.
func TestClientGoStaysInItsPlace(t *testing.T) {
	t.Parallel()
	mayImport := []string{"internal/kube", "k8sactions", "internal/auth", "internal/testcluster", "internal/app", "hack", "deploy"}
	for _, p := range list(t) {
		name := strings.TrimPrefix(p.ImportPath, module+"/")
		if slices.ContainsFunc(mayImport, func(m string) bool { return within(name, m) }) {
			continue
		}
		for _, imp := range p.Imports {
			if strings.HasPrefix(imp, "k8s.io/client-go") {
				t.Errorf("%s imports %s", name, imp)
			}
		}
	}
}
