package store_test

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/alertmedic/alertmedic/internal/alert"
	"github.com/alertmedic/alertmedic/internal/store"
)

// A signal has one open episode, whatever comes in one batch or in several,
// however much time passes between them and whatever retention removes: on
// SQLite no index would stop a second one, only what folding reads.
func TestASignalHasOneOpenEpisode(t *testing.T) {
	t.Parallel()
	for _, d := range dialects {
		if !d.ok() {
			continue
		}
		t.Run(d.name, func(t *testing.T) {
			t.Parallel()
			f := d.open(t, t)
			n := 0
			rapid.Check(t, func(rt *rapid.T) {
				n++
				source := fmt.Sprint("am-", n)
				observation := rapid.Custom(func(t *rapid.T) store.Observation {
					fp := rapid.SampledFrom([]string{"x", "y"}).Draw(t, "fp")
					o := firing(fp)
					if rapid.Bool().Draw(t, "resolved") {
						o = resolved(fp, time.Time{})
					} else if rapid.Bool().Draw(t, "matched") {
						o.Playbooks = append(o.Playbooks, playbook("a", 0))
					}
					o.Source = source
					return o
				})
				last := map[string]alert.Status{}
				for range rapid.IntRange(1, 6).Draw(rt, "rounds") {
					f.pass(rt, rapid.SampledFrom([]time.Duration{0, dwell / 2, dwell, 48 * time.Hour}).Draw(rt, "passes"))
					if rapid.Bool().Draw(rt, "prune") {
						if _, err := f.Prune(tctx, "pruner", store.Retention{Runs: 24 * time.Hour, Journal: 24 * time.Hour}); err != nil {
							rt.Fatal(err)
						}
					}
					obs := rapid.SliceOfN(observation, 1, 6).Draw(rt, "observations")
					f.accept(rt, obs...)
					for _, o := range obs {
						last[o.Alert.Fingerprint] = o.Alert.Status
					}
					eps, err := f.OpenEpisodes(tctx, source)
					if err != nil {
						rt.Fatal(err)
					}
					open := map[string]int{}
					for _, ep := range eps {
						open[ep.Signal.Fingerprint]++
					}
					for fp, status := range last {
						want := 0
						if status == alert.Firing {
							want = 1
						}
						if open[fp] != want {
							rt.Fatalf("%s, last seen %s, has %d open episodes, want %d", fp, status, open[fp], want)
						}
					}
				}
			})
		})
	}
}
