package app

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"

	"github.com/alertmedic/alertmedic/internal/api/client"
	"github.com/alertmedic/alertmedic/internal/journal"
	"github.com/alertmedic/alertmedic/internal/store"
	"github.com/alertmedic/alertmedic/internal/testcluster"
)

// storms is how large they are: bounded, or long with ALERTMEDIC_SOAK.
type storms struct {
	nodes       int // of the cluster, in three zones
	deployments int // that one release breaks
	replicas    int // of each
	alerts      int // posted within spread
	spread      time.Duration
	workloads   int // that they are about
	acted       int // changes to wait for, so that the rates are seen at work
	windows     int // in which a node that flaps is acted on
	stormRuns   int // that are a storm
	stormWindow time.Duration
	stormCalm   time.Duration // after which it is over; a held run asks again as often
	guards      time.Duration // after which a run that is held asks again
}

func stormSize() storms {
	if os.Getenv("ALERTMEDIC_SOAK") != "" {
		return storms{nodes: 50, deployments: 20, replicas: 10, alerts: 10_000, spread: 30 * time.Second, workloads: 100, acted: 24, windows: 4, stormRuns: 30, stormWindow: time.Minute, stormCalm: time.Minute, guards: 15 * time.Second}
	}
	return storms{nodes: 10, deployments: 4, replicas: 10, alerts: 500, spread: 2 * time.Second, workloads: 40, acted: 12, windows: 2, stormRuns: 20, stormWindow: 10 * time.Second, stormCalm: 3 * time.Second, guards: 2 * time.Second}
}

// What a bad day does to a real control plane: what alertmedic changed is read
// from the API server's own record, and its caps are replayed on that.
func TestStormsOnARealControlPlane(t *testing.T) {
	t.Parallel()
	size := stormSize()
	cluster, err := testcluster.Start(t.Context(), testcluster.Options{Nodes: size.nodes})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, cluster.Stop()) })

	// These break no node that another test's pods are on.
	t.Run("apart", func(t *testing.T) {
		for name, test := range map[string]func(*testing.T, *testcluster.Cluster, storms){
			"a rollout breaks every pod": rolloutBreaksEveryPod, "very many alerts": veryManyAlerts,
			"a node flaps for one episode": nodeFlapsInOneEpisode, "a node flaps": nodeFlaps,
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				test(t, cluster, size)
			})
		}
	})
	// These break the nodes, one test after another.
	t.Run("four of five nodes fail at once", func(t *testing.T) { fourOfFiveNodesFail(t, cluster) })
	t.Run("a zone is lost", func(t *testing.T) { zoneIsLost(t, cluster) })
	t.Run("a zone is lost and the budgets are wide", func(t *testing.T) { zoneIsLostWithWideBudgets(t, cluster) })
}

// fastReads lets very many held runs ask at a test's pace without waiting for
// each other.
const fastReads = "kubernetes: {qps: 200, burst: 400}\n"

// poll waits until check is true. It looks four times a second: what it looks at,
// the log and the audit log, is read as a whole.
func poll(t *testing.T, what string, check func() bool) {
	t.Helper()
	deadline := time.NewTimer(stormPatience())
	defer deadline.Stop()
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	for !check() {
		select {
		case <-deadline.C:
			t.Fatalf("not seen: %s", what)
		case <-tick.C:
		}
	}
}

// stormPatience is how long a test waits for what must come.
func stormPatience() time.Duration {
	if os.Getenv("ALERTMEDIC_SOAK") != "" {
		return 20 * time.Minute
	}
	return 5 * time.Minute
}

// untilLogged follows the log until it has n entries of these kinds.
func (s *service) untilLogged(t *testing.T, n int, kinds ...journal.Kind) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), stormPatience())
	defer cancel()
	seen := 0
	err := s.client.Follow(ctx, store.LogFilter{}, func(en journal.Entry) error {
		if slices.Contains(kinds, en.Kind) {
			seen++
		}
		if seen >= n {
			return errFound
		}
		return nil
	})
	require.ErrorIs(t, err, errFound, "%d of %d entries %v", seen, n, kinds)
}

