package promapi_test

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"github.com/alertmedic/alertmedic/internal/guard"
	"github.com/alertmedic/alertmedic/internal/promapi"
)

func TestState(t *testing.T) {
	t.Parallel()
	a := theAlert()
	other := map[string]string{"alertname": a.Name(), "namespace": "shop", "pod": "web-1", "severity": "warning"}
	none := []doc{}
	there := []doc{held(a)}
	quiet := rules(rule(a.Name()))
	fires := rules(rule(a.Name(), active("firing", local())))
	down := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) })
	silenced := []doc{held(a, status("suppressed", []string{"s-1"}, nil, nil))}
	since := start.Add(-time.Second)

	for name, tc := range map[string]struct {
		ams, proms []any
		since      time.Time
		state      guard.AlertState
		by         string
		at         time.Time
	}{
		"resolved":                            {ams: []any{none}, proms: []any{quiet}, state: guard.AlertResolved, at: start},
		"held and firing":                     {ams: []any{there}, proms: []any{fires}, state: guard.AlertFiring, at: start},
		"only Alertmanager holds it":          {ams: []any{there}, proms: []any{quiet}, state: guard.AlertFiring},
		"only Prometheus fires it":            {ams: []any{none}, proms: []any{fires}, state: guard.AlertFiring, at: start},
		"another alert of the rule fires":     {ams: []any{[]doc{held(a, with("fingerprint", "0000000000000000"))}}, proms: []any{rules(rule(a.Name(), active("firing", other)))}, state: guard.AlertResolved, at: start},
		"silenced":                            {ams: []any{silenced}, proms: []any{fires}, state: guard.AlertSilenced, by: "s-1"},
		"silenced on one replica":             {ams: []any{there, silenced}, proms: []any{fires}, state: guard.AlertSilenced, by: "s-1"},
		"silenced by ourselves":               {ams: []any{[]doc{held(a, status("suppressed", []string{"own-1"}, nil, nil))}}, proms: []any{quiet}, state: guard.AlertFiring},
		"silenced by ourselves and a person":  {ams: []any{[]doc{held(a, status("suppressed", []string{"own-1", "s-2"}, nil, nil))}}, proms: []any{quiet}, state: guard.AlertSilenced, by: "s-2"},
		"inhibited":                           {ams: []any{[]doc{held(a, status("suppressed", nil, []string{"00112233"}, nil))}}, proms: []any{fires}, state: guard.AlertInhibited, by: "00112233"},
		"muted":                               {ams: []any{[]doc{held(a, status("suppressed", nil, nil, []string{"nights"}))}}, proms: []any{fires}, state: guard.AlertSilenced, by: "muted by nights"},
		"Alertmanager down":                   {ams: []any{down}, proms: []any{quiet}, state: guard.AlertUnknown, by: "no Alertmanager answers: alertmanager URL: /api/v2/alerts answered 502 Bad Gateway"},
		"Alertmanager down, Prometheus fires": {ams: []any{down}, proms: []any{fires}, state: guard.AlertUnknown, by: "no Alertmanager answers: alertmanager URL: /api/v2/alerts answered 502 Bad Gateway"},
		"one Alertmanager down, firing":       {ams: []any{down, there}, proms: []any{fires}, state: guard.AlertFiring, at: start},
		"one Alertmanager down, absent":       {ams: []any{down, none}, proms: []any{quiet}, state: guard.AlertResolved, at: start},
		"Prometheus down":                     {ams: []any{none}, proms: []any{down}, state: guard.AlertUnknown, by: "prometheus URL: server_error: server error: 502"},
		"Prometheus down, held":               {ams: []any{there}, proms: []any{down}, state: guard.AlertFiring},
		"one Prometheus down":                 {ams: []any{none}, proms: []any{quiet, down}, state: guard.AlertUnknown, by: "prometheus URL: server_error: server error: 502"},
		"one Prometheus fires":                {ams: []any{none}, proms: []any{quiet, fires}, state: guard.AlertFiring, at: start},
		"no Prometheus configured":            {ams: []any{none}, state: guard.AlertUnknown, by: "Alertmanager does not hold it, and no Prometheus is configured that could say why"},
		"rule vanished":                       {ams: []any{none}, proms: []any{rules(rule("Other"))}, state: guard.AlertUnknown, by: "a Prometheus cannot tell: it has no rule that makes this alert"},
		"rule of another severity":            {ams: []any{none}, proms: []any{rules(rule(a.Name(), with("labels", doc{"severity": "critical"})))}, state: guard.AlertUnknown, by: "a Prometheus cannot tell: it has no rule that makes this alert"},
		"rule with a templated label":         {ams: []any{none}, proms: []any{rules(rule(a.Name(), with("labels", doc{"severity": "{{ $labels.severity }}"})))}, state: guard.AlertResolved, at: start},
		"rule fails":                          {ams: []any{none}, proms: []any{rules(rule(a.Name(), with("health", "err"), with("lastError", "many-to-many")))}, state: guard.AlertUnknown, by: "a Prometheus cannot tell: the rule fails to evaluate: many-to-many"},
		"failing rule still shows it":         {ams: []any{none}, proms: []any{rules(rule(a.Name(), with("health", "err"), active("firing", local())))}, state: guard.AlertUnknown, by: "a Prometheus cannot tell: the rule fails to evaluate: "},
		"rule never evaluated":                {ams: []any{none}, proms: []any{rules(rule(a.Name(), with("health", "unknown"), with("lastEvaluation", time.Time{})))}, state: guard.AlertUnknown, by: "a Prometheus cannot tell: the rule has not been evaluated yet"},
		"rule not evaluated since":            {ams: []any{none}, proms: []any{quiet}, since: start.Add(time.Second), state: guard.AlertUnknown, by: "the rule has not been evaluated since 2026-03-02T10:00:01Z"},
		"one replica has not evaluated since": {ams: []any{none}, proms: []any{quiet, rules(rule(a.Name(), with("lastEvaluation", start.Add(-2*time.Second))))}, state: guard.AlertUnknown, by: "the rule has not been evaluated since 2026-03-02T09:59:59Z"},
		"rule stuck":                          {ams: []any{none}, proms: []any{rules(rule(a.Name(), with("lastEvaluation", start.Add(-5*time.Minute))))}, since: start.Add(-time.Hour), state: guard.AlertUnknown, by: "a Prometheus cannot tell: the rule was last evaluated 5m5s ago"},
		"the oldest evaluation counts":        {ams: []any{none}, proms: []any{quiet, rules(rule(a.Name(), with("lastEvaluation", start.Add(time.Second))))}, state: guard.AlertResolved, at: start},
		"two rules, one fires":                {ams: []any{none}, proms: []any{rules(rule(a.Name()), rule(a.Name(), active("firing", local())))}, state: guard.AlertFiring, at: start},
		"pending":                             {ams: []any{none}, proms: []any{rules(rule(a.Name(), active("pending", local())))}, state: guard.AlertUnknown, by: "pending: its condition holds, but not yet for as long as the rule asks", at: start},
		"replica label dropped on the way":    {ams: []any{none}, proms: []any{rules(rule(a.Name(), active("firing", map[string]string{"alertname": a.Name(), "namespace": "shop", "pod": "web-0", "severity": "warning", "prometheus_replica": "0"})))}, state: guard.AlertFiring, at: start},
		"not JSON":                            {ams: []any{"hello"}, proms: []any{quiet}, state: guard.AlertUnknown, by: "no Alertmanager answers: alertmanager URL: the answer is not a list of alerts: it begins with hello"},
		"nothing at all":                      {ams: []any{raw("")}, proms: []any{quiet}, state: guard.AlertUnknown, by: "no Alertmanager answers: alertmanager URL: read the list of alerts: EOF"},
		"null":                                {ams: []any{raw("null")}, proms: []any{quiet}, state: guard.AlertUnknown, by: "no Alertmanager answers: alertmanager URL: the answer is not a list of alerts: it begins with <nil>"},
		"a list cut off":                      {ams: []any{raw("[")}, proms: []any{quiet}, state: guard.AlertUnknown, by: "no Alertmanager answers: alertmanager URL: read the end of the list of alerts: EOF"},
		"an alert cut off":                    {ams: []any{raw(`[{"fingerprint": "x"`)}, proms: []any{quiet}, state: guard.AlertUnknown, by: "no Alertmanager answers: alertmanager URL: read an alert of the list: unexpected EOF"},
		"two lists":                           {ams: []any{raw("[] []")}, proms: []any{quiet}, state: guard.AlertUnknown, by: "no Alertmanager answers: alertmanager URL: something follows the list of alerts"},
		"alert without status":                {ams: []any{[]doc{{"fingerprint": a.Fingerprint}}}, proms: []any{quiet}, state: guard.AlertUnknown, by: "no Alertmanager answers: alertmanager URL: an alert without fingerprint or status"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var ams, proms []*server
			for _, d := range tc.ams {
				ams = append(ams, serve(t, amPath, d))
			}
			for _, d := range tc.proms {
				proms = append(proms, serve(t, promPath, d))
			}
			w := reader(t, ams, proms, func(c *promapi.Config) {
				c.OwnSilence = func(id string) bool { return strings.HasPrefix(id, "own-") }
			})
			if tc.since.IsZero() {
				tc.since = since
			}
			got := w.State(t.Context(), a, tc.since)
			for _, s := range append(ams, proms...) {
				got.By = strings.ReplaceAll(strings.ReplaceAll(got.By, s.URL+"/", s.URL), s.URL, "URL")
			}
			require.Equal(t, guard.AlertEvidence{State: tc.state, By: tc.by, EvaluatedAt: tc.at}, got)
		})
	}
}

