package engine

import (
	"context"
	"database/sql"
	"errors"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/model"
	"github.com/stretchr/testify/require"
	"golang.org/x/time/rate"

	"github.com/alertmedic/alertmedic/internal/alert"
	"github.com/alertmedic/alertmedic/internal/guard"
	"github.com/alertmedic/alertmedic/internal/journal"
	"github.com/alertmedic/alertmedic/internal/notify"
	"github.com/alertmedic/alertmedic/internal/store"
	"github.com/alertmedic/alertmedic/playbooks"
)

// process is one life of the service, from its start to its death or its end.
type process struct {
	life   *life
	gate   *gate
	store  *store.Store
	engine *Engine
	notify []*notify.Deliverer
	outbox *drained
}

// life is a service that is started again after each death, on what it left.
type life struct {
	t      testing.TB
	db     database
	out    *outer
	set    *playbooks.Set
	todo   []happening
	tried  bool  // the first of them has happened, perhaps unheard
	dieAt  []int // of each process in turn; those after live on
	owners int
	died   []point
	again  []string                // what may be in Slack twice
	began  []map[string]store.Step // at each start: the steps whose fate is open
	calls  []*sent                 // at each start: the call that may have been under way
	call   *sent
	heads  []journal.Head // as they were sealed
	traces [][]point
	ended  *sql.DB
}

// happening is what the world does to the service, again and again until it is
// told that it was taken in.
type happening struct {
	when func(l *life, p *process) bool // asked until it has happened once
	do   func(p *process) error
}

const (
	turnLength = 10 * time.Second
	maxTurns   = 400
)

// run lets time go by until everything has happened and all work is done.
func (l *life) run() {
	l.t.Helper()
	var p *process
	for range maxTurns {
		if p == nil {
			p = l.start()
		}
		if p != nil {
			p.turn()
		}
		switch {
		case p == nil:
			continue // died at its start; the next one begins at once
		case p.gate.died():
			l.bury(p)
			p = nil
			continue
		case len(l.todo) == 0 && p.settled():
			l.bury(p)
			return
		}
		l.out.now = l.out.now.Add(turnLength)
	}
	l.t.Fatalf("the service does not come to rest; died at %v", l.died)
}

func (l *life) start() *process {
	l.t.Helper()
	g := &gate{dieAt: -1, onDeath: func() { l.db.died(l.t) }, clock: func() time.Time { return l.out.now }}
	if l.owners < len(l.dieAt) {
		g.dieAt = l.dieAt[l.owners]
	}
	l.owners++
	p := &process{life: l, gate: g}
	var err error
	p.store, err = store.Open(context.Background(), store.Options{DSN: l.db.dsn(), Clock: g.clock, FlapDwell: 2 * time.Minute, Wrap: g.tap, MaxOpen: 2})
	if g.died() {
		if err == nil {
			_ = p.store.Close()
		}
		l.buried(g)
		return nil
	}
	require.NoError(l.t, err)
	l.began, l.calls = append(l.began, p.open()), append(l.calls, l.call)
	w := inside{l.out, g, func() *store.Store { return p.store }}
	p.engine, err = New(Options{
		Store: p.store, Cluster: w, Actions: w, Owner: "worker-" + string(rune('a'+l.owners)), Logger: slog.New(slog.DiscardHandler),
		Registerer: prometheus.NewRegistry(), Reporter: w, Sources: map[string]Source{"am": {Name: "am", Cluster: "c1", Reader: w}},
		Playbooks: func() *playbooks.Set { return l.set }, Matched: matched,
		Limits: func(*playbooks.Playbook, *playbooks.Remedy) guard.Limits {
			return scriptedLimits(5)
		},
		// Time stands still between two turns, but for what measures a lease in this
		// process: it must not run out on a slow machine.
		Lease: 30 * time.Second, VerifyEvery: turnLength,
	})
	require.NoError(l.t, err)
	p.engine.resynced.add("am")
	p.engine.both = func(a, b func()) { a(); b() } // points are counted in one order
	p.outbox = &drained{Store: p.store}
	slack, err := notify.NewSlackSender(notify.SlackOptions{TokenFile: l.db.token(), KV: p.outbox, Client: &http.Client{Transport: w}, Limit: rate.Inf})
	require.NoError(l.t, err)
	for _, s := range []notify.Sender{slack, &notify.EventSender{Emitter: w}} {
		d, err := notify.NewDeliverer(notify.Options{Outbox: p.outbox, Senders: []notify.Sender{s}, Owner: p.engine.Owner,
			Logger: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry(), Now: g.clock})
		require.NoError(l.t, err)
		p.notify = append(p.notify, d)
	}
	p.engine.resyncAll(context.Background())
	if g.died() {
		l.bury(p)
		return nil
	}
	return p
}

