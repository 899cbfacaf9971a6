package engine

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/alertmedic/alertmedic/internal/action"
	"github.com/alertmedic/alertmedic/internal/journal"
	"github.com/alertmedic/alertmedic/internal/store"
	"github.com/alertmedic/alertmedic/playbooks"
)

// heldUntil is until when a run may wait for what holds it back: for a guard, a
// person, an API server that is away. One that has changed something gets as long
// again from its last change: it holds the lock of its target, and a remedy that
// began so long ago is no reason any more to begin the next. So does one that a
// person has approved, from when the answer had to be there.
func (w *work) heldUntil() time.Time {
	switch {
	case w.pb == nil:
		return w.run.ExpiresAt
	case w.st.Approved != "" && !w.st.RemedyMutated:
		return w.approvalEnds().Add(w.e.ExpireAfter(w.pb))
	case w.st.Mutated:
		return w.st.LastMutation.Add(w.e.ExpireAfter(w.pb))
	}
	return w.run.ExpiresAt
}

// stepHeldUntil is until when a guard may hold a step: one that has begun as long as
// it may take, any other as long as its run may be held. It is the time after which
// step ends it, so that no run is looked at again and again.
func (w *work) stepHeldUntil(s store.Step) time.Time {
	if s.StartedAt.IsZero() {
		return w.heldUntil()
	}
	ends := s.StartedAt.Add(w.stepTimeoutOf(s))
	if s.Status == store.StepPlanned {
		return minTime(ends, w.heldUntil())
	}
	return ends
}

// heldTooLong says that the time is over, and what was in the way.
func (w *work) heldTooLong() string {
	why := "limits.expireAfter was over before the run could act"
	if w.st.Mutated {
		why = fmt.Sprintf("limits.expireAfter was over since the last change at %s", w.st.LastMutation.UTC().Format(time.RFC3339))
	}
	switch {
	case w.st.LastGuard != "":
		why += "; it was held back by " + string(w.st.LastGuard)
	case w.st.Backoffs > 0 && w.run.Message != "":
		why += "; the last attempt failed: " + w.run.Message
	}
	return why
}

// expire ends a run that waited for too long. One that has changed something has
// left its target half-way: a person must look.
func (w *work) expire(ctx context.Context) error {
	why := w.heldTooLong()
	if w.st.Touched {
		why += ": a person must look at " + w.run.Target.String()
	}
	return w.end(ctx, w.without(store.Expired), "expired", why)
}

// expireAt ends the wait of a step that has not begun. What becomes of the steps
// before it is for the remedy's onFailure to say.
func (w *work) expireAt(ctx context.Context, s store.Step) error {
	if slices.ContainsFunc(slices.Collect(maps.Values(w.steps)), w.mayHaveChanged) {
		return w.failStep(ctx, s, action.ReasonTimeout, w.heldTooLong())
	}
	return w.expire(ctx)
}

// healedMeanwhile looks, when a further remedy (or the end of the ladder) was held
// back, for what the last one may have done by now: it was judged at the end of
// its time, and minutes or an hour have gone since. A target that is healthy needs
// no further change. It reports whether the run's next move is made.
func (w *work) healedMeanwhile(ctx context.Context) (bool, error) {
	held := w.st.LastGuard != "" || w.st.Backoffs > 0
	if !w.st.Touched || w.st.RemedyMutated || !held {
		return false, nil
	}
	r := w.lastTried()
	if r == nil {
		return false, nil
	}
	o := w.look(ctx, r)
	verdict, _ := judge(o)
	v := &w.st.Verify
	if verdict != Healed {
		v.HealthySince = time.Time{}
		return false, nil
	}
	if v.HealthySince.IsZero() {
		v.HealthySince = w.now
	}
	stable := v.HealthySince.Add(r.Verify.StableFor)
	if stable.After(w.now) {
		w.run.Message = fmt.Sprintf("healthy since %s after %s: nothing more is done", v.HealthySince.UTC().Format(time.TimeOnly), r.Name)
		return true, w.release(ctx, minTime(stable, w.now.Add(w.e.VerifyEvery)), store.WaitVerify)
	}
	en := w.entry(journal.VerifyVerdict)
	en.Remedy = r.Name
	en.Message = fmt.Sprintf("healthy since %s, after the time of %s and before anything more was done", v.HealthySince.UTC().Format(time.RFC3339), r.Name)
	return true, w.healed(ctx, r, o, en)
}

// lastTried is the remedy that was carried out last, nil when none was.
func (w *work) lastTried() *playbooks.Remedy {
	for _, tried := range slices.Backward(w.st.Rungs) {
		if tried.Result == "skipped" {
			continue
		}
		for i, r := range w.pb.Remedies {
			if r.Name == tried.Name && i < w.run.Remedy {
				return &w.pb.Remedies[i]
			}
		}
	}
	return nil
}
