package durability

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alertmedic/alertmedic/internal/api/client"
	"github.com/alertmedic/alertmedic/internal/journal"
	"github.com/alertmedic/alertmedic/internal/store"
	"github.com/alertmedic/alertmedic/internal/testcluster"
)

// soaking reports whether the long forms are asked for.
func soaking() bool { return os.Getenv("ALERTMEDIC_SOAK") != "" }

// One process on SQLite and three on PostgreSQL are killed again and again, at
// random and in the midst of changes, while alerts come in and the way to the
// API server fails in every manner. Then everything is accounted for.
func TestKillSQLite(t *testing.T) {
	t.Parallel()
	killed(t, filepath.Join(t.TempDir(), "medic.db"), 1)
}

func TestKillPostgres(t *testing.T) {
	t.Parallel()
	killed(t, database(t), 3)
}

// database is a fresh one, of the test run's PostgreSQL or of one for this test.
func database(t *testing.T) string {
	t.Helper()
	if dsn, ok := testcluster.Database(t); ok {
		return dsn
	}
	pg, err := testcluster.StartPostgres(t.Context(), testcluster.PostgresOptions{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, pg.Stop()) })
	return pg.DSN
}

// trial is one test under way.
type trial struct {
	t        *testing.T
	dsn      string
	proxy    *APIProxy
	relay    *Relay
	world    *world
	replicas []*Process
	random   *rand.Rand
	since    time.Time
	least    int // changes that must have been made for the trial to prove anything

	mu    sync.Mutex
	armed Moment // do how to the process of the next change at this moment
	how   string
	do    func(*Process) error
	shot  chan struct{}
	kills []Kill
}

// killed runs one trial. The seed is in the log; ALERTMEDIC_SEED sets it. The
// same seed makes the same choices, though not at the same instants.
func killed(t *testing.T, dsn string, replicas int) {
	kills, each, most, least, limit := 6, 1, 7, 1, 6*time.Minute
	if soaking() {
		kills, each, most, least, limit = 200, 4, 16, 50, 10*time.Minute
	}
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("ALERTMEDIC_SEED"); s != "" {
		_, err := fmt.Sscan(s, &seed)
		require.NoError(t, err)
	}
	t.Logf("ALERTMEDIC_SEED=%d", seed)
	k := &trial{t: t, dsn: dsn, least: least, random: rand.New(rand.NewPCG(seed, 2)), since: time.Now()}
	cluster := testcluster.Shared(t)
	k.proxy = NewAPIProxy(t, cluster, 0)
	k.proxy.DropLate()
	k.relay = NewRelay(t, seed)
	monitoring := StartMonitoring(t, cluster, k.relay.URL, alerts()...)
	k.world = newWorld(t, cluster, monitoring, each, rand.New(rand.NewPCG(seed, 3)))
	k.start(replicas, monitoring)

	k.proxy.Choose(faults(rand.New(rand.NewPCG(seed, 4))))
	k.proxy.Watch(func(c Call, m Moment) {
		k.world.vanish(c, m)
		k.strike(c, m)
	})
	var going sync.WaitGroup
	living, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	var end sync.Once
	halt := func() { end.Do(func() { stop(); going.Wait() }) }
	defer halt()
	var limitMu sync.Mutex
	troubles := func() int { limitMu.Lock(); defer limitMu.Unlock(); return most }
	var failed error
	going.Go(func() { failed = k.world.run(living, troubles) })

	k.waitForChange()
	// The first is in the midst of a change, so that there is something to take over.
	require.True(t, k.await(Arrived, "killed: "+string(Arrived), 5*time.Minute, (*Process).Kill), "no change was asked for")
	k.revive()
	for range kills - 1 {
		k.disturb()
		k.kill()
	}
	limitMu.Lock()
	most = 0
	limitMu.Unlock()
	k.proxy.Choose(nil)
	k.proxy.Watch(nil)
	k.drain(limit)
	halt()
	require.NoError(t, failed)
	k.account(cluster)
}

