package app

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/alertmedic/alertmedic/internal/config"
	"github.com/alertmedic/alertmedic/internal/testcluster"
)

// level is what the process holds when nothing is under way.
type level struct {
	goroutines, files int
	connections       float64 // to the database, open
	busy              float64 // of those, in use
	heap              uint64  // bytes that are alive after a collection
}

func (l level) String() string {
	return fmt.Sprintf("%d goroutines, %d files, %g connections (%g in use), %d KiB heap", l.goroutines, l.files, l.connections, l.busy, l.heap>>10)
}

// soak is a running service whose every part is made to work and to be let
// down, again and again.
type soak struct {
	t        *testing.T
	service  *service
	registry *prometheus.Registry
	client   *http.Client
	playbook string
	pods     []string
	fired    int // alerts
	mu       sync.Mutex
	held     map[string]any // what Alertmanager and Prometheus hold as firing, by fingerprint
	reloads  int
}

// The plan is made against the real API server and sent with dryRun: no guard
// holds a run of mode Observe back, so that many end soon.
const soakPlaybook = `apiVersion: alertmedic.io/v1alpha1
kind: Playbook
metadata: {name: soak}
spec:
  description: version %d
  matchers: [alertname = KubePodCrashLooping]
  when: "label(alert, 'n') != ''"
  target: {kind: Workload}
  mode: Observe
  remedies:
  - name: restart
    when: "target.spec.replicas > 0"
    steps:
    - {name: look, action: diagnose, continueOnError: true}
    - {name: restart, action: workload.restart}
    verify: {timeout: 1m, stableFor: 3s}
`

// What the service takes for an alert, a run, a reload, a reader or a webhook,
// it gives back: after hundreds of each, with readers that stand still and hang
// up and webhooks that are cut in the middle, it holds as much as after the
// first ones. Not parallel: it measures the process. ALERTMEDIC_SOAK makes it
// long.
func TestHoldsNoMoreAfterManyAlertsThanAfterTheFirst(t *testing.T) {
	for _, dialect := range []string{"sqlite", "postgres"} {
		t.Run(dialect, func(t *testing.T) {
			dsn := filepath.Join(t.TempDir(), "medic.db")
			if dialect == "postgres" {
				var ok bool
				if dsn, ok = testcluster.Database(t); !ok {
					return // Database has said so, or failed
				}
			}
			s := startSoak(t, dsn)
			warmUp, cycles := 20, 100
			if os.Getenv("ALERTMEDIC_SOAK") != "" {
				warmUp, cycles = 300, 6000
			}
			s.cycles(warmUp)
			before := s.atRest()
			s.cycles(cycles)
			// What a cycle would leave behind is there as many times as there were
			// cycles; what differs for other reasons is a handful: which connections
			// happen to be open, when a cache was last emptied.
			most := level{
				goroutines: before.goroutines + cycles/10, files: before.files + cycles/10,
				connections: before.connections + 8, busy: before.busy, heap: before.heap + uint64(cycles)<<10 + 512<<10,
			}
			after := s.fallsTo(most)
			runs := s.sum("alertmedic_runs_ended_total", nil)
			t.Logf("after %d cycles: %s", warmUp, before)
			t.Logf("after %d more:   %s; %g runs of %d alerts, %d reloads", cycles, after, runs, s.fired, s.reloads)
			require.GreaterOrEqual(t, runs, float64(cycles)/4, "most alerts found their target and had a run, or joined one")
			require.LessOrEqual(t, after.goroutines, most.goroutines, "goroutines")
			require.LessOrEqual(t, after.files, most.files, "open files")
			require.LessOrEqual(t, after.connections, most.connections, "connections to the database")
			require.LessOrEqual(t, after.busy, most.busy, "connections to the database that nobody gave back")
			require.LessOrEqual(t, after.heap, most.heap, "heap")
		})
	}
}

func startSoak(t *testing.T, dsn string) *soak {
	t.Helper()
	cluster := testcluster.Shared(t)
	s := &soak{t: t, registry: prometheus.NewRegistry(), service: &service{cluster: cluster, ns: cluster.Namespace(t)}}
	for i := range 10 { // alerts about one target share a run
		s.pods = append(s.pods, s.service.deploy(t, fmt.Sprintf("web-%d", i), 1)[0].Name)
	}
	s.held = map[string]any{}
	alerting := httptest.NewServer(http.HandlerFunc(s.alerting))
	t.Cleanup(alerting.Close)
	dir := t.TempDir()
	s.playbook = filepath.Join(dir, "playbook.yaml")
	s.writePlaybook()
	cfg, err := config.Parse(filepath.Join(dir, "alertmedic.yaml"), fmt.Appendf(nil, `
cluster: test
listen: {address: "127.0.0.1:0"}
sources:
- {name: am, alertmanagers: [{url: %[1]q}], prometheuses: [{url: %[1]q}]}
store: {dsn: %[2]q}
playbooks: {paths: [playbook.yaml]}
kubernetes: {qps: 1000, burst: 1000}
notify: {events: true}
`, alerting.URL, dsn))
	require.NoError(t, err)
	testedBy(cfg)
	sharing(cfg)
	cfg.Safety.Rate.Enabled, cfg.Safety.Storm.Enabled = false, false // it is a storm that never ends
	s.service.url, _ = serve(t, Options{Config: cfg, Logger: slog.New(slog.DiscardHandler), Registry: s.registry, Kubernetes: cluster.RESTConfig()})
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	s.client = &http.Client{Transport: transport}
	return s
}

