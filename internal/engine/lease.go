package engine

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/alertmedic/alertmedic/internal/store"
)

// errLeaseUnsure is the cause of a call's end when the lease could not be
// renewed for as long as it lasts: another process may have taken the run over.
var errLeaseUnsure = errors.New("the lease could not be renewed in time")

// leases are the claims that this process works on. A short lease makes a
// take-over quick, and renewing it lets a call last longer than the lease.
type leases struct {
	ttl time.Duration

	mu   sync.Mutex
	held map[string]*claim
}

// claim is one claimed run or candidate.
type claim struct {
	fence     store.Fence     // of a run
	candidate store.Candidate // or of a candidate
	until     time.Time       // by this process's monotonic clock; renewals move it
	calls     context.Context // ends when the claim is lost or unsure
	cancel    context.CancelCauseFunc
}

func newLeases(ttl time.Duration) *leases {
	return &leases{ttl: ttl, held: map[string]*claim{}}
}

// hold registers a claim that was made a moment ago; drop ends it. It is not
// renewed beyond the end of ctx.
func (l *leases) hold(ctx context.Context, id string, c claim) *claim {
	c.until = time.Now().Add(l.ttl)
	c.calls, c.cancel = context.WithCancelCause(ctx)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.held[id] = &c
	return &c
}

// drop ends a claim, unless the id is held anew.
func (l *leases) drop(id string, c *claim) {
	c.cancel(context.Canceled)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.held[id] == c {
		delete(l.held, id)
	}
}

// extended notes that a transition, begun at at, has prolonged the lease.
func (l *leases) extended(c *claim, at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if until := at.Add(l.ttl); until.After(c.until) {
		c.until = until
	}
}

// sure returns the context that calls of the claim are made under, or why none
// may be made: a process that stood still must not send anything before it has
// found out whether the run is still its own.
func (l *leases) sure(c *claim) (context.Context, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := context.Cause(c.calls); err != nil {
		return nil, err
	}
	if !time.Now().Before(c.until) {
		return nil, errLeaseUnsure
	}
	return c.calls, nil
}

// renew prolongs every claim once.
func (l *leases) renew(ctx context.Context, s *store.Store) error {
	var h store.Held
	l.mu.Lock()
	asked := make(map[string]*claim, len(l.held))
	for id, c := range l.held {
		if c.calls.Err() != nil {
			continue // lost, or its time is over
		}
		asked[id] = c
		if c.fence.RunID != "" {
			h.Runs = append(h.Runs, c.fence)
		} else {
			h.Candidates = append(h.Candidates, c.candidate)
		}
	}
	l.mu.Unlock()
	if len(asked) == 0 {
		return nil
	}
	at := time.Now() // before the transaction: the lease is never believed longer than it is
	lost, err := s.RenewLeases(ctx, h, l.ttl)
	l.mu.Lock()
	defer l.mu.Unlock()
	for id, c := range asked {
		switch {
		case err != nil && !time.Now().Before(c.until):
			c.cancel(fmt.Errorf("%w: %w", errLeaseUnsure, err))
		case err == nil && lost[id]:
			c.cancel(store.ErrFenced)
		case err == nil && at.Add(l.ttl).After(c.until):
			c.until = at.Add(l.ttl)
		}
	}
	return err
}

// renewLoop renews three times in each lease until ctx ends.
func (e *Engine) renewLoop(ctx context.Context) {
	tick := time.NewTicker(e.Lease / 3)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		rctx, cancel := context.WithTimeout(ctx, e.Lease)
		err := e.leases.renew(rctx, e.Store)
		cancel()
		if err != nil && ctx.Err() == nil {
			e.m.renewErrors.Inc()
			e.Logger.Warn("renew the leases; calls under a lease that runs out are given up", "err", err)
		}
	}
}
