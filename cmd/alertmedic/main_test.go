package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/alertmedic/alertmedic/internal/action"
	"github.com/alertmedic/alertmedic/internal/alert"
	"github.com/alertmedic/alertmedic/internal/api/apitest"
	"github.com/alertmedic/alertmedic/internal/journal"
	"github.com/alertmedic/alertmedic/internal/store"
)

var update = flag.Bool("update", false, "rewrite the golden files and docs/cli.md")

func TestMain(m *testing.M) {
	flag.Parse()
	completeTimeout = time.Minute // no test is about it
	goleak.VerifyTestMain(m)
}

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// fixture is a server with some runs and entries, and a console.
type fixture struct {
	store *apitest.Store
	url   string
	env   map[string]string
	in    io.Reader
	ask   bool
	// colour makes output as on a terminal.
	colour bool
}

func setup(t *testing.T, token string) *fixture {
	t.Helper()
	web := action.Target{Cluster: "prod-eu1", Ref: action.Ref{Kind: action.KindDeployment, Namespace: "shop", Name: "web", UID: "u1"}}
	node := action.Target{Cluster: "prod-eu1", Ref: action.Ref{Kind: action.KindNode, Name: "node-3", UID: "u2"}}
	plan, err := json.Marshal(action.Plan{Summary: "roll back Deployment/shop/web from revision 7 to 6", Diff: "--- live\n+++ planned\n-image: web:2\n+image: web:1\n"})
	require.NoError(t, err)
	st := &apitest.Store{
		RunRows: []store.Run{
			{ID: "01980000-0001-7000-8000-000000000001", Playbook: "node-not-ready", AlertName: "KubeNodeNotReady", Target: node, Phase: store.Done,
				Outcome: store.Escalated, Reason: "attempts", Message: "evil \x1b[2J\nsecond line", CreatedAt: now.Add(-26 * time.Hour), EndedAt: now.Add(-25 * time.Hour)},
			{ID: "01980000-0001-7000-8000-000000000002", Playbook: "pod-crash-looping", AlertName: "KubePodCrashLooping", Target: web, Phase: store.Done,
				Outcome: store.Healed, CreatedAt: now.Add(-2 * time.Hour), EndedAt: now.Add(-110 * time.Minute)},
			{ID: "01980000-0003-7000-8000-000000000003", Playbook: "pod-crash-looping", AlertName: "KubePodCrashLooping", Target: web, Phase: store.Active,
				Wait: store.WaitApproval, Message: "roll-back waits for a person", CreatedAt: now.Add(-90 * time.Second), DueAt: now.Add(time.Minute), ExpiresAt: now.Add(time.Hour)},
		},
		StepRows: []store.Step{
			{RunID: "01980000-0003-7000-8000-000000000003", RemedyName: "restart-pod", Name: "restart", Action: "pod.delete", Status: store.StepDone, Message: "gone after 12s"},
			{RunID: "01980000-0003-7000-8000-000000000003", Remedy: 1, RemedyName: "roll-back", Name: "undo", Action: "workload.rollback", Status: store.StepPlanned, Plan: plan},
		},
		Candidates: []store.Candidate{{RunID: "01980000-0003-7000-8000-000000000003", Episode: store.Episode{OpenedAt: now.Add(-5 * time.Minute),
			Signal: alert.Signal{Source: "main"}, Alert: alert.Alert{Status: alert.Firing, Labels: map[string]string{"alertname": "KubePodCrashLooping\x1b]0;x\a"}}}}},
		Approvals: map[string]store.Approval{"01980000-0003-7000-8000-000000000003": {RunID: "01980000-0003-7000-8000-000000000003", PlanHash: "9f3c2a",
			Status: store.ApprovalPending, AskedAt: now.Add(-time.Minute)}},
	}
	st.Append(
		journal.Entry{Kind: journal.EpisodeOpened, At: now.Add(-2 * time.Hour), AlertName: "KubePodCrashLooping"},
		journal.Entry{Kind: journal.StepIntent, At: now.Add(-time.Hour), RunID: "r1", Playbook: "pod-crash-looping", Remedy: "restart-pod", Step: "restart", Action: "pod.delete", Target: &web, Message: "delete pod shop/web-1"},
		journal.Entry{Kind: journal.RunEnded, At: now.Add(-30 * time.Minute), RunID: "r1", Playbook: "pod-crash-looping", Target: &web, Outcome: "healed", Message: "healthy for 3m\x1b[31m"},
		journal.Entry{Kind: journal.PauseSet, At: now.Add(-time.Minute), Actor: "oncall", Reason: "global", Message: "release"},
	)
	f := &fixture{store: st, url: apitest.Server(t, st, nil).URL, env: map[string]string{}, in: strings.NewReader("")}
	f.env[envServer] = f.url
	if token != "" {
		file := filepath.Join(t.TempDir(), "token")
		require.NoError(t, os.WriteFile(file, []byte(token+"\n"), 0o600))
		f.env[envTokenFile] = file
	}
	return f
}