// alerting answers as an Alertmanager and a Prometheus in one.
func (s *soak) alerting(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	alerts, active := []any{}, []any{}
	for fingerprint, labels := range s.held {
		alerts = append(alerts, map[string]any{
			"labels": labels, "annotations": map[string]string{}, "fingerprint": fingerprint, "receivers": []any{map[string]string{"name": "alertmedic"}},
			"startsAt": time.Now(), "endsAt": time.Now().Add(time.Hour), "updatedAt": time.Now(),
			"status": map[string]any{"state": "active", "silencedBy": []string{}, "inhibitedBy": []string{}, "mutedBy": []string{}},
		})
		active = append(active, map[string]any{"labels": labels, "annotations": map[string]string{}, "state": "firing", "activeAt": time.Now(), "value": "1"})
	}
	var doc any = alerts
	if strings.HasSuffix(r.URL.Path, "/rules") {
		rule := map[string]any{"type": "alerting", "name": "KubePodCrashLooping", "query": "up == 0", "duration": 1, "labels": map[string]string{}, "annotations": map[string]string{},
			"alerts": active, "health": "ok", "lastError": "", "evaluationTime": 0.001, "lastEvaluation": time.Now(), "state": "firing"}
		doc = map[string]any{"status": "success", "data": map[string]any{"groups": []any{map[string]any{"name": "g", "file": "f", "interval": 1, "rules": []any{rule}}}}}
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(doc) // shows as an unknown state
}

func (s *soak) hold(a map[string]any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held[a["fingerprint"].(string)] = a["labels"]
}

func (s *soak) release(a map[string]any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.held, a["fingerprint"].(string))
}

func (s *soak) writePlaybook() {
	s.t.Helper()
	require.NoError(s.t, os.WriteFile(s.playbook, fmt.Appendf(nil, soakPlaybook, s.reloads), 0o600))
}

// send posts, again after a 503 as Alertmanager does: a server whose client
// stands still in the midst of a transaction gives it up.
func (s *soak) send(path, body string) {
	s.t.Helper()
	eventually(s.t, path+" is taken", func() bool {
		resp, err := s.client.Post(s.service.url+path, "application/json", strings.NewReader(body))
		require.NoError(s.t, err)
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		require.NoError(s.t, err)
		if resp.StatusCode == http.StatusServiceUnavailable {
			return false
		}
		require.Less(s.t, resp.StatusCode, 300, "%s: %s", path, text)
		return true
	})
}

// cycles lets the service live n times through a little of everything.
func (s *soak) cycles(n int) {
	s.t.Helper()
	earlier := []any{} // resolved while the next ones fire
	for i := range n {
		number, now := fmt.Sprint(s.fired), time.Now().UTC()
		found := with(firing("namespace", s.service.ns, "pod", s.pods[i%len(s.pods)], "n", number), "startsAt", now)
		lost := firing("namespace", s.service.ns, "pod", "gone", "n", number)
		s.hold(found)
		s.send("/api/v1/webhook", webhook(s.t, found, lost))
		s.fired += 2
		hangUp := s.slowReader()
		s.cutWebhook(webhook(s.t, found))
		s.send("/api/v1/webhook", webhook(s.t, earlier...))
		for _, a := range earlier {
			s.release(a.(map[string]any))
		}
		earlier = []any{with(with(found, "status", "resolved"), "endsAt", now.Add(time.Second))}
		if i%5 == 0 {
			s.reloads++
			s.writePlaybook()
			s.send("/-/reload", "")
		}
		hangUp()
		if i%100 == 99 {
			s.drained() // what waits is no leak
		}
	}
	s.drained()
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.held)
}

// slowReader follows the log, reads the beginning of the answer and stands
// still, until it hangs up.
func (s *soak) slowReader() (hangUp func()) {
	s.t.Helper()
	conn := s.dial()
	_, err := io.WriteString(conn, "GET /api/v1/log?follow=true HTTP/1.1\r\nHost: x\r\nAccept: application/x-ndjson\r\n\r\n")
	require.NoError(s.t, err)
	line, err := bufio.NewReader(conn).ReadString('\n')
	require.NoError(s.t, err)
	require.Contains(s.t, line, "200")
	return func() { require.NoError(s.t, conn.Close()) }
}

