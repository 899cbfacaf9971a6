package durability

import (
	"context"
	"sync"
	"time"
)

// tolerance is how late a change may be beyond its delay. With the delay, which
// is at most the request timeout, and the second that the API server is given
// then, it stays within what a process waits for: call time-out and request
// time-out.
const tolerance = time.Second

// DropLate makes the proxy cut off the changes that it cannot pass on in time,
// for a machine that stands still: they would break the API server's promise,
// and not the service's. Call it before anything is sent.
func (p *APIProxy) DropLate() { p.prompt = watchPromptness(p.ended) }

// promptness notices when this process, or all of the machine, stood still. The
// nil one notices nothing. Safe for concurrent use.
type promptness struct {
	mu    sync.Mutex
	stood time.Time // when it last went on again
}

func watchPromptness(ctx context.Context) *promptness {
	w := &promptness{}
	tick := time.NewTicker(tolerance / 10)
	go func() {
		defer tick.Stop()
		for last := time.Now(); ; {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			now := time.Now()
			if now.Sub(last) > tolerance {
				w.mu.Lock()
				w.stood = now
				w.mu.Unlock()
			}
			last = now
		}
	}()
	return w
}

// late reports whether a change that arrived at a time and was delayed on
// purpose has been under way for too long: here, or before it could be read.
func (w *promptness) late(arrived time.Time, delay time.Duration) bool {
	if w == nil {
		return false
	}
	if time.Since(arrived) > delay+tolerance {
		return true
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return arrived.Sub(w.stood).Abs() < tolerance
}
