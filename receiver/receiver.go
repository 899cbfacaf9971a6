// Package receiver takes Alertmanager's webhooks: it authenticates the sender,
// decodes, and answers 200 only after everything is durably stored. It starts
// nothing and reads nothing of the cluster.
package receiver

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/alertmedic/alertmedic/internal/auth"
	"github.com/alertmedic/alertmedic/internal/store"
	"github.com/alertmedic/alertmedic/playbooks"
)

// Path is where the webhook is served.
const Path = "/api/v1/webhook"

// Accepter stores a batch: when it returns without an error, the batch is
// durably committed. *store.Store is one.
type Accepter interface {
	Accept(ctx context.Context, batch store.Batch) (store.AcceptResult, error)
}

// Matcher finds the playbooks for an alert, highest priority first;
// *playbooks.Set is one.
type Matcher interface {
	Match(labels map[string]string) []*playbooks.Playbook
}

// Authenticator tells who sends a webhook; *auth.Authenticator is one.
type Authenticator interface {
	Sender(r *http.Request) (auth.Identity, error)
}

// Source is one authenticated sender.
type Source struct {
	Name string
	// Cluster is what the alerts of the source are about: one whose cluster label
	// says otherwise is rejected.
	Cluster string
	// Receivers are the names that Alertmanager's receivers have which lead here,
	// empty for any. Alerts of others are taken in as well, with a warning: what
	// of them is missed cannot be read back from Alertmanager.
	Receivers []string
	// Namespaces and Playbooks are what alerts of the source may touch and start,
	// empty for all. They are not looked at here: the guards deny, with a reason
	// in the log.
	Namespaces []string
	Playbooks  []string
}

// Options are the parts of a Receiver. All are required but those that say what
// their absence means.
type Options struct {
	Accepter      Accepter
	Authenticator Authenticator
	// Current returns the playbooks in force; it is called once a webhook.
	Current func() Matcher
	// Sources by name.
	Sources map[string]Source
	// ExpireAfter is how long after its alert a run of a playbook may start or work.
	ExpireAfter func(*playbooks.Playbook) time.Duration
	// OnTruncated is told that a source left alerts out of a webhook, after the
	// commit: their state must be read. It must not block. nil: nobody is told.
	OnTruncated func(source string)

	Logger     *slog.Logger          // nil: discarded
	Registerer prometheus.Registerer // nil: no metrics are registered
	Clock      func() time.Time      // nil: time.Now
	Limits     Limits
}

// Receiver serves the webhook. It is safe for concurrent use.
type Receiver struct {
	opts     Options
	matched  func([]*playbooks.Playbook) []store.MatchedPlaybook
	metrics  *metrics
	inFlight budget // bytes
	waiting  budget // webhooks
	draining atomic.Bool
}

// New returns a Receiver; the error names every option that is missing.
func New(opts Options) (*Receiver, error) {
	var errs []error
	for _, need := range []struct {
		missing bool
		name    string
	}{
		{opts.Accepter == nil, "Accepter"},
		{opts.Authenticator == nil, "Authenticator"},
		{opts.Current == nil, "Current"},
		{len(opts.Sources) == 0, "Sources"},
		{opts.ExpireAfter == nil, "ExpireAfter"},
	} {
		if need.missing {
			errs = append(errs, errors.New("receiver: option "+need.name+" is required"))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	if opts.Clock == nil {
		opts.Clock = time.Now
	}
	opts.Limits = opts.Limits.WithDefaults()
	r := &Receiver{opts: opts, matched: Matched(opts.ExpireAfter),
		inFlight: budget{limit: opts.Limits.MaxInFlight}, waiting: budget{limit: int64(opts.Limits.MaxWaiting)}}
	r.metrics = newMetrics(opts.Sources, &r.inFlight)
	if opts.Registerer != nil {
		if err := r.metrics.register(opts.Registerer); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// Matched returns what accept records about matching playbooks; expireAfter says
// how long the runs of each may start or work. The resync of the state records the
// same.
func Matched(expireAfter func(*playbooks.Playbook) time.Duration) func([]*playbooks.Playbook) []store.MatchedPlaybook {
	return func(all []*playbooks.Playbook) []store.MatchedPlaybook {
		out := make([]store.MatchedPlaybook, 0, len(all))
		for _, p := range all {
			out = append(out, store.MatchedPlaybook{Name: p.Name, Hash: p.Hash, Priority: p.Priority, Exclusive: p.Exclusive, ExpireAfter: expireAfter(p)})
		}
		return out
	}
}

// Routes mounts the webhook. Every method is taken, so that a wrong one is
// answered as JSON too.
func (r *Receiver) Routes(router chi.Router) { router.Handle(Path, r) }

// Drain makes every new request be answered 503, so that Alertmanager sends it
// again, to another replica or after the restart. Requests under way finish.
func (r *Receiver) Drain() { r.draining.Store(true) }
