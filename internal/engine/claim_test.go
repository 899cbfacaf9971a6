package engine

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alertmedic/alertmedic/internal/guard"
)

// In a storm the runs that are held ask again and again. New alerts have some
// slots all the same, and the runs have all the others.
func TestNewAlertsAreNotHeldUpByRunsThatAreHeld(t *testing.T) {
	t.Parallel()
	w := setup(t, doc("restart", restart))
	fire := func(n int, prefix string) {
		for i := range n {
			name := fmt.Sprint(prefix, i)
			w.targets[name] = deployment(name)
			w.fire(name)
		}
	}
	w.errs = []string{"nobody answers"}
	fire(12, "held")
	w.work()
	w.now = w.now.Add(time.Minute) // all of them are due again
	fire(5, "new")

	answered := make(chan struct{})
	w.witness = func(*guard.Evidence) { <-answered }
	slots, freed := make(chan struct{}, 8), make(chan struct{}, 1)
	var workers sync.WaitGroup
	_, err := w.engine.claim(t.Context(), slots, freed, &workers)
	require.NoError(t, err)
	require.Eventually(t, func() bool { return w.engine.resolving.Load() == 0 && len(slots) == 6 }, time.Minute, time.Millisecond,
		"six slots are for runs")
	waiting, err := w.store.ClaimCandidates(t.Context(), "another", time.Minute, 10)
	require.NoError(t, err)
	require.Len(t, waiting, 3, "two were resolved")
	close(answered)
	workers.Wait()
}