func TestStateAsksForOneName(t *testing.T) {
	t.Parallel()
	am, prom := serve(t, amPath, []doc{}), serve(t, promPath, rules(rule("KubePodNotReady")))
	w := reader(t, []*server{am}, []*server{prom})
	require.Equal(t, guard.AlertResolved, w.State(t.Context(), theAlert(), time.Time{}).State)
	require.Equal(t, []string{`alertname="KubePodNotReady"`}, am.asked()[0]["filter"])
	require.Equal(t, []string{"true"}, am.asked()[0]["silenced"])
	require.Equal(t, []string{"true"}, am.asked()[0]["inhibited"])
	require.Equal(t, []string{"KubePodNotReady"}, prom.asked()[0]["rule_name[]"])
	require.Equal(t, []string{"alert"}, prom.asked()[0]["type"])
	require.NoError(t, testutil.GatherAndCompare(w.registry, strings.NewReader(`
# HELP alertmedic_alert_state_reads_total Requests to the Alertmanagers and Prometheuses of a source, by outcome (ok, timeout, error).
# TYPE alertmedic_alert_state_reads_total counter
alertmedic_alert_state_reads_total{outcome="error",reader="alertmanager",source="main"} 0
alertmedic_alert_state_reads_total{outcome="error",reader="prometheus",source="main"} 0
alertmedic_alert_state_reads_total{outcome="ok",reader="alertmanager",source="main"} 1
alertmedic_alert_state_reads_total{outcome="ok",reader="prometheus",source="main"} 1
alertmedic_alert_state_reads_total{outcome="timeout",reader="alertmanager",source="main"} 0
alertmedic_alert_state_reads_total{outcome="timeout",reader="prometheus",source="main"} 0
`)))

	nameless := theAlert()
	delete(nameless.Labels, "alertname")
	require.Equal(t, guard.AlertEvidence{State: guard.AlertUnknown, By: "the alert has no alertname or no fingerprint"}, w.State(t.Context(), nameless, time.Time{}))
}