// runs are all of the service's, by id.
func (s *service) runs(t *testing.T) map[string]store.Run {
	t.Helper()
	out := map[string]store.Run{}
	page := client.Page{Limit: 200}
	for {
		list, err := s.client.Runs(t.Context(), store.RunFilter{}, page)
		require.NoError(t, err)
		for _, r := range list.Items {
			out[r.ID] = r
		}
		if page.Cursor = list.NextCursor; page.Cursor == "" {
			return out
		}
	}
}

// logged are the entries of a kind.
func (s *service) logged(t *testing.T, kind journal.Kind) []journal.Entry {
	t.Helper()
	var out []journal.Entry
	require.NoError(t, s.client.Entries(t.Context(), store.LogFilter{Kind: string(kind)}, func(en journal.Entry) error {
		out = append(out, en)
		return nil
	}))
	return out
}

// refusals are the objections that the log has, by reason, as text.
func (s *service) refusals(t *testing.T) string {
	t.Helper()
	counts := map[string]int{}
	for _, en := range s.logged(t, journal.GuardDecided) {
		if en.Reason != "" {
			counts[en.Reason]++
		}
	}
	var out []string
	for _, reason := range slices.Sorted(maps.Keys(counts)) {
		out = append(out, fmt.Sprintf("%d %s", counts[reason], reason))
	}
	return strings.Join(out, ", ")
}

// mutations are the changes that alertmedic made since, of objects that are one's
// own, in the order of their ends: what the API server granted. What it refused, a
// trial (dryRun) and an Event changed nothing.
func (s *service) mutations(t *testing.T, since time.Time, own func(*auditv1.ObjectReference) bool) []auditv1.Event {
	t.Helper()
	events, err := s.cluster.Mutations(since)
	require.NoError(t, err)
	return slices.DeleteFunc(events, func(ev auditv1.Event) bool { return !changes(ev) || !own(ev.ObjectRef) })
}

func changes(ev auditv1.Event) bool {
	switch {
	case !strings.HasPrefix(ev.UserAgent, "alertmedic/"), ev.ObjectRef == nil, ev.Stage != auditv1.StageResponseComplete,
		ev.ResponseStatus == nil, ev.ResponseStatus.Code/100 != 2:
		return false
	case ev.ObjectRef.Resource == "events", strings.HasSuffix(ev.ObjectRef.Resource, "reviews"):
		return false
	case strings.Contains(ev.RequestURI, "dryRun="), ev.RequestObject != nil && strings.Contains(string(ev.RequestObject.Raw), `"dryRun":[`):
		return false
	}
	return true
}

func statusOf(code int32) *metav1.Status { return &metav1.Status{Code: code} }

func rawOf(text string) *runtime.Unknown { return &runtime.Unknown{Raw: []byte(text)} }

// Only what the API server granted to alertmedic counts as a change.
func TestWhatCountsAsAChange(t *testing.T) {
	t.Parallel()
	event := func(edit func(*auditv1.Event)) auditv1.Event {
		ev := auditv1.Event{UserAgent: "alertmedic/dev", Stage: auditv1.StageResponseComplete, Verb: "patch", RequestURI: "/api/v1/nodes/n?fieldManager=alertmedic",
			ObjectRef: &auditv1.ObjectReference{Resource: "nodes", Name: "n"}, ResponseStatus: statusOf(200)}
		edit(&ev)
		return ev
	}
	require.True(t, changes(event(func(*auditv1.Event) {})))
	require.True(t, changes(event(func(ev *auditv1.Event) { ev.ResponseStatus = statusOf(201) })))
	for name, edit := range map[string]func(*auditv1.Event){
		"another's":         func(ev *auditv1.Event) { ev.UserAgent = "kubectl/v1.34" },
		"refused":           func(ev *auditv1.Event) { ev.ResponseStatus = statusOf(409) },
		"without an answer": func(ev *auditv1.Event) { ev.ResponseStatus = nil },
		"a panic":           func(ev *auditv1.Event) { ev.Stage = auditv1.StagePanic },
		"a trial":           func(ev *auditv1.Event) { ev.RequestURI += "&dryRun=All" },
		"an Event":          func(ev *auditv1.Event) { ev.ObjectRef.Resource = "events" },
		"a question":        func(ev *auditv1.Event) { ev.ObjectRef.Resource = "selfsubjectaccessreviews" },
		"of no object":      func(ev *auditv1.Event) { ev.ObjectRef = nil },
		"a trial by its body": func(ev *auditv1.Event) {
			ev.RequestObject = rawOf(`{"kind":"DeleteOptions","dryRun":["All"]}`)
		},
	} {
		require.False(t, changes(event(edit)), name)
	}
}

