package app

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/exporter-toolkit/web"
	"golang.org/x/sync/errgroup"

	"github.com/alertmedic/alertmedic/internal/api"
	"github.com/alertmedic/alertmedic/receiver"
)

// maxScrapes is how many requests for /metrics are answered at a time.
const maxScrapes = 8

// serve answers requests and works until ctx ends, then stops in order: no new
// webhooks (503, so Alertmanager keeps them), no new claims, requests under way
// finish, the workers finish what they hold.
func (a *app) serve(ctx context.Context, o Options, listener net.Listener) error {
	hook, err := a.newReceiver(o.Limits)
	if err != nil {
		return err
	}
	handler, err := a.routes(hook)
	if err != nil {
		return err
	}
	conns, err := newConnections(a.cfg.Listen.MaxConnections, a.registry)
	if err != nil {
		return fmt.Errorf("register the metrics of connections: %w", err)
	}
	server := &http.Server{Handler: conns.handler(handler, o.Limits.WithDefaults().BodyTimeout), ConnContext: conns.context,
		BaseContext: func(net.Listener) context.Context { return context.WithoutCancel(ctx) }}
	o.Limits.Configure(server)
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		err := web.Serve(conns.listen(listener), server, &web.FlagConfig{WebConfigFile: &a.cfg.Listen.WebConfigFile}, a.log)
		if errors.Is(err, http.ErrServerClosed) {
			return nil
		}
		return fmt.Errorf("serve: %w", err)
	})
	g.Go(func() error { return a.run(gctx, o.Reload) })
	g.Go(func() error { a.trimOnce(gctx); return nil })
	g.Go(func() error {
		<-gctx.Done()
		a.stopping.Store(true)
		hook.Drain()
		a.api.Close() // those who follow the log do not end by themselves
		stop, cancel := context.WithTimeout(context.WithoutCancel(gctx), a.cfg.Engine.DrainTimeout)
		defer cancel()
		if err := server.Shutdown(stop); err != nil {
			return ignoreClosed(server.Close())
		}
		return nil
	})
	a.log.Info("serving", "address", listener.Addr().String(), "cluster", a.cfg.Cluster, "playbooks", a.playbooks.Current().Len(), "store", a.store.Dialect())
	if o.Ready != nil {
		o.Ready(listener.Addr())
	}
	err = g.Wait()
	a.stopped(ctx)
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// startSettles is when all that runs has begun, the first look at the cluster
// included.
const startSettles = 5 * time.Second

// trimOnce gives back what only the start has needed.
func (a *app) trimOnce(ctx context.Context) {
	select {
	case <-ctx.Done():
		return
	case <-time.After(startSettles):
	}
	if err := trim(); err != nil {
		a.log.Debug("memory of the start is not given back; the kernel takes it when it must", "err", err)
	}
}

func (a *app) newReceiver(limits receiver.Limits) (*receiver.Receiver, error) {
	sources := map[string]receiver.Source{}
	for _, s := range a.cfg.Sources {
		sources[s.Name] = receiver.Source{Name: s.Name, Cluster: cmp.Or(s.Cluster, a.cfg.Cluster), Receivers: s.Receivers,
			Namespaces: s.Namespaces, Playbooks: s.Playbooks}
	}
	return receiver.New(receiver.Options{Accepter: a.store, Authenticator: a.auth, Current: func() receiver.Matcher { return a.playbooks.Current() },
		Sources: sources, ExpireAfter: a.cfg.ExpireAfterFor, OnTruncated: func(string) { a.engine.TriggerResync() },
		Logger: a.log, Registerer: a.registry, Limits: limits})
}

// routes mounts everything that is served.
func (a *app) routes(hook *receiver.Receiver) (http.Handler, error) {
	r := chi.NewRouter()
	hook.Routes(r)
	// Metrics name playbooks and reasons, never objects: open, as is usual.
	// A scrape asks the store, so few at a time.
	r.Handle("/metrics", promhttp.HandlerFor(a.registry, promhttp.HandlerOpts{Registry: a.registry, MaxRequestsInFlight: maxScrapes}))
	people, err := api.New(r, api.Options{Store: a.store, Playbooks: a.playbooks.Current, Refused: a.playbooks.Refused, Auth: a.auth, Logger: a.log, Version: a.version,
		Reload: func(ctx context.Context) error { _, err := a.Reload(ctx); return err }, Ready: a.checks(),
		Explain: a.engine.Explain,
		Backup:  a.backup})
	if err != nil {
		return nil, fmt.Errorf("mount the API: %w", err)
	}
	a.api = people
	return r, nil
}

// checks are what /-/ready asks: whether webhooks can be accepted. A cluster that
// is away is not among them: what is accepted meanwhile waits in the store, while
// an instance that is not ready would make Alertmanager hold alerts back.
func (a *app) checks() []api.Check {
	return []api.Check{
		{Name: "serving", Check: func(context.Context) error {
			if a.stopping.Load() {
				return errors.New("stopping")
			}
			return nil
		}},
		{Name: "store", Check: a.store.Ping},
		{Name: "playbooks", Check: func(context.Context) error { return a.playbooks.Refused().Err() }, Advisory: true},
		{Name: "rights", Check: func(context.Context) error { return a.rights.err() }, Advisory: true},
	}
}