// A quote in a name must not end the matcher.
func TestStateQuotesTheName(t *testing.T) {
	t.Parallel()
	am := serve(t, amPath, []doc{})
	w := reader(t, []*server{am}, nil)
	a := theAlert()
	a.Labels["alertname"] = `x", severity="critical`
	w.State(t.Context(), a, time.Time{})
	require.Equal(t, []string{`alertname="x\", severity=\"critical"`}, am.asked()[0]["filter"])
}

// A storm of runs asks once a second, and a run that has just changed something
// is not shown what was read before.
func TestAnswersAreShared(t *testing.T) {
	t.Parallel()
	am, prom := serve(t, amPath, []doc{}), serve(t, promPath, rules(rule("KubePodNotReady")))
	w := reader(t, []*server{am}, []*server{prom})
	for range 50 {
		require.Equal(t, guard.AlertResolved, w.State(t.Context(), theAlert(), time.Time{}).State)
	}
	require.Len(t, am.asked(), 1)
	require.Len(t, prom.asked(), 1)

	w.clock.advance(500 * time.Millisecond)
	changed := w.clock.Now()
	prom.set(rules(rule("KubePodNotReady", with("lastEvaluation", changed.Add(time.Millisecond)))))
	got := w.State(t.Context(), theAlert(), changed)
	require.Equal(t, guard.AlertEvidence{State: guard.AlertResolved, EvaluatedAt: changed.Add(time.Millisecond)}, got)
	require.Len(t, am.asked(), 2)

	w.clock.advance(2 * time.Second)
	w.State(t.Context(), theAlert(), time.Time{})
	require.Len(t, am.asked(), 3)
	require.Len(t, prom.asked(), 3)
}

