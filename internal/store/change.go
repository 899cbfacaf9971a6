package store

import "sync"

// changes wakes everybody who waits for a commit of this process. A waiter takes
// the channel before it looks for work, so no commit falls between the two.
type changes struct {
	mu sync.Mutex
	ch chan struct{}
}

func (c *changes) wait() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ch == nil {
		c.ch = make(chan struct{})
	}
	return c.ch
}

func (c *changes) notify() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ch != nil {
		close(c.ch)
		c.ch = nil
	}
}

// Changed returns a channel that is closed by the next commit of this process
// that changed anything worth looking at: new or due work, or journal entries.
// Take it before looking for work. Commits of other processes are found by
// polling; see NextDue.
func (s *Store) Changed() <-chan struct{} { return s.changes.wait() }
