package api_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/alertmedic/alertmedic/internal/action"
	"github.com/alertmedic/alertmedic/internal/api"
	"github.com/alertmedic/alertmedic/internal/api/apitest"
	"github.com/alertmedic/alertmedic/internal/journal"
	"github.com/alertmedic/alertmedic/internal/simulate"
	"github.com/alertmedic/alertmedic/internal/store"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

var at = time.Date(2026, 3, 1, 10, 0, 0, 0, time.UTC)

func sample() *apitest.Store {
	s := &apitest.Store{Approvals: map[string]store.Approval{
		"0197aaaa-2": {RunID: "0197aaaa-2", PlanHash: "9f3c", TargetUID: "u2", Status: store.ApprovalPending, AskedAt: at},
	}}
	for i := 1; i <= 5; i++ {
		r := store.Run{ID: fmt.Sprintf("0197aaaa-%d", i), Playbook: "pod-crash-looping", AlertName: "KubePodCrashLooping", Phase: store.Done, Outcome: store.Healed,
			Target:    action.Target{Cluster: "c", Ref: action.Ref{Kind: action.KindDeployment, Namespace: "shop", Name: fmt.Sprintf("web-%d", i)}},
			CreatedAt: at.Add(time.Duration(i) * time.Minute), State: json.RawMessage(`{"private":1}`)}
		if i == 2 {
			r.Phase, r.Outcome, r.Wait = store.Active, "", store.WaitApproval
		}
		s.RunRows = append(s.RunRows, r)
	}
	s.StepRows = []store.Step{{RunID: "0197aaaa-2", RemedyName: "roll-back", Name: "undo", Action: "workload.rollback", Status: store.StepPlanned, Plan: json.RawMessage(`{"summary":"undo it"}`)}}
	s.Candidates = []store.Candidate{{ID: "c1", RunID: "0197aaaa-2"}}
	for i := 1; i <= 2500; i++ {
		en := journal.Entry{Kind: journal.StepDone, At: at, Playbook: "a"}
		if i%1000 == 0 {
			en.Kind = journal.RunEnded
		}
		s.Append(en)
	}
	return s
}

type answer struct {
	status int
	header http.Header
	body   string
}

func (a answer) problem(t *testing.T) string {
	t.Helper()
	require.Equal(t, "application/problem+json", a.header.Get("Content-Type"), a.body)
	var p struct {
		Status int
		Detail string
		Title  string
	}
	require.NoError(t, json.Unmarshal([]byte(a.body), &p))
	require.Equal(t, a.status, p.Status)
	require.NotEmpty(t, p.Detail)
	return p.Detail
}

// ask sends "METHOD /path" with a token and perhaps a body and headers.
func ask(t *testing.T, base, token, line, body string, headers ...string) answer {
	t.Helper()
	method, path, _ := strings.Cut(line, " ")
	req, err := http.NewRequestWithContext(t.Context(), method, base+path, strings.NewReader(body))
	require.NoError(t, err)
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return answer{resp.StatusCode, resp.Header, string(data)}
}

