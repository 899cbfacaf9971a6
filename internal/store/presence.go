package store

import (
	"context"
	"fmt"
	"time"
)

// presencePrefix begins the leases by which the replicas on one PostgreSQL
// database say that they are there.
const presencePrefix = "replica/"

// Announce says that a service runs on the database, for ttl from now, so that
// nobody restores another state under it. On SQLite the file's lock says so.
func (s *Store) Announce(ctx context.Context, owner string, ttl time.Duration) error {
	if s.lock != nil {
		return nil
	}
	return s.inTx(ctx, "announce the replica", func(t *txn) error {
		return t.exec(ctx, `INSERT INTO leases (name, owner, lease_until) VALUES ($1, $2, $3)
			ON CONFLICT (name) DO UPDATE SET owner = excluded.owner, lease_until = excluded.lease_until`,
			presencePrefix+owner, owner, micros(t.now.Add(ttl)))
	})
}

// Withdraw takes an announcement back, and with it those of replicas that went
// without a word a day ago or longer.
func (s *Store) Withdraw(ctx context.Context, owner string) error {
	if s.lock != nil {
		return nil
	}
	return s.inTx(ctx, "withdraw the replica", func(t *txn) error {
		return t.exec(ctx, "DELETE FROM leases WHERE name = $1 OR name LIKE 'replica/%' AND lease_until < $2", presencePrefix+owner, micros(t.now.Add(-24*time.Hour)))
	})
}

// present returns the replicas whose announcements are in force, each with the
// time until which it is.
func (s *Store) present(ctx context.Context, q querier) ([]string, error) {
	now, err := s.now(ctx, q)
	if err != nil {
		return nil, err
	}
	out, err := collect(ctx, q, func(r scanner) (string, error) {
		var name string
		var until int64
		err := r.Scan(&name, &until)
		return fmt.Sprintf("%s (for another %s at most)", name, fromMicros(until).Sub(now).Round(time.Second)), err
	}, "SELECT owner, lease_until FROM leases WHERE name LIKE 'replica/%' AND lease_until > $1 ORDER BY name", micros(now))
	if err != nil {
		return nil, fmt.Errorf("read the leases: %w", err)
	}
	return out, nil
}
