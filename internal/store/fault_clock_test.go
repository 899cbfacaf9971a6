package store_test

import (
	"bytes"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/alertmedic/alertmedic/internal/store"
)

// stepped is an SQLite store whose wall clock can be set while time passes.
type stepped struct {
	*fixture
	log bytes.Buffer

	mu      sync.Mutex
	elapsed time.Duration
}

func openStepped(t require.TestingT, c cleaner) *stepped {
	f := &stepped{fixture: openSQLite(t, c)}
	require.NoError(t, f.Close())
	f.restart(t, c)
	return f
}

// restart opens the store anew, with its log.
func (f *stepped) restart(t require.TestingT, c cleaner) {
	o := f.options()
	o.Logger = slog.New(slog.NewTextHandler(&f.log, nil))
	var err error
	f.Store, err = store.Open(c.Context(), o)
	require.NoError(t, err)
	opened := f.Store
	c.Cleanup(func() { require.NoError(t, opened.Close()) })
	f.KeepTimeBy(f.steady)
}

func (f *stepped) steady() time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.elapsed
}

// live lets time pass, for real.
func (f *stepped) live(t require.TestingT, d time.Duration) {
	f.pass(t, d)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.elapsed += d
}

// set sets the wall clock.
func (f *stepped) set(t require.TestingT, d time.Duration) { f.pass(t, d) }

// A clock that is set forward by an hour: no lease ends early, and so no run has
// two owners; no cooldown gets shorter by more than a tenth; it is said.
func TestAClockThatIsSetForward(t *testing.T) {
	t.Parallel()
	f := openStepped(t, t)
	id := f.newRun(t, "a", deployment("web"))
	held := f.claim(t, id, "first")
	before := f.time(t)
	f.set(t, time.Hour)
	require.Equal(t, before, f.time(t), "no time has passed")
	runs, err := f.ClaimRuns(tctx, "second", time.Minute, 10)
	require.NoError(t, err)
	require.Empty(t, runs, "the lease of a minute holds")
	f.live(t, 50*time.Second)
	require.Equal(t, before.Add(55*time.Second), f.time(t), "a tenth faster")
	f.apply(t, end(held, store.Healed, ""))
	require.Contains(t, f.log.String(), "the wall clock was set forward")
	require.Contains(t, f.log.String(), "behind=1h0m0s")
	require.Equal(t, f.clock(), f.Wall(f.time(t)).Round(time.Second), "compared with others, it is the wall clock's time")

	for range 1000 { // sixteen hours
		f.live(t, time.Minute)
		require.False(t, f.time(t).After(f.clock()))
	}
	require.Equal(t, f.clock(), f.time(t), "the wall clock has been met")
	require.Equal(t, f.time(t), f.Wall(f.time(t)))
	f.live(t, time.Second)
	require.Equal(t, f.clock(), f.time(t))
}

// The time in which the machine slept, or no process ran, has passed.
func TestTimeThatPassesUnseen(t *testing.T) {
	t.Parallel()
	f := openStepped(t, t)
	f.live(t, 8*time.Hour)
	require.Equal(t, f.clock(), f.time(t), "a sleep")
	require.NoError(t, f.Close())
	f.set(t, time.Hour)
	f.restart(t, t)
	require.Equal(t, f.clock(), f.time(t), "a stop")
	f.set(t, 3000*time.Hour)
	f.live(t, time.Second)
	require.Equal(t, f.clock(), f.time(t), "a clock that had never been set")
}

// Whatever is done to the clock, spans are wrong by no more than a tenth, time
// does not go back, and it ends up right.
func TestAClockThatIsSetAgainAndAgain(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		shown, elapsed := begun, time.Duration(0)
		c := store.NewClock(func() time.Time { return shown }, func() time.Duration { return elapsed })
		live := func(d time.Duration) { shown, elapsed = shown.Add(d), elapsed+d }
		last := c.Now()
		for range rapid.IntRange(1, 50).Draw(t, "steps") {
			if rapid.Bool().Draw(t, "set") {
				shown = shown.Add(time.Duration(rapid.IntRange(-3600, 3600).Draw(t, "seconds")) * time.Second)
			}
			d := time.Duration(rapid.IntRange(0, 600_000).Draw(t, "ms")) * time.Millisecond
			live(d)
			now := c.Now()
			require.InDelta(t, d.Seconds(), now.Sub(last).Seconds(), d.Seconds()/10+2.1, "a span")
			require.False(t, now.Before(last))
			require.WithinDuration(t, shown, c.Wall(now), 2*time.Second)
			last = now
		}
		for range 2 {
			live(600 * time.Hour)
			last = c.Now()
		}
		require.Equal(t, shown, last)
	})
}

// A step back makes a lease last longer and a cooldown too, and no run is lost:
// it is claimed when its time has really come.
func TestAClockThatIsSetBack(t *testing.T) {
	t.Parallel()
	f := openStepped(t, t)
	id := f.newRun(t, "a", deployment("web"))
	f.claim(t, id, "first")
	f.set(t, -time.Hour)
	runs, err := f.ClaimRuns(tctx, "second", time.Minute, 10)
	require.NoError(t, err)
	require.Empty(t, runs)
	f.live(t, 67*time.Second) // a tenth slower: the minute is over
	require.True(t, f.claim(t, id, "second").TakenOver)
	require.Contains(t, f.log.String(), "the wall clock was set back")
	require.WithinDuration(t, f.clock(), f.Wall(f.time(t)), time.Second)
}
