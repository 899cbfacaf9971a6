package promapi

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
)

// cache shares answers for a moment, so that a storm of runs asks each endpoint
// once a second and not once a run. Failures are shared too. An endpoint that has
// used up all its time is not asked at all for as long again: whoever needs the
// state of several alerts must not wait for it once for each.
type cache[T any] struct {
	what    string // whose answers, for errors
	ttl     time.Duration
	timeout time.Duration
	clock   func() time.Time

	flight  singleflight.Group
	mu      sync.Mutex
	answers map[string]answer[T]
	silent  time.Time // until when it is not asked
}

type answer[T any] struct {
	value   T
	err     error
	started time.Time // the value is no older than this
	ended   time.Time
}

const maxCached = 512

func newCache[T any](what string, ttl, timeout time.Duration, clock func() time.Time) *cache[T] {
	return &cache[T]{what: what, ttl: ttl, timeout: timeout, clock: clock, answers: map[string]answer[T]{}}
}

// get returns an answer that was asked for at notBefore or later, the time
// between being the caller's to bound: a cached answer that is older than the
// change it should tell about is no answer.
func (c *cache[T]) get(ctx context.Context, key string, notBefore time.Time, fetch func(context.Context) (T, error)) (T, error) {
	for {
		if a, ok := c.fresh(key, notBefore); ok {
			return a.value, a.err
		}
		if err := c.resting(); err != nil {
			var none T
			return none, err
		}
		// The fetch is shared: one caller that gives up must not end it for others.
		flight := c.flight.DoChan(key, func() (any, error) {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.timeout)
			defer cancel()
			a := answer[T]{started: c.clock()}
			a.value, a.err = c.guarded(ctx, fetch)
			a.ended = c.clock()
			c.put(key, a)
			return a, nil
		})
		select {
		case <-ctx.Done():
			var none T
			return none, fmt.Errorf("%s: %w", c.what, ctx.Err())
		case res := <-flight:
			// It may have been under way since before notBefore: then ask again.
			if a := res.Val.(answer[T]); !a.started.Before(notBefore) || notBefore.After(c.clock()) {
				return a.value, a.err
			}
		}
	}
}

// guarded turns a panic into an error: what an endpoint answers must not end the
// process, and nobody else could recover in the goroutine of a shared fetch.
func (c *cache[T]) guarded(ctx context.Context, fetch func(context.Context) (T, error)) (value T, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%s: panic while reading the answer: %v\n%s", c.what, p, debug.Stack())
		}
	}()
	return fetch(ctx)
}

func (c *cache[T]) fresh(key string, notBefore time.Time) (answer[T], bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	a, ok := c.answers[key]
	return a, ok && !a.started.Before(notBefore) && c.clock().Sub(a.ended) <= c.ttl
}

// resting says why an endpoint is not asked now.
func (c *cache[T]) resting() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if left := c.silent.Sub(c.clock()); left > 0 {
		return fmt.Errorf("%s: it did not answer within %s, and is asked again in %s", c.what, c.timeout, left.Round(time.Millisecond))
	}
	return nil
}

func (c *cache[T]) put(key string, a answer[T]) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if errors.Is(a.err, context.DeadlineExceeded) {
		c.silent = a.ended.Add(c.timeout)
	}
	if len(c.answers) >= maxCached {
		clear(c.answers)
	}
	c.answers[key] = a
}
