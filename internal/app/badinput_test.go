package app

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/alertmedic/alertmedic/internal/alert"
	"github.com/alertmedic/alertmedic/internal/api/client"
	"github.com/alertmedic/alertmedic/internal/config"
	"github.com/alertmedic/alertmedic/internal/journal"
	"github.com/alertmedic/alertmedic/internal/store"
	"github.com/alertmedic/alertmedic/internal/testcluster"
)

// away is a cluster that does not answer.
var away = &rest.Config{Host: "https://127.0.0.1:1"}

// bare is a configuration with one playbook file and no more than must be.
func bare(t *testing.T, dir, playbook string) *config.Config {
	t.Helper()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "playbook.yaml"), []byte(playbook), 0o600))
	cfg, err := config.Parse(filepath.Join(dir, "alertmedic.yaml"), fmt.Appendf(nil, `
cluster: test
listen: {address: "127.0.0.1:0"}
sources:
- {name: am, alertmanagers: [{url: "http://127.0.0.1:1"}], prometheuses: [{url: "http://127.0.0.1:1"}]}
store: {dsn: %q}
playbooks: {paths: [playbook.yaml]}
`, filepath.Join(dir, "medic.db")))
	require.NoError(t, err)
	testedBy(cfg)
	sharing(cfg)
	return cfg
}

// serveBare runs the service until stop is called or the test ends, and returns
// its URL. It may be started on the same files again after that.
func serveBare(t *testing.T, cfg *config.Config, cluster *rest.Config, handler slog.Handler) (url string, stop func()) {
	t.Helper()
	return serve(t, Options{Config: cfg, Logger: slog.New(handler), Registry: prometheus.NewRegistry(), Kubernetes: cluster})
}

// webhook is a payload of Alertmanager's with these alerts.
func webhook(t *testing.T, alerts ...any) string {
	t.Helper()
	raw, err := json.Marshal(map[string]any{"version": "4", "groupKey": "{}:{}", "status": "firing", "receiver": "alertmedic", "alerts": alerts})
	require.NoError(t, err)
	return string(raw)
}

// firing is an alert with these labels, given as name, value, name, value...
func firing(pairs ...string) map[string]any {
	labels := map[string]string{"alertname": "KubePodCrashLooping"}
	for i := 0; i < len(pairs); i += 2 {
		labels[pairs[i]] = pairs[i+1]
	}
	return map[string]any{"status": "firing", "labels": labels, "startsAt": "2026-03-01T12:00:00Z", "fingerprint": alert.Fingerprint(labels)}
}

// with returns a changed copy of an alert.
func with(a map[string]any, name string, value any) map[string]any {
	out := map[string]any{name: value}
	for k, v := range a {
		if k != name {
			out[k] = v
		}
	}
	return out
}

// follow returns the first n entries that a filter selects.
func follow(t *testing.T, url string, filter store.LogFilter, n int) []journal.Entry {
	t.Helper()
	c, err := client.New(client.Options{Server: url})
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	var seen []journal.Entry
	err = c.Follow(ctx, filter, func(en journal.Entry) error {
		if seen = append(seen, en); len(seen) == n {
			return errFound
		}
		return nil
	})
	require.ErrorIs(t, err, errFound, "%d of %d entries: %s", len(seen), n, kinds(seen))
	return seen
}

func exact(status int, message string) func(*testing.T, int, string) {
	return func(t *testing.T, gotStatus int, got string) {
		t.Helper()
		require.Equal(t, status, gotStatus, got)
		var answer struct{ Error string }
		require.NoError(t, json.Unmarshal([]byte(got), &answer))
		require.Equal(t, message, answer.Error)
	}
}