// What each request is answered, and to whom.
func TestAPI_statusTable(t *testing.T) {
	t.Parallel()
	srv := apitest.Server(t, sample(), func(o *api.Options) {
		o.Reload = func(context.Context) error { return nil }
		o.Explain = func(_ context.Context, r simulate.ExplainRequest) (*simulate.Explanation, error) {
			if r.Playbook != "" {
				return nil, fmt.Errorf("%w: no playbook %q is loaded", store.ErrNotFound, r.Playbook)
			}
			return &simulate.Explanation{Labels: r.Labels}, nil
		}
	})
	const decide, pause = `{"planHash":"9f3c"}`, `{"scope":"global","why":"deploy"}`
	for _, c := range []struct {
		token, line, body string
		status            int
		detail            string
	}{
		{apitest.Viewer, "GET /api/v1/runs", "", 200, ""},
		{apitest.Viewer, "GET /api/v1/runs?limit=2&order=asc&phase=done", "", 200, ""},
		{apitest.Viewer, "GET /api/v1/runs?fase=done", "", 422, "validation failed"},
		{apitest.Viewer, "GET /api/v1/runs?phase=dead", "", 422, "validation failed"},
		{apitest.Viewer, "GET /api/v1/runs?limit=1001", "", 422, "validation failed"},
		{apitest.Viewer, "GET /api/v1/runs?since=yesterday", "", 422, "validation failed"},
		{apitest.Viewer, "GET /api/v1/runs?cursor=x", "", 400, "leave cursor out to begin anew"},
		{apitest.Viewer, "GET /api/v1/runs/0197aaaa-2", "", 200, ""},
		{apitest.Viewer, "GET /api/v1/runs/0197", "", 409, "5 runs begin with"},
		{apitest.Viewer, "GET /api/v1/runs/nope", "", 404, "not found"},
		{apitest.Viewer, "GET /api/v1/log", "", 200, ""},
		{apitest.Viewer, "GET /api/v1/log?kind=run.ended", "", 200, ""},
		{apitest.Viewer, "GET /api/v1/log?kind=run.endet", "", 422, "validation failed"},
		{apitest.Viewer, "GET /api/v1/runs?outcome=heeled", "", 422, "validation failed"},
		{apitest.Viewer, "GET /api/v1/log?follow=true&limit=3", "", 400, "leave out limit"},
		{apitest.Viewer, "GET /api/v1/playbooks", "", 200, ""},
		{apitest.Viewer, "GET /api/v1/pauses", "", 200, ""},
		{"", "GET /api/v1/log", "", 401, "send Authorization: Bearer"},
		{"wrong", "GET /api/v1/log", "", 401, "not known"},
		{"unavailable", "GET /api/v1/log", "", 503, "could not be checked"},
		{apitest.Sender, "GET /api/v1/log", "", 403, "does not have the role view"},
		{apitest.Viewer, "POST /api/v1/runs/0197aaaa-2/approve", decide, 403, "does not have the role approve"},
		{apitest.Sender, "POST /api/v1/runs/0197aaaa-2/approve", decide, 403, "does not have the role approve"},
		{apitest.Oncall, "POST /api/v1/pauses", pause, 403, "does not have the role admin"},
		{apitest.Oncall, "DELETE /api/v1/pauses?scope=global", "", 403, "does not have the role admin"},
		{apitest.Oncall, "POST /-/reload", "", 403, "does not have the role admin"},
		{apitest.Oncall, "POST /api/v1/runs/0197aaaa-2/approve", `{}`, 422, "planHash is required"},
		{apitest.Oncall, "POST /api/v1/runs/0197aaaa-2/approve", `{"planHash":"old"}`, 409, "decide about its present plan"},
		{apitest.Oncall, "POST /api/v1/runs/0197aaaa-1/approve", decide, 409, "no approval is pending"},
		{apitest.Oncall, "POST /api/v1/runs/0000/approve", decide, 404, "not found"},
		{apitest.Oncall, "POST /api/v1/runs/0197aaaa-2/approve", `{"planHash":"9f3c","force":true}`, 422, "validation failed"},
		{apitest.Oncall, "POST /api/v1/runs/0197aaaa-2/approve", `{"planHash":`, 400, "validation failed"},
		{apitest.Oncall, "POST /api/v1/runs/0197aaaa-2/approve", `{"planHash":"9f3c","reason":"` + strings.Repeat("x", api.MaxBody) + `"}`, 413, "too large"},
		{apitest.Admin, "POST /api/v1/pauses", `{"scope":"global","value":"x","why":"y"}`, 422, "a global pause has no value"},
		{apitest.Admin, "POST /api/v1/pauses", `{"scope":"namespace","why":"y"}`, 422, "write the name of the namespace"},
		{apitest.Admin, "POST /api/v1/pauses", `{"scope":"global"}`, 422, "validation failed"},
		{apitest.Admin, "DELETE /api/v1/pauses?scope=global", "", 404, "no such pause"},
		{apitest.Admin, "DELETE /api/v1/pauses", "", 422, "validation failed"},
		{apitest.Admin, "POST /api/v1/pauses", pause, 200, ""},
		{apitest.Admin, "DELETE /api/v1/pauses?scope=global&why=done", "", 200, ""},
		{apitest.Admin, "POST /-/reload", "", 200, ""},
		{apitest.Viewer, "POST /api/v1/explain", `{"labels":{"alertname":"A"}}`, 200, ""},
		{apitest.Viewer, "POST /api/v1/explain", `{"labels":{}}`, 422, "labels is empty"},
		{apitest.Viewer, "POST /api/v1/explain", `{"labels":{"alertname":"A"},"playbook":"nope"}`, 404, "no playbook"},
		{apitest.Sender, "POST /api/v1/explain", `{"labels":{"alertname":"A"}}`, 403, "does not have the role view"},
		{"", "GET /-/healthy", "", 200, ""},
		{"", "GET /-/ready", "", 200, ""},
		{apitest.Viewer, "DELETE /api/v1/runs", "", 405, ""},
	} {
		t.Run(c.line, func(t *testing.T) {
			got := ask(t, srv.URL, c.token, c.line, c.body)
			require.Equal(t, c.status, got.status, got.body)
			if c.detail != "" {
				require.Contains(t, got.problem(t), c.detail)
			}
		})
	}
}