// bury closes what is left of a process; nothing of it can write any more.
func (l *life) bury(p *process) {
	if err := p.store.Close(); !p.gate.died() {
		require.NoError(l.t, err)
	}
	l.buried(p.gate)
}

func (l *life) buried(g *gate) {
	l.traces = append(l.traces, g.trace)
	if g.call != nil || g.admitted {
		l.call = g.call
	}
	if g.died() {
		l.died = append(l.died, g.trace[len(g.trace)-1])
		l.again = append(l.again, g.unrecorded...)
	}
}

// open returns the steps of unknown fate, as the process finds them.
func (p *process) open() map[string]store.Step {
	out := map[string]store.Step{}
	for _, r := range p.runs() {
		steps, err := p.store.Steps(outside{}, r.ID)
		require.NoError(p.life.t, err)
		for _, s := range steps {
			if s.Status == store.StepIntended || s.Reverting && s.Status == store.StepDone {
				out[s.RunID+" "+s.RemedyName+"/"+s.Name] = s
			}
		}
	}
	return out
}

func (p *process) runs() []store.Run {
	runs, _, err := p.store.Runs(outside{}, store.RunFilter{}, store.Page{Limit: 100})
	require.NoError(p.life.t, err)
	return runs
}

// turn does what is due, one thing after the other, so that every life of the
// service passes the same points.
func (p *process) turn() {
	ctx := context.Background()
	for len(p.life.todo) > 0 && (p.life.tried || p.life.todo[0].when(p.life, p)) {
		p.life.tried = true
		if p.life.todo[0].do(p) != nil {
			break
		}
		p.life.todo, p.life.tried = p.life.todo[1:], false
	}
	var workers sync.WaitGroup
	slots, worked := make(chan struct{}, 1), make(chan struct{}, 1)
	for range 1000 {
		if _, err := p.engine.claim(ctx, slots, worked, &workers); err != nil || p.gate.died() {
			workers.Wait()
			break
		}
		workers.Wait()
		select {
		case <-worked:
			continue
		default:
		}
		break
	}
	for !p.gate.died() {
		n, err := p.store.Seal(ctx, p.engine.Owner)
		if n == 0 || err != nil {
			break
		}
		seq, hash, err := p.store.LastSealed(outside{})
		require.NoError(p.life.t, err)
		p.life.heads = append(p.life.heads, journal.Head{Seq: seq, Hash: hash})
	}
	for _, d := range p.notify {
		if p.gate.died() {
			return
		}
		ctx, cancel := context.WithCancel(ctx)
		p.outbox.empty = cancel
		require.NoError(p.life.t, d.Run(ctx))
		cancel()
	}
}

// settled reports whether nothing is left to do.
func (p *process) settled() bool {
	for _, r := range p.runs() {
		if r.Phase != store.Done {
			return false
		}
	}
	pending, err := p.store.PendingMessages(outside{})
	require.NoError(p.life.t, err)
	unsealed, _, err := p.store.Unsealed(outside{})
	require.NoError(p.life.t, err)
	_, waiting, err := p.store.NextDue(outside{})
	require.NoError(p.life.t, err)
	return len(pending) == 0 && unsealed == 0 && !waiting
}

// drained is the outbox, which ends a delivery when there is nothing to deliver
// or nothing to be had.
type drained struct {
	*store.Store
	empty context.CancelFunc
}

