package durability

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/alertmedic/alertmedic/internal/testcluster"
)

// APIProxy stands between alertmedic and the API server. It ends TLS, asks
// Choose what to do to each request, and remembers every change: whether it went
// on to the API server, what that answered, and whether the process heard.
//
// A change that has arrived here goes on even when the process that sent it dies
// meanwhile, as bytes on the wire do. It is never under way for longer than the
// RequestTimeout that the process believes in: that is the API server's promise,
// and what waits for it must not be proven wrong by a proxy.
//
// The process's bearer token is its replica's name, no more: to the API server
// the proxy presents a certificate for User, an administrator, so that the audit
// log tells the requests of one test from all others. Impersonation passes
// through. Safe for concurrent use.
type APIProxy struct {
	// URL is where the processes find the API server.
	URL string
	// User is who the audit log says sent the requests that passed.
	User string

	cluster        *testcluster.Cluster
	requestTimeout time.Duration
	upstream       *url.URL
	transport      *http.Transport
	reads          *httputil.ReverseProxy
	server         *http.Server
	dir            string
	ended          context.Context // ends reads that are under way

	mu     sync.Mutex
	choose func(Call) Fault
	watch  func(Call, Moment)
	calls  []*Call
	faults map[string]int
	conns  map[net.Conn]struct{}
	prompt *promptness // nil: what is late is passed on
}

// Fault is what is done to one request. The zero value passes it on.
type Fault struct {
	// Delay holds the request back before anything else; at most the request
	// timeout.
	Delay time.Duration `json:"delay,omitempty"`
	// Cut closes the connection instead of an answer: "before" the request is
	// passed on, or "after" the API server has answered.
	Cut Cut `json:"cut,omitempty"`
	// Status is answered in place of the API server's own answer: 409, 429, 500
	// and 503 look like the API server's.
	Status int `json:"status,omitempty"`
	// Late passes the request on all the same before Status is answered, as when
	// a load balancer gives up on a slow server.
	Late bool `json:"late,omitempty"`
}

// Cut says when a connection is closed.
type Cut string

// The moments of a cut.
const (
	CutBefore Cut = "before"
	CutAfter  Cut = "after"
)

// String names the kind of the fault, "" for none.
func (f Fault) String() string {
	var parts []string
	if f.Delay > 0 {
		parts = append(parts, "delay")
	}
	if f.Cut != "" {
		parts = append(parts, "cut "+string(f.Cut))
	}
	if f.Status != 0 {
		kind := fmt.Sprint(f.Status)
		if f.Late {
			kind += " after"
		}
		parts = append(parts, kind)
	}
	return strings.Join(parts, ", ")
}

// Moment is a point in the life of a change that a watcher is told of.
type Moment string

// The moments of a change. What is done in the watcher happens before the
// change goes on: a process killed in it never hears the answer.
const (
	Arrived  Moment = "arrived"  // not passed on yet
	Answered Moment = "answered" // by the API server; the process has not heard
)

// NewAPIProxy stands in front of the cluster until the test ends. requestTimeout
// is what the processes are told of the API server; 0 is the default.
func NewAPIProxy(t testing.TB, cluster *testcluster.Cluster, requestTimeout time.Duration) *APIProxy {
	t.Helper()
	if requestTimeout == 0 {
		requestTimeout = DefaultRequestTimeout
	}
	var id [4]byte
	_, _ = rand.Read(id[:]) // never fails
	ended, end := context.WithCancel(context.Background())
	p := &APIProxy{User: "alertmedic-test-" + hex.EncodeToString(id[:]), cluster: cluster, requestTimeout: requestTimeout, dir: t.TempDir(),
		ended: ended, faults: map[string]int{}, conns: map[net.Conn]struct{}{}}
	own, err := cluster.RESTConfigAs(p.User, "system:masters")
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(own.CertData, own.KeyData)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(own.CAData)
	if p.upstream, err = url.Parse(own.Host); err != nil {
		t.Fatal(err)
	}
	p.transport = &http.Transport{TLSClientConfig: &tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: roots, MinVersion: tls.VersionTLS12}, ForceAttemptHTTP2: true}
	quiet := log.New(io.Discard, "", 0) // cut connections are the purpose
	p.reads = &httputil.ReverseProxy{Transport: p.transport, FlushInterval: -1, ErrorLog: quiet,
		Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(p.upstream); p.identify(r.Out) },
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			writeStatus(w, http.StatusBadGateway, err.Error())
		},
	}
	cert, err := cluster.ServerCertificate("api-proxy")
	if err != nil {
		t.Fatal(err)
	}
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p.URL = "https://" + l.Addr().String()
	p.server = &http.Server{Handler: p, ErrorLog: quiet, ReadHeaderTimeout: time.Minute,
		TLSConfig:   &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12},
		ConnContext: func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, connKey{}, c) },
		ConnState:   p.track,
	}
	var served sync.WaitGroup
	served.Go(func() { _ = p.server.ServeTLS(l, "", "") })
	t.Cleanup(func() {
		end()
		p.server.Close()
		served.Wait()
		p.transport.CloseIdleConnections()
	})
	return p
}

