package engine

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alertmedic/alertmedic/internal/alert"
	"github.com/alertmedic/alertmedic/internal/journal"
	"github.com/alertmedic/alertmedic/internal/store"
)

// snapshot is a reader whose Alertmanager holds these alerts.
type snapshot struct {
	*world
	alerts []alert.Alert
}

func (s snapshot) Snapshot(context.Context) ([]alert.Alert, error) { return s.alerts, nil }

// slowly is a reader whose Alertmanager takes a while to list its alerts.
type slowly struct {
	*world
	takes time.Duration
	asked *[]time.Duration // since when
	since time.Time
}

func (s slowly) Snapshot(ctx context.Context) ([]alert.Alert, error) {
	*s.asked = append(*s.asked, time.Since(s.since))
	select {
	case <-time.After(s.takes):
		return nil, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// An Alertmanager that takes long to list its alerts is left alone for as long
// again, holds up the work that a start finds for a few seconds only, and is read
// whole after that.
func TestASlowAlertmanagerIsReadButNotKeptBusy(t *testing.T) {
	bubble(t, func(t *testing.T, w *world, _ store.Run) {
		var asked []time.Duration
		w.engine.Resync = 10 * time.Second
		w.engine.resynced = resyncedSources{}
		w.engine.Sources = map[string]Source{"am": {Name: "am", Reader: slowly{w, 20 * time.Second, &asked, time.Now()}}}
		began := time.Now()
		w.engine.firstResync(t.Context())
		require.Equal(t, firstReading, time.Since(began))
		require.False(t, w.engine.resynced.has("am"), "guards hold what it would tell about")

		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- w.engine.resyncLoop(ctx) }()
		time.Sleep(90 * time.Second)
		require.True(t, w.engine.resynced.has("am"))
		require.Equal(t, []time.Duration{0, 5 * time.Second, 45 * time.Second, 85 * time.Second}, asked)
		stop()
		require.NoError(t, <-ended)
	})
}

// What an Alertmanager holds is recorded whole, however much it is: what begins
// and, when it is gone, what ends.
func TestALargeSnapshotIsRecordedWhole(t *testing.T) {
	t.Parallel()
	w := setup(t, doc("restart", restart))
	src := snapshot{world: w}
	for i := range 2*resyncBatch + 1 {
		labels := map[string]string{"alertname": "Broken", "target": fmt.Sprint("web-", i)}
		src.alerts = append(src.alerts, alert.Alert{Status: alert.Firing, Labels: labels, Fingerprint: fmt.Sprintf("%016x", i), StartsAt: w.now})
	}
	other := map[string]string{"alertname": "NobodyCares"}
	src.alerts = append(src.alerts, alert.Alert{Status: alert.Firing, Labels: other, Fingerprint: "ffffffffffffffff", StartsAt: w.now})
	resync := func() []store.Episode {
		require.NoError(t, w.engine.resyncSource(t.Context(), Source{Name: "am", Cluster: "c1", Reader: src}))
		open, err := w.store.OpenEpisodes(t.Context(), "am")
		require.NoError(t, err)
		return open
	}
	require.Len(t, resync(), 2*resyncBatch+1)
	require.Len(t, resync(), 2*resyncBatch+1, "the same once more")

	w.alert, src.alerts = resolved, nil
	require.Empty(t, resync())
	w.log() // seals
	count := map[journal.Kind]int{}
	require.NoError(t, w.store.LogIter(t.Context(), store.LogFilter{}, func(en journal.Entry) error {
		count[en.Kind]++
		require.Equal(t, en.Kind == journal.EpisodeOpened, en.CreatesCandidate())
		return nil
	}))
	require.Equal(t, 2*resyncBatch+1, count[journal.EpisodeOpened])
	require.Equal(t, 2*resyncBatch+1, count[journal.EpisodeClosed])
}
