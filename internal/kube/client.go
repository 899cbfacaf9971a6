package kube

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/version"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/flowcontrol"
)

// Defaults of Options, and the bound of a read that was given no deadline.
const (
	DefaultQPS       = 50
	DefaultBurst     = 100
	DefaultUserAgent = "alertmedic"

	// readTimeout stays under guard.MaxEvidenceAge: evidence that took longer
	// to gather could not be used.
	readTimeout = 8 * time.Second
)

// Self is where alertmedic itself runs, from the downward API; fields are ""
// outside a cluster.
type Self struct {
	Namespace string
	Pod       string
	Node      string
}

// Options configure a Client.
type Options struct {
	// Config reaches the API server as alertmedic's own identity.
	Config *rest.Config
	// Namespace is where the playbooks' ServiceAccounts live.
	Namespace string
	// QPS and Burst bound the calls of all sessions together; 0 means the default.
	QPS       float32
	Burst     int
	UserAgent string
	Logger    *slog.Logger
	Self      Self
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Client reads the cluster and hands out Sessions. Make it with New.
type Client struct {
	options Options
	log     *slog.Logger
	now     func() time.Time
	config  *rest.Config // rate limiter and user agent included, no impersonation
	own     *Session
	nodes   *nodeTracker
	access  accessAnswers

	mu       sync.Mutex
	sessions map[string]*Session
}

// New makes a Client. It does not reach out to the API server: a cluster that
// is away at start is a state to report, not a reason to exit; see Ping.
func New(options Options) (*Client, error) {
	if options.Config == nil {
		return nil, errors.New("kube: no client configuration: give a kubeconfig, or run in a cluster")
	}
	if problems := validation.IsDNS1123Label(options.Namespace); len(problems) > 0 {
		return nil, fmt.Errorf("kube: namespace of the playbooks' ServiceAccounts %q: %s", options.Namespace, problems[0])
	}
	if options.Config.Impersonate.UserName != "" {
		return nil, errors.New("kube: the client configuration must not impersonate: sessions do")
	}
	if options.QPS <= 0 {
		options.QPS = DefaultQPS
	}
	if options.Burst <= 0 {
		options.Burst = DefaultBurst
	}
	if options.UserAgent == "" {
		options.UserAgent = DefaultUserAgent
	}
	if options.Logger == nil {
		options.Logger = slog.New(slog.DiscardHandler)
	}
	if options.Now == nil {
		options.Now = time.Now
	}

	config := rest.CopyConfig(options.Config)
	config.UserAgent = options.UserAgent
	config.QPS, config.Burst = 0, 0
	config.RateLimiter = flowcontrol.NewTokenBucketRateLimiter(options.QPS, options.Burst)
	config.WarningHandlerWithContext = warnings{options.Logger}
	config.Wrap(func(rt http.RoundTripper) http.RoundTripper { return readings{once{rt}} })

	c := &Client{
		options:  options,
		log:      options.Logger,
		now:      options.Now,
		config:   config,
		nodes:    newNodeTracker(options.Now),
		sessions: make(map[string]*Session),
	}
	own, err := newSession(config, "")
	if err != nil {
		return nil, err
	}
	c.own = own
	return c, nil
}

// warnings logs what the API server warns of, such as a deprecated API.
type warnings struct{ log *slog.Logger }

func (w warnings) HandleWarningHeaderWithContext(ctx context.Context, code int, _ string, text string) {
	if code == 299 && text != "" {
		w.log.DebugContext(ctx, "the API server warns", "warning", text)
	}
}

// Close drops idle connections. Sessions stay usable.
func (c *Client) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	// Not http.Client's own method: it ends at the first of client-go's wrappers.
	utilnet.CloseIdleConnectionsFor(c.own.http.Transport)
	for _, s := range c.sessions {
		utilnet.CloseIdleConnectionsFor(s.http.Transport)
	}
}

// As returns the session that acts as the ServiceAccount of that name in
// Options.Namespace; "" returns alertmedic's own identity, which only reads.
// Sessions are cached and share connections and rate limit.
func (c *Client) As(serviceAccount string) (*Session, error) {
	if serviceAccount == "" {
		return c.own, nil
	}
	if problems := validation.IsDNS1123Subdomain(serviceAccount); len(problems) > 0 {
		return nil, fmt.Errorf("kube: ServiceAccount name %q: %s", serviceAccount, problems[0])
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.sessions[serviceAccount]; s != nil {
		return s, nil
	}
	config := rest.CopyConfig(c.config)
	// Groups are left out on purpose: for a ServiceAccount the API server
	// derives exactly system:serviceaccounts, system:serviceaccounts:<ns> and
	// system:authenticated. Naming them would need the right to impersonate
	// groups, which reaches far beyond the playbooks' ServiceAccounts.
	config.Impersonate = rest.ImpersonationConfig{
		UserName: "system:serviceaccount:" + c.options.Namespace + ":" + serviceAccount,
	}
	s, err := newSession(config, serviceAccount)
	if err != nil {
		return nil, err
	}
	c.sessions[serviceAccount] = s
	return s, nil
}

// Ping asks the API server whether it is ready to serve, as a *action.Error.
func (c *Client) Ping(ctx context.Context) error {
	ctx, cancel := bounded(ctx)
	defer cancel()
	if _, err := c.own.typed.Discovery().RESTClient().Get().AbsPath("/readyz").DoRaw(ctx); err != nil {
		return fmt.Errorf("kube: API server %s: %w", c.config.Host, Classify(err, false))
	}
	return nil
}

// ServerVersion returns the API server's version.
func (c *Client) ServerVersion(ctx context.Context) (version.Info, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	info, err := discovery.ToServerVersionInterfaceWithContext(c.own.typed.Discovery()).ServerVersionWithContext(ctx)
	if err != nil {
		return version.Info{}, fmt.Errorf("kube: version of the API server: %w", Classify(err, false))
	}
	return *info, nil
}

// bounded gives ctx the deadline of a read when it has a later one or none.
func bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, readTimeout)
}

// Session is a set of clients with one identity.
type Session struct {
	serviceAccount string
	config         *rest.Config
	http           *http.Client
	typed          kubernetes.Interface
	dynamic        dynamic.Interface
	metadata       metadata.Interface
}

func newSession(config *rest.Config, serviceAccount string) (*Session, error) {
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, fmt.Errorf("kube: transport: %w", err)
	}
	typed, err := kubernetes.NewForConfigAndClient(config, client)
	if err != nil {
		return nil, fmt.Errorf("kube: typed client: %w", err)
	}
	dyn, err := dynamic.NewForConfigAndClient(config, client)
	if err != nil {
		return nil, fmt.Errorf("kube: dynamic client: %w", err)
	}
	meta, err := metadata.NewForConfigAndClient(config, client)
	if err != nil {
		return nil, fmt.Errorf("kube: metadata client: %w", err)
	}
	return &Session{serviceAccount: serviceAccount, config: config, http: client, typed: typed, dynamic: dyn, metadata: meta}, nil
}

// ServiceAccount is the name that the session impersonates, "" for alertmedic itself.
func (s *Session) ServiceAccount() string { return s.serviceAccount }

// Typed returns the typed clients.
func (s *Session) Typed() kubernetes.Interface { return s.typed }

// Dynamic returns the client of unstructured objects.
func (s *Session) Dynamic() dynamic.Interface { return s.dynamic }

// Config returns a copy of the session's configuration, impersonation included.
func (s *Session) Config() *rest.Config { return rest.CopyConfig(s.config) }
