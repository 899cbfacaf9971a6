// Package promapi reads the state of alerts from the Alertmanagers and
// Prometheuses that are configured for a source. It is the only client of
// either, it calls no address that a payload names, and it follows no redirect.
//
// What is read decides whether something is changed and whether it has healed,
// so doubt is always "unknown", which denies the one and proves not the other.
package promapi

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"time"

	"github.com/prometheus/client_golang/api"
	promv1 "github.com/prometheus/client_golang/api/prometheus/v1"

	"github.com/alertmedic/alertmedic/internal/alert"
	"github.com/alertmedic/alertmedic/internal/parallel"
)

// Config makes a Reader.
type Config struct {
	// Source is the name of the source, for metrics and errors. Required.
	Source string
	// Alertmanagers are the replicas of the source's Alertmanager. Required.
	Alertmanagers []Endpoint
	// Prometheuses are the replicas that evaluate the rules. Without any, no alert
	// is ever seen to be resolved.
	Prometheuses []Endpoint
	// Receivers are the names of Alertmanager's receivers that lead here: the
	// snapshot leaves out alerts that are routed to none of them. Empty: all
	// alerts, also those that nobody routed here.
	Receivers []string
	// Timeout of one request; default 5 s.
	Timeout time.Duration
	// ListTimeout is that of a Snapshot, for which nobody waits: an Alertmanager
	// that is busy with ten thousand alerts may need longer to list them all than a
	// decision should wait for one of them. Default 30 s; when one has answered the
	// others have Timeout left.
	ListTimeout time.Duration
	// Clock; nil: time.Now.
	Clock func() time.Time
	// OwnSilence tells silences that this service made: they suppress nothing
	// here. nil: there are none.
	OwnSilence func(id string) bool
	// Limits are what an alert of the snapshot must keep to.
	Limits alert.Limits
	// Metrics; nil: none.
	Metrics *Metrics
}

// cacheTTL is how long an answer is shared.
const cacheTTL = time.Second

// Reader reads the state of one source's alerts. It is safe for concurrent use.
type Reader struct {
	cfg           Config
	alertmanagers []*alertmanager
	prometheuses  []*prometheus
}

// New returns a Reader. It makes no request; the error names every problem.
func New(cfg Config) (*Reader, error) {
	if cfg.Timeout <= 0 {
		cfg.Timeout = 5 * time.Second
	}
	if cfg.ListTimeout <= 0 {
		cfg.ListTimeout = 30 * time.Second
	}
	if cfg.Clock == nil {
		cfg.Clock = time.Now
	}
	if cfg.OwnSilence == nil {
		cfg.OwnSilence = func(string) bool { return false }
	}
	var errs []error
	if cfg.Source == "" {
		errs = append(errs, errors.New("no source is named"))
	}
	if len(cfg.Alertmanagers) == 0 {
		errs = append(errs, errors.New("no Alertmanager is configured"))
	}
	r := &Reader{cfg: cfg}
	for i, e := range cfg.Alertmanagers {
		am, err := cfg.alertmanager(e)
		if err != nil {
			errs = append(errs, fmt.Errorf("alertmanagers[%d]: %w", i, err))
			continue
		}
		r.alertmanagers = append(r.alertmanagers, am)
	}
	for i, e := range cfg.Prometheuses {
		p, err := cfg.prometheus(e)
		if err != nil {
			errs = append(errs, fmt.Errorf("prometheuses[%d]: %w", i, err))
			continue
		}
		r.prometheuses = append(r.prometheuses, p)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("reader of source %q: %w", cfg.Source, err)
	}
	return r, nil
}

func (cfg Config) alertmanager(e Endpoint) (*alertmanager, error) {
	client, err := e.client("alertmanager")
	if err != nil {
		return nil, err
	}
	return &alertmanager{
		url: strings.TrimRight(e.URL, "/"), client: client,
		answers: newCache[heldAlerts]("alertmanager "+e.URL, cacheTTL, cfg.Timeout, cfg.Clock),
		count:   cfg.Metrics.counter(cfg.Source, "alertmanager"),
	}, nil
}