func (k *trial) start(replicas int, m *Monitoring) {
	var urls []string
	for i := range replicas {
		name := fmt.Sprintf("medic-%d", i)
		p := StartProcess(k.t, Options{Name: name, DSN: k.dsn, Kubeconfig: k.proxy.Kubeconfig(k.t, name),
			Alertmanager: m.AlertmanagerURL(0), Prometheus: m.PrometheusURL(0), Playbooks: loadPlaybooks()})
		k.replicas = append(k.replicas, p)
		urls = append(urls, p.URL)
	}
	k.relay.To(urls...)
}

// faults chooses what happens on the way to the API server: about every third
// change and every tenth read is disturbed.
func faults(random *rand.Rand) func(Call) Fault {
	var mu sync.Mutex
	return func(c Call) Fault {
		mu.Lock()
		defer mu.Unlock()
		var f Fault
		n := random.IntN(100)
		if !c.Change {
			switch {
			case n < 5:
				f.Delay = time.Duration(random.Int64N(int64(300 * time.Millisecond)))
			case n < 7:
				f.Cut = CutBefore
			case n < 8:
				f.Status = 503
			case n < 9:
				f.Status = 500
			case n < 10:
				f.Status = 429
			}
			return f
		}
		switch {
		case strings.Contains(c.Path, "/deployments/vanish-"):
			f.Cut = CutBefore // see world.vanish
		case n < 8:
			f.Cut = CutBefore
		case n < 16:
			f.Cut = CutAfter
		case n < 19:
			f.Status = 500
		case n < 22:
			f.Status, f.Late = 500, true
		case n < 25:
			f.Status = 503
		case n < 28:
			f.Status, f.Late = 503, true
		case n < 31:
			f.Status = 429
		case n < 34:
			f.Status = 409
		}
		if random.IntN(5) == 0 {
			f.Delay = time.Duration(random.Int64N(int64(time.Second)))
		}
		return f
	}
}

// waitForChange waits until the first change is on its way, so that what is
// killed is at work.
func (k *trial) waitForChange() {
	k.t.Helper()
	ctx, cancel := context.WithTimeout(k.t.Context(), 5*time.Minute)
	defer cancel()
	require.NoError(k.t, testcluster.Poll(ctx, func(context.Context) (bool, error) { return len(k.proxy.Calls()) > 0, nil }), "no change was asked for")
}

// strike does what the trial waits to do to the process that makes a change.
func (k *trial) strike(c Call, m Moment) {
	k.mu.Lock()
	if k.armed != m || c.Event() {
		k.mu.Unlock()
		return
	}
	k.armed = ""
	shot, how, do := k.shot, k.how, k.do
	k.mu.Unlock()
	defer close(shot)
	for _, p := range k.replicas {
		if p.Name() == c.Replica {
			k.note(p, how)
			if err := do(p); err != nil {
				k.t.Error(err)
			}
		}
	}
}

func (k *trial) note(p *Process, how string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.kills = append(k.kills, Kill{At: time.Now(), Replica: p.Name(), How: how})
}

// disturb does, now and then, what is gentler than a kill: it lets a process
// stand still for longer than its lease while its change is on the way, so that
// another takes the run over before it goes on; or it asks one to end.
func (k *trial) disturb() {
	k.t.Helper()
	if !soaking() {
		return
	}
	p := k.replicas[k.random.IntN(len(k.replicas))]
	if !p.Running() {
		return
	}
	switch n := k.random.IntN(16); {
	case n == 0 && len(k.replicas) > 1:
		k.await(Arrived, "paused", soon, func(p *Process) error { return p.Pause() })
		timer := time.NewTimer(5 * time.Second)
		defer timer.Stop()
		<-timer.C
		for _, p := range k.replicas {
			if p.Running() {
				require.NoError(k.t, p.Resume())
			}
		}
	case n == 1:
		ctx, cancel := context.WithTimeout(k.t.Context(), 3*time.Minute)
		defer cancel()
		k.note(p, "asked to end")
		require.NoError(k.t, p.Terminate(ctx))
		require.NoError(k.t, p.Restart())
	}
}

