package playbooks

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alertmedic/alertmedic/internal/guard"
)

// A playbook's windows are read, and found wrong, as the configuration's are.
func TestWindows(t *testing.T) {
	t.Parallel()
	load := func(windows string) (*Playbook, Problems) {
		set, problems := LoadBytes("a.yaml", []byte("apiVersion: alertmedic.io/v1alpha1\nkind: Playbook\nmetadata: {name: a}\nspec:\n  matchers: [alertname = A]\n"+
			"  target: {kind: Workload}\n  remedies: [{name: a, steps: [{name: a, action: workload.rollback}]}]\n  windows:\n"+windows), LoadOptions{Catalogue: catalogue()})
		pb, _ := set.Get("a")
		return pb, problems
	}
	pb, problems := load(`  - {name: night, type: Maintenance, days: [Sat, Sun], start: "22:00", end: "05:00", timeZone: Europe/Berlin, namespaces: [shop]}
  - {name: xmas, type: Freeze, from: "2026-12-21T00:00:00Z", until: "2027-01-04T00:00:00Z"}
`)
	require.Empty(t, problems)
	berlin, err := time.LoadLocation("Europe/Berlin")
	require.NoError(t, err)
	require.Equal(t, []guard.Window{
		{Name: "night", Days: []time.Weekday{time.Saturday, time.Sunday}, Start: 22 * 60, End: 5 * 60, Zone: "Europe/Berlin", Namespaces: []string{"shop"}, Location: berlin},
		{Name: "xmas", Freeze: true, From: time.Date(2026, 12, 21, 0, 0, 0, 0, time.UTC), Until: time.Date(2027, 1, 4, 0, 0, 0, 0, time.UTC), Location: time.UTC},
	}, pb.Windows)

	_, problems = load(`  - {name: a, type: Freez, days: [Sut], start: "25:00", timeZone: Europe/Berlni}
  - {name: a, type: Freeze}
  - {type: Freeze, days: [Sun], from: soon}
  - {name: b, days: [Sun], playbooks: [x], namespaces: [Bad_Name]}
`)
	text := problems.String()
	for _, want := range []string{
		`spec.windows[0].type: unknown value "Freez"; it is one of Freeze, Maintenance (did you mean "Freeze"?)`,
		`spec.windows[0].days[0]: unknown value "Sut"`,
		`spec.windows[0].start: "25:00" is no time of the day`,
		`spec.windows[0]: has a start or an end but not both`,
		`spec.windows[0].timeZone: "Europe/Berlni" is no IANA time zone`,
		`spec.windows[1].name: duplicate window name "a"`,
		`spec.windows[1]: says no time`,
		`spec.windows[2].name: is required`,
		`spec.windows[2].from: "soon" is no date and time`,
		`spec.windows[3].type: is required`,
		`spec.windows[3].playbooks: unknown field`,
		`spec.windows[3].namespaces[0]: bad name "Bad_Name"`,
	} {
		require.Contains(t, text, want)
	}
	require.Len(t, problems, 12, text)
}