func (cfg Config) prometheus(e Endpoint) (*prometheus, error) {
	client, err := e.client("prometheus")
	if err != nil {
		return nil, err
	}
	c, err := api.NewClient(api.Config{Address: e.URL, Client: client})
	if err != nil {
		return nil, err
	}
	return &prometheus{
		url: strings.TrimRight(e.URL, "/"), api: promv1.NewAPI(c), clock: cfg.Clock, close: client.CloseIdleConnections,
		answers: newCache[ruleSet]("prometheus "+e.URL, cacheTTL, cfg.Timeout, cfg.Clock),
		count:   cfg.Metrics.counter(cfg.Source, "prometheus"),
	}, nil
}

// Snapshot lists the alerts that the source's Alertmanagers hold and that are
// neither silenced nor inhibited, as firing, each once, by fingerprint. One
// replica that answers is enough, for the absence of an alert means nothing
// here. Alerts that a webhook with them would have rejected are left out.
func (r *Reader) Snapshot(ctx context.Context) ([]alert.Alert, error) {
	ctx, cancel := context.WithTimeout(ctx, r.cfg.ListTimeout)
	defer cancel()
	// One that says nothing must not cost all of the time when another has answered.
	var once sync.Once
	var enough *time.Timer
	replies := each(r.alertmanagers, func(am *alertmanager) ([]activeAlert, error) {
		items, err := am.active(ctx, r.cfg.Receivers)
		if err == nil {
			once.Do(func() { enough = time.AfterFunc(r.cfg.Timeout, cancel) })
		}
		return items, err
	})
	if enough != nil {
		enough.Stop()
	}
	answered, err := split(replies)
	if len(answered) == 0 {
		return nil, fmt.Errorf("no Alertmanager of source %q answers: %w", r.cfg.Source, err)
	}
	newest := map[string]activeAlert{}
	for _, items := range answered {
		for _, item := range items {
			if old, ok := newest[item.Fingerprint]; !ok || item.UpdatedAt.After(old.UpdatedAt) {
				newest[item.Fingerprint] = item
			}
		}
	}
	out := make([]alert.Alert, 0, len(newest))
	for _, item := range newest {
		if a, rejected := alert.Check(item.alert(), r.cfg.Clock(), r.cfg.Limits); rejected == nil {
			out = append(out, a)
		}
	}
	slices.SortFunc(out, func(a, b alert.Alert) int { return strings.Compare(a.Fingerprint, b.Fingerprint) })
	return out, nil
}

// WatchdogName is the alert that always fires, to show that the way from
// Prometheus to Alertmanager works.
const WatchdogName = "Watchdog"

// Watchdog returns when an Alertmanager of the source last heard of the Watchdog
// alert, zero when none knows it. An error means that none answers.
func (r *Reader) Watchdog(ctx context.Context) (time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, r.cfg.Timeout)
	defer cancel()
	replies := each(r.alertmanagers, func(am *alertmanager) (heldAlerts, error) {
		return am.named(ctx, WatchdogName, time.Time{})
	})
	answered, err := split(replies)
	if len(answered) == 0 {
		return time.Time{}, fmt.Errorf("no Alertmanager of source %q answers: %w", r.cfg.Source, err)
	}
	var latest time.Time
	for _, held := range answered {
		latest = maxTime(latest, held.updated)
	}
	return latest, nil
}

func maxTime(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// Close gives connections back.
func (r *Reader) Close() {
	for _, am := range r.alertmanagers {
		am.client.CloseIdleConnections()
	}
	for _, p := range r.prometheuses {
		p.close()
	}
}

// reply is what one replica answered.
type reply[T any] struct {
	value T
	err   error
}

// each asks all replicas at once.
func each[R, T any](replicas []R, ask func(R) (T, error)) []reply[T] {
	out := make([]reply[T], len(replicas))
	parallel.All(len(replicas), func(i int) { out[i].value, out[i].err = ask(replicas[i]) })
	return out
}

// split returns the values of those that answered and the errors of the others.
func split[T any](replies []reply[T]) ([]T, error) {
	var (
		values []T
		errs   []error
	)
	for _, r := range replies {
		if r.err != nil {
			errs = append(errs, r.err)
			continue
		}
		values = append(values, r.value)
	}
	return values, errors.Join(errs...)
}