// soon is how long a trial waits for a change where it can do without: long
// enough for a process that was just started, on a slow machine, to get to one.
const soon = 10 * time.Second

// await does something to the process of the next change at a moment of it, or
// to nobody when none comes within limit.
func (k *trial) await(m Moment, how string, limit time.Duration, do func(*Process) error) bool {
	k.t.Helper()
	shot := make(chan struct{})
	k.mu.Lock()
	k.armed, k.shot, k.how, k.do = m, shot, how, do
	k.mu.Unlock()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-shot:
		return true
	case <-timer.C:
	}
	k.mu.Lock()
	missed := k.armed == m
	k.armed = ""
	k.mu.Unlock()
	if !missed {
		<-shot
	}
	return !missed
}

// kill makes one kill and starts what was killed again.
func (k *trial) kill() {
	k.t.Helper()
	victim := k.replicas[k.random.IntN(len(k.replicas))]
	wait := 100*time.Millisecond + time.Duration(k.random.Int64N(int64(900*time.Millisecond)))
	moment := []Moment{"", Arrived, Answered}[k.random.IntN(3)]
	if moment == "" || !k.await(moment, "killed: "+string(moment), soon, (*Process).Kill) {
		if moment == "" {
			timer := time.NewTimer(wait)
			defer timer.Stop()
			<-timer.C
		}
		k.note(victim, "killed: at random")
		require.NoError(k.t, victim.Kill())
	}
	k.revive()
}

// revive starts what was killed again.
func (k *trial) revive() {
	k.t.Helper()
	for _, p := range k.replicas {
		if p.Running() {
			continue
		}
		require.NoError(k.t, p.Restart())
		if k.random.IntN(4) == 0 {
			continue // the next kill may come before it is ready
		}
		ctx, cancel := context.WithTimeout(k.t.Context(), 5*time.Minute)
		require.NoError(k.t, p.WaitReady(ctx))
		cancel()
	}
}

// drain waits until nothing is left to do: no trouble, no open episode, no
// candidate and no run that has not ended, no entry that is not sealed.
func (k *trial) drain(limit time.Duration) {
	k.t.Helper()
	began := time.Now()
	ctx, cancel := context.WithTimeout(k.t.Context(), limit)
	defer cancel()
	for _, p := range k.replicas {
		require.NoError(k.t, p.WaitReady(ctx))
	}
	c, err := client.New(client.Options{Server: k.replicas[0].URL})
	require.NoError(k.t, err)
	var b balance
	why := ""
	err = testcluster.Poll(ctx, func(ctx context.Context) (bool, error) {
		if !k.world.quiet() {
			why = "alerts fire"
			return false, nil
		}
		err := b.read(ctx, c)
		why = fmt.Sprint(b.String(), ", read: ", err)
		return err == nil && b.even(), nil
	})
	require.NoError(k.t, err, "not drained within %s: %s%s", limit, why, k.unended())
	k.t.Logf("drained %s after the last kill", time.Since(began).Round(100*time.Millisecond))
}

// unended tells of the runs that have not ended, for the report of a trial that
// does not come to its end.
func (k *trial) unended() string {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(k.t.Context()), time.Minute)
	defer cancel()
	s, err := store.Open(ctx, store.Options{DSN: k.dsn})
	if err != nil {
		return "; the store cannot be opened: " + err.Error()
	}
	defer s.Close()
	var r Record
	if err := r.ReadStore(ctx, s); err != nil {
		return "; the store cannot be read: " + err.Error()
	}
	var out strings.Builder
	for _, run := range r.Runs {
		if run.Phase == store.Done {
			continue
		}
		fmt.Fprintf(&out, "\n%+v", run)
		for _, en := range r.Journal {
			if en.RunID == run.ID {
				out.WriteString("\n  " + show(en))
			}
		}
	}
	return out.String()
}

// balance counts from the log what has begun and what has ended. A candidate
// begins once more when it is queued again with its episode.
type balance struct {
	seq                                          int64
	opened, closed, candidates, fates, runs, end int
}

