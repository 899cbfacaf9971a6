package receiver_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/alertmedic/alertmedic/internal/alert"
	"github.com/alertmedic/alertmedic/internal/auth"
	"github.com/alertmedic/alertmedic/internal/journal"
	"github.com/alertmedic/alertmedic/internal/store"
	"github.com/alertmedic/alertmedic/playbooks"
	"github.com/alertmedic/alertmedic/receiver"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	token       = "sender-secret-0123456789"
	peopleToken = "people-secret-0123456789"
	orphanToken = "orphan-secret-0123456789"
)

var now = time.Date(2026, 3, 2, 10, 10, 0, 0, time.UTC)

// accepts is an Accepter that keeps what it is given.
type accepts struct {
	mu      sync.Mutex
	batches []store.Batch
	accept  func(ctx context.Context, b store.Batch) (store.AcceptResult, error)
}

func (a *accepts) Accept(ctx context.Context, b store.Batch) (store.AcceptResult, error) {
	a.mu.Lock()
	a.batches = append(a.batches, b)
	a.mu.Unlock()
	if a.accept != nil {
		return a.accept(ctx, b)
	}
	return store.AcceptResult{Opened: len(b.Observations)}, nil
}

func (a *accepts) all() []store.Batch {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.batches
}

type matcher func(labels map[string]string) []*playbooks.Playbook

func (m matcher) Match(labels map[string]string) []*playbooks.Playbook { return m(labels) }

type fixture struct {
	*receiver.Receiver
	accepter  *accepts
	registry  *prometheus.Registry
	truncated chan string
	handler   http.Handler
}

func setup(t *testing.T, edits ...func(*receiver.Options)) *fixture {
	t.Helper()
	f := &fixture{accepter: &accepts{}, registry: prometheus.NewRegistry(), truncated: make(chan string, 8)}
	dir := t.TempDir()
	secret := func(name, content string) string {
		file := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(file, []byte(content), 0o600))
		return file
	}
	identities, err := auth.Load([]auth.TokenSpec{
		{Name: "main", File: secret("main", token), Roles: []auth.Role{auth.Ingest}, Source: "main"},
		{Name: "orphan", File: secret("orphan", orphanToken), Roles: []auth.Role{auth.Ingest}, Source: "gone"},
		{Name: "sre", File: secret("sre", peopleToken), Roles: []auth.Role{auth.View, auth.Approve, auth.Admin}},
	})
	require.NoError(t, err)
	opts := receiver.Options{
		Accepter: f.accepter, Authenticator: identities,
		Current: func() receiver.Matcher {
			return matcher(func(labels map[string]string) []*playbooks.Playbook {
				if labels["alertname"] != "KubePodCrashLooping" {
					return nil
				}
				return []*playbooks.Playbook{
					{Name: "high", Hash: "h1", Priority: 10, Limits: playbooks.Limits{ExpireAfter: time.Minute}},
					{Name: "low", Hash: "h2", Exclusive: true},
				}
			})
		},
		Sources:     map[string]receiver.Source{"main": {Name: "main", Cluster: "prod"}},
		ExpireAfter: func(p *playbooks.Playbook) time.Duration { return cmp.Or(p.Limits.ExpireAfter, time.Hour) },
		OnTruncated: func(source string) { f.truncated <- source },
		Registerer:  f.registry,
		Clock:       func() time.Time { return now },
	}
	for _, edit := range edits {
		edit(&opts)
	}
	f.Receiver, err = receiver.New(opts)
	require.NoError(t, err)
	router := chi.NewRouter()
	f.Routes(router)
	f.handler = router
	return f
}

func request(body io.Reader, edits ...func(*http.Request)) *http.Request {
	r := httptest.NewRequest(http.MethodPost, receiver.Path, body)
	r.Header.Set("Authorization", "Bearer "+token)
	r.Header.Set("Content-Type", "application/json")
	for _, edit := range edits {
		edit(r)
	}
	return r
}

func header(name, value string) func(*http.Request) {
	return func(r *http.Request) {
		r.Header.Del(name)
		if value != "" {
			r.Header.Set(name, value)
		}
	}
}

func (f *fixture) do(r *http.Request) (int, string) {
	w := httptest.NewRecorder()
	f.handler.ServeHTTP(w, r)
	return w.Code, strings.TrimSpace(w.Body.String())
}