type connKey struct{}

func (p *APIProxy) track(c net.Conn, s http.ConnState) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch s {
	case http.StateNew:
		p.conns[c] = struct{}{}
	case http.StateClosed, http.StateHijacked:
		delete(p.conns, c)
	}
}

// Kubeconfig writes a kubeconfig for a replica in a folder of its own and
// returns its path.
func (p *APIProxy) Kubeconfig(t testing.TB, replica string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kubeconfig")
	if err := p.cluster.KubeconfigAt(path, p.URL, replica); err != nil {
		t.Fatal(err)
	}
	return path
}

// Choose sets what is done to each request; nil passes all on. It is called
// concurrently.
func (p *APIProxy) Choose(choose func(Call) Fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.choose = choose
}

// Watch sets who is told of each change, while it waits; nil tells nobody. It is
// called concurrently.
func (p *APIProxy) Watch(watch func(Call, Moment)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.watch = watch
}

// Down closes every connection and answers new requests with a cut until Up:
// the API server is gone.
func (p *APIProxy) Down() {
	p.Choose(func(Call) Fault { return Fault{Cut: CutBefore} })
	p.DropConnections()
}

// Up passes everything on again.
func (p *APIProxy) Up() { p.Choose(nil) }

// DropConnections closes the connections that processes have.
func (p *APIProxy) DropConnections() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		closeRaw(c)
	}
}

// Calls are the changes that have arrived so far, in order.
func (p *APIProxy) Calls() []Call {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make([]Call, len(p.calls))
	for i, c := range p.calls {
		out[i] = *c
	}
	return out
}

// Faults counts what was done, by kind, reads included.
func (p *APIProxy) Faults() map[string]int {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := map[string]int{}
	for k, v := range p.faults {
		out[k] = v
	}
	return out
}

// ServeHTTP implements http.Handler.
func (p *APIProxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	call := &Call{ID: auditID(), At: time.Now(), Replica: strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "), Method: r.Method, Path: r.URL.Path,
		UserAgent: r.UserAgent()}
	var body []byte
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions:
	default:
		var err error
		if body, err = io.ReadAll(io.LimitReader(r.Body, 8<<20)); err != nil {
			return // it never arrived whole
		}
		call.describe(r, body)
	}
	p.mu.Lock()
	choose, watch := p.choose, p.watch
	if call.Change {
		p.calls = append(p.calls, call)
	}
	p.mu.Unlock()
	var fault Fault
	if choose != nil && r.URL.Query().Get("watch") == "" {
		fault = choose(*call)
		fault.Delay = min(fault.Delay, p.requestTimeout)
	}
	p.locked(func() {
		call.Fault = fault
		if kind := fault.String(); kind != "" {
			p.faults[kind]++
		}
	})
	if !call.Change {
		p.read(w, r, fault, body)
		return
	}
	p.change(w, r, call, body, watch)
}

// locked changes what calls and counters hold.
func (p *APIProxy) locked(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f()
}

// read passes on what changes nothing.
func (p *APIProxy) read(w http.ResponseWriter, r *http.Request, fault Fault, body []byte) {
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(p.ended, cancel)()
	if !pause(ctx, fault.Delay) {
		return
	}
	switch {
	case fault.Cut != "":
		cut(r)
	case fault.Status != 0:
		writeStatus(w, fault.Status, "injected by the test")
		return
	}
	r = r.WithContext(ctx)
	if body != nil {
		r.Body = io.NopCloser(bytes.NewReader(body))
	}
	p.reads.ServeHTTP(w, r)
}

