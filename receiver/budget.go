package receiver

import (
	"errors"
	"io"
	"sync/atomic"
)

var errBudget = errors.New("too many webhooks at once")

// budget counts the bytes that requests hold.
type budget struct {
	limit int64
	held  atomic.Int64
}

// take reports whether n bytes were free, and holds them then.
func (b *budget) take(n int64) bool {
	if b.held.Add(n) > b.limit {
		b.held.Add(-n)
		return false
	}
	return true
}

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
