// Package auth tells who sends a request and what that identity may do: tokens
// from files, and Kubernetes' TokenReview as an option.
//
// Roles do not include one another, and a credential that may ingest webhooks
// may do nothing else: what Alertmanager holds in its configuration must not
// be able to approve a plan. No token ever appears in an error or a log line.
package auth

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
)

// Role is one permission.
type Role string

// The roles. None includes another.
const (
	Ingest  Role = "ingest"  // send webhooks
	View    Role = "view"    // read log, runs and playbooks
	Approve Role = "approve" // approve and reject plans
	Admin   Role = "admin"   // pause, resume, reload
)

// Roles lists every role.
func Roles() []Role { return []Role{Ingest, View, Approve, Admin} }

// Identity is who sends a request.
type Identity struct {
	// Name is what the log says of who acted.
	Name  string
	Roles []Role
	// Source is the source of alerts that the identity sends for, "" unless it
	// may ingest.
	Source string
}

// May reports whether the identity has the role.
func (i Identity) May(role Role) bool { return slices.Contains(i.Roles, role) }

// Errors of authentication, for errors.Is.
var (
	// ErrNoCredential means that the request carries none.
	ErrNoCredential = errors.New("no bearer token: send Authorization: Bearer <token>")
	// ErrBadCredential means that nobody is known by it.
	ErrBadCredential = errors.New("the bearer token is not known here")
	// ErrUnavailable means that it could not be found out; try again.
	ErrUnavailable = errors.New("the token could not be checked")
)

// Authenticator tells identities. It is safe for concurrent use.
type Authenticator struct {
	specs     []TokenSpec
	tokens    atomic.Pointer[[]token]
	anonymous *Identity
	review    *reviewCache
}

// Option changes how Load makes an Authenticator.
type Option func(*Authenticator) error

// WithAnonymous lets requests without a credential act as who. It is for
// loopback listeners only: see CheckListen. A wrong credential is still refused.
func WithAnonymous(who Identity) Option {
	return func(a *Authenticator) error {
		a.anonymous = &who
		return nil
	}
}

// Load reads the tokens of specs. Every problem is reported, joined; a token
// itself never is.
func Load(specs []TokenSpec, opts ...Option) (*Authenticator, error) {
	a := &Authenticator{specs: slices.Clone(specs)}
	for _, opt := range opts {
		if err := opt(a); err != nil {
			return nil, err
		}
	}
	if err := a.Reload(); err != nil {
		return nil, err
	}
	return a, nil
}

// Reload reads the token files again. When any of them is bad, the tokens in
// use stay as they are.
func (a *Authenticator) Reload() error {
	tokens, err := readTokens(a.specs)
	if err != nil {
		return fmt.Errorf("load tokens: %w", err)
	}
	a.tokens.Store(&tokens)
	return nil
}

// Authenticated reports whether every request needs a credential, as a listener
// that is not on loopback requires.
func (a *Authenticator) Authenticated() bool {
	return a.anonymous == nil && (len(a.specs) > 0 || a.review != nil)
}

// Sender tells who sends a webhook, by the tokens from files alone: nothing on
// the way of an alert may depend on the API server, which may be what is broken.
// A credential that is in none of them makes it read the files again.
func (a *Authenticator) Sender(r *http.Request) (Identity, error) {
	credential, err := bearer(r)
	switch {
	case errors.Is(err, ErrNoCredential) && a.anonymous != nil:
		return *a.anonymous, nil
	case err != nil:
		return Identity{}, err
	}
	if who, ok := find(*a.tokens.Load(), credential); ok {
		return who, nil
	}
	// A Secret that was rotated is mounted here and at the sender at different
	// moments, and nobody sends a signal. Alertmanager does not repeat what was
	// refused with 401, so a webhook must not be lost to that. Files that cannot
	// be read now leave the tokens in use.
	if len(a.specs) > 0 && a.Reload() == nil {
		if who, ok := find(*a.tokens.Load(), credential); ok {
			return who, nil
		}
	}
	return Identity{}, ErrBadCredential
}

// Authenticate tells who sends a request, by token files first and then, where
// configured, by TokenReview.
func (a *Authenticator) Authenticate(r *http.Request) (Identity, error) {
	who, err := a.Sender(r)
	if a.review == nil || !errors.Is(err, ErrBadCredential) {
		return who, err
	}
	credential, err := bearer(r)
	if err != nil {
		return Identity{}, err
	}
	return a.review.identify(r.Context(), credential)
}

// bearer returns the credential of a request. A header of another scheme, or
// several headers, count as a bad credential and not as none.
func bearer(r *http.Request) (string, error) {
	headers := r.Header.Values("Authorization")
	if len(headers) == 0 {
		return "", ErrNoCredential
	}
	if len(headers) > 1 {
		return "", ErrBadCredential
	}
	scheme, credential, _ := strings.Cut(headers[0], " ")
	credential = strings.TrimSpace(credential)
	if !strings.EqualFold(scheme, "Bearer") || credential == "" || len(credential) > maxToken {
		return "", ErrBadCredential
	}
	return credential, nil
}

type contextKey struct{}

// NewContext returns a context that carries who.
func NewContext(ctx context.Context, who Identity) context.Context {
	return context.WithValue(ctx, contextKey{}, who)
}

// FromContext returns the identity that Require put there.
func FromContext(ctx context.Context) (Identity, bool) {
	who, ok := ctx.Value(contextKey{}).(Identity)
	return who, ok
}

// CheckListen refuses an address that others can reach while requests need no
// credential. An address without a host, or a name other than localhost, counts
// as reachable.
func CheckListen(addr string, authenticated bool) error {
	if authenticated {
		return nil
	}
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("listen address %q: %w", addr, err)
	}
	if ip := net.ParseIP(host); host == "localhost" || ip != nil && ip.IsLoopback() {
		return nil
	}
	return fmt.Errorf("listen address %q can be reached by others, but requests need no token: configure a token for every source and for the API, or listen on 127.0.0.1", addr)
}