type result struct {
	code     int
	out, err string
}

func (f *fixture) run(t *testing.T, args ...string) result {
	t.Helper()
	return f.runContext(t.Context(), args...)
}

func (f *fixture) runContext(ctx context.Context, args ...string) result {
	var out, errOut bytes.Buffer
	code := run(ctx, args, console{in: f.in, out: &out, err: &errOut, env: func(k string) string { return f.env[k] },
		ask: f.ask, colour: f.colour, now: func() time.Time { return now }})
	return result{code, out.String(), errOut.String()}
}

// requireGolden compares with testdata/NAME.txt.
func requireGolden(t *testing.T, name string, r result) {
	t.Helper()
	got := fmt.Sprintf("exit code %d\n--- stdout\n%s--- stderr\n%s", r.code, r.out, r.err)
	file := filepath.Join("testdata", name+".txt")
	if *update {
		require.NoError(t, os.WriteFile(file, []byte(got), 0o644))
	}
	want, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, string(want), got)
}

const waiting = "01980000-0003"

// What each command prints, word for word.
func TestGolden(t *testing.T) {
	t.Parallel()
	for name, args := range map[string][]string{
		"runs":             {"runs"},
		"runs-wide":        {"runs", "-o", "wide", "--phase", "done"},
		"runs-json":        {"runs", "-o", "json", "--limit", "1"},
		"runs-more":        {"runs", "--limit", "2"},
		"runs-none":        {"runs", "--namespace", "nowhere"},
		"runs-since":       {"runs", "--since", "3h"},
		"run":              {"runs", waiting},
		"run-json":         {"runs", waiting, "-o", "json"},
		"run-none":         {"runs", "0000"},
		"run-ambiguous":    {"runs", "01980000-0001"},
		"log":              {"log"},
		"log-json":         {"log", "--limit", "2", "-o", "json"},
		"log-filtered":     {"log", "--all", "--namespace", "shop", "--kind", "run.ended"},
		"log-run-none":     {"log", "--run", "0000"},
		"pause-list":       {"pause", "--list"},
		"pause-why":        {"pause"},
		"pause":            {"pause", "--namespace", "shop", "--why", "release"},
		"pause-unloaded":   {"pause", "--playbook", "nosuch", "--why", "release"},
		"pause-both":       {"pause", "--namespace", "shop", "--playbook", "a", "--why", "x"},
		"resume-none":      {"resume"},
		"approve-unasked":  {"approve", waiting},
		"approve-old":      {"approve", waiting, "--plan", "old"},
		"approve-plan":     {"approve", waiting, "--plan", "9f3c2a", "--reason", "ok"},
		"approve-yes":      {"approve", waiting, "--yes", "-o", "json"},
		"approve-ended":    {"approve", "01980000-0001-7000-8000-000000000002", "--yes"},
		"reject":           {"reject", waiting, "--reason", "no"},
		"unknown-command":  {"aprove", "x"},
		"unknown-sub":      {"actions", "descibe"},
		"unknown-flag":     {"runs", "--namespce", "x"},
		"unknown-output":   {"runs", "-o", "yaml"},
		"bad-since":        {"runs", "--since", "yesterday"},
		"bad-phase":        {"runs", "--phase", "dead"},
		"bad-limit":        {"runs", "--limit", "0"},
		"missing-argument": {"approve"},
		"bad-server":       {"runs", "--server", "medic:9095"},
		"no-token-file":    {"runs", "--token-file", "/nonexistent/token"},
		"actions":          {"actions"},
		"actions-describe": {"actions", "describe", "node.drain"},
		"actions-unknown":  {"actions", "describe", "node.drian"},
		"check-good":       {"check", "--config", "testdata/good.yaml"},
		"check-looser":     {"check", "--config", "testdata/looser.yaml"},
		"check-bad":        {"check", "--config", "testdata/bad.yaml", "testdata/playbooks"},
		"check-json":       {"check", "-o", "json", "testdata/playbooks"},
		"check-none":       {"check"},
		"check-missing":    {"check", "testdata/nowhere"},
		"serve-no-config":  {"serve", "--config", "testdata/nowhere.yaml"},
		"serve-bad-config": {"serve", "--config", "testdata/bad.yaml"},
		"help":             {"--help"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			requireGolden(t, name, setup(t, apitest.Admin).run(t, args...))
		})
	}
}