func TestAPI_run(t *testing.T) {
	t.Parallel()
	srv := apitest.Server(t, sample(), nil)
	got := ask(t, srv.URL, apitest.Oncall, "GET /api/v1/runs/0197aaaa-2", "")
	var detail api.RunDetail
	require.NoError(t, json.Unmarshal([]byte(got.body), &detail))
	require.Equal(t, "0197aaaa-2", detail.Run.ID)
	require.Len(t, detail.Steps, 1)
	require.JSONEq(t, `{"summary":"undo it"}`, string(detail.Steps[0].Plan))
	require.Len(t, detail.Candidates, 1)
	require.Equal(t, "9f3c", detail.Approval.PlanHash)
	require.NotContains(t, got.body, "private", "the engine's own state stays inside")
	require.NotContains(t, ask(t, srv.URL, apitest.Viewer, "GET /api/v1/runs", "").body, "private")

	got = ask(t, srv.URL, apitest.Oncall, "POST /api/v1/runs/0197aaaa-2/approve", `{"planHash":"9f3c","reason":"ok"}`)
	require.Equal(t, 200, got.status)
	var approval store.Approval
	require.NoError(t, json.Unmarshal([]byte(got.body), &approval))
	require.Equal(t, "oncall", approval.By, "who approved is who the token belongs to")
	require.Equal(t, store.ApprovalApproved, approval.Status)
	require.NotContains(t, ask(t, srv.URL, apitest.Viewer, "GET /api/v1/runs/0197aaaa-2", "").body, `"approval":`)
}

// Pages follow each other without gap or repetition.
func TestAPI_cursor(t *testing.T) {
	t.Parallel()
	srv := apitest.Server(t, sample(), nil)
	var ids []string
	for cursor := ""; ; {
		var list api.RunList
		got := ask(t, srv.URL, apitest.Viewer, "GET /api/v1/runs?limit=2&cursor="+cursor, "")
		require.NoError(t, json.Unmarshal([]byte(got.body), &list))
		for _, r := range list.Items {
			ids = append(ids, r.ID[len(r.ID)-1:])
		}
		if cursor = list.NextCursor; cursor == "" {
			break
		}
	}
	require.Equal(t, []string{"5", "4", "3", "2", "1"}, ids)
}

