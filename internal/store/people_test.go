package store_test

import (
	"encoding/json"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alertmedic/alertmedic/internal/guard"
	"github.com/alertmedic/alertmedic/internal/journal"
	"github.com/alertmedic/alertmedic/internal/store"
)

// asking puts a run to wait for an approval of a plan.
func asking(r store.Run, hash string, until time.Time) store.Transition {
	r.Phase, r.Wait, r.DueAt = store.Active, store.WaitApproval, until
	return store.Transition{Fence: r.Fence(), Run: r, Release: true,
		Approval: &store.Approval{RunID: r.ID, PlanHash: hash, TargetUID: r.Target.UID, Status: store.ApprovalPending}}
}

func TestApprovals(t *testing.T) {
	contract(t, func(t *testing.T, f *fixture) {
		id := f.newRun(t, "a", deployment("web"))
		_, err := f.PendingApproval(tctx, id)
		require.ErrorIs(t, err, store.ErrNoApproval)
		until := f.time(t).Add(time.Hour)
		f.apply(t, asking(f.claim(t, id, "w"), "plan-1", until))
		ap, err := f.PendingApproval(tctx, id)
		require.NoError(t, err)
		require.Equal(t, "plan-1", ap.PlanHash)
		require.Equal(t, "uid-web", ap.TargetUID)
		require.False(t, ap.AskedAt.IsZero())

		_, err = f.Decide(tctx, store.Decision{RunID: id, Approve: true, PlanHash: "plan-0", By: "ada"})
		require.ErrorIs(t, err, store.ErrPlanChanged)
		_, err = f.Decide(tctx, store.Decision{RunID: id, Approve: true})
		require.ErrorIs(t, err, store.ErrInvalid)
		_, err = f.Decide(tctx, store.Decision{RunID: "nope", By: "ada"})
		require.ErrorIs(t, err, store.ErrNotFound)

		got, err := f.Decide(tctx, store.Decision{RunID: id, Approve: true, By: "ada", Why: "looks right"})
		require.NoError(t, err)
		require.Equal(t, store.ApprovalApproved, got.Status)
		_, err = f.Decide(tctx, store.Decision{RunID: id, By: "bob"})
		require.ErrorIs(t, err, store.ErrNoApproval)
		require.ErrorContains(t, err, "ada has approved")
		run := f.claim(t, id, "w") // due at once
		read, err := f.Approval(tctx, id, 0)
		require.NoError(t, err)
		require.Equal(t, got, read)

		// The plan drifted: void, and another question.
		void := got
		void.Status, void.Why = store.ApprovalVoid, "the plan drifted"
		run = f.apply(t, store.Transition{Fence: run.Fence(), Run: run, Approval: &void})
		f.apply(t, asking(run, "plan-2", until))
		pending, err := f.Approvals(tctx, store.ApprovalPending)
		require.NoError(t, err)
		require.Len(t, pending, 1)
		_, err = f.Decide(tctx, store.Decision{RunID: id, By: "bob", PlanHash: "plan-2", Why: "no"})
		require.NoError(t, err)
		f.apply(t, end(f.claim(t, id, "w"), store.Cancelled, "rejected"))
		all, err := f.Approvals(tctx, "")
		require.NoError(t, err)
		require.Equal(t, []store.ApprovalStatus{store.ApprovalVoid, store.ApprovalRejected}, []store.ApprovalStatus{all[0].Status, all[1].Status})
		require.Equal(t, "ada", all[0].By, "who approved what was voided is kept")

		var decided []string
		for _, e := range f.entries(t) {
			if e.Kind == journal.ApprovalDecided {
				decided = append(decided, e.Actor+" "+e.Outcome)
			}
		}
		require.Equal(t, []string{"ada approved", "bob rejected"}, decided)
	})
}