// On a terminal states are coloured, and columns stay aligned.
func TestGolden_colour(t *testing.T) {
	t.Parallel()
	for name, args := range map[string][]string{
		"colour-runs": {"runs"}, "colour-run": {"runs", waiting}, "colour-log": {"log"}, "colour-check": {"check", "testdata/playbooks"},
	} {
		f := setup(t, apitest.Viewer)
		f.colour = true
		requireGolden(t, name, f.run(t, args...))
	}
}

func TestExitCodes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		token string
		args  []string
		code  int
		text  string
	}{
		{"", []string{"runs"}, exitRefused, "no bearer token"},
		{"wrong-token", []string{"log"}, exitRefused, "not known"},
		{apitest.Viewer, []string{"reject", waiting}, exitRefused, "does not have the role approve"},
		{apitest.Oncall, []string{"pause", "--why", "x"}, exitRefused, "does not have the role admin"},
		{"unavailable", []string{"runs"}, exitError, "could not be checked"},
		{apitest.Viewer, []string{"runs", "--server", "http://127.0.0.1:1"}, exitError, "reach the server http://127.0.0.1:1"},
		{apitest.Viewer, []string{"runs", "--server", "http://u:hunter2@127.0.0.1:1"}, exitError, "u:xxxxx@"},
		{apitest.Viewer, []string{"version"}, exitOK, ""},
		{apitest.Viewer, []string{"version", "-o", "json"}, exitOK, ""},
		{apitest.Viewer, []string{"version", "x"}, exitUsage, "unknown command"},
		{apitest.Viewer, []string{"completion", "bash"}, exitOK, ""},
		{apitest.Viewer, []string{"completion"}, exitOK, ""},
		{apitest.Viewer, []string{"completion", "nonsense"}, exitUsage, `unknown command "nonsense"`},
		{apitest.Viewer, []string{"completion", "bahs"}, exitUsage, `unknown command "bahs"; did you mean bash?`},
		{apitest.Admin, []string{"approve", "0199"}, exitNotFound, "0199"},
		{apitest.Admin, []string{"approve", waiting}, exitUsage, "name the plan with --plan, or pass --yes; the plan that waits is 9f3c2a"},
		{apitest.Viewer, []string{"help", "runs"}, exitOK, ""},
		{apitest.Viewer, []string{"help", "rnus"}, exitUsage, `unknown command "rnus"; did you mean runs?`},
		{apitest.Viewer, []string{}, exitOK, ""},
	} {
		got := setup(t, c.token).run(t, c.args...)
		require.Equal(t, c.code, got.code, "%v: %s", c.args, got.err)
		require.Contains(t, got.err, c.text)
		require.NotContains(t, got.err+got.out, "hunter2")
	}
}

// A server that is no alertmedic is said to be none.
func TestWrongServer(t *testing.T) {
	t.Parallel()
	f := setup(t, apitest.Viewer)
	got := f.run(t, "runs", "--server", f.url+"/elsewhere")
	require.Contains(t, got.err, "does not look like alertmedic's API")
}

func TestApprove_asks(t *testing.T) {
	t.Parallel()
	for answer, code := range map[string]int{"y\n": exitOK, "YES\n": exitOK, "n\n": exitRefused, "\n": exitRefused, "": exitRefused} {
		f := setup(t, apitest.Oncall)
		f.ask, f.in = true, strings.NewReader(answer)
		got := f.run(t, "approve", waiting)
		require.Equal(t, code, got.code)
		require.Contains(t, got.err, "roll back Deployment/shop/web from revision 7 to 6", "the plan is shown before the question")
		a := f.store.Approvals["01980000-0003-7000-8000-000000000003"]
		require.Equal(t, map[bool]store.ApprovalStatus{true: store.ApprovalApproved, false: store.ApprovalPending}[code == exitOK], a.Status)
	}
}

// syncBuffer is read while a command writes it.
type syncBuffer struct {
	mu   sync.Mutex
	b    bytes.Buffer
	wake chan struct{}
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	n, err := s.b.Write(p)
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
	return n, err
}

