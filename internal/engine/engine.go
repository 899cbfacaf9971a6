// Package engine is the run state machine: it resolves candidates into runs,
// plans remedies, asks the guards, carries out steps, verifies and climbs the
// ladder. Everything it knows is rows of the store: a worker claims a run under
// a lease, moves it on by transitions, each of which is one fenced transaction,
// and lets go of it. Waiting is a due time, never a goroutine, so a crash at any
// instruction leaves a run that another worker goes on with.
package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/alertmedic/alertmedic/internal/action"
	"github.com/alertmedic/alertmedic/internal/alert"
	"github.com/alertmedic/alertmedic/internal/guard"
	"github.com/alertmedic/alertmedic/internal/journal"
	"github.com/alertmedic/alertmedic/internal/kube"
	"github.com/alertmedic/alertmedic/internal/parallel"
	"github.com/alertmedic/alertmedic/internal/store"
	"github.com/alertmedic/alertmedic/playbooks"
)

// Cluster is what the engine reads of Kubernetes; *kube.Client is one.
type Cluster interface {
	Resolve(ctx context.Context, req kube.Request) (kube.Resolved, error)
	Health(ctx context.Context, t action.Target) (kube.Health, error)
	Evidence(ctx context.Context, req kube.EvidenceRequest) guard.Evidence
	Facts(ctx context.Context, t action.Target) (playbooks.Facts, map[string]any, error)
	CheckRules(ctx context.Context, serviceAccount, namespace string, rules []action.Rule) (missing []string, err error)
}

// Actions plans and carries out steps; *k8sactions.Catalogue is one.
type Actions interface {
	playbooks.Catalogue
	Plan(ctx context.Context, req action.Request) (action.Plan, error)
	Apply(ctx context.Context, plan action.Plan, state []byte) (action.Result, error)
	Observe(ctx context.Context, plan action.Plan, state []byte) (action.Observation, error)
	Revert(ctx context.Context, plan action.Plan, state []byte) (action.Result, error)
}

// AlertReader reads the state of alerts from one source's own Alertmanager and
// Prometheus; *promapi.Reader is one.
type AlertReader interface {
	// State tells about one alert; a resolution counts only when Prometheus has
	// evaluated the rule after since.
	State(ctx context.Context, a alert.Alert, since time.Time) guard.AlertEvidence
	// Snapshot lists the alerts that Alertmanager holds as active.
	Snapshot(ctx context.Context) ([]alert.Alert, error)
	// Watchdog is when the alert that always fires was last heard of, zero when
	// none is known; an error means that nobody answers.
	Watchdog(ctx context.Context) (time.Time, error)
}

// Source is what the engine must know of an alert's sender.
type Source struct {
	Name       string
	Cluster    string
	Namespaces []string
	Playbooks  []string
	Reader     AlertReader // nil: the state of its alerts is unknown, which denies
}

// Reporter turns what happens in a run into messages for people. Its messages
// are written in the transaction of what they tell.
type Reporter interface {
	Messages(r Report) []store.Message
	// StormMessages are those of a storm, for all the runs that it holds.
	StormMessages(s Storm) []store.Message
}