// What cannot be read is refused with what to do about it, by the server as it
// runs, and neither opens anything nor keeps the next webhook out.
func TestBadBodiesAreRefusedAndCostNothing(t *testing.T) {
	t.Parallel()
	url, _ := serveBare(t, bare(t, t.TempDir(), fmt.Sprintf(crashPlaybook, "Auto")), away, slog.DiscardHandler)
	good := webhook(t, firing("pod", "web-0", "namespace", "shop"))
	transport := &http.Transport{ExpectContinueTimeout: time.Minute}
	t.Cleanup(transport.CloseIdleConnections)
	for name, tc := range map[string]struct {
		body   string
		header [2]string
		want   func(*testing.T, int, string)
	}{
		"truncated": {good[:len(good)/2], [2]string{}, exact(400, "the body ends before the JSON document does; check what lies between Alertmanager and here for cut bodies")},
		"form":      {good, [2]string{"Content-Type", "application/x-www-form-urlencoded"}, exact(415, `Content-Type is "application/x-www-form-urlencoded"; send application/json`)},
		// Expect keeps the body back until it is asked for, which it never is.
		"17 MiB": {strings.Repeat("x", 17<<20), [2]string{"Expect", "100-continue"}, exact(413, "the body is larger than 16777216 bytes; add labels to Alertmanager's group_by, so that groups are smaller")},
		"deep": {`{"version":"4","alerts":[],"groupLabels":` + strings.Repeat("[", 33) + strings.Repeat("]", 33) + `}`, [2]string{},
			exact(400, `the field "groupLabels" nests deeper than 32 levels`)},
		"nothing": {"", [2]string{}, exact(400, "the body ends before the JSON document does; check what lies between Alertmanager and here for cut bodies")},
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+"/api/v1/webhook", strings.NewReader(tc.body))
		require.NoError(t, err)
		req.Header.Set("Content-Type", "application/json")
		if tc.header[0] != "" {
			req.Header.Set(tc.header[0], tc.header[1])
		}
		resp, err := transport.RoundTrip(req)
		require.NoError(t, err, name)
		got, err := io.ReadAll(resp.Body)
		require.NoError(t, err, name)
		require.NoError(t, resp.Body.Close())
		tc.want(t, resp.StatusCode, string(got))
	}
	status, answer := post(t, url+"/api/v1/webhook", good)
	require.Equal(t, 200, status, answer)
	require.Contains(t, answer, `"opened":1,`)
	first := follow(t, url, store.LogFilter{}, 2)
	require.Equal(t, journal.ServiceStarted, first[0].Kind, kinds(first))
	require.Equal(t, journal.EpisodeOpened, first[1].Kind, "nothing before the good one left a trace: %s", kinds(first))
}

// Bad alerts of a good group are written down, each with its reason, and take
// nothing from the others.
func TestBadAlertsOfAGroupAreJournalledAlone(t *testing.T) {
	t.Parallel()
	url, _ := serveBare(t, bare(t, t.TempDir(), fmt.Sprintf(crashPlaybook, "Auto")), away, slog.DiscardHandler)
	good := firing("pod", "web-0", "namespace", "shop")
	late := firing("pod", "late", "namespace", "shop")
	raw := webhook(t,
		good, good, // twice in one group
		with(late, "startsAt", time.Now().Add(24*time.Hour).UTC().Format(time.RFC3339)),
		with(firing("pod", "never"), "status", "resolved"),
		firing("pod", "BAD"),
		firing("big", strings.Repeat("x", 64<<10)),
		with(firing("pod", "deep"), "extra", json.RawMessage(strings.Repeat("[", 40)+strings.Repeat("]", 40))),
	)
	status, answer := post(t, url+"/api/v1/webhook", strings.Replace(raw, "BAD", "\xff\xfe", 1))
	require.Equal(t, 200, status, answer)
	var got map[string]int
	require.NoError(t, json.Unmarshal([]byte(answer), &got))
	require.Equal(t, map[string]int{"accepted": 4, "rejected": 3, "opened": 2, "reopened": 0, "closed": 0, "repeated": 1, "stale": 0, "orphaned": 1,
		"unmatched": 0, "candidates": 2}, got)
	said := map[string]string{}
	for _, en := range follow(t, url, store.LogFilter{Kind: string(journal.AlertRejected)}, 3) {
		said[en.Reason] = en.Message
	}
	require.Equal(t, map[string]string{
		"invalid-utf8":   "the alert holds bytes that are not UTF-8; correct the exporter or rule that makes the label",
		"label-too-long": `the label "big" is 65536 bytes long, the limit is 16384; move long text to an annotation`,
		"too-deep":       "the alert nests deeper than 32 levels; Alertmanager sends two",
	}, said)
	orphan := logged(t, url, journal.AlertOrphan)
	require.Equal(t, "resolved, and never seen firing: nothing is started", orphan.Message)
	// A start in the future is taken as now: the alert can still be resolved.
	status, answer = post(t, url+"/api/v1/webhook", webhook(t, with(with(late, "status", "resolved"), "endsAt", time.Now().Add(time.Minute).UTC().Format(time.RFC3339))))
	require.Equal(t, 200, status, answer)
	require.Contains(t, answer, `"closed":1,`)
}