func (b *balance) String() string {
	return fmt.Sprintf("%d of %d episodes are closed, %d of %d candidates have a fate, %d of %d runs have ended", b.closed, b.opened, b.fates, b.candidates, b.end, b.runs)
}

func (b *balance) even() bool {
	return b.opened == b.closed && b.fates >= b.candidates && b.runs == b.end && b.opened > 0
}

// queuedAgain is how many candidates the reopening of an episode queued again.
func queuedAgain(en journal.Entry) int {
	n := 0
	if _, said, more := strings.Cut(en.Message, "; "); more {
		if _, err := fmt.Sscanf(said, "%d candidates are queued again", &n); err != nil {
			return 0 // it says something else
		}
	}
	return n
}

func (b *balance) read(ctx context.Context, c *client.Client) error {
	for {
		list, err := c.Log(ctx, store.LogFilter{AfterSeq: b.seq}, client.Page{Limit: 500})
		if err != nil {
			return err
		}
		for _, en := range list.Items {
			b.seq = en.Seq
			if en.CreatesCandidate() {
				b.candidates++
			}
			switch en.Kind {
			case journal.EpisodeOpened, journal.EpisodeReopened:
				b.opened++
				b.candidates += queuedAgain(en)
			case journal.EpisodeClosed:
				b.closed++
			case journal.RunCreated:
				b.fates++
				b.runs++
			case journal.RunJoined, journal.RunAttached, journal.CandidateEnded:
				b.fates++
			case journal.RunEnded:
				b.end++
			}
		}
		if len(list.Items) == 0 {
			return nil
		}
	}
}

// account ends the processes in order, reads what they left behind and judges it.
func (k *trial) account(cluster *testcluster.Cluster) {
	k.t.Helper()
	k.relay.To() // Alertmanager keeps what it still has
	ctx, cancel := context.WithTimeout(k.t.Context(), 5*time.Minute)
	defer cancel()
	for _, p := range k.replicas {
		require.NoError(k.t, p.Terminate(ctx))
	}
	s, err := store.Open(ctx, store.Options{DSN: k.dsn})
	require.NoError(k.t, err)
	defer s.Close()
	// What the last process wrote as it stopped is sealed by the next, once the
	// lease of the sealer before has run out.
	require.NoError(k.t, testcluster.Poll(ctx, func(ctx context.Context) (bool, error) {
		if _, err := s.Seal(ctx, "accountant"); err != nil {
			return false, err
		}
		n, _, err := s.Unsealed(ctx)
		return n == 0, err
	}))
	r := Record{Accepted: k.relay.Accepted(), Answers: k.relay.Answers(), Playbooks: matching(), Calls: k.proxy.Calls(), Faults: k.proxy.Faults(),
		Kills: k.kills, Alive: k.world.lastSeen()}
	require.NoError(k.t, r.ReadStore(ctx, s))
	require.NoError(k.t, r.ReadAudit(cluster, k.proxy.User, k.since))
	r.Keep(k.t)
	report := Account(r)
	report.Title = fmt.Sprintf("%s: %d processes on %s, %s", k.t.Name(), len(k.replicas), s.Dialect(), time.Since(k.since).Round(time.Second))
	report.Publish(k.t)
	require.GreaterOrEqual(k.t, report.Table.Applied, k.least, "so little was changed that the trial proves nothing")
	if len(k.kills) > 0 {
		require.Positive(k.t, report.Table.TakenOver, "nobody took anything over: the trial proves nothing")
	}
}

// A candidate that is queued again has to meet another fate before all is even.
func TestBalance(t *testing.T) {
	t.Parallel()
	require.Equal(t, 2, queuedAgain(journal.Entry{Message: "fires again 1.2s after it resolved; 2 candidates are queued again"}))
	require.Zero(t, queuedAgain(journal.Entry{Message: "fires again 1.2s after it resolved"}))
	require.False(t, (&balance{opened: 1, closed: 1, candidates: 3, fates: 2}).even())
	require.True(t, (&balance{opened: 1, closed: 1, candidates: 3, fates: 3}).even())
}
