package engine

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alertmedic/alertmedic/internal/guard"
	"github.com/alertmedic/alertmedic/internal/kube"
)

// silent is a cluster that says nothing until the caller gives up.
type silent struct{ *world }

func (silent) Resolve(ctx context.Context, _ kube.Request) (kube.Resolved, error) {
	<-ctx.Done()
	return kube.Resolved{}, ctx.Err()
}

// An API server that uses up all the time of a call leaves enough to write it
// down: the candidate has a back-off, and does not wait for its lease to run out.
func TestASilentClusterIsWrittenDown(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := setup(t, doc("restart", restart))
		w.ticks = true
		w.fire("web")
		w.engine.Cluster = silent{w}
		for attempt := range 3 {
			cands, err := w.store.ClaimCandidates(t.Context(), w.engine.Owner, time.Hour, 1)
			require.NoError(t, err)
			require.Len(t, cands, 1)
			require.Equal(t, attempt, cands[0].Attempts)
			w.engine.resolve(t.Context(), cands[0])
			none, err := w.store.ClaimCandidates(t.Context(), w.engine.Owner, time.Hour, 1)
			require.NoError(t, err)
			require.Empty(t, none, "it waits for its back-off")
			time.Sleep(time.Minute) // longer than any back-off, much shorter than the lease
		}
	})
}

// Whoever cannot see the object cannot say that it was not healed, not even with
// an alert that fires.
func TestAVerdictNeedsToSeeTheObject(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		observation
		want Verdict
	}{
		"unseen, firing":    {observation{Health: kube.Unknown, Unseen: true, Alert: guard.AlertFiring}, Unknown},
		"unseen, resolved":  {observation{Health: kube.Unknown, Unseen: true, Alert: guard.AlertResolved}, Unknown},
		"unseen, condition": {observation{Health: kube.Unknown, Unseen: true, Conditions: []conditionOutcome{{Message: "x"}}}, Unknown},
		"unclear, firing":   {observation{Health: kube.Unknown, Alert: guard.AlertFiring}, NotHealed},
		"seen, firing":      {observation{Health: kube.Healthy, Alert: guard.AlertFiring}, NotHealed},
		"seen, resolved":    {observation{Health: kube.Healthy, Alert: guard.AlertResolved}, Healed},
	} {
		got, _ := judge(tc.observation)
		require.Equal(t, tc.want, got, name)
	}
	require.False(t, kube.Health{State: kube.Unknown, Reason: "unavailable"}.Seen())
	require.True(t, kube.Health{State: kube.Unknown, Reason: "target-gone"}.Seen())
}
