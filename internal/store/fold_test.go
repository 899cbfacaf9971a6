package store_test

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/alertmedic/alertmedic/internal/alert"
)

// Whatever is reported about a signal, in whatever order and however often: it
// has one open episode at most, an episode starts a playbook once at most, and a
// resolution alone starts nothing.
func TestFoldingNeverStartsTwice(t *testing.T) {
	t.Parallel()
	s := open(t, filepath.Join(t.TempDir(), "medic.db"))
	round := 0
	base := time.Now().Add(-time.Hour)
	rapid.Check(t, func(r *rapid.T) {
		round++
		signal := fmt.Sprint(round)
		fired := false
		for i := range rapid.IntRange(1, 12).Draw(r, "reports") {
			start := base.Add(time.Duration(rapid.IntRange(0, 5).Draw(r, fmt.Sprintf("start%d", i))) * time.Minute)
			status := rapid.SampledFrom([]alert.Status{alert.Firing, alert.Resolved}).Draw(r, fmt.Sprintf("status%d", i))
			fired = fired || status == alert.Firing
			for range rapid.IntRange(1, 3).Draw(r, fmt.Sprintf("times%d", i)) {
				_, err := s.Accept(t.Context(), batch(makeAlert(status, start, "signal", signal), "pb"))
				require.NoError(r, err)
			}
			open := 0
			episodes, err := s.OpenEpisodes(t.Context(), "am")
			require.NoError(r, err)
			for _, ep := range episodes {
				if ep.Alert.Labels["signal"] == signal {
					open++
				}
			}
			require.LessOrEqual(r, open, 1)
		}
		cands, err := s.ClaimCandidates(t.Context(), "w", time.Hour, 1000)
		require.NoError(r, err)
		perEpisode := map[string]int{}
		for _, c := range cands {
			require.Equal(r, signal, c.Episode.Alert.Labels["signal"])
			perEpisode[c.EpisodeID]++
			require.Equal(r, 1, perEpisode[c.EpisodeID])
		}
		// All of it happens within flapDwell: there is one episode, if any.
		want := 0
		if fired {
			want = 1
		}
		require.Len(r, cands, want)
	})
}