// cutWebhook sends half of a webhook and breaks the connection.
func (s *soak) cutWebhook(body string) {
	s.t.Helper()
	conn := s.dial()
	_, err := fmt.Fprintf(conn, "POST /api/v1/webhook HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(body), body[:len(body)/2])
	require.NoError(s.t, err)
	require.NoError(s.t, conn.Close())
}

func (s *soak) dial() net.Conn {
	s.t.Helper()
	conn, err := (&net.Dialer{}).DialContext(s.t.Context(), "tcp", strings.TrimPrefix(s.service.url, "http://"))
	require.NoError(s.t, err)
	require.NoError(s.t, conn.SetDeadline(time.Now().Add(3*time.Minute)))
	return conn
}

// drained waits until every alert has met its fate and every message is sent.
func (s *soak) drained() {
	s.t.Helper()
	// A message that was claimed as the machine stood still is claimed anew after
	// minutes.
	ctx, cancel := context.WithTimeout(s.t.Context(), 10*time.Minute)
	defer cancel()
	what := ""
	err := testcluster.Poll(ctx, func(context.Context) (bool, error) {
		fates := s.sum("alertmedic_candidates_total", func(l map[string]string) bool { return l["outcome"] != "retry" && l["outcome"] != "deferred" })
		open, messages := s.sum("alertmedic_runs", nil), s.sum("alertmedic_outbox_messages", nil)
		what = fmt.Sprintf("%g of %d candidates, %g open runs, %g messages", fates, s.fired, open, messages)
		return fates >= float64(s.fired) && open == 0 && messages == 0, nil
	})
	if err != nil {
		s.t.Fatalf("%v: %s: %s", err, what, get(s.t, s.service.url+"/api/v1/runs?limit=3"))
	}
}

// sum adds up the samples of a metric that keep selects; nil selects all.
func (s *soak) sum(name string, keep func(labels map[string]string) bool) float64 {
	s.t.Helper()
	families, err := s.registry.Gather()
	require.NoError(s.t, err)
	total := 0.0
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			labels := map[string]string{}
			for _, l := range m.GetLabel() {
				labels[l.GetName()] = l.GetValue()
			}
			if keep == nil || keep(labels) {
				total += m.GetGauge().GetValue() + m.GetCounter().GetValue()
			}
		}
	}
	return total
}

// atRest measures until the level has not fallen for a while: what has been
// let go of ends a little later.
func (s *soak) atRest() level {
	s.t.Helper()
	best := s.level()
	const enough = 40 // looks in a row, and not seconds: a machine that stands still is no look
	since := 0
	eventually(s.t, "what the process holds does not change any more", func() bool {
		now, before := s.level(), best
		best.goroutines, best.files = min(best.goroutines, now.goroutines), min(best.files, now.files)
		best.connections, best.busy, best.heap = now.connections, min(best.busy, now.busy), min(best.heap, now.heap)
		if since++; best.goroutines < before.goroutines || best.files < before.files || best.busy < before.busy {
			since = 0
		}
		return since >= enough
	})
	return best
}

// fallsTo measures until the level is no higher than wanted. It waits for
// minutes: a leak stays, and a disk that takes a second for a commit or a
// connection that is being closed does not.
func (s *soak) fallsTo(wanted level) level {
	s.t.Helper()
	best := s.level()
	ctx, cancel := context.WithTimeout(s.t.Context(), 3*time.Minute)
	defer cancel()
	err := testcluster.Poll(ctx, func(context.Context) (bool, error) {
		now := s.level()
		best.goroutines, best.files = min(best.goroutines, now.goroutines), min(best.files, now.files)
		best.connections, best.busy, best.heap = min(best.connections, now.connections), min(best.busy, now.busy), min(best.heap, now.heap)
		return best.goroutines <= wanted.goroutines && best.files <= wanted.files && best.heap <= wanted.heap &&
			best.connections <= wanted.connections && best.busy <= wanted.busy, nil
	})
	if err != nil {
		stacks := make([]byte, 1<<20)
		s.t.Logf("it holds more than %s; all goroutines:\n%s", wanted, stacks[:runtime.Stack(stacks, true)])
	}
	return best
}

func (s *soak) level() level {
	s.t.Helper()
	s.client.CloseIdleConnections()
	l := level{connections: s.sum("go_sql_open_connections", nil), busy: s.sum("go_sql_in_use_connections", nil)}
	runtime.GC()
	runtime.GC() // what the first one's cleanups let go of
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	files, err := os.ReadDir("/proc/self/fd")
	require.NoError(s.t, err)
	l.goroutines, l.files, l.heap = runtime.NumGoroutine(), len(files), m.HeapAlloc
	return l
}
