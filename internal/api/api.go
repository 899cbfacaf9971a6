// Package api is the HTTP API for people and their tools: the remediation log,
// runs and their approvals, playbooks, pauses, reload and probes. It decides
// nothing: it reads the store, and writes a person's decisions into it.
package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humachi"
	"github.com/go-chi/chi/v5"

	"github.com/alertmedic/alertmedic/internal/auth"
	"github.com/alertmedic/alertmedic/internal/guard"
	"github.com/alertmedic/alertmedic/internal/journal"
	"github.com/alertmedic/alertmedic/internal/store"
	"github.com/alertmedic/alertmedic/playbooks"
)

// The limits of a request, all in one place.
const (
	// MaxBody bounds a request's body: the largest sensible one is a reason of
	// some paragraphs.
	MaxBody = 64 << 10
	// bodyTimeout is how long a body may take to arrive.
	bodyTimeout = 5 * time.Second
	// DefaultLimit and MaxLimit bound the items of one page.
	DefaultLimit = 100
	MaxLimit     = 1000
	// maxStreams bounds the NDJSON streams that are open at a time.
	maxStreams = 64
	// writeTimeout is how long a reader of a stream may stand still.
	writeTimeout = 30 * time.Second
	// checkTimeout bounds one readiness check.
	checkTimeout = 2 * time.Second
)

// Store is what the API reads and writes; *store.Store is one. Listings return
// the cursor of the next page, "" after the last.
type Store interface {
	Runs(ctx context.Context, f store.RunFilter, p store.Page) ([]store.Run, string, error)
	// FindRun returns the run whose id begins with prefix, if it is the only one.
	FindRun(ctx context.Context, prefix string) (store.Run, error)
	Steps(ctx context.Context, runID string) ([]store.Step, error)
	RunCandidates(ctx context.Context, runID string) ([]store.Candidate, error)
	PendingApproval(ctx context.Context, runID string) (store.Approval, error)
	Decide(ctx context.Context, d store.Decision) (store.Approval, error)
	Log(ctx context.Context, f store.LogFilter, p store.Page) ([]journal.Entry, string, error)
	Pauses(ctx context.Context) ([]guard.Pause, error)
	SetPause(ctx context.Context, p guard.Pause) error
	ClearPause(ctx context.Context, scope guard.PauseScope, value, by, why string) error
	// Changed returns a channel that is closed when something was written.
	Changed() <-chan struct{}
}

// Authenticator tells who sends a request; *auth.Authenticator is one.
type Authenticator interface {
	Authenticate(r *http.Request) (auth.Identity, error)
}

// Check is one condition of readiness.
type Check struct {
	Name string
	// Check returns why the service is not ready. Its text is public: it must
	// hold no secret.
	Check func(ctx context.Context) error
	// Advisory says that a failure is shown and leaves the service ready.
	Advisory bool
}

// Options are the parts of an API. All are required but those that say what
// their absence means.
type Options struct {
	Store     Store
	Auth      Authenticator
	Playbooks func() *playbooks.Set
	// Refused says what is wrong with the playbook files as they are now, when the
	// last reload failed; nil is never asked.
	Refused func() playbooks.Problems
	// Reload reads playbooks and tokens again; nil answers that it cannot.
	Reload func(ctx context.Context) error
	// Explain says what would become of an alert; nil answers that it cannot.
	Explain Explainer
	// Backup writes a snapshot of the database; nil answers that it cannot.
	Backup func(ctx context.Context, w io.Writer) error
	// Ready are checked by /-/ready; none means always ready.
	Ready   []Check
	Version string // of the service, for the OpenAPI document
	Logger  *slog.Logger
	// Heartbeat is the time between two empty lines of a stream in which nothing
	// happens, so that a reader can tell silence from a dead connection; default 15s.
	Heartbeat time.Duration
	// Poll is how often a stream looks for entries that another replica wrote;
	// default 1s.
	Poll time.Duration
}

// API serves the endpoints. It is safe for concurrent use.
type API struct {
	Options
	huma    huma.API
	streams chan struct{}
	closed  chan struct{}
	once    sync.Once
	// backingUp is held while a backup is taken: one at a time.
	backingUp sync.Mutex
}

