package kube

import (
	"errors"
	"fmt"
	"net/http"
	"time"
)

// errNotSent marks a change that never left this process.
var errNotSent = errors.New("the change was not sent")

// once is the transport that sends a change to the API server at most once for
// each call: whether to send it again is the engine's decision, which looks at
// the object first.
//
// client-go on its own sends a request again when a 429 or 5xx carries
// Retry-After, although the change may have been made in spite of a 5xx, and it
// sleeps in between, which would hold a worker. Without the header it does not.
type once struct{ next http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (o once) RoundTrip(req *http.Request) (*http.Response, error) {
	if !changes(req.Method) {
		return o.next.RoundTrip(req) //nolint:wrapcheck // a transport adds nothing
	}
	// The context's timer may not have fired yet in a process that stood still
	// and has just gone on; by now another replica may look for the change.
	if deadline, ok := req.Context().Deadline(); ok && !time.Now().Before(deadline) {
		return nil, fmt.Errorf("%w: its deadline had passed", errNotSent)
	}
	resp, err := o.next.RoundTrip(req)
	if err == nil && (resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode >= http.StatusInternalServerError) {
		resp.Header.Del("Retry-After")
	}
	return resp, err //nolint:wrapcheck // see above
}

// WrappedRoundTripper lets idle connections be closed through this one.
func (o once) WrappedRoundTripper() http.RoundTripper { return o.next }

func changes(method string) bool {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodOptions:
		return false
	}
	return true
}
