package engine

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alertmedic/alertmedic/internal/alert"
	"github.com/alertmedic/alertmedic/internal/guard"
	"github.com/alertmedic/alertmedic/internal/kube"
	"github.com/alertmedic/alertmedic/internal/store"
)

// watched is a world whose evidence a test changes.
type watched struct {
	*world
	change func(guard.Evidence) guard.Evidence
}

func (w watched) Evidence(ctx context.Context, req kube.EvidenceRequest) guard.Evidence {
	return w.change(w.world.Evidence(ctx, req))
}

// An observer whose clock is an hour off counts the age of what it saw by that
// clock, and the store's clock decides: a storm of nodes is waited out all the
// same.
func TestTheObserversClockDoesNotMatter(t *testing.T) {
	t.Parallel()
	for name, skew := range map[string]time.Duration{"right": 0, "behind": -time.Hour, "ahead": time.Hour} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := setup(t, doc("cordon", `  matchers: [alertname = Broken]
  target: {kind: Node}
  remedies:
  - name: cordon
    steps: [{name: cordon, action: node.cordon}]
    verify: {timeout: 5m, stableFor: 1m}
`))
			grew := w.now.Add(-30 * time.Second)
			w.nodes = &guard.NodeEvidence{Total: 20}
			w.engine.Cluster = watched{w, func(ev guard.Evidence) guard.Evidence {
				ev.ObservedAt = ev.ObservedAt.Add(skew)
				nodes := *ev.Nodes
				nodes.GrowingSince = grew.Add(skew)
				ev.Nodes = &nodes
				return ev
			}}
			w.fire("n1")
			w.work()
			require.Empty(t, w.calls, "the number of sick nodes grew 30s ago, and must stay for 1m")
			w.pass(25 * time.Second)
			require.Empty(t, w.calls)
			w.pass(10 * time.Second)
			require.Len(t, w.calls, 1)
		})
	}
}

// evaluating tells that an alert is resolved when its rule was evaluated after
// what is asked for, by the wall clock.
type evaluating struct {
	*world
	wall func() time.Time
}

func (p evaluating) State(_ context.Context, _ alert.Alert, since time.Time) guard.AlertEvidence {
	if len(p.calls) == 0 {
		return guard.AlertEvidence{State: guard.AlertFiring}
	}
	if since.After(p.wall()) {
		return guard.AlertEvidence{State: guard.AlertUnknown, By: "the rule has not been evaluated since " + since.String()}
	}
	return guard.AlertEvidence{State: guard.AlertResolved}
}

// After a wall clock that was an hour fast is set right, the store's time is
// ahead of everybody else's for hours. A verification compares the two, so that
// what healed is seen to be healed.
func TestAVerificationAfterTheClockWasSetBack(t *testing.T) {
	t.Parallel()
	w := setup(t, doc("restart", restart))
	w.engine.Sources["am"] = Source{Name: "am", Cluster: "c1", Reader: evaluating{w, func() time.Time { return w.now }}}
	w.fire("web")
	w.now = w.now.Add(-time.Hour)
	w.work()
	require.Len(t, w.calls, 1)
	w.health = func() kube.Health { return kube.Health{State: kube.Healthy} }
	w.pass(2 * time.Minute)
	run := w.onlyRun()
	require.Equal(t, store.Healed, run.Outcome, run.Message)
	require.Len(t, w.calls, 1)
}

// Nothing is sent whose intent could not be written, and when the database is
// back it is sent, once.
func TestNothingIsSentWithoutItsIntent(t *testing.T) {
	t.Parallel()
	w := setup(t, doc("restart", restart))
	file := filepath.Join(t.TempDir(), "medic.db")
	require.NoError(t, w.store.Close())
	var err error
	w.store, err = store.Open(t.Context(), store.Options{DSN: file, Clock: w.clock, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	for _, pb := range w.set.All() {
		require.NoError(t, w.store.PutPlaybook(t.Context(), pb.Hash, pb.Doc))
	}
	w.engine = w.newEngine("worker-1")
	broken := false
	w.engine.Cluster = watched{w, func(ev guard.Evidence) guard.Evidence {
		if !broken { // from right before the admission on, nothing can be written
			require.NoError(t, os.Rename(file, file+".away"))
			broken = true
		}
		return ev
	}}
	w.fire("web")
	cands, err := w.store.ClaimCandidates(t.Context(), w.engine.Owner, w.engine.Lease, 10)
	require.NoError(t, err)
	for _, c := range cands {
		w.engine.resolve(t.Context(), c)
	}
	claimed, err := w.store.ClaimRuns(t.Context(), w.engine.Owner, w.engine.Lease, 10)
	require.NoError(t, err)
	require.Len(t, claimed, 1)
	w.engine.drive(t.Context(), claimed[0])
	require.True(t, broken)
	require.Empty(t, w.calls)
	require.Error(t, w.store.Ping(t.Context()))

	require.NoError(t, os.Rename(file+".away", file))
	w.pass(w.engine.Lease + 10*time.Second)
	require.Len(t, w.calls, 1)
	intents := 0
	for _, line := range w.log() {
		if strings.HasPrefix(line, "step.intent") {
			intents++
		}
	}
	require.Equal(t, 1, intents)
}
