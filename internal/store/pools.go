package store

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// Pools are collectors of the connection pools' statistics (go_sql_*), with the
// pool as db_name: write and read on SQLite, one for all on PostgreSQL. A number
// of connections in use that only grows is a leak; one that stays at the most
// allowed is a queue.
func (s *Store) Pools() []prometheus.Collector {
	if s.read == s.db {
		return []prometheus.Collector{collectors.NewDBStatsCollector(s.db, "all")}
	}
	return []prometheus.Collector{collectors.NewDBStatsCollector(s.db, "write"), collectors.NewDBStatsCollector(s.read, "read")}
}