// notices passes on the message and error of what the process warns of.
type notices struct {
	slog.Handler
	seen chan string
}

func (n notices) Handle(_ context.Context, r slog.Record) error {
	text := r.Message
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "err" {
			text += ": " + a.Value.String()
		}
		return true
	})
	select {
	case n.seen <- text:
	default:
	}
	return nil
}

func (n notices) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelWarn }
func (n notices) WithAttrs([]slog.Attr) slog.Handler           { return n }
func (n notices) WithGroup(string) slog.Handler                { return n }

// await returns the next notice with all of these in it.
func (n notices) await(t *testing.T, parts ...string) string {
	t.Helper()
	timeout := time.NewTimer(3 * time.Minute)
	defer timeout.Stop()
	for {
		select {
		case got := <-n.seen:
			if !slices.ContainsFunc(parts, func(part string) bool { return !strings.Contains(got, part) }) {
				return got
			}
		case <-timeout.C:
			require.FailNow(t, "no such notice", parts)
		}
	}
}

// Without a cluster the service starts, says so, and keeps what it is told: the
// candidate waits, through a restart too.
func TestWithoutAClusterNothingIsLost(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cfg := bare(t, dir, fmt.Sprintf(crashPlaybook, "Auto"))
	// A candidate that was being tried at the stop waits for its lease to run out.
	cfg.Engine.Lease, cfg.Engine.CallTimeout = 5*time.Second, 4*time.Second
	body := webhook(t, firing("pod", "web-0", "namespace", "shop"))
	for _, want := range []string{`"opened":1,`, `"repeated":1,`} {
		n := notices{seen: make(chan string, 1000)}
		url, stop := serveBare(t, cfg, away, n)
		require.Contains(t, n.await(t, "the cluster does not answer"), "webhooks are kept, and what they ask for waits until it does: see kubernetes in the configuration")
		status, answer := post(t, url+"/api/v1/webhook", body)
		require.Equal(t, 200, status, answer)
		require.Contains(t, answer, want)
		n.await(t, "resolve the candidate; trying again", "connection refused") // a busy machine may be late with the first try
		stop()

		s, err := store.Open(t.Context(), store.Options{DSN: cfg.Store.DSN})
		require.NoError(t, err)
		open, err := s.OpenEpisodes(t.Context(), "am")
		require.NoError(t, err)
		require.Len(t, open, 1)
		candidates, err := s.EpisodeCandidates(t.Context(), open[0].ID)
		require.NoError(t, err)
		require.Len(t, candidates, 1)
		require.Equal(t, store.Queued, candidates[0].Phase)
		require.Empty(t, candidates[0].Outcome)
		require.NoError(t, s.Close())
	}
}

// Playbooks that load and then fail on what an alert says end with a reason that
// names the field, before anything is asked of the cluster.
func TestWhatAnAlertMakesFailIsSaid(t *testing.T) {
	t.Parallel()
	var text strings.Builder
	for name, spec := range map[string]string{
		"template":  "target: {kind: Workload, name: '{{ .Labels.absent }}'}",
		"nothing":   "target: {kind: Workload, name: '{{ .Labels.empty }}'}",
		"condition": "when: \"int(label(alert, 'pod')) > 1\"\n  target: {kind: Workload}",
		"labels":    "target: {kind: Node}",
		"hostile":   "target: {kind: Pod}",
	} {
		fmt.Fprintf(&text, "---\napiVersion: alertmedic.io/v1alpha1\nkind: Playbook\nmetadata: {name: %s}\nspec:\n  matchers: [alertname = KubePodCrashLooping]\n"+
			"  %s\n  exclusive: false\n  remedies: [{name: look, steps: [{name: look, action: diagnose}], verify: {timeout: 30m, stableFor: 3s}}]\n", name, spec)
	}
	url, _ := serveBare(t, bare(t, t.TempDir(), text.String()), away, slog.DiscardHandler)
	status, answer := post(t, url+"/api/v1/webhook", webhook(t, firing("pod", "$(reboot)", "namespace", "shop", "empty", "")))
	require.Equal(t, 200, status, answer)
	require.Contains(t, answer, `"candidates":5`)
	got := map[string]string{}
	for _, en := range follow(t, url, store.LogFilter{Kind: string(journal.CandidateEnded)}, 5) {
		got[en.Playbook] = en.Outcome + " " + en.Reason + ": " + en.Message
	}
	const remedy = "; keep the label in the rule's expression, or correct the template"
	require.Contains(t, got["hostile"], `failed target-missing-label: label pod "$(reboot)" names no Pod: a lowercase RFC 1123 subdomain must consist of`)
	delete(got, "hostile") // the rest are the words of Kubernetes
	require.Equal(t, map[string]string{
		"template":  `failed target-template: spec.target.name: template "{{ .Labels.absent }}": 1:10: executing "" at <.Labels.absent>: map has no entry for key "absent"` + remedy,
		"nothing":   `failed target-template: spec.target.name: the template "{{ .Labels.empty }}" renders to nothing for this alert` + remedy,
		"condition": `suppressed condition-error: spec.when: condition "int(label(alert, 'pod')) > 1": type conversion error from 'string' to 'int'; an error denies: let the expression hold for such alerts too`,
		"labels":    "failed target-missing-label: the alert has no node label, nor the instance of a kubelet or node-exporter; keep node in the rule's expression, or set target.name in the playbook",
	}, got)
}

