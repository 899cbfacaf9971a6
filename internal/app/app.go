// Package app wires the parts into one process: start, reload, readiness and an
// orderly stop. It decides nothing about alerts or runs.
package app

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	versioncollector "github.com/prometheus/client_golang/prometheus/collectors/version"
	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/alertmedic/alertmedic/internal/api"
	"github.com/alertmedic/alertmedic/internal/auth"
	"github.com/alertmedic/alertmedic/internal/config"
	"github.com/alertmedic/alertmedic/internal/engine"
	"github.com/alertmedic/alertmedic/internal/guard"
	"github.com/alertmedic/alertmedic/internal/journal"
	"github.com/alertmedic/alertmedic/internal/kube"
	"github.com/alertmedic/alertmedic/internal/notify"
	"github.com/alertmedic/alertmedic/internal/promapi"
	"github.com/alertmedic/alertmedic/internal/store"
	"github.com/alertmedic/alertmedic/k8sactions"
	"github.com/alertmedic/alertmedic/playbooks"
	"github.com/alertmedic/alertmedic/receiver"
)

// Options say what to run.
type Options struct {
	Config *config.Config
	Logger *slog.Logger
	// Registry receives every metric; nil makes one with the process and Go
	// collectors.
	Registry *prometheus.Registry
	// Kubernetes overrides the configuration's connection, for tests.
	Kubernetes *rest.Config
	// Listener overrides the configuration's address, for tests.
	Listener net.Listener
	// Reload makes the process read its playbooks and tokens again (SIGHUP).
	Reload <-chan struct{}
	// Ready is called once with the address when requests are answered.
	Ready func(net.Addr)
	// Limits are those of the HTTP server and the webhook; zero fields mean the
	// defaults.
	Limits receiver.Limits
	// Pace is for tests: zero fields mean the defaults.
	Pace Pace
	// Version is reported in the log and the journal.
	Version string
}

// Pace is how soon what waits is looked at again.
type Pace struct {
	Guards  time.Duration // what a guard holds back without knowing until when; 15 s
	Verify  time.Duration // between two looks of a verification; the engine's default
	Backoff time.Duration // the first delay of a retry; the engine's default
}

// app is the running process.
type app struct {
	cfg      *config.Config
	log      *slog.Logger
	registry *prometheus.Registry
	owner    string
	version  string

	store     *store.Store
	kube      *kube.Client
	actions   *k8sactions.Catalogue
	playbooks *playbooks.Manager
	readers   map[string]*promapi.Reader
	auth      *auth.Authenticator
	api       *api.API
	engine    *engine.Engine
	deliverer *notify.Deliverer
	rights    *rights
	stopping  atomic.Bool
}

// Run serves until ctx ends or a part fails for good. It returns nil after an
// orderly stop.
func Run(ctx context.Context, o Options) error {
	a := &app{cfg: o.Config, log: o.Logger, registry: o.Registry, version: o.Version, owner: ownerName()}
	if a.registry == nil {
		a.registry = prometheus.NewRegistry()
		a.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	}
	listener := o.Listener
	if listener == nil {
		// The port first: a taken one is the commonest mistake and the cheapest to find.
		var err error
		listener, err = (&net.ListenConfig{}).Listen(ctx, "tcp", a.cfg.Listen.Address)
		if err != nil {
			return fmt.Errorf("listen on %s: %w; %s", a.cfg.Listen.Address, err, listenRemedy(err))
		}
	}
	var cleanups []func() error
	defer func() {
		for i := len(cleanups) - 1; i >= 0; i-- {
			if err := cleanups[i](); err != nil {
				a.log.Error("stop", "err", err)
			}
		}
	}()
	cleanups = append(cleanups, func() error { return ignoreClosed(listener.Close()) })
	if err := a.open(ctx, o, &cleanups); err != nil {
		return err
	}
	for _, w := range a.cfg.Safety.Warnings() {
		a.log.Warn(w)
	}
	if err := a.start(ctx, o.Pace); err != nil {
		return err
	}
	return a.serve(ctx, o, listener)
}

