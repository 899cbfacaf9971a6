package receiver

import (
	"errors"
	"io"
	"sync/atomic"
)

var errBudget = errors.New("too many webhooks at once")

// budget counts what requests hold: bytes, or places.
type budget struct {
	limit int64
	held  atomic.Int64
}

// take reports whether n were free, and holds them then.
func (b *budget) take(n int64) bool {
	for {
		held := b.held.Load()
		if held+n > b.limit {
			return false
		}
		if b.held.CompareAndSwap(held, held+n) {
			return true
		}
	}
}

func (b *budget) full() bool { return b.held.Load() >= b.limit }

func (b *budget) give(n int64) { b.held.Add(-n) }

// meteredBody holds budget for what was read of a body, as it is read, until
// release.
type meteredBody struct {
	body   io.Reader
	budget *budget
	held   int64
}

func (m *meteredBody) Read(p []byte) (int, error) {
	n, err := m.body.Read(p)
	if n > 0 {
		if !m.budget.take(int64(n)) {
			return 0, errBudget
		}
		m.held += int64(n)
	}
	return n, err
}

func (m *meteredBody) release() {
	m.budget.give(m.held)
	m.held = 0
}
