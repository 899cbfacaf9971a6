package store

import (
	"sync"
	"time"
)

// wallClock turns a clock that may be set into one by which spans can be told.
//
// A step backward would put new ends of runs into the past, and a step forward
// would make time pass that has not: both shorten cooldowns, and the latter ends
// leases. Instead time goes on by a steady clock, a tenth slower or faster until
// the wall clock is met. The high-water mark that each write transaction stores
// carries this across restarts as far as it can be: what passed while no process
// ran is what the wall clock says.
type wallClock struct {
	read func() time.Time
	// steady is a clock that nobody sets; nil: read is steady itself.
	steady func() time.Duration
	// ahead is told by how much the clock is ahead of the wall clock, 0 mostly.
	ahead func(time.Duration)

	mu   sync.Mutex
	raw  time.Time     // the last reading, with its monotonic part if it has one
	tick time.Duration // the last reading of steady
	last time.Time     // what was last given out
	off  time.Duration // how far that is ahead of the wall clock
}

const (
	// clockTolerance is how far the wall clock may move against the steady one
	// between two readings without having been set.
	clockTolerance = 2 * time.Second
	// clockPatience is up to where a clock that was set forward is followed
	// slowly. One that was a day or more behind was not set when this began.
	clockPatience = 24 * time.Hour
)

func newWallClock(read func() time.Time, highWater time.Time, ahead func(time.Duration)) *wallClock {
	raw := read()
	c := &wallClock{read: read, ahead: ahead, raw: raw, last: wall(raw)}
	if raw != raw.Round(0) { // it has a monotonic part: the real clock
		c.keepTime(steadyClock())
	}
	if highWater.After(c.last) {
		c.last = highWater
	}
	c.off = c.last.Sub(wall(raw))
	ahead(c.off)
	return c
}

func (c *wallClock) keepTime(steady func() time.Duration) {
	c.steady, c.tick = steady, steady()
}

func wall(t time.Time) time.Time { return t.Round(0).UTC().Truncate(time.Microsecond) }

// now returns the time in UTC, cut to microseconds; it never decreases.
func (c *wallClock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	raw, tick := c.read(), c.tick
	elapsed := raw.Sub(c.raw)
	if c.steady != nil {
		tick = c.steady()
		elapsed = tick - c.tick
	}
	elapsed = max(0, elapsed)
	w := wall(raw)
	next := c.last.Add(elapsed - elapsed/10).Truncate(time.Microsecond)
	if w.After(next) {
		next = w
	}
	if c.steady != nil {
		if behind := w.Sub(c.last) - elapsed; behind > clockTolerance && behind < clockPatience {
			if fast := c.last.Add(elapsed + elapsed/10).Truncate(time.Microsecond); fast.Before(w) {
				next = fast
			}
		}
	}
	if next.Equal(c.last) && elapsed > 0 {
		return c.last // too short a while to count: it is counted with the next one
	}
	c.raw, c.tick, c.last, c.off = raw, tick, next, next.Sub(w)
	c.ahead(c.off)
	return next
}

// wallTime returns what the wall clock shows, as it is set now, when this clock
// shows t.
func (c *wallClock) wallTime(t time.Time) time.Time {
	c.now()
	c.mu.Lock()
	defer c.mu.Unlock()
	return t.Add(-c.off)
}

// monotonic is the steady clock of Go, which stands still while the machine sleeps.
func monotonic() func() time.Duration {
	start := time.Now()
	return func() time.Duration { return time.Since(start) }
}

// micros is how times are stored: microseconds since 1970, 0 for the zero time.
func micros(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

// fromMicros reads what micros wrote, in UTC.
func fromMicros(us int64) time.Time {
	if us == 0 {
		return time.Time{}
	}
	return time.UnixMicro(us).UTC()
}
