package kube

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"
)

// Reading is what one decision has read of the cluster: each object is read once
// for it, though the target's owners, the plan, the guards and the action all
// look at the same ones. What a decision rests on is so of one moment, and a run
// costs the API server a third of the requests.
//
// Only single objects are kept, for one identity each, and for MaxReading; lists
// are always read anew. With the first change that is sent through it, a Reading
// is over: what comes after sees the effect. A change is never decided by what is
// kept alone: it carries preconditions, which the API server checks.
//
// A Reading is safe for concurrent use.
type Reading struct {
	began   time.Time
	mu      sync.Mutex
	over    bool
	answers map[readingKey]readingAnswer
}

// MaxReading is how long an object counts as just read.
const MaxReading = 2 * time.Second

// maxReadingBytes bounds an object that is kept.
const maxReadingBytes = 1 << 20

type readingKey struct{ url, accept, identity string }

type readingAnswer struct {
	at     time.Time
	header http.Header
	body   []byte
}

// NewReading returns a Reading of nothing yet.
func NewReading() *Reading {
	return &Reading{began: time.Now(), answers: map[readingKey]readingAnswer{}}
}

// Age is how long ago the Reading began.
func (r *Reading) Age() time.Duration { return time.Since(r.began) }

type readingContext struct{}

// WithReading makes the calls of ctx share r; nil is none.
func WithReading(ctx context.Context, r *Reading) context.Context {
	return context.WithValue(ctx, readingContext{}, r)
}

// readings is the transport that answers from the Reading of a request's context.
type readings struct{ next http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (t readings) RoundTrip(req *http.Request) (*http.Response, error) {
	r, _ := req.Context().Value(readingContext{}).(*Reading)
	switch {
	case r == nil:
		return t.next.RoundTrip(req) //nolint:wrapcheck // a transport adds nothing
	case changes(req.Method):
		if !strings.HasPrefix(req.URL.Path, "/apis/authorization.k8s.io/") { // a review is a question
			r.end()
		}
		return t.next.RoundTrip(req) //nolint:wrapcheck // see above
	case req.Method != http.MethodGet || req.URL.RawQuery != "" || !ofObject(req.URL.Path):
		return t.next.RoundTrip(req) //nolint:wrapcheck // see above
	}
	key := readingKey{req.URL.String(), req.Header.Get("Accept"), req.Header.Get("Impersonate-User")}
	if resp := r.answer(key, req); resp != nil {
		return resp, nil
	}
	at := time.Now() // before the server looks
	resp, err := t.next.RoundTrip(req)
	if err != nil || resp.StatusCode != http.StatusOK {
		return resp, err //nolint:wrapcheck // see above
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxReadingBytes+1))
	if err != nil || len(body) > maxReadingBytes {
		// As it came: the caller reads on, into the rest or into the same error.
		resp.Body = &partlyRead{io.MultiReader(bytes.NewReader(body), failing{err}, resp.Body), resp.Body}
		return resp, nil //nolint:nilerr // the caller meets it while reading
	}
	if err := resp.Body.Close(); err != nil {
		return nil, err //nolint:wrapcheck // see above
	}
	r.keep(key, readingAnswer{at, resp.Header, body})
	resp.Body = io.NopCloser(bytes.NewReader(body))
	return resp, nil
}

// WrappedRoundTripper lets idle connections be closed through this one.
func (t readings) WrappedRoundTripper() http.RoundTripper { return t.next }

func (r *Reading) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.over, r.answers = true, nil
}

func (r *Reading) keep(key readingKey, a readingAnswer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.over {
		r.answers[key] = a
	}
}

func (r *Reading) answer(key readingKey, req *http.Request) *http.Response {
	r.mu.Lock()
	defer r.mu.Unlock()
	a, ok := r.answers[key]
	if !ok || time.Since(a.at) > MaxReading || req.Context().Err() != nil {
		return nil
	}
	return &http.Response{Status: "200 OK", StatusCode: http.StatusOK, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: a.header.Clone(), Body: io.NopCloser(bytes.NewReader(a.body)), ContentLength: int64(len(a.body)), Request: req}
}

// ofObject tells the path of one object from those of lists, subresources and
// everything else.
func ofObject(path string) bool {
	parts := strings.Split(strings.Trim(path, "/"), "/")
	switch {
	case len(parts) > 2 && parts[0] == "api":
		parts = parts[2:]
	case len(parts) > 3 && parts[0] == "apis":
		parts = parts[3:]
	default:
		return false
	}
	if parts[0] == "namespaces" && len(parts) > 2 {
		parts = parts[2:]
	}
	return len(parts) == 2
}

// partlyRead is a body of which the beginning was read.
type partlyRead struct {
	io.Reader
	io.Closer
}

// failing fails with an error, or ends at once when it is nil.
type failing struct{ err error }

func (f failing) Read([]byte) (int, error) {
	if f.err == nil {
		return 0, io.EOF
	}
	return 0, f.err
}
