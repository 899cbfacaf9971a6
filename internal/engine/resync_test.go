package engine

import (
	"context"
	"fmt"
	"testing"

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