// New checks the options and adds the endpoints to router.
func New(router chi.Router, o Options) (*API, error) {
	var missing []error
	need := func(ok bool, name string) {
		if !ok {
			missing = append(missing, fmt.Errorf("api: Options.%s is missing", name))
		}
	}
	need(o.Store != nil, "Store")
	need(o.Auth != nil, "Auth")
	need(o.Playbooks != nil, "Playbooks")
	need(o.Logger != nil, "Logger")
	if err := errors.Join(missing...); err != nil {
		return nil, err
	}
	if o.Heartbeat == 0 {
		o.Heartbeat = 15 * time.Second
	}
	if o.Poll == 0 {
		o.Poll = time.Second
	}
	a := &API{Options: o, streams: make(chan struct{}, maxStreams), closed: make(chan struct{})}
	// A page in a browser must not be able to approve a plan with what the
	// browser is allowed to do, such as reaching a loopback listener.
	sameOrigin := http.NewCrossOriginProtection()
	router.Group(func(r chi.Router) {
		r.Use(sameOrigin.Handler)
		a.huma = humachi.New(r, humaConfig(o.Version))
		a.huma.UseMiddleware(a.authorise)
		a.registerRuns()
		a.registerLog()
		a.registerPlaybooks()
		a.registerPauses()
		a.registerExplain()
		a.registerOperations()
		a.registerBackup()
	})
	return a, nil
}

// Close ends the open streams, so that a server that shuts down need not wait
// for readers who follow the log.
func (a *API) Close() { a.once.Do(func() { close(a.closed) }) }

// OpenAPI returns the OpenAPI 3.1 document as JSON.
func (a *API) OpenAPI() ([]byte, error) {
	doc, err := a.huma.OpenAPI().MarshalJSON()
	if err != nil {
		return nil, fmt.Errorf("marshal the OpenAPI document: %w", err)
	}
	return doc, nil
}

func humaConfig(version string) huma.Config {
	c := huma.DefaultConfig("alertmedic", version)
	c.Info.Description = "The remediation log, runs and their approvals, playbooks and pauses of alertmedic. " +
		"Errors are RFC 9457 problem documents whose detail says what to do."
	c.OpenAPIPath = "/api/v1/openapi"
	c.DocsPath = ""    // the page would load scripts from another host
	c.SchemasPath = "" // the schemas are in the document
	c.CreateHooks = nil
	c.RejectUnknownQueryParameters = true // a misspelt filter must not select everything
	c.Components.SecuritySchemes = map[string]*huma.SecurityScheme{
		"bearer": {Type: "http", Scheme: "bearer", Description: "A token of auth.tokens, or of the cluster where auth.tokenReview is enabled."},
	}
	return c
}

// roleKey is where an operation's metadata holds the role that it requires.
const roleKey = "role"

// operation completes what is the same for every endpoint. An empty role is for
// probes, which carry no token.
func operation(role auth.Role, op huma.Operation, failures ...int) huma.Operation {
	op.MaxBodyBytes = MaxBody
	op.BodyReadTimeout = bodyTimeout
	op.Errors = append(op.Errors, failures...)
	if role == "" {
		return op
	}
	op.Metadata = map[string]any{roleKey: role}
	op.Security = []map[string][]string{{"bearer": {}}}
	op.Description += fmt.Sprintf(" Requires the role `%s`.", role)
	op.Errors = append(op.Errors, http.StatusUnauthorized, http.StatusForbidden, http.StatusServiceUnavailable)
	return op
}

// authorise lets an operation through to those who have its role.
func (a *API) authorise(ctx huma.Context, next func(huma.Context)) {
	role, ok := ctx.Operation().Metadata[roleKey].(auth.Role)
	if !ok {
		next(ctx)
		return
	}
	r, _ := humachi.Unwrap(ctx)
	who, err := a.Auth.Authenticate(r)
	status, detail := http.StatusForbidden, fmt.Sprintf("%s does not have the role %s: give it in auth.tokens or auth.tokenReview.roles", who.Name, role)
	switch {
	case err != nil:
		status, detail = auth.Status(err), err.Error()
		if status == http.StatusUnauthorized {
			ctx.SetHeader("WWW-Authenticate", `Bearer realm="alertmedic"`)
		}
	case who.May(role):
		next(huma.WithContext(ctx, auth.NewContext(ctx.Context(), who)))
		return
	}
	if err := huma.WriteErr(a.huma, ctx, status, detail); err != nil {
		a.Logger.Debug("answer a refused request", "err", err)
	}
}

// actor names who sent the request, for the journal.
func actor(ctx context.Context) string {
	who, _ := auth.FromContext(ctx)
	return who.Name
}
