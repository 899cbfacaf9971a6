package app

import (
	"container/list"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// connections bounds how many connections are open at a time. Beyond the limit
// a new one is let in at the expense of the one that has owed a whole request
// for longest: an idle one, or a sender that trickles. So whoever is quick, a
// probe above all, is never shut out by any number of slow ones, and what is
// being worked on is never cut off. Only when all are being worked on is the new
// one closed; the receiver bounds its share of those to half of the default.
type connections struct {
	limit  int
	open   prometheus.Gauge
	closed prometheus.Counter

	mu    sync.Mutex
	count int
	owing list.List // of *connection that owe a request, for longest first
}

// connection is one of them. Its fields belong to the set's lock.
type connection struct {
	net.Conn
	set      *connections
	place    *list.Element // in owing; nil while requests are worked on
	requests int           // that are worked on: several with HTTP/2
	gone     bool
}

func newConnections(limit int, reg prometheus.Registerer) (*connections, error) {
	s := &connections{limit: limit,
		open:   prometheus.NewGauge(prometheus.GaugeOpts{Name: "alertmedic_http_connections", Help: "Connections that are open."}),
		closed: prometheus.NewCounter(prometheus.CounterOpts{Name: "alertmedic_http_connections_closed_total", Help: "Connections closed because listen.maxConnections were open."}),
	}
	return s, errors.Join(reg.Register(s.open), reg.Register(s.closed))
}

// listen hands out the listener's connections within the limit.
func (s *connections) listen(l net.Listener) net.Listener { return &boundedListener{l, s} }

type boundedListener struct {
	net.Listener
	set *connections
}

func (l *boundedListener) Accept() (net.Conn, error) {
	for {
		raw, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if c := l.set.admit(raw); c != nil {
			return c, nil
		}
		_ = raw.Close()
	}
}

// admit makes room for a connection, or returns nil when there is none to make.
func (s *connections) admit(raw net.Conn) *connection {
	s.mu.Lock()
	var slowest *connection
	if s.count >= s.limit {
		s.closed.Inc()
		front := s.owing.Front()
		if front == nil {
			s.mu.Unlock()
			return nil
		}
		slowest = front.Value.(*connection)
		slowest.leave()
	}
	c := &connection{Conn: raw, set: s}
	c.place = s.owing.PushBack(c)
	s.count++
	s.open.Set(float64(s.count))
	s.mu.Unlock()
	if slowest != nil {
		_ = slowest.Close()
	}
	return c
}

// leave takes the connection out of the count, once. The lock is held.
func (c *connection) leave() {
	if c.gone {
		return
	}
	c.gone = true
	if c.place != nil {
		c.set.owing.Remove(c.place)
		c.place = nil
	}
	c.set.count--
	c.set.open.Set(float64(c.set.count))
}

func (c *connection) Close() error {
	c.set.mu.Lock()
	c.leave()
	c.set.mu.Unlock()
	return c.Conn.Close()
}

// begin says that a whole request has arrived, end that it is answered.
func (c *connection) begin() {
	c.set.mu.Lock()
	defer c.set.mu.Unlock()
	if c.requests++; c.place != nil {
		c.set.owing.Remove(c.place)
		c.place = nil
	}
}

func (c *connection) end() {
	c.set.mu.Lock()
	defer c.set.mu.Unlock()
	if c.requests--; c.requests == 0 && !c.gone {
		c.place = c.set.owing.PushBack(c)
	}
}

type connectionKey struct{}

// context lets a request find its connection; it is http.Server's ConnContext.
func (s *connections) context(ctx context.Context, c net.Conn) context.Context {
	if secure, ok := c.(*tls.Conn); ok {
		c = secure.NetConn()
	}
	if own, ok := c.(*connection); ok {
		return context.WithValue(ctx, connectionKey{}, own)
	}
	return ctx
}

// handler tells each request's connection when the request has arrived and when
// it is answered, and gives its body, which next may or may not read, a deadline.
func (s *connections) handler(next http.Handler, bodyTimeout time.Duration) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, ok := r.Context().Value(connectionKey{}).(*connection)
		if !ok {
			next.ServeHTTP(w, r)
			return
		}
		body := &arriving{ReadCloser: r.Body, arrived: c.begin}
		defer func() {
			if body.whole {
				c.end()
			}
		}()
		if r.Body == nil || r.Body == http.NoBody {
			body.done()
		} else {
			// net/http reads what a handler leaves of a body before it answers.
			_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyTimeout))
			// A copy: by the type of its own request's body the server knows what it
			// need not read.
			r = r.WithContext(r.Context())
			r.Body = body
		}
		next.ServeHTTP(w, r)
	})
}

// arriving is a body that tells when all of it has been read.
type arriving struct {
	io.ReadCloser
	arrived func()
	whole   bool
}

func (b *arriving) done() {
	if !b.whole {
		b.whole = true
		b.arrived()
	}
}

func (b *arriving) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if errors.Is(err, io.EOF) {
		b.done()
	}
	return n, err
}
