package simulate_test

import (
	"bytes"
	"flag"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/alertmedic/alertmedic/internal/action"
	"github.com/alertmedic/alertmedic/internal/guard"
	"github.com/alertmedic/alertmedic/internal/simulate"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestParseAlertsTakesWhatPeopleHaveAtHand(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"labels alone": `{"alertname": "A", "pod": "p"}`,
		"an alert":     `{"labels": {"alertname": "A", "pod": "p"}, "startsAt": "2026-03-01T12:00:00Z", "fingerprint": "x", "status": {"state": "active"}}`,
		"a webhook":    `{"version": "4", "alerts": [{"labels": {"alertname": "A", "pod": "p"}, "status": "firing"}]}`,
	} {
		got, err := simulate.ParseAlerts([]byte(text))
		require.NoError(t, err, name)
		require.Len(t, got, 1, name)
		require.Equal(t, map[string]string{"alertname": "A", "pod": "p"}, got[0].Labels, name)
	}
	for text, want := range map[string]string{
		"{\n\"alertname\"; 1}":     "the alert is not JSON at 2:12: invalid character ';'",
		`{"alertname"`:             "the alert is not JSON",
		`{}`:                       "the alert has no labels",
		`{"alertname": 3}`:         "the alert has no labels",
		`[{"labels": {"a": "b"}}]`: "the alert is not JSON",
	} {
		_, err := simulate.ParseAlerts([]byte(text))
		require.ErrorContains(t, err, want, text)
	}
}

// What people read, word for word: testdata/explain.txt and testdata/plan.txt.
func TestText(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 3, 1, 3, 0, 0, 0, time.UTC)
	wait := guard.Decision{Guard: "paused", Verdict: guard.Delay, Reason: "paused", Message: "paused (global) by ada: release", RetryAt: at.Add(time.Minute)}
	web := &action.Target{Cluster: "prod", Ref: action.Ref{Kind: "Deployment", Namespace: "shop", Name: "web"}}
	e := simulate.Explanation{At: at, Source: "main", Cluster: "prod", Labels: map[string]string{"pod": "web-1\x1b[31m", "alertname": "KubePodCrashLooping"},
		Alert:   guard.AlertEvidence{State: guard.AlertFiring, By: "Prometheus"},
		Refused: []string{"new.yaml:4:3: spec: unknown field matchres (did you mean \"matchers\"?)\nPlaybook forged would act now"},
		Playbooks: []simulate.Considered{
			{Name: "node-down", Why: `alertname="KubeNodeNotReady": alertname is "KubePodCrashLooping"`},
			{Name: "quiet", Matched: true, Why: "not-found: Pod shop/web-1 does not exist\nPlaybook quiet would act now"},
			{Name: "restart", Matched: true, Target: web, Resolution: "pod web-1 is of ReplicaSet web-5d; that is of Deployment web",
				Remedies: []simulate.PlannedRemedy{
					{Name: "restart-pod", Applies: true, Steps: []simulate.PlannedStep{{Name: "restart", Action: "pod.delete", Summary: "delete pod shop/web-1", Diff: "- pod shop/web-1\n+ (a new pod)\n", Decision: &wait}}},
					{Name: "roll-back", Why: "when is false: facts.rolledOutWithin('1h')"},
				},
				Decision: &wait, Guards: []guard.Decision{wait, {Guard: "wrong-cluster", Verdict: guard.Admit}}},
			{Name: "weaker", Matched: true, Target: web, SupersededBy: "restart"},
		}}
	for name, write := range map[string]func(*bytes.Buffer) error{
		"explain": func(b *bytes.Buffer) error { return e.WriteText(b) },
		"plan":    func(b *bytes.Buffer) error { return e.WritePlan(b) },
	} {
		var b bytes.Buffer
		require.NoError(t, write(&b))
		file := "testdata/" + name + ".txt"
		if *update {
			require.NoError(t, os.WriteFile(file, b.Bytes(), 0o644))
		}
		want, err := os.ReadFile(file)
		require.NoError(t, err)
		require.Equal(t, string(want), b.String(), "run go test ./internal/simulate -update")
	}
}
