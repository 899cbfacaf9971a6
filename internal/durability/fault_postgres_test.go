package durability

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alertmedic/alertmedic/internal/alert"
	"github.com/alertmedic/alertmedic/internal/journal"
	"github.com/alertmedic/alertmedic/internal/testcluster"
)

// faulty is a trial whose replicas each have a way of their own to a PostgreSQL
// that is theirs alone.
type faulty struct {
	*trial
	pg    *testcluster.Postgres
	links []*TCPProxy
	db    *sql.DB // beside the service, to look and to meddle
	http  *http.Client
}

// newFaulty starts replicas, alerts and remedies; end drains and accounts.
func newFaulty(t *testing.T, replicas int, lease time.Duration) (f *faulty, end func()) {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	pg, err := testcluster.StartPostgres(t.Context(), testcluster.PostgresOptions{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, pg.Stop()) })
	f = &faulty{pg: pg, trial: &trial{t: t, dsn: pg.DSN, random: rand.New(rand.NewPCG(seed, 2)), since: time.Now()},
		http: &http.Client{Timeout: 2 * time.Minute, Transport: &http.Transport{DisableKeepAlives: true}}}
	f.db, err = sql.Open("pgx", pg.DSN)
	require.NoError(t, err)
	t.Cleanup(func() { f.db.Close() })
	cluster := testcluster.Shared(t)
	f.proxy = NewAPIProxy(t, cluster, 0)
	f.proxy.DropLate()
	f.relay = NewRelay(t, seed)
	monitoring := StartMonitoring(t, cluster, f.relay.URL, alerts()...)
	f.world = newWorld(t, cluster, monitoring, 1, rand.New(rand.NewPCG(seed, 3)))
	server, err := url.Parse(pg.DSN)
	require.NoError(t, err)
	var urls []string
	for i := range replicas {
		link := NewTCPProxy(t, server.Host)
		through := *server
		through.Host = link.Addr
		name := fmt.Sprintf("medic-%d", i)
		p := StartProcess(t, Options{Name: name, DSN: through.String(), Lease: lease, Kubeconfig: f.proxy.Kubeconfig(t, name),
			Alertmanager: monitoring.AlertmanagerURL(0), Prometheus: monitoring.PrometheusURL(0), Playbooks: loadPlaybooks()})
		f.links, f.replicas, urls = append(f.links, link), append(f.replicas, p), append(urls, p.URL)
	}
	f.relay.To(urls...)
	var going sync.WaitGroup
	living, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	var mu sync.Mutex
	most := 4
	var failed error
	going.Go(func() {
		failed = f.world.run(living, func() int { mu.Lock(); defer mu.Unlock(); return most })
	})
	var once sync.Once
	halt := func() { once.Do(func() { stop(); going.Wait() }) }
	t.Cleanup(halt)
	f.waitForChange()
	return f, func() {
		mu.Lock()
		most = 0
		mu.Unlock()
		f.drain(5 * time.Minute)
		halt()
		require.NoError(t, failed)
		f.account(cluster)
	}
}

// probe is an alert of its own for each name. It has resolved before anybody
// heard of it, so that it is kept and nothing follows.
func probe(name string) map[string]any {
	labels := map[string]string{"alertname": "Probe", "name": name}
	now := time.Now().UTC()
	return map[string]any{"status": "resolved", "labels": labels, "fingerprint": alert.Fingerprint(labels),
		"startsAt": now.Add(-time.Minute).Format(time.RFC3339), "endsAt": now.Format(time.RFC3339)}
}

// post sends a webhook of one probe to a replica and returns the status, 0 for no
// answer.
func (f *faulty) post(replica int, name string) int {
	f.t.Helper()
	body, err := json.Marshal(map[string]any{"version": "4", "groupKey": "{}", "status": "resolved", "receiver": "alertmedic", "alerts": []any{probe(name)}})
	require.NoError(f.t, err)
	req, err := http.NewRequestWithContext(f.t.Context(), http.MethodPost, f.replicas[replica].URL+"/api/v1/webhook", bytes.NewReader(body))
	require.NoError(f.t, err)
	req.Header.Set("Content-Type", "application/json")
	resp, err := f.http.Do(req)
	if err != nil {
		return 0
	}
	resp.Body.Close()
	return resp.StatusCode
}

// holds reports whether the database knows a probe.
func (f *faulty) holds(name string) bool {
	f.t.Helper()
	var n int
	err := f.db.QueryRowContext(f.t.Context(), "SELECT count(*) FROM signals WHERE fingerprint = $1", probe(name)["fingerprint"]).Scan(&n)
	return err == nil && n > 0
}

// eventually waits for what a fault or its end must bring.
func (f *faulty) eventually(what string, ok func(ctx context.Context) bool) {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), 3*time.Minute)
	defer cancel()
	require.NoError(f.t, testcluster.Poll(ctx, func(ctx context.Context) (bool, error) { return ok(ctx), nil }), what)
}

// recovered waits until every replica is ready and takes a webhook.
func (f *faulty) recovered(after string) {
	f.t.Helper()
	began := time.Now()
	for i, p := range f.replicas {
		f.eventually(p.Name()+" gets ready after "+after, p.Ready)
		fp := fmt.Sprintf("after-%s-%d", after, i)
		f.eventually(p.Name()+" takes webhooks after "+after, func(context.Context) bool { return f.post(i, fp) == http.StatusOK })
		f.eventually(fp+" is stored", func(context.Context) bool { return f.holds(fp) })
	}
	f.t.Logf("recovered %s after %s", time.Since(began).Round(100*time.Millisecond), after)
}