// Options are the parts that an Engine is made of. All are required but those
// that say what their absence means.
type Options struct {
	Store    *store.Store
	Cluster  Cluster
	Actions  Actions
	Sources  map[string]Source
	Reporter Reporter // nil: nobody is told
	// Playbooks is the current set: the resync matches alerts against it. Runs
	// execute the snapshot that they were created with.
	Playbooks func() *playbooks.Set
	// Matched says what accept records about matching playbooks; the receiver
	// and the resync share it.
	Matched func([]*playbooks.Playbook) []store.MatchedPlaybook
	// Limits merges the configuration's caps, a playbook's and a remedy's; both may
	// be nil.
	Limits func(*playbooks.Playbook, *playbooks.Remedy) guard.Limits
	// Mode is the loosest mode that the configuration allows.
	Mode guard.Mode
	// ExpireAfter is how long after its alert a run of a playbook may start, and how
	// long after its last change one may be held back; nil is an hour.
	ExpireAfter func(*playbooks.Playbook) time.Duration
	Guards      []guard.Guard // nil: guard.List()
	GuardConfig guard.Config
	Protect     kube.ProtectConfig
	// Controllers are glob patterns of field managers that are no person; nil is
	// kube.Controllers().
	Controllers []string
	// DefaultServiceAccount is impersonated when a playbook names none.
	DefaultServiceAccount string

	Owner   string // names this process: unique among replicas and restarts
	Workers int    // runs and candidates worked on at once; default 8
	// Lease is how long a claim outlives the last sign of its process; default
	// 3s. It is renewed three times in its length, so a call may last longer.
	Lease       time.Duration
	CallTimeout time.Duration // of one call of an action; default 20s
	// Poll is how often to look for due work that another process left;
	// default 1s. Work made by this process is seen at once.
	Poll time.Duration
	// VerifyEvery is the time between two looks of a verification; default 5s.
	VerifyEvery time.Duration
	// UnknownExtension is how long a verification whose verdict is unknown goes
	// on, once; default 5m.
	UnknownExtension time.Duration
	// Resync is the time between two readings of every source; default 1m.
	Resync time.Duration
	// ServerTimeout is the API server's request timeout: only so long after a
	// call's deadline may its effect be called absent. Default 60s.
	ServerTimeout time.Duration
	// Backoff is the first delay of a retry, doubled up to 32 times of it;
	// default 2s.
	Backoff time.Duration

	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// Engine works on candidates and runs. Start it with Run.
type Engine struct {
	Options
	m        *metrics
	compiled snapshots
	resync   chan struct{}
	leases   *leases
	resynced resyncedSources
	readings readings
	// resolving counts the slots that candidates have.
	resolving atomic.Int32
	stormy    chan struct{}
	// both does two things at once; tests whose script wants an order set it.
	both func(a, b func())
}

// New checks the options and names what is missing.
func New(o Options) (*Engine, error) {
	var missing []error
	need := func(ok bool, name string) {
		if !ok {
			missing = append(missing, fmt.Errorf("engine: Options.%s is missing", name))
		}
	}
	need(o.Store != nil, "Store")
	need(o.Cluster != nil, "Cluster")
	need(o.Actions != nil, "Actions")
	need(o.Playbooks != nil, "Playbooks")
	need(o.Limits != nil, "Limits")
	need(o.Matched != nil, "Matched")
	need(o.Owner != "", "Owner")
	need(o.Logger != nil, "Logger")
	need(o.Registerer != nil, "Registerer")
	if err := errors.Join(missing...); err != nil {
		return nil, err
	}
	o.Workers = cmp.Or(o.Workers, 8)
	o.Lease = cmp.Or(o.Lease, 3*time.Second)
	o.CallTimeout = cmp.Or(o.CallTimeout, 20*time.Second)
	o.Poll = cmp.Or(o.Poll, time.Second)
	o.VerifyEvery = cmp.Or(o.VerifyEvery, 5*time.Second)
	o.UnknownExtension = cmp.Or(o.UnknownExtension, 5*time.Minute)
	o.Resync = cmp.Or(o.Resync, time.Minute)
	o.ServerTimeout = cmp.Or(o.ServerTimeout, time.Minute)
	o.Backoff = cmp.Or(o.Backoff, 2*time.Second)
	if o.ExpireAfter == nil {
		o.ExpireAfter = func(*playbooks.Playbook) time.Duration { return time.Hour }
	}
	o.Mode = cmp.Or(o.Mode, guard.Auto)
	if o.Guards == nil {
		o.Guards = guard.List()
	}
	m, err := newMetrics(o.Registerer)
	if err != nil {
		return nil, err
	}
	return &Engine{Options: o, m: m, resync: make(chan struct{}, 1), stormy: make(chan struct{}, 1), leases: newLeases(o.Lease),
		both: parallel.Both}, nil
}

// TriggerResync asks for a reading of every source soon, because a webhook said
// that it does not carry every alert. It never blocks.
func (e *Engine) TriggerResync() {
	select {
	case e.resync <- struct{}{}:
	default:
	}
}

// Run works until ctx ends, then finishes the transitions that are in flight
// and gives the leases back. The first reading of the sources comes before the
// first run, so that no decision rests on what was true before a restart; where
// it takes long, guards hold what it would tell about until it is there.
func (e *Engine) Run(ctx context.Context) error {
	e.firstResync(ctx)
	slots := make(chan struct{}, e.Workers)
	freed := make(chan struct{}, 1)
	var workers sync.WaitGroup
	// The leases are renewed until the last worker has ended, also when ctx has.
	renewing, renewed := context.WithCancel(context.WithoutCancel(ctx))
	var renewer sync.WaitGroup
	renewer.Go(func() { e.renewLoop(renewing) })
	defer renewer.Wait()
	defer renewed()
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return e.resyncLoop(gctx) })
	g.Go(func() error { return e.stormLoop(gctx) })
	g.Go(func() error { return e.sealLoop(gctx) })
	g.Go(func() error {
		defer workers.Wait()
		for {
			changed := e.Store.Changed()
			busy, err := e.claim(gctx, slots, freed, &workers)
			if gctx.Err() != nil {
				return nil
			}
			if err != nil {
				e.m.claimErrors.Inc()
				e.Logger.Error("claim due work; trying again", "err", err, "after", e.Poll)
			}
			if busy {
				continue
			}
			if err := e.waitForWork(gctx, changed, freed); err != nil {
				return nil // the context ended
			}
		}
	})
	return g.Wait()
}

