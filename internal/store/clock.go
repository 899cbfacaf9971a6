package store

import (
	"sync"
	"time"
)

// wallClock turns a clock that may step backward into one that never does.
//
// A step backward would put new ends of runs into the past and so shorten their
// cooldowns. Instead time goes on by the monotonic reading, a tenth slower until
// the wall clock has caught up: spans only ever get longer. The high-water mark
// that each write transaction stores carries this across restarts.
type wallClock struct {
	read func() time.Time
	// ahead is told by how much the clock is ahead of the wall clock, 0 mostly.
	ahead func(time.Duration)

	mu   sync.Mutex
	raw  time.Time // the last reading, with its monotonic part if it has one
	last time.Time // what was last given out
}

func newWallClock(read func() time.Time, highWater time.Time, ahead func(time.Duration)) *wallClock {
	raw := read()
	c := &wallClock{read: read, ahead: ahead, raw: raw, last: wall(raw)}
	if highWater.After(c.last) {
		c.last = highWater
	}
	ahead(c.last.Sub(wall(raw)))
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
		next = next.Add(elapsed - elapsed/10).Truncate(time.Microsecond)
	}
	if w := wall(raw); w.After(next) {
		next = w
	}
	if next.Equal(c.last) && raw.After(c.raw) {
		return c.last // too short a while to count: it is counted with the next one
	}
	c.raw, c.last = raw, next
	c.ahead(next.Sub(wall(raw)))
	return next
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
