package store

import "time"

// KeepTimeBy gives an SQLite store a steady clock beside its wall clock.
func (s *Store) KeepTimeBy(steady func() time.Duration) { s.clock.keepTime(steady) }

// Clock is the clock of SQLite alone, without a database.
type Clock struct{ *wallClock }

// NewClock makes a clock of a wall clock and a steady one.
func NewClock(read func() time.Time, steady func() time.Duration) Clock {
	c := newWallClock(read, time.Time{}, func(time.Duration) {})
	c.keepTime(steady)
	return Clock{c}
}

// Now is Store.Now.
func (c Clock) Now() time.Time { return c.now() }

// Wall is Store.Wall.
func (c Clock) Wall(t time.Time) time.Time { return c.wallTime(t) }
