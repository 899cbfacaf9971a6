// Package parallel runs a loop on all processors. It is a leaf.
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
	var (
		wg    sync.WaitGroup
		once  sync.Once
		fault string
	)
	part := max(1, atLeast, (n+runtime.GOMAXPROCS(0)-1)/runtime.GOMAXPROCS(0))
	from := 0
	for ; from+part < n; from += part {
		first := from // of this part
		wg.Go(func() {
			defer func() {
				if p := recover(); p != nil {
					once.Do(func() { fault = fmt.Sprintf("%v\n%s", p, debug.Stack()) })
				}
			}()
			for i := first; i < first+part; i++ {
				fn(i)
			}
		})
	}
	func() {
		defer wg.Wait() // also when fn panics here
		for i := from; i < n; i++ {
			fn(i)
		}
	}()
	if fault != "" {
		panic(fault)
	}
}