func TestAPI_ndjson(t *testing.T) {
	t.Parallel()
	srv := apitest.Server(t, sample(), nil)
	lines := func(path string) []string {
		got := ask(t, srv.URL, apitest.Viewer, "GET "+path, "", "Accept", "text/plain;q=0.1, application/x-ndjson")
		require.Equal(t, 200, got.status)
		require.Equal(t, "application/x-ndjson", got.header.Get("Content-Type"))
		return strings.Split(strings.TrimSuffix(got.body, "\n"), "\n")
	}
	require.Len(t, lines("/api/v1/log"), 2500, "all pages")
	require.Len(t, lines("/api/v1/log?limit=7"), 7)
	require.Len(t, lines("/api/v1/log?kind=run.ended"), 2)
	require.Len(t, lines("/api/v1/runs"), 5)
	got := ask(t, srv.URL, apitest.Viewer, "GET /api/v1/log?kinds=x", "", "Accept", "application/x-ndjson")
	require.Equal(t, 422, got.status)
	got.problem(t)
}

// A follower gets what is there, then what comes, and heartbeats in between.
func TestAPI_follow(t *testing.T) {
	t.Parallel()
	st := sample()
	srv := apitest.Server(t, st, func(o *api.Options) { o.Heartbeat, o.Poll = 20*time.Millisecond, time.Hour })
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, srv.URL+"/api/v1/log?follow=true&kind=run.ended&afterSeq=1000", nil)
	require.NoError(t, err)
	req.Header.Set("Authorization", "Bearer "+apitest.Viewer)
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	reader := bufio.NewReader(resp.Body)
	next := func() (seq int64, beats int) {
		for {
			line, err := reader.ReadString('\n')
			require.NoError(t, err)
			if line == "\n" {
				beats++
				continue
			}
			var en journal.Entry
			require.NoError(t, json.Unmarshal([]byte(line), &en))
			return en.Seq, beats
		}
	}
	seq, beats := next()
	require.EqualValues(t, 2000, seq)
	require.Positive(t, beats, "the first beat comes at once")
	st.Append(journal.Entry{Kind: journal.StepDone}, journal.Entry{Kind: journal.RunEnded})
	seq, _ = next()
	require.EqualValues(t, 2502, seq)
	line, err := reader.ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "\n", line, "a heartbeat while nothing happens")
}

// Closing the API ends the streams, and their number is bounded.
func TestAPI_streamsEnd(t *testing.T) {
	t.Parallel()
	st := sample()
	router := chi.NewRouter()
	var closeAPI func()
	srv := apitest.Server(t, st, func(o *api.Options) {
		a, err := api.New(router, *o)
		require.NoError(t, err)
		closeAPI = a.Close
	})
	srv.Config.Handler = router
	var bodies []io.ReadCloser
	open := func() *http.Response {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, srv.URL+"/api/v1/log?follow=true&afterSeq=2500", nil)
		require.NoError(t, err)
		req.Header.Set("Authorization", "Bearer "+apitest.Viewer)
		resp, err := http.DefaultClient.Do(req)
		require.NoError(t, err)
		bodies = append(bodies, resp.Body)
		return resp
	}
	for range 64 {
		require.Equal(t, 200, open().StatusCode)
	}
	require.Equal(t, 503, open().StatusCode)
	closeAPI()
	closeAPI()
	for _, b := range bodies {
		_, err := io.Copy(io.Discard, b)
		require.NoError(t, err)
		require.NoError(t, b.Close())
	}
}

// A listing that breaks off must not look complete.
func TestAPI_streamFails(t *testing.T) {
	t.Parallel()
	st := sample()
	st.Err = errors.New("disk on fire at 10.0.0.1")
	srv := apitest.Server(t, st, nil)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, srv.URL+"/api/v1/log", nil)
	require.NoError(t, err)
	req.Header.Set("Authorization", "Bearer "+apitest.Viewer)
	req.Header.Set("Accept", "application/x-ndjson")
	resp, err := http.DefaultClient.Do(req)
	if err == nil {
		_, err = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
	}
	require.Error(t, err)
}