func payload(t *testing.T, name string) []byte {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("..", "testdata", "webhooks", name+".json"))
	require.NoError(t, err)
	return raw
}

// body makes a payload of alerts with these label sets.
func body(t *testing.T, sets ...map[string]string) []byte {
	t.Helper()
	var alerts []alert.Alert
	for _, set := range sets {
		alerts = append(alerts, alert.Alert{Status: alert.Firing, Labels: set, StartsAt: now, Fingerprint: alert.Fingerprint(set)})
	}
	raw, err := json.Marshal(map[string]any{"version": "4", "alerts": alerts})
	require.NoError(t, err)
	return raw
}

func TestStatusCodes(t *testing.T) {
	t.Parallel()
	good := payload(t, "firing")
	refuse := func(err error) func(*receiver.Options) {
		return func(o *receiver.Options) {
			o.Accepter = &accepts{accept: func(context.Context, store.Batch) (store.AcceptResult, error) { return store.AcceptResult{}, err }}
		}
	}
	const stored = `{"error":"the alerts could not be stored, see the log of alertmedic; nothing was acknowledged, and Alertmanager sends it again"}`
	const tooLarge = `{"error":"the body is larger than 16777216 bytes; add labels to Alertmanager's group_by, so that groups are smaller"}`
	const authHint = `; set http_config.authorization.credentials_file in Alertmanager's webhook receiver"}`
	for name, tc := range map[string]struct {
		body    io.Reader
		request func(*http.Request)
		option  func(*receiver.Options)
		drain   bool
		code    int
		want    string
	}{
		"accepted":         {code: 200, want: `{"accepted":1,"rejected":0,"opened":1,"reopened":0,"closed":0,"repeated":0,"stale":0,"orphaned":0,"unmatched":0,"candidates":0}`},
		"charset":          {request: header("Content-Type", "application/json; charset=utf-8"), code: 200, want: "accepted"},
		"no alerts":        {body: strings.NewReader(`{"version":"4","alerts":[]}`), code: 200, want: `{"accepted":0,`},
		"get":              {request: func(r *http.Request) { r.Method = http.MethodGet }, code: 405, want: `{"error":"use POST: this is Alertmanager's webhook"}`},
		"no token":         {request: header("Authorization", ""), code: 401, want: `{"error":"no bearer token: send Authorization: Bearer \u003ctoken\u003e` + authHint},
		"wrong token":      {request: header("Authorization", "Bearer nobody"), code: 401, want: `{"error":"the bearer token is not known here` + authHint},
		"people's token":   {request: header("Authorization", "Bearer "+peopleToken), code: 403, want: `{"error":"sre may not send webhooks; use the token of a source"}`},
		"unknown source":   {request: header("Authorization", "Bearer "+orphanToken), code: 403, want: `{"error":"orphan sends for the source \"gone\", which is not configured"}`},
		"no content type":  {request: header("Content-Type", ""), code: 415, want: `{"error":"Content-Type is \"\"; send application/json"}`},
		"form":             {request: header("Content-Type", "application/x-www-form-urlencoded"), code: 415, want: `{"error":"Content-Type is \"application/x-www-form-urlencoded\"; send application/json"}`},
		"latin 1":          {request: header("Content-Type", "application/json; charset=latin1"), code: 415, want: `{"error":"charset is \"latin1\"; send UTF-8"}`},
		"gzip":             {request: header("Content-Encoding", "gzip"), code: 415, want: `{"error":"Content-Encoding \"gzip\" is not taken; send the body as it is"}`},
		"17 MiB":           {body: bytes.NewReader(make([]byte, 17<<20)), code: 413, want: tooLarge},
		"17 MiB, chunked":  {body: io.MultiReader(strings.NewReader(`{"version":"4","groupKey":"`), strings.NewReader(strings.Repeat("x", 17<<20))), code: 413, want: tooLarge},
		"cut":              {body: bytes.NewReader(good[:len(good)/2]), code: 400, want: `{"error":"the body ends before the JSON document does; check what lies between Alertmanager and here for cut bodies"}`},
		"not JSON":         {body: strings.NewReader("hello"), code: 400, want: `{"error":"the body is not JSON (at byte 1); send Alertmanager's webhook payload, version 4: invalid character 'h' looking for beginning of value"}`},
		"connection lost":  {body: io.MultiReader(bytes.NewReader(good[:20]), broken{}), code: 503, want: `{"error":"the body did not arrive whole; send it again"}`},
		"draining":         {drain: true, code: 503, want: `{"error":"shutting down; Alertmanager sends it again"}`},
		"store is away":    {option: refuse(store.ErrUnavailable), code: 503, want: stored},
		"store too slow":   {option: refuse(context.DeadlineExceeded), code: 503, want: stored},
		"store panics":     {option: func(o *receiver.Options) { o.Accepter = panics{} }, code: 503, want: `{"error":"internal error, see the log of alertmedic; nothing was acknowledged, and Alertmanager sends it again"}`},
		"too many at once": {option: func(o *receiver.Options) { o.Limits.MaxInFlight = 1 }, code: 503, want: `{"error":"too many webhooks at once; Alertmanager sends it again"}`},
		"budget while reading": {
			option: func(o *receiver.Options) { o.Limits.MaxInFlight = 17 << 10 },
			body:   bytes.NewReader(body(t, map[string]string{"alertname": "X", "big": strings.Repeat("x", 8<<10)})), code: 503, want: `{"error":"too many webhooks at once; Alertmanager sends it again"}`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			option, edit := tc.option, tc.request
			if option == nil {
				option = func(*receiver.Options) {}
			}
			if edit == nil {
				edit = func(*http.Request) {}
			}
			f := setup(t, option)
			if tc.drain {
				f.Drain()
			}
			in := tc.body
			if in == nil {
				in = bytes.NewReader(good)
			}
			code, got := f.do(request(in, edit))
			require.Equal(t, tc.code, code, got)
			require.Contains(t, got, tc.want)
			require.True(t, json.Valid([]byte(got)), got)
			require.NotContains(t, []int{408, 429}, code, "Alertmanager does not send those again")
			if code != 200 {
				require.Empty(t, f.accepter.all(), "nothing is stored that is not acknowledged")
			}
			require.Equal(t, 0.0, gauge(t, f.registry, "alertmedic_webhook_inflight_bytes"), "the budget is given back")
		})
	}
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, errors.New("connection reset by peer") }

