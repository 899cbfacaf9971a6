package app

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/alertmedic/alertmedic/internal/action"
	"github.com/alertmedic/alertmedic/internal/api/client"
	"github.com/alertmedic/alertmedic/internal/durability"
	"github.com/alertmedic/alertmedic/internal/journal"
	"github.com/alertmedic/alertmedic/internal/store"
	"github.com/alertmedic/alertmedic/internal/testcluster"
)

// alerting is an Alertmanager and a Prometheus in one that hold one alert, and
// that can be unwell.
type alerting struct {
	*httptest.Server
	asked atomic.Int64 // while unwell

	mu     sync.Mutex
	alert  map[string]any // nil: nothing fires
	unwell string
}

// The ways of being unwell.
const (
	refuses  = "refuses"
	hangs    = "hangs"
	fails    = "answers 500"
	babbles  = "answers garbage"
	isStale  = "has not evaluated for an hour" // Prometheus; Alertmanager has lost the alert
	noReason = ""
)

func newAlerting(t *testing.T) *alerting {
	t.Helper()
	a := &alerting{}
	a.Server = httptest.NewServer(a)
	t.Cleanup(a.Close)
	return a
}

func (a *alerting) hold(alert map[string]any) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.alert = alert
}

// fall makes every answer from now on unwell in this way.
func (a *alerting) fall(how string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.unwell = how
	a.asked.Store(0)
}

func (a *alerting) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	alert, unwell := a.alert, a.unwell
	a.mu.Unlock()
	if unwell != noReason {
		defer a.asked.Add(1)
	}
	evaluated := time.Now()
	switch unwell {
	case refuses:
		panic(http.ErrAbortHandler)
	case hangs:
		<-r.Context().Done()
		return
	case fails:
		http.Error(w, "oops", http.StatusInternalServerError)
		return
	case babbles:
		_, _ = w.Write([]byte(`{"status":"success","data":{"groups":"<html>`)) // read as an unknown state
		return
	case isStale:
		evaluated = evaluated.Add(-time.Hour)
	}
	held, active := []any{}, []any{}
	if alert != nil && unwell != isStale {
		held = append(held, map[string]any{
			"labels": alert["labels"], "annotations": map[string]string{}, "fingerprint": alert["fingerprint"], "receivers": []any{map[string]string{"name": "alertmedic"}},
			"startsAt": alert["startsAt"], "endsAt": time.Now().Add(time.Hour), "updatedAt": time.Now(),
			"status": map[string]any{"state": "active", "silencedBy": []string{}, "inhibitedBy": []string{}, "mutedBy": []string{}},
		})
		active = append(active, map[string]any{"labels": alert["labels"], "annotations": map[string]string{}, "state": "firing", "activeAt": alert["startsAt"], "value": "1"})
	}
	var doc any = held
	if strings.HasSuffix(r.URL.Path, "/rules") {
		rule := map[string]any{"type": "alerting", "name": "KubePodCrashLooping", "query": "up == 0", "duration": 1, "labels": map[string]string{}, "annotations": map[string]string{},
			"alerts": active, "health": "ok", "lastError": "", "evaluationTime": 0.001, "lastEvaluation": evaluated, "state": "firing"}
		doc = map[string]any{"status": "success", "data": map[string]any{"groups": []any{map[string]any{"name": "g", "file": "f", "interval": 1, "rules": []any{rule}}}}}
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(doc) // shows as an unknown state
}

const outagePlaybook = `apiVersion: alertmedic.io/v1alpha1
kind: Playbook
metadata: {name: crash}
spec:
  matchers: [alertname = KubePodCrashLooping]
  target: {kind: Workload}
  mode: Auto
  remedies:
  - name: restart
    steps:
    - {name: restart, action: pod.delete}
    verify: {timeout: 12s, stableFor: 2s} # what is broken after its start is broken before its end
`

// startOutage runs the service between an API server and an alerting that can
// both be taken away, with one pod that is unwell and the alert about it.
func startOutage(t *testing.T) (s *service, cluster *durability.APIProxy, source *alerting, sick string, alert map[string]any) {
	t.Helper()
	shared := testcluster.Shared(t)
	s = &service{cluster: shared, ns: shared.Namespace(t), slack: newSlackAPI(t)}
	cluster, source = durability.NewAPIProxy(t, shared, 0), newAlerting(t)
	rc, err := clientcmd.BuildConfigFromFlags("", cluster.Kubeconfig(t, "alertmedic"))
	require.NoError(t, err)
	s.kubernetes = rc
	s.sources = fmt.Sprintf("- {name: am, alertmanagers: [{url: %[1]q}], prometheuses: [{url: %[1]q}]}", source.URL)
	s.tuning = "engine: {callTimeout: 2s, unknownExtension: 5m}"
	s.pace = brisk
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s.replica(t, outagePlaybook, filepath.Join(t.TempDir(), "medic.db"), l)
	s.url = "http://" + l.Addr().String()
	s.client, err = client.New(client.Options{Server: s.url})
	require.NoError(t, err)
	sick = s.deploy(t, "web", 2)[0].Name
	require.NoError(t, shared.SetPodFault(t.Context(), s.ns, sick, testcluster.PodCrashLoop))
	alert = with(firing("namespace", s.ns, "pod", sick), "startsAt", time.Now().UTC())
	source.hold(alert)
	return s, cluster, source, sick, alert
}