// Many who ask at once share one request, and one who gives up does not end it
// for the others.
func TestRequestsUnderWayAreShared(t *testing.T) {
	t.Parallel()
	entered, leave := make(chan struct{}, 1), make(chan struct{})
	am := serve(t, amPath, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		entered <- struct{}{}
		<-leave
		_, _ = io.WriteString(w, "[]")
	}))
	prom := serve(t, promPath, rules(rule("KubePodNotReady")))
	w := reader(t, []*server{am}, []*server{prom})
	impatient, cancel := context.WithCancel(t.Context())
	first := make(chan guard.AlertEvidence, 1)
	go func() { first <- w.State(impatient, theAlert(), time.Time{}) }()
	<-entered
	others := make(chan guard.AlertEvidence, 10)
	for range cap(others) {
		go func() { others <- w.State(t.Context(), theAlert(), time.Time{}) }()
	}
	cancel()
	require.Equal(t, guard.AlertUnknown, (<-first).State)
	close(leave)
	for range cap(others) {
		require.Equal(t, guard.AlertResolved, (<-others).State)
	}
	require.Len(t, am.asked(), 1)
}

// A Prometheus whose clock is ahead has not seen the future.
func TestClockOfTheOtherSide(t *testing.T) {
	t.Parallel()
	am := serve(t, amPath, []doc{})
	ahead := func(d time.Duration) *server {
		return serve(t, promPath, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Date", start.Add(5*time.Second+d).Format(http.TimeFormat))
			writeJSON(w, rules(rule("KubePodNotReady", with("lastEvaluation", start.Add(d)))))
		}))
	}
	changed := start.Add(2 * time.Second) // after the evaluation, by this clock
	require.Equal(t, guard.AlertUnknown, reader(t, []*server{am}, []*server{ahead(0)}).State(t.Context(), theAlert(), changed).State)
	require.Equal(t, guard.AlertUnknown, reader(t, []*server{am}, []*server{ahead(time.Minute)}).State(t.Context(), theAlert(), changed).State)
	behind := reader(t, []*server{am}, []*server{ahead(-time.Minute)}).State(t.Context(), theAlert(), start.Add(-time.Second))
	require.Equal(t, guard.AlertEvidence{State: guard.AlertResolved, EvaluatedAt: start}, behind)
}
