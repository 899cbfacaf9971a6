package store

import (
	"sync"
	"time"
)

// wallClock turns a clock that may step backward into one that never does.
//
// A step backward would put new ends of runs into the past and so shorten their
// cooldowns. While the process lives, time goes on by the monotonic reading; the
// high-water mark that each write transaction stores carries it across restarts.
type wallClock struct {
	read func() time.Time

	mu   sync.Mutex
	raw  time.Time // the last reading, with its monotonic part if it has one
	last time.Time // what was last given out
}

func newWallClock(read func() time.Time, highWater time.Time) *wallClock {
	raw := read()
	c := &wallClock{read: read, raw: raw, last: wall(raw)}
	if highWater.After(c.last) {
		c.last = highWater
	}
	return c
}

func wall(t time.Time) time.Time { return t.Round(0).UTC().Truncate(time.Microsecond) }

// now returns the time in UTC, cut to microseconds; it never decreases.
func (c *wallClock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	raw := c.read()
	next := c.last
	if elapsed := raw.Sub(c.raw); elapsed > 0 {
		next = next.Add(elapsed)
	}
	if w := wall(raw); w.After(next) {
		next = w
	}
	c.raw = raw
	// What is cut off here is found again through the wall reading, so the
	// clock does not lose time by being read often: only a clock that was set
	// back loses less than a microsecond at each reading.
	c.last = next.Truncate(time.Microsecond)
	return c.last
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
