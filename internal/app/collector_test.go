package app

import (
	"path/filepath"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/alertmedic/alertmedic/internal/store"
)

// A scrape asks the store several questions. Beside them the pools' statistics
// would show connections in use on a service that does nothing.
func TestAScrapeDoesNotCountItsOwnConnections(t *testing.T) {
	s, err := store.Open(t.Context(), store.Options{DSN: filepath.Join(t.TempDir(), "medic.db")})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	registry := prometheus.NewPedanticRegistry()
	require.NoError(t, registry.Register(newStateCollector(s)))
	for range 200 {
		families, err := registry.Gather()
		require.NoError(t, err)
		inUse := map[string]float64{}
		for _, f := range families {
			if f.GetName() == "go_sql_in_use_connections" {
				for _, m := range f.GetMetric() {
					inUse[m.GetLabel()[0].GetValue()] = m.GetGauge().GetValue()
				}
			}
		}
		require.Equal(t, map[string]float64{"write": 0, "read": 1}, inUse, "one reading connection watches the file as long as it is open")
	}
}
