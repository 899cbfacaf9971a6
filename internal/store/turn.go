package store

import (
	"context"
	"slices"
	"sync"
)

// turn hands SQLite's one writer to one transaction after another. Without it a
// group of webhooks would wait for every transaction of the engine that came
// before, each with an fsync of its own, and its senders with it. When both wait,
// some webhooks go first, as many as acceptsAhead, then one of the others: they
// go in the order in which they came, so none waits for ever.
type turn struct {
	mu      sync.Mutex
	taken   bool
	ahead   int // webhooks since one of the others had the turn, while some waited
	accepts []waiter
	others  []waiter
}

// acceptsAhead is how many webhooks go before another transaction that waits: a
// few groups from a handful of senders, or one from hundreds.
const acceptsAhead = 48

// waiter waits for the turn, with a number of webhooks, or 0 for anything else.
type waiter struct {
	webhooks int
	turn     chan struct{} // with room for one: whoever gives never waits
}

// take waits for the turn. The error is ctx's own; after none, call give.
func (t *turn) take(ctx context.Context, webhooks int) error {
	t.mu.Lock()
	if !t.taken {
		t.taken = true
		t.mu.Unlock()
		return nil
	}
	queue := &t.others
	if webhooks > 0 {
		queue = &t.accepts
	}
	mine := waiter{webhooks, make(chan struct{}, 1)}
	*queue = append(*queue, mine)
	t.mu.Unlock()
	select {
	case <-mine.turn:
		return nil
	case <-ctx.Done():
	}
	t.mu.Lock()
	for i, w := range *queue {
		if w == mine {
			*queue = slices.Delete(*queue, i, i+1)
			t.mu.Unlock()
			return ctx.Err()
		}
	}
	t.mu.Unlock()
	t.give() // it was given just now
	return ctx.Err()
}

// give passes the turn on.
func (t *turn) give() {
	t.mu.Lock()
	defer t.mu.Unlock()
	queue := &t.accepts
	switch {
	case len(t.others) == 0:
		t.ahead = 0
	case len(t.accepts) == 0 || t.ahead >= acceptsAhead:
		queue, t.ahead = &t.others, 0
	}
	if len(*queue) == 0 {
		t.taken = false
		return
	}
	next := (*queue)[0]
	*queue = slices.Delete(*queue, 0, 1)
	t.ahead += next.webhooks
	next.turn <- struct{}{}
}
