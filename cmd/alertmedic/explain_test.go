package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/alertmedic/alertmedic/internal/api"
	"github.com/alertmedic/alertmedic/internal/api/apitest"
	"github.com/alertmedic/alertmedic/internal/simulate"
	"github.com/alertmedic/alertmedic/internal/store"
	"github.com/alertmedic/alertmedic/playbooks"
)

// An alert comes from the flag, a file or the standard input, and what the
// service says of it cannot command the terminal.
func TestExplain(t *testing.T) {
	t.Parallel()
	f := setup(t, apitest.Viewer)
	var refused playbooks.Problems
	f.env[envServer] = apitest.Server(t, f.store, func(o *api.Options) {
		o.Refused = func() playbooks.Problems { return refused }
		o.Explain = func(_ context.Context, r simulate.ExplainRequest) (*simulate.Explanation, error) {
			if r.Playbook == "nope" {
				return nil, fmt.Errorf("%w: no playbook %q is loaded, only crash", store.ErrNotFound, r.Playbook)
			}
			return &simulate.Explanation{Source: "main", Labels: r.Labels, Playbooks: []simulate.Considered{{Name: "crash", Why: "\x1b[31mred"}}}, nil
		}
	}).URL
	const labels = `{"alertname": "A"}`
	file := filepath.Join(t.TempDir(), "alert.json")
	require.NoError(t, os.WriteFile(file, []byte(`{"alerts": [{"labels": `+labels+`}, {"labels": {"alertname": "B"}}]}`), 0o600))
	got := f.run(t, "explain", "--alert", labels)
	require.Zero(t, got.code, got.err)
	require.Contains(t, got.out, `Alert:    alertname="A"`)
	require.Contains(t, got.out, "Playbook crash does not match: \uFFFD[31mred")
	got = f.run(t, "explain", "--alert", "@"+file)
	require.Equal(t, 2, strings.Count(got.out, "Alert:"), got.err)
	f.in = strings.NewReader(labels)
	got = f.run(t, "plan", "--alert", "-")
	require.Equal(t, "# no playbook matches; `alertmedic explain` says why\n", got.out, got.err)
	require.Contains(t, f.run(t, "explain", "--alert", labels, "-o", "json").out, `"alertname": "A"`)
	got = f.run(t, "explain", "--alert", "@"+file, "-o", "yaml")
	require.Equal(t, 2, strings.Count(got.out, "---\n"), "a document for each alert")
	require.Contains(t, got.out, "labels:\n  alertname: B\n")

	refused = playbooks.Problems{{File: "new.yaml", Line: 4, Column: 3, Message: "unknown field \x1b[31m"}}
	got = f.run(t, "plan", "--alert", "@"+file)
	require.Equal(t, 1, strings.Count(got.err, "new.yaml:4:3: unknown field \uFFFD[31m"), got.err)
	require.NotContains(t, got.out, "new.yaml", "what is piped on is the plans alone")
	require.Contains(t, f.run(t, "explain", "--alert", labels).out, "new.yaml:4:3:")

	for want, args := range map[string][]string{
		"--alert is required":                      {"explain"},
		"the alert is not JSON at 1:2":             {"plan", "--alert", "{nope"},
		"no such file":                             {"plan", "--alert", "@" + file + ".not"},
		`no playbook "nope" is loaded, only crash`: {"explain", "--alert", labels, "--playbook", "nope"},
	} {
		got := f.run(t, args...)
		require.NotZero(t, got.code)
		require.Contains(t, got.err, want)
	}
}