type panics struct{}

func (panics) Accept(context.Context, store.Batch) (store.AcceptResult, error) { panic("boom") }

func gauge(t *testing.T, reg *prometheus.Registry, name string) float64 {
	t.Helper()
	families, err := reg.Gather()
	require.NoError(t, err)
	for _, family := range families {
		if family.GetName() == name {
			return family.GetMetric()[0].GetGauge().GetValue()
		}
	}
	t.Fatalf("no metric %s", name)
	return 0
}

func TestWhatIsStored(t *testing.T) {
	t.Parallel()
	f := setup(t)
	code, got := f.do(request(bytes.NewReader(payload(t, "mixed-group"))))
	require.Equal(t, 200, code, got)
	require.Len(t, f.accepter.all(), 1)
	b := f.accepter.all()[0]
	require.Empty(t, b.Rejected)
	require.Len(t, b.Observations, 3)
	first := b.Observations[0]
	require.Equal(t, "main", first.Source)
	require.Equal(t, "prod", first.Cluster)
	require.Equal(t, alert.Resolved, first.Alert.Status)
	require.Equal(t, []store.MatchedPlaybook{
		{Name: "high", Hash: "h1", Priority: 10, ExpireAfter: time.Minute},
		{Name: "low", Hash: "h2", Exclusive: true, ExpireAfter: time.Hour},
	}, first.Playbooks)
	require.Empty(t, b.Observations[1].Playbooks)
	require.NoError(t, testutil.GatherAndCompare(f.registry, strings.NewReader(`
# HELP alertmedic_alerts_received_total Alerts durably stored, repeats included, by source and status.
# TYPE alertmedic_alerts_received_total counter
alertmedic_alerts_received_total{source="main",status="firing"} 2
alertmedic_alerts_received_total{source="main",status="resolved"} 1
`), "alertmedic_alerts_received_total"))
	require.Empty(t, f.truncated)
}