// accepts posts the alert and requires that it is taken.
func (s *service) accepts(t *testing.T, alert map[string]any, want string) {
	t.Helper()
	status, answer := post(t, s.url+"/api/v1/webhook", webhook(t, alert))
	require.Equal(t, http.StatusOK, status, answer)
	require.Contains(t, answer, want)
}

func (s *service) retries(t *testing.T) float64 {
	t.Helper()
	return value(t, s.url[len("http://"):], `alertmedic_candidates_total{outcome="retry",playbook="crash"}`)
}

// The API server goes away three times: before anything is known of the target,
// right after it has deleted the pod and before it could say so, and while the
// result is looked at. Webhooks are taken all the while; the deletion is found
// to have been made and is not sent again; the verdict waits; and it all ends
// well without a restart.
func TestAnAPIServerThatGoesAway(t *testing.T) {
	t.Parallel()
	s, cluster, source, sick, alert := startOutage(t)
	cluster.Down()
	s.accepts(t, alert, `"opened":1,`)
	eventually(t, "the target is looked for in vain", func() bool { return s.retries(t) >= 1 })
	s.accepts(t, alert, `"repeated":1,`)
	cluster.Choose(func(durability.Call) durability.Fault { return durability.Fault{Delay: time.Minute} })
	cluster.DropConnections()
	before := s.retries(t)
	eventually(t, "a server that says nothing is not waited for", func() bool { return s.retries(t) > before })
	s.accepts(t, alert, `"repeated":1,`)
	require.Empty(t, s.entries(t, journal.CandidateEnded))
	require.Empty(t, cluster.Calls())

	var gone atomic.Bool
	cluster.Choose(func(c durability.Call) durability.Fault {
		switch {
		case gone.Load():
			return durability.Fault{Cut: durability.CutBefore}
		case c.Method == http.MethodDelete:
			gone.Store(true)
			return durability.Fault{Cut: durability.CutAfter}
		}
		return durability.Fault{}
	})
	entries := s.until(t, journal.StepProgress)
	require.Equal(t, string(action.ReasonUnclear), entries[len(entries)-1].Reason)
	s.accepts(t, alert, `"repeated":1,`)
	cut := cluster.Faults()["cut before"]
	eventually(t, "the change is looked for in vain", func() bool { return cluster.Faults()["cut before"] > cut })
	cluster.Up()

	s.until(t, journal.VerifyStarted)
	cluster.Down()
	entries = s.until(t, journal.VerifyVerdict)
	last := entries[len(entries)-1]
	require.Equal(t, "unknown", last.Outcome, "an alert that fires says nothing of a cluster that nobody can see: %s", last.Message)
	require.Contains(t, last.Message, "extended once")
	s.accepts(t, alert, `"repeated":1,`)
	source.hold(nil)
	cluster.Up()
	entries = s.until(t, journal.RunEnded)
	require.Equal(t, string(store.Healed), entries[len(entries)-1].Outcome, kinds(entries))
	s.requireOnce(t, sick)
}

// Alertmanager and Prometheus are away in every way: nothing is changed as long
// as nobody can say whether the alert still fires and is not silenced, and
// nothing is called healed as long as nobody can say that it ended. When they
// are back the run goes on.
func TestAnAlertThatNobodyCanTellOf(t *testing.T) {
	t.Parallel()
	s, cluster, source, sick, alert := startOutage(t)
	source.fall(babbles)
	s.accepts(t, alert, `"opened":1,`)
	entries := s.until(t, journal.RunWaiting)
	last := entries[len(entries)-1]
	require.Equal(t, "alert-unknown", last.Reason, last.Message)
	for _, how := range []string{refuses, fails, isStale, hangs} {
		source.fall(how)
		eventually(t, "it is asked again while it "+how, func() bool {
			s.resync(t)
			return source.asked.Load() >= 2
		})
		s.accepts(t, alert, `"repeated":1,`)
	}
	for _, c := range cluster.Calls() {
		require.True(t, c.Event(), "%s %s", c.Method, c.Path)
	}
	runs, err := s.client.Runs(t.Context(), store.RunFilter{}, client.Page{})
	require.NoError(t, err)
	require.Len(t, runs.Items, 1)
	require.Equal(t, store.Queued, runs.Items[0].Phase)
	require.Len(t, s.entries(t, journal.EpisodeOpened), 1)
	require.Empty(t, s.entries(t, journal.EpisodeClosed), "what nobody can tell of has not ended")

	source.fall(noReason)
	s.until(t, journal.VerifyStarted)
	source.fall(fails)
	entries = s.until(t, journal.VerifyVerdict)
	last = entries[len(entries)-1]
	require.Equal(t, "unknown", last.Outcome, last.Message)
	source.hold(nil)
	source.fall(noReason)
	entries = s.until(t, journal.RunEnded)
	require.Equal(t, string(store.Healed), entries[len(entries)-1].Outcome, kinds(entries))
	s.requireOnce(t, sick)
}

// resync makes the service read the state of all alerts: a webhook that leaves
// some out does.
func (s *service) resync(t *testing.T) {
	t.Helper()
	status, answer := post(t, s.url+"/api/v1/webhook", `{"version":"4","groupKey":"g","status":"firing","receiver":"alertmedic","truncatedAlerts":1,"alerts":[]}`)
	require.Equal(t, http.StatusOK, status, answer)
}
