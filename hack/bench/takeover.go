package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"syscall"
	"time"
)

// takeover kills a replica that holds leases and waits until the other one has
// taken over all of its work.
func takeover(ctx context.Context, b *bench) error {
	c, err := b.controlPlane(ctx)
	if err != nil {
		return err
	}
	const workloads = 20
	if _, err := deploy(ctx, c, "takeover", workloads); err != nil {
		return err
	}
	beganNow()
	mon, err := b.monitoring()
	if err != nil {
		return err
	}
	var took []float64
	n := int64(0)
	for round := range b.rounds {
		dsn, err := b.database(ctx, "postgres")
		if err != nil {
			return err
		}
		db, err := sql.Open("pgx", dsn)
		if err != nil {
			return err
		}
		b.onEnd(db.Close)
		first, err := b.startMedic(ctx, settings{name: fmt.Sprintf("first-%d", round), dsn: dsn, monitoring: mon.url})
		if err != nil {
			return err
		}
		var owner string
		if err := db.QueryRowContext(ctx, "SELECT doc::json->>'actor' FROM journal WHERE kind = 'service.started' ORDER BY recorded LIMIT 1").Scan(&owner); err != nil {
			return fmt.Errorf("find the replica's name: %w", err)
		}
		second, err := b.startMedic(ctx, settings{name: fmt.Sprintf("second-%d", round), dsn: dsn, monitoring: mon.url})
		if err != nil {
			return err
		}
		held := func() (int, error) {
			var leased int
			err := db.QueryRowContext(ctx, `SELECT (SELECT count(*) FROM runs WHERE phase <> 'done' AND lease_owner = $1) +
				(SELECT count(*) FROM candidates WHERE phase = 'queued' AND lease_owner = $1)`, owner).Scan(&leased)
			return leased, err
		}
		// As many as keep the workers of one replica at work.
		for i := range 12 {
			labels := map[string]string{"alertname": benchAlert, "namespace": benchNamespace, "deployment": fmt.Sprintf("takeover-%d", i%workloads), "instance": fmt.Sprint(n)}
			n++
			if err := mon.hold(labels); err != nil {
				return err
			}
			if _, err := post(ctx, first.url, webhookOf(labels)); err != nil {
				return err
			}
		}
		caught := false
		for range 2000 {
			if err := syscall.Kill(first.PID(), syscall.SIGSTOP); err != nil {
				return err
			}
			leased, err := held()
			if err != nil {
				return err
			}
			if leased > 0 {
				caught = true
				break
			}
			if err := syscall.Kill(first.PID(), syscall.SIGCONT); err != nil {
				return err
			}
			time.Sleep(time.Millisecond)
		}
		if !caught {
			return errors.New("the replica never held a lease")
		}
		if err := first.Kill(); err != nil {
			return err
		}
		began := time.Now()
		for {
			leased, err := held()
			if err != nil {
				return err
			}
			if leased == 0 {
				break
			}
			if ctx.Err() != nil || time.Since(began) > 30*time.Second {
				return fmt.Errorf("%d leases of the killed replica are still there after %s", leased, time.Since(began))
			}
			time.Sleep(5 * time.Millisecond)
		}
		took = append(took, time.Since(began).Seconds())
		if err := second.Kill(); err != nil {
			return err
		}
	}
	b.figure("from kill -9 of a replica until the other has taken over all of its work, postgres", "s", took, 5, false, "default lease")
	return nil
}
