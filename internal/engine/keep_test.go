package engine

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alertmedic/alertmedic/internal/action"
	"github.com/alertmedic/alertmedic/internal/journal"
	"github.com/alertmedic/alertmedic/internal/store"
	"github.com/alertmedic/alertmedic/playbooks"
)

// A worker that is stopped while it resolves a candidate gives it back: the next
// process claims it at once.
func TestCandidateIsGivenBackAtStop(t *testing.T) {
	t.Parallel()
	w := setup(t, doc("restart", restart))
	w.fire("web")
	cands, err := w.store.ClaimCandidates(t.Context(), w.engine.Owner, w.engine.Lease, 10)
	require.NoError(t, err)
	require.Len(t, cands, 1)
	stopped, cancel := context.WithCancel(t.Context())
	cancel()
	w.engine.resolve(stopped, cands[0])
	again, err := w.store.ClaimCandidates(t.Context(), "worker-2", w.engine.Lease, 10)
	require.NoError(t, err)
	require.Len(t, again, 1, "without waiting for the end of the lease")
	require.Zero(t, again[0].Attempts, "a stop is no failed attempt")
	w.engine.giveBack(stopped, cands[0], w.engine.Logger)
	third, err := w.store.ClaimCandidates(t.Context(), "worker-3", w.engine.Lease, 10)
	require.NoError(t, err)
	require.Empty(t, third, "the claim of another is not given back")
}

// What an action has seen is in the log also when it ends with an error, and
// what it wants to know at its next tick reaches it.
func TestEvidenceOfAFailedCallIsKept(t *testing.T) {
	t.Parallel()
	w := setup(t, doc("restart", restart))
	blockers := func(n int) json.RawMessage { return json.RawMessage(fmt.Sprintf(`{"blockers":["pdb-%d"]}`, n)) }
	var states []string
	w.apply = func(plan action.Plan, n int) (action.Result, error) {
		res := action.Result{State: raw(fmt.Sprintf(`{"tick":%d}`, n)), Evidence: blockers(n)}
		if n == 1 {
			return res, action.Errorf(action.ReasonBlocked, "not now")
		}
		return res, action.Errorf(action.ReasonRefused, "never")
	}
	w.onState = func(state []byte) { states = append(states, string(state)) }
	w.fire("web")
	w.pass(time.Minute)
	require.Equal(t, []string{"", `{"tick":1}`}, states)
	w.log() // seals
	got := map[journal.Kind]string{}
	require.NoError(t, w.store.LogIter(t.Context(), store.LogFilter{}, func(en journal.Entry) error {
		if en.Kind == journal.StepProgress || en.Kind == journal.StepFailed {
			got[en.Kind] = string(en.Data)
		}
		return nil
	}))
	require.Contains(t, got[journal.StepProgress], `"evidence":{"blockers":["pdb-1"]}`)
	require.JSONEq(t, string(blockers(2)), got[journal.StepFailed])
}

// Compiled playbooks that no reload has left loaded are let go of.
func TestCompiledPlaybooksAreBounded(t *testing.T) {
	t.Parallel()
	w := setup(t, doc("restart", restart))
	current := w.set.All()[0]
	var kept snapshots
	kept.put(current.Hash, current, w.set)
	for i := range 1000 {
		kept.put(fmt.Sprint(i), &playbooks.Playbook{}, w.set)
		require.LessOrEqual(t, len(kept.m), w.set.Len()+spareSnapshots)
		require.NotNil(t, kept.get(fmt.Sprint(i)))
		require.Same(t, current, kept.get(current.Hash), "what is loaded stays")
	}
}