func TestAnEndedRunTakesNoDecision(t *testing.T) {
	contract(t, func(t *testing.T, f *fixture) {
		id := f.newRun(t, "a", deployment("web"))
		f.apply(t, asking(f.claim(t, id, "w"), "plan", f.time(t)))
		f.apply(t, end(f.claim(t, id, "w"), store.Expired, "approval-expired"))
		_, err := f.Decide(tctx, store.Decision{RunID: id, Approve: true, By: "ada"})
		require.ErrorIs(t, err, store.ErrNoApproval)
		require.ErrorContains(t, err, "void")
	})
}

// A worker that looks, sees no decision and puts the run back to wait must not
// sleep over one that was made in between.
func TestADecisionIsNotSleptOver(t *testing.T) {
	contract(t, func(t *testing.T, f *fixture) {
		id := f.newRun(t, "a", deployment("web"))
		until := f.time(t).Add(time.Hour)
		f.apply(t, asking(f.claim(t, id, "w"), "plan", until))
		f.pass(t, time.Hour+time.Second)
		run := f.claim(t, id, "w")
		_, err := f.Decide(tctx, store.Decision{RunID: id, Approve: true, By: "ada"})
		require.NoError(t, err)
		run.DueAt, run.Wait = f.time(t).Add(time.Hour), store.WaitApproval
		f.apply(t, store.Transition{Fence: run.Fence(), Run: run, Release: true})
		f.claim(t, id, "w")
	})
}

func TestOneOfManyDecisionsCounts(t *testing.T) {
	contract(t, func(t *testing.T, f *fixture) {
		other := f.replica(t)
		id := f.newRun(t, "a", deployment("web"))
		f.apply(t, asking(f.claim(t, id, "w"), "plan", f.time(t).Add(time.Hour)))
		var wg sync.WaitGroup
		errs := make([]error, 10)
		for i := range errs {
			s := f.Store
			if i%2 == 1 {
				s = other
			}
			wg.Go(func() { _, errs[i] = s.Decide(tctx, store.Decision{RunID: id, Approve: i%2 == 0, By: "ada"}) })
		}
		wg.Wait()
		won := 0
		for _, err := range errs {
			if err == nil {
				won++
				continue
			}
			require.ErrorIs(t, err, store.ErrNoApproval)
		}
		require.Equal(t, 1, won)
	})
}

func TestPauses(t *testing.T) {
	contract(t, func(t *testing.T, f *fixture) {
		for _, bad := range []guard.Pause{{Scope: "everything", By: "ada"}, {Scope: guard.PauseGlobal, Value: "x", By: "ada"}, {Scope: guard.PausePlaybook, By: "ada"}, {Scope: guard.PauseGlobal}} {
			require.ErrorIs(t, f.SetPause(tctx, bad), store.ErrInvalid)
		}
		require.NoError(t, f.SetPause(tctx, guard.Pause{Scope: guard.PauseGlobal, By: "ada", Why: "release"}))
		require.NoError(t, f.SetPause(tctx, guard.Pause{Scope: guard.PauseGlobal, By: "bob", Why: "longer"}))
		require.NoError(t, f.SetPause(tctx, guard.Pause{Scope: guard.PausePlaybook, Value: "a", By: "bob", Why: "x"}))
		all, err := f.Pauses(tctx)
		require.NoError(t, err)
		require.Len(t, all, 2)
		require.Equal(t, "bob", all[0].By)

		run := f.claim(t, f.newRun(t, "a", deployment("web")), "w")
		run.Wait, run.DueAt = store.WaitGuard, f.time(t).Add(time.Hour)
		f.apply(t, store.Transition{Fence: run.Fence(), Run: run, Release: true})
		require.NoError(t, f.ClearPause(tctx, guard.PauseGlobal, "", "ada", "done"))
		f.claim(t, run.ID, "w") // woken
		require.ErrorIs(t, f.ClearPause(tctx, guard.PauseGlobal, "", "ada", "done"), store.ErrNotFound)
		kinds := f.kinds(t)
		require.Equal(t, journal.PauseSet, kinds[0])
		require.Equal(t, journal.PauseCleared, kinds[len(kinds)-1])
	})
}

