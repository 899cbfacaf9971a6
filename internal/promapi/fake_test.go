package promapi_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/alertmedic/alertmedic/internal/alert"
	"github.com/alertmedic/alertmedic/internal/promapi"
	"github.com/alertmedic/alertmedic/internal/testcluster"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(testcluster.Main(m), testcluster.Ignored()...) }

var start = time.Date(2026, 3, 2, 10, 0, 0, 0, time.UTC)

// server answers one path with a document, and keeps what it was asked.
type server struct {
	*httptest.Server
	mu      sync.Mutex
	answer  func(w http.ResponseWriter, r *http.Request)
	queries []url.Values
}

func serve(t *testing.T, path string, doc any) *server {
	t.Helper()
	s := &server{}
	s.set(doc)
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.queries = append(s.queries, r.URL.Query())
		answer := s.answer
		s.mu.Unlock()
		w.Header()["Date"] = nil // the reader's clock is not the machine's
		if r.URL.Path != path {
			http.NotFound(w, r)
			return
		}
		answer(w, r)
	}))
	t.Cleanup(s.Close)
	return s
}

// set changes the answer: a document, or a handler.
func (s *server) set(doc any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if h, ok := doc.(http.HandlerFunc); ok {
		s.answer = h
		return
	}
	s.answer = func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, doc)
	}
}

// raw answers with these very bytes.
func raw(body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(body)) // the reader notices
	}
}

func writeJSON(w http.ResponseWriter, doc any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(doc) // the reader notices
}

func (s *server) asked() []url.Values {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.queries
}

type doc = map[string]any

// held is an alert as Alertmanager shows it.
func held(a alert.Alert, edits ...func(doc)) doc {
	d := doc{
		"labels": a.Labels, "annotations": doc{}, "fingerprint": a.Fingerprint,
		"startsAt": a.StartsAt, "endsAt": start.Add(time.Hour), "updatedAt": start, "generatorURL": "http://prometheus.example/graph",
		"receivers": []doc{{"name": "alertmedic"}},
		"status":    doc{"state": "active", "silencedBy": []string{}, "inhibitedBy": []string{}, "mutedBy": []string{}},
	}
	for _, edit := range edits {
		edit(d)
	}
	return d
}

func status(state string, silenced, inhibited, muted []string) func(doc) {
	return func(d doc) {
		d["status"] = doc{"state": state, "silencedBy": silenced, "inhibitedBy": inhibited, "mutedBy": muted}
	}
}

// rule is an alerting rule as Prometheus shows it, evaluated at start.
func rule(name string, edits ...func(doc)) doc {
	d := doc{
		"type": "alerting", "name": name, "query": "up == 0", "duration": 60, "labels": doc{"severity": "warning"}, "annotations": doc{},
		"alerts": []doc{}, "health": "ok", "lastError": "", "evaluationTime": 0.001, "lastEvaluation": start, "state": "inactive",
	}
	for _, edit := range edits {
		edit(d)
	}
	return d
}

func with(key string, value any) func(doc) { return func(d doc) { d[key] = value } }

func active(state string, labels map[string]string) func(doc) {
	return func(d doc) {
		d["alerts"] = append(d["alerts"].([]doc), doc{"labels": labels, "annotations": doc{}, "state": state, "activeAt": start, "value": "1e+00"})
	}
}

func rules(rs ...doc) doc {
	return doc{"status": "success", "data": doc{"groups": []doc{{"name": "g", "file": "f", "interval": 15, "rules": rs}}}}
}

// theAlert is what the tests ask about: external labels included.
func theAlert() alert.Alert {
	labels := map[string]string{"alertname": "KubePodNotReady", "namespace": "shop", "pod": "web-0", "severity": "warning", "cluster": "prod"}
	return alert.Alert{Status: alert.Firing, Labels: labels, StartsAt: start.Add(-time.Hour), Fingerprint: alert.Fingerprint(labels)}
}

// local are its labels as the rule makes them, without external labels.
func local() map[string]string {
	return map[string]string{"alertname": "KubePodNotReady", "namespace": "shop", "pod": "web-0", "severity": "warning"}
}

type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

type world struct {
	*promapi.Reader
	clock    *clock
	registry *prometheus.Registry
}

const (
	amPath   = "/api/v2/alerts"
	promPath = "/api/v1/rules"
)

func reader(t *testing.T, ams, proms []*server, edits ...func(*promapi.Config)) *world {
	t.Helper()
	w := &world{clock: &clock{now: start.Add(5 * time.Second)}, registry: prometheus.NewRegistry()}
	metrics, err := promapi.NewMetrics(w.registry)
	require.NoError(t, err)
	cfg := promapi.Config{Source: "main", Clock: w.clock.Now, Metrics: metrics, Timeout: 10 * time.Second}
	for _, s := range ams {
		cfg.Alertmanagers = append(cfg.Alertmanagers, promapi.Endpoint{URL: s.URL})
	}
	for _, s := range proms {
		cfg.Prometheuses = append(cfg.Prometheuses, promapi.Endpoint{URL: s.URL + "/"})
	}
	for _, edit := range edits {
		edit(&cfg)
	}
	w.Reader, err = promapi.New(cfg)
	require.NoError(t, err)
	t.Cleanup(w.Close)
	return w
}
