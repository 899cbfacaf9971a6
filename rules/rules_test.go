// Package rules_test checks the alerting rules with Prometheus's own tool.
package rules_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"sigs.k8s.io/yaml"

	"github.com/alertmedic/alertmedic/internal/testcluster"
)

type rule struct {
	Alert       string            `json:"alert"`
	Expr        string            `json:"expr"`
	For         string            `json:"for,omitempty"`
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations"`
}

type ruleFile struct {
	Groups []struct {
		Name  string `json:"name"`
		Rules []rule `json:"rules"`
	} `json:"groups"`
}

func promtool(t *testing.T, args ...string) {
	t.Helper()
	if testing.Short() {
		t.Skip("-short: promtool may have to be built first")
	}
	programs, err := testcluster.Binaries{}.Ensure(t.Context(), "promtool")
	require.NoError(t, err)
	out, err := exec.CommandContext(t.Context(), programs["promtool"], args...).CombinedOutput()
	require.NoError(t, err, "promtool %s\n%s", strings.Join(args, " "), out)
}

func files(t *testing.T, pattern string) []string {
	t.Helper()
	found, err := filepath.Glob(pattern)
	require.NoError(t, err)
	require.NotEmpty(t, found, pattern)
	return found
}

func rules(t *testing.T) map[string][]rule {
	t.Helper()
	all := map[string][]rule{}
	for _, file := range files(t, "*.yaml") {
		data, err := os.ReadFile(file)
		require.NoError(t, err)
		var f ruleFile
		require.NoError(t, yaml.UnmarshalStrict(data, &f), file)
		for _, g := range f.Groups {
			all[file] = append(all[file], g.Rules...)
		}
	}
	return all
}

func TestPromtoolAcceptsRules(t *testing.T) {
	t.Parallel()
	promtool(t, append([]string{"check", "rules", "--lint=all", "--lint-fatal"}, files(t, "*.yaml")...)...)
}

func TestPromtoolUnitTestsPass(t *testing.T) {
	t.Parallel()
	promtool(t, append([]string{"test", "rules"}, files(t, "tests/*.yaml")...)...)
}

// Every rule says how bad it is, what happened, and where to read on.
func TestEveryRuleExplainsItself(t *testing.T) {
	t.Parallel()
	docs, err := os.ReadFile("../docs/alerts.md")
	require.NoError(t, err)
	headings := strings.Split(strings.ToLower(string(docs)), "\n")
	for file, list := range rules(t) {
		for _, r := range list {
			require.Contains(t, []string{"critical", "warning", "none"}, r.Labels["severity"], "%s: %s", file, r.Alert)
			require.NotEmpty(t, r.Annotations["summary"], "%s: %s", file, r.Alert)
			require.NotEmpty(t, r.Annotations["description"], "%s: %s", file, r.Alert)
			anchor := strings.ToLower(r.Alert)
			require.Equal(t, "https://github.com/alertmedic/alertmedic/blob/main/docs/alerts.md#"+anchor, r.Annotations["runbook_url"], "%s: %s", file, r.Alert)
			require.True(t, slices.Contains(headings, "### "+anchor), "docs/alerts.md has no section %s", r.Alert)
		}
	}
}

// Every alert is tested: a test in which it fires, and a moment in which it
// does not.
func TestEveryRuleIsTested(t *testing.T) {
	t.Parallel()
	type check struct {
		Alert string `json:"alertname"`
		Exp   []any  `json:"exp_alerts"`
	}
	var fires, quiet = map[string]bool{}, map[string]bool{"Watchdog": true} // which is never quiet
	for _, file := range files(t, "tests/*.yaml") {
		data, err := os.ReadFile(file)
		require.NoError(t, err)
		var f struct {
			Tests []struct {
				Checks []check `json:"alert_rule_test"`
			} `json:"tests"`
		}
		require.NoError(t, yaml.Unmarshal(data, &f), file)
		for _, test := range f.Tests {
			for _, c := range test.Checks {
				if len(c.Exp) > 0 {
					fires[c.Alert] = true
				} else {
					quiet[c.Alert] = true
				}
			}
		}
	}
	for file, list := range rules(t) {
		for _, r := range list {
			require.True(t, fires[r.Alert], "%s: no test in which %s fires", file, r.Alert)
			require.True(t, quiet[r.Alert], "%s: no test in which %s does not fire", file, r.Alert)
		}
	}
}