func TestMessagesOfAKeyAreDeliveredInOrder(t *testing.T) {
	contract(t, func(t *testing.T, f *fixture) {
		payload := func(n string) json.RawMessage { return json.RawMessage(`"` + n + `"`) }
		require.NoError(t, f.Post(tctx, store.Message{Channel: "slack", Key: "k1", Payload: payload("1")}, store.Message{Channel: "slack", Key: "k1", Payload: payload("2")},
			store.Message{Channel: "slack", Key: "k2", Payload: payload("3")}, store.Message{Channel: "event", Key: "k1", Payload: payload("4")}))
		claim := func() []store.Message {
			got, err := f.ClaimMessages(tctx, "slack", "n", time.Minute, 10)
			require.NoError(t, err)
			return got
		}
		pending, err := f.PendingMessages(tctx)
		require.NoError(t, err)
		require.Equal(t, map[string]int{"slack": 3, "event": 1}, pending)
		first := claim()
		require.Len(t, first, 2, "the head of each key")
		require.Equal(t, payload("1"), first[0].Payload)
		require.Equal(t, payload("3"), first[1].Payload)
		require.Empty(t, claim())

		require.NoError(t, f.MessageGivenBack(tctx, first[0], time.Time{}, "rate limited"))
		require.ErrorIs(t, f.MessageGivenBack(tctx, first[0], time.Time{}, "late"), store.ErrFenced)
		first[0] = claim()[0]
		require.Equal(t, 1, first[0].Attempts, "what was given back was no attempt")
		require.NoError(t, f.MessageFailed(tctx, first[0], f.time(t).Add(time.Minute), "503", false))
		require.NoError(t, f.MessageDelivered(tctx, first[1]))
		require.ErrorIs(t, f.MessageDelivered(tctx, first[1]), store.ErrFenced)
		require.Empty(t, claim(), "the next of the key waits for the one that failed")
		f.pass(t, 2*time.Minute)
		again := claim()
		require.Len(t, again, 1)
		require.Equal(t, payload("1"), again[0].Payload)
		require.Equal(t, 2, again[0].Attempts)
		require.ErrorIs(t, f.MessageFailed(tctx, first[0], time.Time{}, "late", true), store.ErrFenced)
		require.NoError(t, f.MessageFailed(tctx, again[0], time.Time{}, "gone", true))
		next := claim()
		require.Len(t, next, 1)
		require.Equal(t, payload("2"), next[0].Payload, "one that was given up lets the next go")

		f.pass(t, 2*time.Minute)
		require.Equal(t, next[0].ID, claim()[0].ID, "a claim that ran out is taken again")
		require.ErrorIs(t, f.Post(tctx, store.Message{Channel: "slack", Payload: []byte("{")}), store.ErrInvalid)
	})
}

func TestSmallValuesAndSnapshots(t *testing.T) {
	contract(t, func(t *testing.T, f *fixture) {
		_, err := f.GetValue(tctx, "k")
		require.ErrorIs(t, err, store.ErrNotFound)
		require.NoError(t, f.SetValue(tctx, "k", "1"))
		require.NoError(t, f.SetValue(tctx, "k", "2"))
		v, err := f.GetValue(tctx, "k")
		require.NoError(t, err)
		require.Equal(t, "2", v)

		require.NoError(t, f.PutPlaybook(tctx, "h", []byte(`{"a":1}`)))
		require.NoError(t, f.PutPlaybook(tctx, "h", []byte(`{"a":1}`)))
		require.ErrorIs(t, f.PutPlaybook(tctx, "h", []byte(`{"a":2}`)), store.ErrInvalid)
		require.ErrorIs(t, f.PutPlaybook(tctx, "", nil), store.ErrInvalid)
		doc, err := f.GetPlaybook(tctx, "h")
		require.NoError(t, err)
		require.JSONEq(t, `{"a":1}`, string(doc))
		_, err = f.GetPlaybook(tctx, "none")
		require.ErrorIs(t, err, store.ErrNotFound)
		require.NoError(t, f.Ping(tctx))
	})
}