// waitForWork returns when something may be due.
func (e *Engine) waitForWork(ctx context.Context, changed, freed <-chan struct{}) error {
	poll := time.NewTimer(e.Poll)
	defer poll.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-changed:
	case <-freed:
	case <-poll.C:
	}
	return nil
}

// claim takes as much due work as there are free slots and reports whether
// there may be more.
func (e *Engine) claim(ctx context.Context, slots, freed chan struct{}, workers *sync.WaitGroup) (bool, error) {
	free := cap(slots) - len(slots)
	if free == 0 {
		return false, nil
	}
	launch := func(work func()) {
		slots <- struct{}{}
		workers.Go(func() {
			defer func() {
				<-slots
				select {
				case freed <- struct{}{}:
				default:
				}
			}()
			work()
		})
	}
	resolve := func(most int) (int, error) {
		if most <= 0 {
			return 0, nil
		}
		cands, err := e.Store.ClaimCandidates(ctx, e.Owner, e.Lease, most)
		if err != nil {
			return 0, fmt.Errorf("claim candidates: %w", err)
		}
		for _, c := range cands {
			e.resolving.Add(1)
			launch(func() {
				defer e.resolving.Add(-1)
				held := e.leases.hold(ctx, c.ID, claim{candidate: c})
				defer e.leases.drop(c.ID, held)
				e.resolve(ctx, c)
			})
		}
		return len(cands), nil
	}
	// What has begun is finished before more begins, but for a quarter of the
	// slots: in a storm the runs that are held ask again and again, and what they
	// wait for may be told by the alerts behind them.
	kept := min(free, cap(slots)/4-int(e.resolving.Load()))
	first, err := resolve(kept)
	if err != nil {
		return false, err
	}
	free -= first
	var runs []store.Run
	if free > 0 {
		if runs, err = e.Store.ClaimRuns(ctx, e.Owner, e.Lease, free); err != nil {
			return false, fmt.Errorf("claim runs: %w", err)
		}
		for _, run := range runs {
			launch(func() { e.drive(ctx, run) })
		}
		free -= len(runs)
	}
	more := 0
	if free > 0 && (first == kept || kept <= 0) { // else there is no other
		if more, err = resolve(free); err != nil {
			return false, err
		}
	}
	return first+len(runs)+more > 0 && free > more, nil
}

// sealPause is how long entries may wait for others that are sealed with them. A
// seal is a transaction with an fsync of its own: one after each commit would
// take as much of the database as the commits do, and be in the way of a run's
// next step.
const sealPause = 50 * time.Millisecond

// sealLoop gives the journal its order; the store lets one process at a time.
func (e *Engine) sealLoop(ctx context.Context) error {
	for {
		changed := e.Store.Changed()
		n, err := e.Store.Seal(ctx, e.Owner)
		if ctx.Err() != nil {
			// What this process wrote last is sealed before it goes, if possible.
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
			defer cancel()
			if _, err := e.Store.Seal(last, e.Owner); err != nil {
				e.Logger.Warn("seal the journal at shutdown; the next process does it", "err", err)
			}
			return nil
		}
		if err != nil {
			e.Logger.Error("seal the journal; trying again", "err", err, "after", e.Poll)
		}
		if n == store.SealBatch {
			continue
		}
		// When the context ends meanwhile, the branch above ends the loop.
		if n > 0 || e.waitForWork(ctx, changed, nil) == nil {
			pause(ctx, sealPause)
		}
	}
}

// pause waits, or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// Report is what a Reporter is told.
type Report struct {
	Run      store.Run
	Playbook *playbooks.Playbook
	Alerts   []alert.Alert
	Steps    []store.Step
	Rungs    []string // "restart-pod: not-healed (…)"
	Event    journal.Kind
	Message  string
	PlanHash string // while an approval is asked for
	// SlackChannel is the playbook's own, "" for the configuration's.
	SlackChannel string
	At           time.Time
}