func listenRemedy(err error) string {
	if errors.Is(err, syscall.EADDRINUSE) {
		return "set listen.address to a free one, or stop what listens there"
	}
	return "set listen.address to an address of this machine and a port that this user may take"
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// ownerName is unique among replicas and restarts: a lease of the process before
// must never look like our own.
func ownerName() string {
	host, err := os.Hostname()
	if err != nil {
		host = "alertmedic"
	}
	return host + "-" + uuid.NewString()[:8]
}

// open makes the parts, the fallible ones that need nothing else first.
func (a *app) open(ctx context.Context, o Options, cleanups *[]func() error) error {
	dsn, err := a.cfg.Store.ResolveDSN()
	if err != nil {
		return err
	}
	a.store, err = store.Open(ctx, store.Options{DSN: dsn, Clock: time.Now, Logger: a.log, FlapDwell: a.cfg.Store.FlapDwell, Registerer: a.registry})
	if err != nil {
		return fmt.Errorf("open the store of store.dsn or store.dsnFile: %w", err)
	}
	*cleanups = append(*cleanups, a.store.Close)
	if err := a.store.Announce(ctx, a.owner, presenceTTL); err != nil {
		return err
	}

	restConfig := o.Kubernetes
	if restConfig == nil {
		if restConfig, err = restConfigOf(a.cfg.Kubernetes); err != nil {
			return err
		}
	}
	k := a.cfg.Kubernetes
	a.kube, err = kube.New(kube.Options{Config: restConfig, Namespace: k.ServiceAccountNamespace, QPS: float32(k.QPS), Burst: k.Burst,
		UserAgent: "alertmedic/" + cmp.Or(a.version, "dev"), Logger: a.log,
		Self: kube.Self{Namespace: os.Getenv("POD_NAMESPACE"), Pod: os.Getenv("POD_NAME"), Node: os.Getenv("NODE_NAME")}})
	if err != nil {
		return fmt.Errorf("connect to Kubernetes: %w", err)
	}
	*cleanups = append(*cleanups, func() error { a.kube.Close(); return nil })
	if a.actions, err = k8sactions.New(clients{a.kube}, k8sactions.Options{}); err != nil {
		return fmt.Errorf("build the actions: %w", err)
	}
	if a.auth, err = a.authenticator(); err != nil {
		return err
	}
	if err := a.openReaders(); err != nil {
		return err
	}
	a.playbooks, err = playbooks.NewManager(playbooks.ManagerOptions{Paths: a.cfg.Playbooks.Paths, Catalogue: a.actions, Logger: a.log,
		Registerer: a.registry, BeforeSwap: a.beforeSwap, OnReload: a.reloaded})
	if err != nil {
		return fmt.Errorf("load the playbooks: %w", err)
	}
	if result, err := a.playbooks.Reload(ctx); err != nil {
		if problems := result.Problems.Err(); problems != nil {
			// A line each, so that every place can be clicked on.
			return fmt.Errorf("load the playbooks:\n%w", problems)
		}
		return fmt.Errorf("load the playbooks: %w", err)
	}
	return nil
}

// restConfigOf connects as the configuration says: in the cluster, or as
// kubectl would.
func restConfigOf(k config.Kubernetes) (*rest.Config, error) {
	if k.Kubeconfig == "" && k.Context == "" {
		cfg, err := rest.InClusterConfig()
		if err == nil {
			return cfg, nil
		}
		if !errors.Is(err, rest.ErrNotInCluster) {
			return nil, fmt.Errorf("connect to Kubernetes from within the cluster: %w", err)
		}
	}
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = k.Kubeconfig
	cfg, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{CurrentContext: k.Context}).ClientConfig()
	if err != nil {
		const remedy = "set kubernetes.kubeconfig in the configuration or $KUBECONFIG, or run in a cluster"
		if clientcmd.IsEmptyConfig(err) {
			return nil, errors.New("no Kubernetes cluster is configured: " + remedy)
		}
		return nil, fmt.Errorf("read how to reach the Kubernetes cluster: %w; %s", err, remedy)
	}
	return cfg, nil
}

// openReaders makes a reader for each source that says where its alerts live.
func (a *app) openReaders() error {
	a.readers = map[string]*promapi.Reader{}
	m, err := promapi.NewMetrics(a.registry)
	if err != nil {
		return err
	}
	for _, s := range a.cfg.Sources {
		if len(s.Alertmanagers)+len(s.Prometheuses) == 0 {
			a.log.Warn("the source has no alertmanagers and prometheuses: the state of its alerts stays unknown, and nothing is done about them", "source", s.Name)
			continue
		}
		r, err := promapi.New(promapi.Config{Source: s.Name, Alertmanagers: endpoints(s.Alertmanagers), Prometheuses: endpoints(s.Prometheuses), Receivers: s.Receivers, Metrics: m})
		if err != nil {
			return fmt.Errorf("sources: %s: %w", s.Name, err)
		}
		a.readers[s.Name] = r
	}
	return nil
}

func endpoints(in []config.Endpoint) []promapi.Endpoint {
	var out []promapi.Endpoint
	for _, e := range in {
		out = append(out, promapi.Endpoint{URL: e.URL, BearerTokenFile: e.BearerTokenFile, CAFile: e.CAFile, InsecureSkipVerify: e.InsecureSkipVerify})
	}
	return out
}

