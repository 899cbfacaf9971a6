package testcluster

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestHurry(t *testing.T) {
	t.Parallel()
	require.Equal(t, "  for: 10s\n  expr: max_over_time(x[10s]) > changes(y[20s:]) + z[3s]\n",
		HurryRules("  for: 5m\n  expr: max_over_time(x[5m]) > changes(y[10m:]) + z[30s]\n"))
	require.Equal(t, "verify: {timeout: 2m, stableFor: 5s, alert: Resolved}\nsteps: [{timeout: 9m}]",
		HurryPlaybook("verify: {timeout: 15m, stableFor: 3m, alert: Resolved}\nsteps: [{timeout: 9m}]"))
}