func TestBadAlertsAreJournalledInsideA200(t *testing.T) {
	t.Parallel()
	f := setup(t)
	raw := body(t,
		map[string]string{"alertname": "A", "big": strings.Repeat("x", 64<<10)},
		map[string]string{"alertname": "B", "cluster": "staging"},
		map[string]string{"alertname": "C", "cluster": "prod"},
		map[string]string{"alertname": "D"})
	code, got := f.do(request(bytes.NewReader(raw)))
	require.Equal(t, 200, code, got)
	require.Contains(t, got, `{"accepted":2,"rejected":2,`)
	b := f.accepter.all()[0]
	require.Len(t, b.Observations, 2)
	require.Len(t, b.Rejected, 2)
	for i, want := range []journal.Entry{
		{AlertName: "A", Reason: "label-too-long", Message: `the label "big" is 65536 bytes long, the limit is 16384; move long text to an annotation`},
		{AlertName: "B", Reason: "wrong-cluster", Message: `the alert says cluster "staging", but source main is for cluster "prod"; give each cluster's Alertmanager its own token`},
	} {
		e := b.Rejected[i]
		require.Equal(t, journal.AlertRejected, e.Kind)
		require.Equal(t, "main", e.Source)
		require.Equal(t, "prod", e.Cluster)
		require.Equal(t, now, e.At)
		require.NotEmpty(t, e.ID)
		require.Len(t, e.Fingerprint, 16)
		require.Equal(t, want.AlertName, e.AlertName)
		require.Equal(t, want.Reason, e.Reason)
		require.Equal(t, want.Message, e.Message)
		var data struct {
			Index int
			Raw   string
		}
		require.NoError(t, json.Unmarshal(e.Data, &data))
		require.Equal(t, i, data.Index)
		require.LessOrEqual(t, len(data.Raw), 1<<10)
	}
	require.NoError(t, testutil.GatherAndCompare(f.registry, strings.NewReader(`
# HELP alertmedic_webhook_requests_total Webhook requests answered, by source and HTTP status.
# TYPE alertmedic_webhook_requests_total counter
alertmedic_webhook_requests_total{code="200",source="main"} 1
alertmedic_webhook_requests_total{code="400",source="main"} 0
alertmedic_webhook_requests_total{code="401",source="unknown"} 0
alertmedic_webhook_requests_total{code="403",source="unknown"} 0
alertmedic_webhook_requests_total{code="405",source="unknown"} 0
alertmedic_webhook_requests_total{code="413",source="main"} 0
alertmedic_webhook_requests_total{code="415",source="main"} 0
alertmedic_webhook_requests_total{code="503",source="main"} 0
alertmedic_webhook_requests_total{code="503",source="unknown"} 0
`), "alertmedic_webhook_requests_total"))
}

func TestTruncationIsToldAfterTheCommit(t *testing.T) {
	t.Parallel()
	f := setup(t)
	code, _ := f.do(request(bytes.NewReader(payload(t, "truncated"))))
	require.Equal(t, 200, code)
	require.Equal(t, "main", <-f.truncated)

	failing := setup(t, func(o *receiver.Options) {
		o.Accepter = &accepts{accept: func(context.Context, store.Batch) (store.AcceptResult, error) {
			return store.AcceptResult{}, store.ErrUnavailable
		}}
	})
	code, _ = failing.do(request(bytes.NewReader(payload(t, "truncated"))))
	require.Equal(t, 503, code)
	require.Empty(t, failing.truncated)
}

// Alertmanager is asked for the alerts of the receivers that a source names:
// whoever routes another one here is told, and loses nothing.
func TestAReceiverThatTheSourceDoesNotNameIsToldOf(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]float64{"alertmedic": 0, "pager/team-a": 0, "pager.team-a": 1, "": 1} {
		var log bytes.Buffer
		f := setup(t, func(o *receiver.Options) {
			o.Sources["main"] = receiver.Source{Name: "main", Cluster: "prod", Receivers: []string{"alertmedic", "pager/team-a"}}
			o.Logger = slog.New(slog.NewTextHandler(&log, nil))
		})
		raw := bytes.Replace(body(t, map[string]string{"alertname": "X"}), []byte("{"), []byte(`{"receiver": "`+name+`",`), 1)
		code, answer := f.do(request(bytes.NewReader(raw)))
		require.Equal(t, 200, code, answer)
		require.Len(t, f.accepter.batches, 1)
		require.Equal(t, want == 1, strings.Contains(log.String(), "add its name to receivers of the source"), log.String())
		require.NoError(t, testutil.GatherAndCompare(f.registry, strings.NewReader(fmt.Sprintf(`
# HELP alertmedic_webhook_unknown_receivers_total Webhooks of Alertmanager receivers that are not in receivers of their source, by source.
# TYPE alertmedic_webhook_unknown_receivers_total counter
alertmedic_webhook_unknown_receivers_total{source="main"} %v
`, want)), "alertmedic_webhook_unknown_receivers_total"))
	}
}

