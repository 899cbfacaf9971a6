package durability

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
)

// TCPProxy passes connections to a server that can be cut off, stalled and
// healed, as a network between a replica and its database would be. Safe for
// concurrent use.
type TCPProxy struct {
	// Addr is host:port to connect to instead of the server.
	Addr     string
	upstream string
	listener net.Listener
	workers  sync.WaitGroup

	mu      sync.Mutex
	state   linkState
	changed chan struct{} // closed and replaced when state changes
	conns   map[net.Conn]struct{}
	opened  int // connections so far
	dead    int // those up to this number pass nothing any more
}

type linkState int

const (
	linkUp    linkState = iota
	linkDown            // connections are reset and refused
	linkStall           // connections stay open and nothing passes
	linkEnded
)

// NewTCPProxy listens on loopback for connections to upstream, host:port, until
// the test ends.
func NewTCPProxy(t testing.TB, upstream string) *TCPProxy {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &TCPProxy{Addr: l.Addr().String(), upstream: upstream, listener: l, changed: make(chan struct{}), conns: map[net.Conn]struct{}{}}
	p.workers.Go(p.accept)
	t.Cleanup(func() {
		p.set(linkEnded)
		l.Close()
		p.workers.Wait()
	})
	return p
}

// Cut resets every connection and refuses new ones until Heal.
func (p *TCPProxy) Cut() { p.set(linkDown) }

// Stall keeps connections open, accepts new ones, and lets nothing pass until
// Heal: what a network looks like that drops every packet. What was on its way
// arrives after Heal.
func (p *TCPProxy) Stall() { p.set(linkStall) }

// Heal lets everything pass again.
func (p *TCPProxy) Heal() { p.set(linkUp) }

// Forget heals for connections that are made from now on. Through those that
// there are nothing passes any more, and nobody is told: the server has moved,
// or a firewall has lost its state.
func (p *TCPProxy) Forget() {
	p.mu.Lock()
	p.dead = p.opened
	p.mu.Unlock()
	p.set(linkUp)
}

// DropConnections resets the connections there are and accepts new ones at once.
func (p *TCPProxy) DropConnections() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.drop()
}

func (p *TCPProxy) set(s linkState) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.state == linkEnded {
		return
	}
	p.state = s
	close(p.changed)
	p.changed = make(chan struct{})
	if s == linkDown || s == linkEnded {
		p.drop()
	}
}

func (p *TCPProxy) drop() {
	for c := range p.conns {
		if tcp, ok := c.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0) // a reset, not an orderly end
		}
		c.Close()
	}
}

// pass waits until bytes may pass on the nth connection; false: it has to end.
func (p *TCPProxy) pass(n int) bool {
	for {
		p.mu.Lock()
		state, changed, dead := p.state, p.changed, n <= p.dead
		p.mu.Unlock()
		switch {
		case state == linkDown, state == linkEnded:
			return false
		case state == linkUp && !dead:
			return true
		}
		<-changed
	}
}

func (p *TCPProxy) accept() {
	for {
		c, err := p.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue
		}
		p.workers.Go(func() { p.serve(c) })
	}
}

func (p *TCPProxy) track(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.state == linkDown || p.state == linkEnded {
		if tcp, ok := c.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0)
		}
		c.Close()
		return false
	}
	p.conns[c] = struct{}{}
	return true
}

func (p *TCPProxy) untrack(c net.Conn) {
	c.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
}

func (p *TCPProxy) serve(client net.Conn) {
	if !p.track(client) {
		return
	}
	defer p.untrack(client)
	p.mu.Lock()
	p.opened++
	n := p.opened
	p.mu.Unlock()
	if !p.pass(n) {
		return
	}
	server, err := (&net.Dialer{}).DialContext(context.Background(), "tcp", p.upstream)
	if err != nil || !p.track(server) {
		return
	}
	defer p.untrack(server)
	var both sync.WaitGroup
	both.Go(func() { p.copy(n, server, client) })
	both.Go(func() { p.copy(n, client, server) })
	both.Wait()
}

func (p *TCPProxy) copy(n int, to, from net.Conn) {
	defer to.Close()
	defer from.Close()
	buf := make([]byte, 32<<10)
	for {
		read, err := from.Read(buf)
		if read > 0 {
			if !p.pass(n) {
				return
			}
			if _, err := to.Write(buf[:read]); err != nil {
				return
			}
		}
		if err != nil {
			if !errors.Is(err, io.EOF) {
				return
			}
			p.pass(n)
			return
		}
	}
}
