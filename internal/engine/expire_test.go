package engine

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alertmedic/alertmedic/internal/action"
	"github.com/alertmedic/alertmedic/internal/store"
)

// A run that can never be planned ends when its time is over, not a back-off
// later, and says what was in the way.
func TestExpiresOnTimeAndSaysWhy(t *testing.T) {
	t.Parallel()
	w := setup(t, doc("restart", restart))
	w.planner = func(action.Request) (action.Plan, error) {
		return action.Plan{}, action.Errorf(action.ReasonUnavailable, "the API server is on holiday")
	}
	w.fire("web")
	w.pass(70 * time.Minute)
	run := w.onlyRun()
	require.Equal(t, store.Expired, run.Outcome)
	require.Contains(t, run.Message, "the API server is on holiday")
	require.Empty(t, w.calls)
	require.Less(t, run.EndedAt.Sub(run.ExpiresAt), 10*time.Second, "the test's clock moves by 5s")
}
