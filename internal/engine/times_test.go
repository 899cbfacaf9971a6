package engine

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alertmedic/alertmedic/internal/action"
	"github.com/alertmedic/alertmedic/internal/journal"
	"github.com/alertmedic/alertmedic/internal/store"
)

// Whoever holds the log against the audit log of the API server finds a change
// between its announcement and its outcome, however long the request took.
func TestAnOutcomeIsNotDatedBeforeTheChange(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"called", "taken over"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := setup(t, doc("restart", restart))
			var changed time.Time
			slowly := func() { // the API server is slow
				w.now = w.now.Add(5 * time.Second)
				changed = w.now
			}
			w.apply = func(action.Plan, int) (action.Result, error) {
				if name == "taken over" {
					panic("the process dies here")
				}
				slowly()
				return action.Result{Done: true}, nil
			}
			w.observe = func(action.Plan) (action.Observation, error) {
				slowly()
				return action.Applied, nil
			}
			w.fire("web")
			w.work()
			if name == "taken over" {
				w.engine = w.newEngine("worker-2")
				w.pass(w.engine.Lease + 10*time.Second)
			}
			w.log() // seals
			at := map[journal.Kind]time.Time{}
			require.NoError(t, w.store.LogIter(t.Context(), store.LogFilter{}, func(en journal.Entry) error {
				at[en.Kind] = en.At
				return nil
			}))
			require.False(t, at[journal.StepIntent].IsZero())
			require.True(t, at[journal.StepIntent].Before(changed), "announced at %s, changed at %s", at[journal.StepIntent], changed)
			require.False(t, at[journal.StepDone].Before(changed), "done at %s, changed at %s", at[journal.StepDone], changed)
			steps, err := w.store.Steps(t.Context(), w.onlyRun().ID)
			require.NoError(t, err)
			require.Len(t, steps, 1)
			require.False(t, steps[0].EndedAt.Before(changed), "the step ended at %s, changed at %s", steps[0].EndedAt, changed)
		})
	}
}
