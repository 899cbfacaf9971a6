package parallel_test

import (
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/alertmedic/alertmedic/internal/parallel"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestEachIsCalledOnce(t *testing.T) {
	for _, n := range []int{0, 1, 2, 15, 16, 17, 33, 1000} {
		for _, atLeast := range []int{0, 1, 16} {
			calls := make([]atomic.Int32, n)
			parallel.Each(n, atLeast, func(i int) { calls[i].Add(1) })
			for i := range calls {
				require.Equal(t, int32(1), calls[i].Load(), "%d of %d, at least %d", i, n, atLeast)
			}
		}
	}
}

// Whoever panics, all others have ended, and the caller can recover.
func TestAPanicReachesTheCaller(t *testing.T) {
	for _, culprit := range []int{0, 999} {
		var mu sync.Mutex
		running := 0
		require.Panics(t, func() {
			parallel.Each(1000, 1, func(i int) {
				mu.Lock()
				running++
				mu.Unlock()
				defer func() {
					mu.Lock()
					running--
					mu.Unlock()
				}()
				if i == culprit {
					panic("boom")
				}
			})
		})
		require.Zero(t, running)
	}
}

// Both are under way at the same time: each waits for the other.
func TestBothRunAtOnce(t *testing.T) {
	one, other := make(chan int), make(chan int)
	parallel.Both(func() { one <- 1; <-other }, func() { <-one; other <- 2 })
}

// All are under way at the same time, and have ended when one panics.
func TestAllRunAtOnce(t *testing.T) {
	parallel.All(0, func(int) { t.Error("there is nothing to call") })
	var there sync.WaitGroup
	var ended atomic.Int32
	there.Add(3)
	require.Panics(t, func() {
		parallel.All(3, func(i int) {
			defer ended.Add(1)
			there.Done()
			there.Wait()
			if i == 0 {
				panic("boom")
			}
		})
	})
	require.Equal(t, int32(3), ended.Load())
}

func TestBothEndBeforeAPanicComesOut(t *testing.T) {
	boom := func() { panic("boom") }
	for name, fn := range map[string]func(quiet func()){
		"one":   func(quiet func()) { parallel.Both(boom, quiet) },
		"other": func(quiet func()) { parallel.Both(quiet, boom) },
	} {
		t.Run(name, func(t *testing.T) {
			ended := false
			require.Panics(t, func() { fn(func() { ended = true }) })
			require.True(t, ended)
		})
	}
}