// change passes a change on, at most once.
func (p *APIProxy) change(w http.ResponseWriter, r *http.Request, call *Call, body []byte, watch func(Call, Moment)) {
	tell := func(m Moment) {
		if watch != nil {
			p.mu.Lock()
			c := *call
			p.mu.Unlock()
			watch(c, m)
		}
	}
	fault := call.Fault
	tell(Arrived)
	pause(p.ended, fault.Delay) // whoever sent it: it is on its way
	late := p.prompt.late(call.At, fault.Delay)
	p.locked(func() { call.Late = late })
	if fault.Cut == CutBefore || late {
		cut(r)
	}
	if fault.Status != 0 && !fault.Late {
		p.answer(w, r, call, fault.Status, func() { writeStatus(w, fault.Status, "injected by the test, nothing was done") })
		return
	}
	p.locked(func() { call.Forwarded = time.Now() })
	status, header, answer, err := p.forward(r, call, body, p.requestTimeout-fault.Delay)
	p.locked(func() { call.Status, call.Ended = status, time.Now() })
	tell(Answered)
	switch {
	case err != nil, fault.Cut == CutAfter:
		cut(r)
	case fault.Status != 0:
		p.answer(w, r, call, fault.Status, func() { writeStatus(w, fault.Status, "injected by the test, the request was passed on") })
	default:
		p.answer(w, r, call, status, func() {
			for k, v := range header {
				w.Header()[k] = v
			}
			w.WriteHeader(status)
			w.Write(answer)
		})
	}
}

// answer writes an answer and notes whether it left.
func (p *APIProxy) answer(w http.ResponseWriter, r *http.Request, call *Call, status int, write func()) {
	write()
	if err := http.NewResponseController(w).Flush(); err == nil && r.Context().Err() == nil {
		p.locked(func() { call.Answered = status })
	}
}

func (p *APIProxy) forward(r *http.Request, call *Call, body []byte, timeout time.Duration) (int, http.Header, []byte, error) {
	timeout = max(timeout, time.Second)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), timeout+5*time.Second)
	defer cancel()
	target := *r.URL
	target.Scheme, target.Host = p.upstream.Scheme, p.upstream.Host
	// The API server gives up on the request itself when this is over.
	q := target.Query()
	q.Set("timeout", timeout.String())
	target.RawQuery = q.Encode()
	out, err := http.NewRequestWithContext(ctx, r.Method, target.String(), bytes.NewReader(body))
	if err != nil {
		return 0, nil, nil, err
	}
	out.Header = r.Header.Clone()
	p.identify(out)
	out.Header.Set("Audit-ID", call.ID)
	out.Header.Del("Accept-Encoding")
	resp, err := p.transport.RoundTrip(out)
	if err != nil {
		return 0, nil, nil, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	resp.Header.Del("Content-Length")
	return resp.StatusCode, resp.Header, answer, err
}

func (p *APIProxy) identify(out *http.Request) { out.Header.Del("Authorization") }

// cut closes the connection of a request and ends its handler.
func cut(r *http.Request) {
	if c, ok := r.Context().Value(connKey{}).(net.Conn); ok {
		closeRaw(c)
	}
	panic(http.ErrAbortHandler)
}

// closeRaw closes a connection without TLS's goodbye.
func closeRaw(c net.Conn) {
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	c.Close()
}

// pause waits; false: ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// writeStatus answers as the API server does.
func writeStatus(w http.ResponseWriter, code int, message string) {
	reasons := map[int]string{http.StatusConflict: "Conflict", http.StatusTooManyRequests: "TooManyRequests",
		http.StatusInternalServerError: "InternalError", http.StatusServiceUnavailable: "ServiceUnavailable"}
	details := ""
	if code == http.StatusTooManyRequests || code == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "1")
		details = `,"details":{"retryAfterSeconds":1}`
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	fmt.Fprintf(w, `{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":%q,"reason":%q,"code":%d%s}`,
		message, reasons[code], code, details)
}

func auditID() string {
	var b [16]byte
	if _, err := rand.Read(b[:]); err != nil {
		panic(errors.New("no randomness")) // crypto/rand does not fail
	}
	return hex.EncodeToString(b[:4]) + "-" + hex.EncodeToString(b[4:6]) + "-" + hex.EncodeToString(b[6:8]) + "-" +
		hex.EncodeToString(b[8:10]) + "-" + hex.EncodeToString(b[10:])
}