func (s *syncBuffer) until(t *testing.T, text string) {
	t.Helper()
	for {
		s.mu.Lock()
		got := s.b.String()
		s.mu.Unlock()
		if strings.Contains(got, text) {
			return
		}
		select {
		case <-s.wake:
		case <-time.After(2 * time.Minute):
			t.Fatalf("%q did not come; got %q", text, got)
		}
	}
}

// Following prints the newest entries, then what comes, survives a server that
// goes away, and ends with 130 at ^C.
func TestLog_follow(t *testing.T) {
	f := setup(t, apitest.Viewer)
	reconnectAfter = time.Millisecond
	t.Cleanup(func() { reconnectAfter = 2 * time.Second })
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	out := &syncBuffer{wake: make(chan struct{}, 1)}
	errOut := &syncBuffer{wake: make(chan struct{}, 1)}
	code := make(chan int, 1)
	go func() {
		code <- run(ctx, []string{"log", "--follow", "--limit", "1", "-o", "json"}, console{in: f.in, out: out, err: errOut, env: func(k string) string { return f.env[k] }, now: time.Now})
	}()
	out.until(t, `"seq":4`)
	f.store.Append(journal.Entry{Kind: journal.StepDone, At: now, Message: "five"})
	out.until(t, `"seq":5`)
	f.store.Append(journal.Entry{Kind: journal.StepDone, At: now, Message: "six"})
	out.until(t, `"seq":6`)
	cancel(signalled{syscall.SIGINT})
	require.Equal(t, 130, <-code)
	lines := strings.Split(strings.TrimSpace(out.b.String()), "\n")
	require.Len(t, lines, 3, "no entry twice, none left out")
	require.Empty(t, errOut.b.String())
}

func TestFollow_reconnects(t *testing.T) {
	reconnectAfter = time.Millisecond
	t.Cleanup(func() { reconnectAfter = 2 * time.Second })
	f := setup(t, apitest.Viewer)
	srv := newCutter(t, f.url)
	f.env[envServer] = srv.URL
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	out := &syncBuffer{wake: make(chan struct{}, 1)}
	errOut := &syncBuffer{wake: make(chan struct{}, 1)}
	code := make(chan int, 1)
	go func() {
		code <- run(ctx, []string{"log", "-f", "--all"}, console{in: f.in, out: out, err: errOut, env: func(k string) string { return f.env[k] }, now: time.Now})
	}()
	out.until(t, "pause.set")
	srv.cut()
	errOut.until(t, "connecting again")
	f.store.Append(journal.Entry{Kind: journal.StepDone, At: now, Message: "after the cut"})
	out.until(t, "after the cut")
	cancel(signalled{syscall.SIGINT})
	require.Equal(t, 130, <-code)
	require.Equal(t, 1, strings.Count(out.b.String(), "pause.set"))
}

func TestInterrupted(t *testing.T) {
	t.Parallel()
	f := setup(t, apitest.Viewer)
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(signalled{syscall.SIGINT})
	require.Equal(t, 130, f.runContext(ctx, "runs").code)
	ctx, cancel = context.WithCancelCause(t.Context())
	cancel(signalled{syscall.SIGTERM})
	require.Equal(t, 143, f.runContext(ctx, "runs").code)
}

func TestShort(t *testing.T) {
	t.Parallel()
	for d, want := range map[time.Duration]string{-time.Second: "0s", 59 * time.Second: "59s", 90 * time.Second: "1m", 2 * time.Hour: "2h", 125 * time.Minute: "2h5m", 49 * time.Hour: "2d"} {
		require.Equal(t, want, short(d))
	}
}

func TestComplete(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"__complete", "approve", ""}, "01980000-0003-7000-8000-000000000003\tpod-crash-looping on Deployment/shop/web, waits for approval\n"},
		{[]string{"__complete", "runs", "01980000-0001"}, "01980000-0001-7000-8000-000000000001\t"},
		{[]string{"__complete", "runs", "--phase", ""}, "active\n"},
		{[]string{"__complete", "actions", "describe", ""}, "node.drain\t"},
		{[]string{"__complete", "log", "--action", ""}, "pod.delete\n"},
		{[]string{"__complete", "runs", "--playbook", ""}, ":4\n"},
	} {
		got := setup(t, apitest.Viewer).run(t, c.args...)
		require.Equal(t, exitOK, got.code, got.err)
		require.Contains(t, got.out, c.want)
	}
	f := setup(t, "")
	got := f.run(t, "__complete", "runs", "")
	require.NotContains(t, got.out, "0198", "without a token nothing is told")
}

var errStub = errors.New("stub")
