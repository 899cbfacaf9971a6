package app

import (
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alertmedic/alertmedic/internal/api"
	"github.com/alertmedic/alertmedic/internal/api/client"
	"github.com/alertmedic/alertmedic/internal/guard"
	"github.com/alertmedic/alertmedic/internal/journal"
	"github.com/alertmedic/alertmedic/internal/store"
	"github.com/alertmedic/alertmedic/internal/testcluster"
)

// brisk is the pace of tests that would else wait for most of their time.
var brisk = Pace{Guards: time.Second, Verify: time.Second, Backoff: 500 * time.Millisecond}

// entries reads everything of a kind that the log holds now about the tests' alert.
func (s *service) entries(t *testing.T, kind journal.Kind) []journal.Entry {
	t.Helper()
	list, err := s.client.Log(t.Context(), store.LogFilter{Kind: string(kind), AlertName: alertName}, client.Page{})
	require.NoError(t, err)
	return list.Items
}

// quiet waits until no episode is open, and returns how often one was opened,
// reopened and closed.
func (s *service) quiet(t *testing.T) (opened, reopened, closed int) {
	t.Helper()
	eventually(t, "every episode is closed", func() bool {
		opened, reopened, closed = len(s.entries(t, journal.EpisodeOpened)), len(s.entries(t, journal.EpisodeReopened)), len(s.entries(t, journal.EpisodeClosed))
		return opened > 0 && closed == opened+reopened
	})
	return opened, reopened, closed
}

// began returns since when each Prometheus has the alert of the namespace, zero
// for one that has none.
func (s *service) began(t *testing.T) []time.Time {
	t.Helper()
	out := make([]time.Time, s.monitoring.Prometheuses)
	for i := range out {
		var answer struct {
			Data struct {
				Alerts []struct {
					Labels   map[string]string
					State    string
					ActiveAt time.Time
				}
			}
		}
		getJSON(t, s.watch.PrometheusURL(i)+"/api/v1/alerts", &answer)
		for _, a := range answer.Data.Alerts {
			if a.Labels["alertname"] == alertName && a.Labels["namespace"] == s.ns && a.State == "firing" {
				out[i] = a.ActiveAt
			}
		}
	}
	return out
}

func getJSON(t *testing.T, url string, into any) {
	t.Helper()
	require.NoError(t, json.Unmarshal([]byte(get(t, url)), into), url)
}

// repeats is how often the service was told what it knew already, over all
// replicas that have this metrics page.
func (s *service) repeats(t *testing.T) float64 {
	t.Helper()
	return value(t, s.url[len("http://"):], `alertmedic_alerts_received_total{source="am",status="firing"}`)
}

// requireOnce checks that one fault was one episode, one run and one change.
func (s *service) requireOnce(t *testing.T, pod string) {
	t.Helper()
	require.Len(t, s.entries(t, journal.EpisodeOpened), 1)
	runs, err := s.client.Runs(t.Context(), store.RunFilter{}, client.Page{})
	require.NoError(t, err)
	require.Len(t, runs.Items, 1)
	require.Equal(t, store.Healed, runs.Items[0].Outcome)
	s.requireOneDelete(t, pod)
}

// A pair of Alertmanagers that talk to each other and a pair of Prometheuses that
// do not agree on when it began, each of which tells each of two replicas; one
// Alertmanager is killed while the alert fires and comes back with what it had on
// disk: one episode, one run, one change, one report.
func TestAPairOfEverythingActsOnce(t *testing.T) {
	t.Parallel()
	dsn := database(t)
	s := startIn(t, surroundings{
		monitoring: testcluster.MonitoringOptions{Prometheuses: 2, Alertmanagers: 2}, pace: brisk,
		tuning: "engine: {resyncInterval: 2s}\nsafety: {cooldown: {afterSuccess: 1s}}",
	}, fmt.Sprintf(crashPlaybook, "Auto"), dsn, dsn)
	pods := s.deploy(t, "web", 2)
	require.NoError(t, s.cluster.SetPodFault(t.Context(), s.ns, pods[0].Name, testcluster.PodCrashLoop))
	s.until(t, journal.EpisodeOpened)
	peer := s.watch.Process("alertmanager-0")
	require.NoError(t, peer.Kill())
	entries := s.until(t, journal.RunEnded)
	last := entries[len(entries)-1]
	require.Equal(t, string(store.Healed), last.Outcome, "%s: %s", last.Message, kinds(entries))
	require.NoError(t, peer.Restart())
	require.NoError(t, s.watch.Ready(t.Context()))
	s.slack.requireOneMessage(t, "healed")
	s.quiet(t)
	s.requireOnce(t, pods[0].Name)
}

// The same with the network split between the pairs: each Alertmanager sends what
// its Prometheus tells it, so that one alert has two beginnings. Nothing is done
// before both have told theirs more than once; and when all is over the first
// report comes once more.
func TestASplitPairActsOnce(t *testing.T) {
	t.Parallel()
	s := startIn(t, surroundings{
		monitoring: testcluster.MonitoringOptions{Prometheuses: 2, Alertmanagers: 2, Split: true}, pace: brisk,
		tuning: "engine: {resyncInterval: 1s}\nsafety: {cooldown: {afterSuccess: 1s}}",
	}, fmt.Sprintf(crashPlaybook, "Auto"), filepath.Join(t.TempDir(), "medic.db"))
	s.pause(t)
	pods := s.deploy(t, "web", 2)
	require.NoError(t, s.cluster.SetPodFault(t.Context(), s.ns, pods[0].Name, testcluster.PodCrashLoop))
	first := s.until(t, journal.EpisodeOpened)
	eventually(t, "both Prometheuses have the alert, and each from another time on", func() bool {
		began := s.began(t)
		return !began[0].IsZero() && !began[1].IsZero() && !began[0].Equal(began[1])
	})
	eventually(t, "both Alertmanagers have told it, twice", func() bool { return s.repeats(t) >= 4 })
	s.resume(t)
	entries := s.until(t, journal.RunEnded)
	last := entries[len(entries)-1]
	require.Equal(t, string(store.Healed), last.Outcome, "%s: %s", last.Message, kinds(entries))
	s.slack.requireOneMessage(t, "healed")

	// A late duplicate: the episode is open again until the state is read anew,
	// and nothing is done about what does not fire.
	opened := first[len(first)-1]
	var said struct {
		Labels   map[string]string
		StartsAt time.Time
	}
	require.NoError(t, json.Unmarshal(opened.Data, &said))
	late := webhook(t, map[string]any{"status": "firing", "labels": said.Labels, "startsAt": said.StartsAt, "fingerprint": opened.Fingerprint})
	_, before, _ := s.quiet(t)
	status, answer := post(t, s.url+"/api/v1/webhook", late)
	require.Equal(t, http.StatusOK, status, answer)
	require.Contains(t, answer, `"reopened":1,`)
	eventually(t, "the episode is open again, and closed again", func() bool {
		_, reopened, _ := s.quiet(t)
		return reopened == before+1
	})
	s.requireOnce(t, pods[0].Name)
}

func (s *service) pause(t *testing.T) {
	t.Helper()
	_, err := s.client.Pause(t.Context(), api.PauseBody{Scope: guard.PauseGlobal, Why: "the test is not ready"})
	require.NoError(t, err)
}

func (s *service) resume(t *testing.T) {
	t.Helper()
	_, err := s.client.Resume(t.Context(), guard.PauseGlobal, "", "the test is ready")
	require.NoError(t, err)
}