// Objects that are not there end the candidate with what is missing.
func TestAbsentObjectsAreSaidToBeAbsent(t *testing.T) {
	t.Parallel()
	cluster := testcluster.Shared(t)
	ns, going := cluster.Namespace(t), cluster.Namespace(t)
	maps := cluster.Client().CoreV1().ConfigMaps(going)
	_, err := maps.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "hold", Finalizers: []string{"medic-test/hold"}}}, metav1.CreateOptions{})
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
		defer cancel()
		_, err := maps.Patch(ctx, "hold", "application/merge-patch+json", []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{})
		require.NoError(t, err)
	})
	require.NoError(t, cluster.Client().CoreV1().Namespaces().Delete(t.Context(), going, metav1.DeleteOptions{}))

	url, _ := serveBare(t, bare(t, t.TempDir(), fmt.Sprintf(crashPlaybook, "Auto")), cluster.RESTConfig(), slog.DiscardHandler)
	for namespace, want := range map[string]string{
		ns:                  "failed target-gone: Pod/" + ns + "/web-0 is not there",
		"no-such-namespace": "failed target-gone: Pod/no-such-namespace/web-0 is not there, nor is its namespace",
		going:               "failed terminating: Pod/" + going + "/web-0 is not there: its namespace is being deleted",
	} {
		a := firing("pod", "web-0", "namespace", namespace)
		status, answer := post(t, url+"/api/v1/webhook", webhook(t, a))
		require.Equal(t, 200, status, answer)
		print, _ := a["fingerprint"].(string)
		en := follow(t, url, store.LogFilter{Kind: string(journal.CandidateEnded), Fingerprint: print}, 1)[0]
		require.Equal(t, want, en.Outcome+" "+en.Reason+": "+en.Message)
	}
}

// What a person asks the log for is text to compare with, never syntax.
func TestHostileFiltersSelectLiterally(t *testing.T) {
	t.Parallel()
	url, _ := serveBare(t, bare(t, t.TempDir(), fmt.Sprintf(crashPlaybook, "Auto")), away, slog.DiscardHandler)
	const hostile = `%' OR 1=1; DROP TABLE journal; --`
	status, answer := post(t, url+"/api/v1/webhook", webhook(t, firing(), firing("alertname", hostile)))
	require.Equal(t, 200, status, answer)
	follow(t, url, store.LogFilter{Kind: string(journal.EpisodeOpened)}, 2)
	c, err := client.New(client.Options{Server: url})
	require.NoError(t, err)
	list, err := c.Log(t.Context(), store.LogFilter{AlertName: hostile, Kind: string(journal.EpisodeOpened)}, client.Page{})
	require.NoError(t, err)
	require.Len(t, list.Items, 1)
	require.Equal(t, hostile, list.Items[0].AlertName)
	list, err = c.Log(t.Context(), store.LogFilter{AlertName: "%"}, client.Page{})
	require.NoError(t, err)
	require.Empty(t, list.Items)
}