// account tells which run made each change, as its target says, and what is known
// of the runs; late is by how much a request came later than it was admitted, at
// most.
func (s *service) account(t *testing.T, events []auditv1.Event) ([]change, map[string]span, time.Duration) {
	t.Helper()
	known := s.runs(t)
	spans, byTarget := map[string]span{}, map[string][]store.Run{}
	for id, r := range known {
		spans[id] = span{playbook: r.Playbook, namespace: r.Target.Namespace, zone: r.Target.Zone, ended: r.EndedAt}
		if !r.IntentAt.IsZero() {
			key := r.Target.Namespace + "/" + r.Target.Name
			byTarget[key] = append(byTarget[key], r)
		}
	}
	var out []change
	var late time.Duration
	for _, ev := range events {
		c := change{at: ev.RequestReceivedTimestamp.Time, what: ev.ObjectRef.Resource + " " + ev.ObjectRef.Namespace + "/" + ev.ObjectRef.Name}
		name := ev.ObjectRef.Name
		if ev.ObjectRef.Resource == "pods" { // of a Deployment: its name, that of the ReplicaSet's template, its own
			parts := strings.Split(name, "-")
			name = strings.Join(parts[:max(0, len(parts)-2)], "-")
		}
		var latest store.Run
		for _, r := range byTarget[ev.ObjectRef.Namespace+"/"+name] {
			if !r.IntentAt.After(c.at) && r.IntentAt.After(latest.IntentAt) {
				latest = r
			}
		}
		c.run = latest.ID
		if !slices.ContainsFunc(out, func(o change) bool { return o.run == c.run }) && c.run != "" {
			late = max(late, c.at.Sub(latest.IntentAt))
		}
		out = append(out, c)
	}
	return out, spans, late
}

// requireCaps replays the caps on what the API server recorded.
func (s *service) requireCaps(t *testing.T, c caps, events []auditv1.Event) []change {
	t.Helper()
	made, runs, late := s.account(t, events)
	c.late = late
	t.Logf("%d changes by %d runs, the latest request %s after its admission; refused: %s; Slack: %d messages, %d calls\n%s",
		len(made), len(firsts(made)), late.Round(time.Millisecond), s.refusals(t), len(messages(s.slack.all())), len(s.slack.all()), seconds(made, runs))
	require.Empty(t, c.broken(made, runs), "by the API server's own record")
	return made
}

// requireReasons wants every run to be at an end, at work, or held for a reason.
func (s *service) requireReasons(t *testing.T) map[string]store.Run {
	t.Helper()
	all := s.runs(t)
	for _, r := range all {
		switch r.Phase {
		case store.Done:
			require.NotEmpty(t, r.Outcome, "run %s of %s", r.ID, r.Target)
		case store.Queued:
			require.True(t, r.Wait == store.WaitNone && !r.DueAt.After(time.Now()) || r.Wait == store.WaitLock || r.Reason != "",
				"run %s of %s waits and does not say why: %s %q", r.ID, r.Target, r.Wait, r.Message)
		}
	}
	return all
}
