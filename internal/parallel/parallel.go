// Package parallel runs a loop on all processors, or several calls at once. It is a
// leaf.
package parallel

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"sync"
)

// Each calls fn for 0 to n-1 and returns when all calls have. Up to atLeast of
// them, and the rest of a larger loop, run in the caller's goroutine: a short
// loop starts none. A panic of fn comes out of Each in the caller's goroutine,
// with the stack of where it was, so that whoever recovers from panics does so
// here as well.
func Each(n, atLeast int, fn func(i int)) {
	var g guarded
	part := max(1, atLeast, (n+runtime.GOMAXPROCS(0)-1)/runtime.GOMAXPROCS(0))
	from := 0
	for ; from+part < n; from += part {
		first := from // of this part
		g.run(func() {
			for i := first; i < first+part; i++ {
				fn(i)
			}
		})
	}
	g.wait(func() {
		for i := from; i < n; i++ {
			fn(i)
		}
	})
}

// All calls fn for 0 to n-1 at once, the last in the caller's goroutine, and
// returns when all calls have: for what waits rather than works. Panics are as
// with Each.
func All(n int, fn func(i int)) {
	if n == 0 {
		return
	}
	var g guarded
	for i := range n - 1 {
		g.run(func() { fn(i) })
	}
	g.wait(func() { fn(n - 1) })
}

// Both calls two functions at once, the second in the caller's goroutine, and
// returns when both have: for what waits rather than works. Panics are as with
// Each.
func Both(one, other func()) {
	var g guarded
	g.run(one)
	g.wait(other)
}

// guarded is a group of goroutines whose panics are kept for the caller.
type guarded struct {
	wg    sync.WaitGroup
	once  sync.Once
	fault string
}

func (g *guarded) run(fn func()) {
	g.wg.Go(func() {
		defer func() {
			if p := recover(); p != nil {
				g.once.Do(func() { g.fault = fmt.Sprintf("%v\n%s", p, debug.Stack()) })
			}
		}()
		fn()
	})
}

// wait calls last, waits for the others and panics if one of them did.
func (g *guarded) wait(last func()) {
	func() {
		defer g.wg.Wait() // also when last panics
		last()
	}()
	if g.fault != "" {
		panic(g.fault)
	}
}