// The answer waits for the commit, and the commit does not end with the request.
func TestCommitOutlivesTheSender(t *testing.T) {
	t.Parallel()
	entered, leave, state := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	f := setup(t, func(o *receiver.Options) {
		o.Accepter = &accepts{accept: func(ctx context.Context, _ store.Batch) (store.AcceptResult, error) {
			close(entered)
			<-leave
			_, bounded := ctx.Deadline()
			if !bounded {
				state <- errors.New("the commit has no deadline")
				return store.AcceptResult{}, nil
			}
			state <- ctx.Err()
			return store.AcceptResult{}, nil
		}}
	})
	ctx, cancel := context.WithCancel(t.Context())
	answered := make(chan int, 1)
	go func() {
		code, _ := f.do(request(bytes.NewReader(payload(t, "firing"))).WithContext(ctx))
		answered <- code
	}()
	<-entered
	require.Empty(t, answered, "no answer before the commit")
	require.Positive(t, gauge(t, f.registry, "alertmedic_webhook_inflight_bytes"))
	cancel()
	close(leave)
	require.NoError(t, <-state)
	require.Equal(t, 200, <-answered)
}

func TestDrainLetsRequestsUnderWayFinish(t *testing.T) {
	t.Parallel()
	entered, leave := make(chan struct{}), make(chan struct{})
	f := setup(t, func(o *receiver.Options) {
		o.Accepter = &accepts{accept: func(context.Context, store.Batch) (store.AcceptResult, error) {
			close(entered)
			<-leave
			return store.AcceptResult{}, nil
		}}
	})
	answered := make(chan int, 1)
	go func() {
		code, _ := f.do(request(bytes.NewReader(payload(t, "firing"))))
		answered <- code
	}()
	<-entered
	f.Drain()
	code, _ := f.do(request(bytes.NewReader(payload(t, "firing"))))
	require.Equal(t, 503, code)
	close(leave)
	require.Equal(t, 200, <-answered)
}

// A sender that stops in the middle of a body is answered, over a real socket.
func TestSlowBodyIsAnswered503(t *testing.T) {
	t.Parallel()
	f := setup(t, func(o *receiver.Options) { o.Limits.BodyTimeout = 50 * time.Millisecond })
	server := httptest.NewServer(f.handler)
	defer server.Close()
	pr, pw := io.Pipe()
	defer pw.Close()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server.URL+receiver.Path, pr)
	require.NoError(t, err)
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Content-Type", "application/json")
	go func() { _, _ = pw.Write([]byte(`{"version":`)) }()
	client := server.Client()
	defer client.CloseIdleConnections()
	resp, err := client.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	require.Equal(t, 503, resp.StatusCode)
	require.Empty(t, f.accepter.all())
}

func TestNewNamesWhatIsMissing(t *testing.T) {
	t.Parallel()
	_, err := receiver.New(receiver.Options{})
	require.EqualError(t, err, strings.Join([]string{
		"receiver: option Accepter is required", "receiver: option Authenticator is required", "receiver: option Current is required",
		"receiver: option Sources is required", "receiver: option ExpireAfter is required"}, "\n"))
}

func TestMetricNames(t *testing.T) {
	t.Parallel()
	f := setup(t)
	problems, err := testutil.GatherAndLint(f.registry)
	require.NoError(t, err)
	require.Equal(t, []promlint.Problem(nil), problems)
}

func TestConfigureSetsTheServersLimits(t *testing.T) {
	t.Parallel()
	server := &http.Server{}
	receiver.Limits{MaxHeader: 1 << 10}.Configure(server)
	require.Equal(t, 5*time.Second, server.ReadHeaderTimeout)
	require.Equal(t, 2*time.Minute, server.IdleTimeout)
	require.Equal(t, 1<<10, server.MaxHeaderBytes)
}
