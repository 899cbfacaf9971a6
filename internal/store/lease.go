package store

import (
	"context"
	"fmt"
	"time"
)

// Held names the claims that a process renews together.
type Held struct {
	Runs       []Fence
	Candidates []Candidate // ID and Lease are read
}

// Lost are the claims of a Held that another worker took over, or that ended,
// by the id of the run or candidate.
type Lost map[string]bool

// RenewLeases prolongs claims to ttl from now, in one transaction, and says which
// of them are not the caller's any more. A row that is being written at this
// moment is passed over: its own transaction prolongs it. An error leaves every
// lease as it was.
func (s *Store) RenewLeases(ctx context.Context, h Held, ttl time.Duration) (Lost, error) {
	lost := Lost{}
	err := s.inTx(ctx, "renew the leases", func(t *txn) error {
		clear(lost)
		for _, f := range h.Runs {
			if err := t.renew(ctx, "runs", "phase <> 'done'", f.RunID, Lease{Owner: f.Owner, Epoch: f.Epoch}, ttl, lost); err != nil {
				return fmt.Errorf("renew the lease of run %s: %w", f.RunID, err)
			}
		}
		for _, c := range h.Candidates {
			if err := t.renew(ctx, "candidates", "phase = 'queued'", c.ID, c.Lease, ttl, lost); err != nil {
				return fmt.Errorf("renew the lease of candidate %s: %w", c.ID, err)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return lost, nil
}

func (t *txn) renew(ctx context.Context, table, live, id string, lease Lease, ttl time.Duration, lost Lost) error {
	const mine = " WHERE id = $1 AND lease_owner = $2 AND lease_epoch = $3 AND "
	if lease.Owner == "" {
		lost[id] = true
		return nil
	}
	err := t.exec(ctx, "UPDATE "+table+" SET lease_until = $4 WHERE id IN (SELECT id FROM "+table+mine+live+t.s.dialect.skipLocked+")",
		id, lease.Owner, lease.Epoch, micros(t.now.Add(ttl)))
	if err != nil {
		return err
	}
	ok, err := exists(ctx, t, "SELECT 1 FROM "+table+mine+live, id, lease.Owner, lease.Epoch)
	if err == nil && !ok {
		lost[id] = true
	}
	return err
}

// endLeases ends every lease of an SQLite file that has just been locked: the
// lock proves that no other process works on it, so what the one before held
// can be taken over at once and not only when its leases have run out.
func (s *Store) endLeases(ctx context.Context) error {
	return s.inTx(ctx, "end the leases of the process before", func(t *txn) error {
		// Only what can still be claimed: the rows that are done are many, and no
		// index has them all.
		for _, open := range []struct{ table, where string }{
			{"runs", "phase <> 'done' AND "}, {"candidates", "phase = 'queued' AND "}, {"outbox", "status = 'pending' AND "}, {"leases", ""},
		} {
			if err := t.exec(ctx, "UPDATE "+open.table+" SET lease_until = 0 WHERE "+open.where+"lease_until > 0"); err != nil {
				return fmt.Errorf("%s: %w", open.table, err)
			}
		}
		return nil
	})
}