// start makes the parts that rest on the others.
func (a *app) start(ctx context.Context, pace Pace) error {
	if err := unlessDamaged(a.snapshotPlaybooks(ctx, a.playbooks.Current())); err != nil {
		return err
	}
	sources := map[string]engine.Source{}
	for _, s := range a.cfg.Sources {
		src := engine.Source{Name: s.Name, Cluster: cmp.Or(s.Cluster, a.cfg.Cluster), Namespaces: s.Namespaces, Playbooks: s.Playbooks}
		if r, ok := a.readers[s.Name]; ok {
			src.Reader = r
		}
		sources[s.Name] = src
	}
	c := a.cfg
	var err error
	if a.rights, err = newRights(a.registry); err != nil {
		return err
	}
	a.engine, err = engine.New(engine.Options{
		Store: a.store, Cluster: a.kube, Actions: a.actions, Sources: sources, Reporter: a.newReporter(), Playbooks: a.playbooks.Current,
		Matched: receiver.Matched(c.ExpireAfterFor), Limits: c.LimitsFor, Mode: c.Safety.Mode, ExpireAfter: c.ExpireAfterFor,
		GuardConfig:           guard.Config{ProtectedNamespaces: c.Safety.ProtectedNamespaces, RetryEvery: cmp.Or(pace.Guards, 15*time.Second)},
		Controllers:           append(kube.Controllers(), c.Safety.HumanActivity.IgnoreManagers...),
		Protect:               kube.ProtectConfig{Namespaces: c.Safety.ProtectedNamespaces, PodSelectors: c.Safety.ProtectedSelectors},
		DefaultServiceAccount: c.Kubernetes.DefaultServiceAccountName, Owner: a.owner,
		Workers: c.Engine.Workers, Lease: c.Engine.Lease, CallTimeout: c.Engine.CallTimeout, ServerTimeout: c.Kubernetes.RequestTimeout, Poll: c.Engine.Poll,
		VerifyEvery: pace.Verify, Backoff: pace.Backoff, UnknownExtension: c.Engine.UnknownExtension, Resync: c.Engine.ResyncInterval, Logger: a.log, Registerer: a.registry,
	})
	if err != nil {
		return err
	}
	if a.deliverer, err = a.newDeliverer(); err != nil {
		return err
	}
	own := []prometheus.Collector{newStateCollector(a.store), versioncollector.NewCollector("alertmedic")}
	for _, c := range own {
		if err := a.registry.Register(c); err != nil {
			return fmt.Errorf("register the metrics of the process: %w", err)
		}
	}
	return unlessDamaged(a.journal(ctx, journal.Entry{Kind: journal.ServiceStarted, Actor: a.owner, Cluster: c.Cluster,
		Message: fmt.Sprintf("version %s, %d playbooks, %s", cmp.Or(a.version, "dev"), a.playbooks.Current().Len(), a.store.Dialect())}))
}

// unlessDamaged passes over what could not be written because the database was
// found damaged: the check beside the start may be quicker than the start, and the
// process stays to say so, as it does when the check is slower.
func unlessDamaged(err error) error {
	if errors.Is(err, store.ErrCorrupt) {
		return nil // the store has told of the damage, and whenSound begins nothing
	}
	return err
}

func (a *app) journal(ctx context.Context, en journal.Entry) error {
	if err := a.store.Append(ctx, en); err != nil {
		return fmt.Errorf("write the journal: %w", err)
	}
	return nil
}

// snapshotPlaybooks stores what is loaded, so that a run can be carried on with
// the playbook that it began with.
func (a *app) snapshotPlaybooks(ctx context.Context, set *playbooks.Set) error {
	for _, pb := range set.All() {
		if err := a.store.PutPlaybook(ctx, pb.Hash, pb.Doc); err != nil {
			return fmt.Errorf("store the snapshot of playbook %s: %w", pb.Name, err)
		}
	}
	return nil
}

// run works until ctx ends: each part in its own goroutine, the first failure
// stops all.
func (a *app) run(ctx context.Context, reload <-chan struct{}) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return a.whenSound(ctx, a.engine.Run) })
	g.Go(func() error { return a.deliverer.Run(ctx) })
	g.Go(func() error { return a.checkpoints(ctx) })
	g.Go(func() error { return a.presence(ctx) })
	g.Go(func() error { return a.whenSound(ctx, a.retention) })
	g.Go(func() error { return a.reviewRights(ctx) })
	g.Go(func() error {
		if err := a.kube.Ping(ctx); err != nil && ctx.Err() == nil {
			a.log.Warn("the cluster does not answer; webhooks are kept, and what they ask for waits until it does: see kubernetes in the configuration", "err", err)
		}
		return nil
	})
	g.Go(func() error {
		if err := a.kube.WatchNodes(ctx); err != nil && ctx.Err() == nil {
			return fmt.Errorf("watch the nodes: %w", err)
		}
		return nil
	})
	if a.cfg.Playbooks.Watch {
		g.Go(func() error { a.playbooks.Watch(ctx); return nil })
	}
	g.Go(func() error {
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-reload:
				if _, err := a.Reload(ctx); err != nil {
					a.log.Error("reload; what was loaded before stays in force", "err", err)
				}
			}
		}
	})
	return g.Wait()
}

// whenSound does nothing until the store is known to be undamaged: a lock or a
// cooldown that cannot be read is one that would not be kept. Where it is damaged
// the process stays, so that /-/ready and the API can say so.
func (a *app) whenSound(ctx context.Context, run func(context.Context) error) error {
	if err := a.store.Sound(ctx); err != nil {
		return nil //nolint:nilerr // the store has told of the damage; or ctx has ended
	}
	return run(ctx)
}
