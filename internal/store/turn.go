package store

import (
	"context"
	"sync"
)

// turn hands SQLite's one writer to one transaction after another. Without it a
// group of webhooks would wait for every transaction of the engine that came
// before, each with an fsync of its own, and its senders with it: when both
// wait, they take turns, so neither is held up for longer than one of the other.
// Among themselves the others go in the order in which they came.
type turn struct {
	mu       sync.Mutex
	taken    bool
	accepted bool // the last one was a group of webhooks
	accepts  []chan struct{}
	others   []chan struct{}
}

// take waits for the turn. The error is ctx's own; after none, call give.
func (t *turn) take(ctx context.Context, accept bool) error {
	t.mu.Lock()
	if !t.taken {
		t.taken, t.accepted = true, accept
		t.mu.Unlock()
		return nil
	}
	queue := &t.others
	if accept {
		queue = &t.accepts
	}
	mine := make(chan struct{}, 1)
	*queue = append(*queue, mine)
	t.mu.Unlock()
	select {
	case <-mine:
		return nil
	case <-ctx.Done():
	}
	t.mu.Lock()
	for i, c := range *queue {
		if c == mine {
			*queue = append((*queue)[:i:i], (*queue)[i+1:]...)
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
	if len(t.accepts) == 0 || t.accepted && len(t.others) > 0 {
		queue = &t.others
	}
	if len(*queue) == 0 {
		t.taken = false
		return
	}
	t.accepted = queue == &t.accepts
	next := (*queue)[0]
	*queue = (*queue)[1:]
	next <- struct{}{}
}