// ended counts the runs that have ended.
func (f *faulty) ended() int {
	var n int
	if err := f.db.QueryRowContext(f.t.Context(), "SELECT count(*) FROM runs WHERE phase = 'done'").Scan(&n); err != nil {
		return 0 // the server is not back yet
	}
	return n
}

// The database goes away in every manner while alerts come in: webhooks are
// answered 503, never 200 without a commit, the replicas that can still reach it
// go on, and when it is back everybody does, without help and without doing
// anything twice.
func TestPostgresGoesAway(t *testing.T) {
	t.Parallel()
	f, end := newFaulty(t, 2, time.Second)

	// One replica is cut off by a network that drops everything, for longer than
	// its leases last, and then forgets the connections that there were.
	f.links[0].Stall()
	f.eventually("a partitioned replica is not ready", func(ctx context.Context) bool { return !f.replicas[0].Ready(ctx) })
	refused := make(chan int)
	go func() { refused <- f.post(0, "partitioned") }()
	since := f.ended()
	// Not at the first try on a machine that stands still for longer than a commit may take.
	f.eventually("the other one takes webhooks", func(context.Context) bool { return f.post(1, "other") == http.StatusOK })
	f.eventually("the other one works", func(context.Context) bool { return f.ended() > since })
	require.Equal(t, http.StatusServiceUnavailable, <-refused)
	f.links[0].Forget()
	require.False(t, f.holds("partitioned"))
	f.recovered("a partition")

	// The same with connections that are reset and refused, for both.
	for _, l := range f.links {
		l.Cut()
	}
	for i := range f.replicas {
		fp := fmt.Sprintf("cut-%d", i)
		require.Equal(t, http.StatusServiceUnavailable, f.post(i, fp))
		require.False(t, f.holds(fp))
		require.False(t, f.replicas[i].Ready(t.Context()))
	}
	for _, l := range f.links {
		l.Heal()
	}
	f.recovered("a cut")

	// Every connection of the pools is ended by the server at once.
	_, err := f.db.ExecContext(t.Context(), "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = current_database()")
	require.NoError(t, err)
	f.recovered("emptied pools")

	// The server crashes and comes back.
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	require.NoError(t, f.pg.Restart(ctx))
	f.recovered("a restart")
	end() // and all runs end
}

// A replica stands still for longer than its lease while one of its calls is on
// its way. Another takes the run over and finds the change when it arrives late;
// the one that wakes up does nothing more, and says so.
func TestAReplicaStandsStillDuringACall(t *testing.T) {
	t.Parallel()
	f, end := newFaulty(t, 2, time.Second)
	var once sync.Once
	held := make(chan Call, 1)
	f.proxy.Choose(func(c Call) Fault {
		var fault Fault
		if c.Change && !c.Event() && c.Run != "" {
			once.Do(func() {
				for _, p := range f.replicas {
					if p.Name() == c.Replica {
						require.NoError(t, p.Pause())
					}
				}
				fault.Delay = DefaultRequestTimeout
				held <- c
			})
		}
		return fault
	})
	var call Call
	select {
	case call = <-held:
	case <-time.After(3 * time.Minute):
		require.FailNow(t, "no change was asked for")
	}
	var stopped, other *Process
	for _, p := range f.replicas {
		if p.Name() == call.Replica {
			stopped = p
		} else {
			other = p
		}
	}
	t.Logf("%s was stopped during %s of %s", stopped.Name(), call.Step, call.Run)
	f.relay.To(other.URL)
	f.eventually("the other replica takes the run over", func(ctx context.Context) bool {
		return f.entry(ctx, call.Run, journal.RunTakenOver)
	})
	f.eventually("the late call arrives, unless the machine stood still", func(context.Context) bool {
		for _, c := range f.proxy.Calls() {
			if c.ID == call.ID {
				return c.Status != 0 || c.Late
			}
		}
		return false
	})
	require.NoError(t, stopped.Resume())
	f.relay.To(stopped.URL, other.URL)
	f.eventually("the one that wakes up finds that it lost the run", func(context.Context) bool {
		return says(t, stopped, call.Run, "another worker took the run over")
	})
	f.eventually("the journal says so", func(ctx context.Context) bool { return f.entry(ctx, call.Run, journal.StepLate) })
	end()
}

// says reports whether a line of a process's log has all parts.
func says(t *testing.T, p *Process, parts ...string) bool {
	t.Helper()
	log, err := os.ReadFile(p.LogPath())
	require.NoError(t, err)
	for line := range strings.Lines(string(log)) {
		if !slices.ContainsFunc(parts, func(part string) bool { return !strings.Contains(line, part) }) {
			return true
		}
	}
	return false
}

// entry reports whether the journal has an entry of a run, sealed or not.
func (f *faulty) entry(ctx context.Context, run string, kind journal.Kind) bool {
	var n int
	err := f.db.QueryRowContext(ctx, "SELECT count(*) FROM journal WHERE run_id = $1 AND kind = $2", run, string(kind)).Scan(&n)
	return err == nil && n > 0
}
