package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// What was measured by itself takes the place of what was there of it, in the order
// of the scenarios, and says when; the rest stays.
func TestAPartOfTheFiguresIsMeasuredAgain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "figures.md")
	require.NoError(t, os.WriteFile(path, []byte("before\n"+beginMark+"\nold\n"+endMark+"\nafter\n"), 0o600))
	first := report{Machine: machine{Date: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)},
		Rows:     []row{{Scenario: "accept", What: "rate", Median: 1}, {Scenario: "storm", What: "peak", Median: 2}},
		Failures: []string{"large: no room", "react: too slow"}}
	require.NoError(t, first.write(path))

	later := report{Machine: machine{Date: first.Machine.Date.Add(time.Hour)},
		Rows: []row{{Scenario: "accept", What: "rate", Median: 3}, {Scenario: "large", What: "open", Median: 4}}, Failures: []string{"storm: away"}}
	earlier, err := readReport(path)
	require.NoError(t, err)
	all := []scenario{{name: "accept"}, {name: "large"}, {name: "react"}, {name: "storm"}}
	merged := later.into(earlier, all)
	require.Equal(t, []row{{Scenario: "accept", What: "rate", Median: 3, Apart: later.Machine.Date}, {Scenario: "large", What: "open", Median: 4, Apart: later.Machine.Date}}, merged.Rows)
	require.Equal(t, []string{"react: too slow", "storm: away"}, merged.Failures)
	require.Equal(t, first.Machine, merged.Machine)

	require.NoError(t, merged.write(path))
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	require.True(t, strings.HasPrefix(string(text), "before\n") && strings.HasSuffix(string(text), "after\n"))
	require.Contains(t, string(text), "|---|---:|---:|---|---|---|\n| rate | 3 |")
	require.Equal(t, 2, strings.Count(string(text), "In a run of its own on 2026-03-01 13:00 UTC."))
}