func (d *drained) ClaimMessages(ctx context.Context, channel, owner string, ttl time.Duration, limit int) ([]store.Message, error) {
	ms, err := d.Store.ClaimMessages(ctx, channel, owner, ttl, limit)
	if err != nil || len(ms) == 0 {
		d.empty()
	}
	return ms, err
}

func (d *drained) GetKV(ctx context.Context, key string) (string, bool, error) {
	v, err := d.GetValue(ctx, key)
	if errors.Is(err, store.ErrNotFound) {
		return "", false, nil
	}
	return v, err == nil, err
}

func (d *drained) SetKV(ctx context.Context, key, value string) error {
	return d.SetValue(ctx, key, value)
}

// report sends an alert as Alertmanager does. What was answered with a 200 is not
// sent again; anything else is.
func report(status alert.Status, target string, more ...string) func(*process) error {
	return func(p *process) error {
		l := p.life
		labels := map[string]string{"alertname": "Broken", "target": target, "namespace": "shop"}
		for i := 0; i+1 < len(more); i += 2 {
			labels[more[i]] = more[i+1]
		}
		ls := model.LabelSet{}
		for k, v := range labels {
			ls[model.LabelName(k)] = model.LabelValue(v)
		}
		a := alert.Alert{Status: status, Labels: labels, StartsAt: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC), Fingerprint: ls.Fingerprint().String()}
		l.out.firing[a.Fingerprint] = a
		if status == alert.Resolved {
			a.EndsAt = l.out.now
			delete(l.out.firing, a.Fingerprint)
		}
		_, err := p.store.Accept(context.Background(), store.Batch{Observations: []store.Observation{
			{Source: "am", Cluster: "c1", Alert: a, Playbooks: matched(l.set.Match(labels))}}})
		return err
	}
}

// decide is a person who looks at what is asked and answers, again if they were
// not told that the answer was taken.
func decide(yes bool) func(*process) error {
	return func(p *process) error {
		for _, r := range p.runs() {
			if r.Wait != store.WaitApproval {
				continue
			}
			ap, err := p.store.PendingApproval(context.Background(), r.ID)
			if errors.Is(err, store.ErrNoApproval) && strings.Contains(err.Error(), "ada has") {
				return nil // the answer was taken, and only that was not said
			}
			if err != nil {
				return err
			}
			_, err = p.store.Decide(context.Background(), store.Decision{RunID: r.ID, Approve: yes, PlanHash: ap.PlanHash, By: "ada", Why: "looks right"})
			return err
		}
		return nil // it went on before this could be asked: the answer was taken
	}
}

// database is one that a service is started on, again and again.
type database interface {
	fresh(t testing.TB)
	dsn() string
	token() string
	died(t testing.TB) // keeps what a death leaves behind
	end() (driver, dsn string)
}

// sqliteFile is a database file. A death leaves the files as they are at that
// instant; the next life goes on with a copy of them, which no remnant of the
// life before can touch.
type sqliteFile struct {
	dir, template string
	n             int
}

func (f *sqliteFile) place() string { return filepath.Join(f.dir, "life-"+string(rune('a'+f.n))) }
func (f *sqliteFile) dsn() string   { return filepath.Join(f.place(), "medic.db") }
func (f *sqliteFile) token() string { return filepath.Join(f.template, "token") }

func (f *sqliteFile) fresh(t testing.TB) {
	require.NoError(t, os.RemoveAll(f.dir))
	f.n = 0
	copyFiles(t, f.template, f.place())
}

func (f *sqliteFile) died(t testing.TB) {
	from := f.place()
	f.n++
	copyFiles(t, from, f.place())
}

// copyFiles copies a database, but for what the next process makes anew.
func copyFiles(t testing.TB, from, to string) {
	require.NoError(t, os.MkdirAll(to, 0o755))
	all, err := os.ReadDir(from)
	require.NoError(t, err)
	for _, e := range all {
		if strings.HasSuffix(e.Name(), "-shm") {
			continue
		}
		data, err := os.ReadFile(filepath.Join(from, e.Name()))
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(to, e.Name()), data, 0o600))
	}
}