// Errors of the store keep its secrets, and say when to try again.
func TestAPI_storeFails(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		err    error
		status int
	}{
		{errors.New("password=hunter2"), 500},
		{fmt.Errorf("dial hunter2: %w", store.ErrUnavailable), 503},
		{fmt.Errorf("hunter2: %w", store.ErrBusy), 503},
	} {
		st := sample()
		st.Err = c.err
		srv := apitest.Server(t, st, nil)
		for _, line := range []string{"GET /api/v1/runs", "GET /api/v1/log", "GET /api/v1/pauses", "GET /api/v1/runs/0197aaaa-2"} {
			got := ask(t, srv.URL, apitest.Viewer, line, "")
			require.Equal(t, c.status, got.status)
			require.NotContains(t, got.problem(t), "hunter2")
		}
	}
}

func TestAPI_ready(t *testing.T) {
	t.Parallel()
	srv := apitest.Server(t, sample(), func(o *api.Options) {
		o.Ready = []api.Check{
			{Name: "store", Check: func(context.Context) error { return nil }},
			{Name: "resync", Check: func(context.Context) error { return errors.New("the sources were not read yet") }},
		}
		o.Reload = func(context.Context) error { return errors.New("a.yaml:1:1: bad") }
	})
	got := ask(t, srv.URL, "", "GET /-/ready", "")
	require.Equal(t, 503, got.status)
	require.JSONEq(t, `{"ready":false,"checks":[{"name":"store","ok":true},{"name":"resync","ok":false,"error":"the sources were not read yet"}]}`, got.body)
	got = ask(t, srv.URL, apitest.Admin, "POST /-/reload", "")
	require.Equal(t, 422, got.status)
	require.Contains(t, got.problem(t), "a.yaml:1:1: bad")
}

// A page of another site must not be able to decide anything.
func TestAPI_crossSite(t *testing.T) {
	t.Parallel()
	srv := apitest.Server(t, sample(), nil)
	for _, header := range [][]string{{"Sec-Fetch-Site", "cross-site"}, {"Origin", "https://evil.example"}} {
		got := ask(t, srv.URL, apitest.Oncall, "POST /api/v1/runs/0197aaaa-2/approve", `{"planHash":"9f3c"}`, header...)
		require.Equal(t, http.StatusForbidden, got.status)
	}
}

// The committed OpenAPI document is the one that the code makes.
func TestOpenAPI(t *testing.T) {
	t.Parallel()
	a, err := api.New(chi.NewRouter(), api.Options{Store: sample(), Auth: noAuth{}, Playbooks: noPlaybooks, Version: "v1", Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	doc, err := a.OpenAPI()
	require.NoError(t, err)
	var indented strings.Builder
	var v any
	require.NoError(t, json.Unmarshal(doc, &v))
	enc := json.NewEncoder(&indented)
	enc.SetIndent("", "  ")
	require.NoError(t, enc.Encode(v))
	const file = "../../docs/openapi.json"
	if *update {
		require.NoError(t, os.WriteFile(file, []byte(indented.String()), 0o644))
	}
	want, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, string(want), indented.String(), "run go test ./internal/api -run TestOpenAPI -update")
	srv := apitest.Server(t, sample(), nil)
	require.Contains(t, ask(t, srv.URL, "", "GET /api/v1/openapi.json", "").body, `"openapi":"3.1.0"`)
}

func TestNew_missing(t *testing.T) {
	t.Parallel()
	_, err := api.New(chi.NewRouter(), api.Options{})
	for _, name := range []string{"Store", "Auth", "Playbooks", "Logger"} {
		require.ErrorContains(t, err, "Options."+name+" is missing")
	}
}
