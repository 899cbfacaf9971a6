package engine

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"time"

	"github.com/alertmedic/alertmedic/internal/action"
	"github.com/alertmedic/alertmedic/internal/alert"
	"github.com/alertmedic/alertmedic/internal/guard"
	"github.com/alertmedic/alertmedic/internal/journal"
	"github.com/alertmedic/alertmedic/internal/store"
	"github.com/alertmedic/alertmedic/playbooks"
)

// workLimit bounds, together with two calls, how long a worker holds a run
// before it has to let go of it.
const workLimit = time.Minute

// work is one claimed run while a worker holds it.
type work struct {
	e      *Engine
	run    store.Run
	st     state
	pb     *playbooks.Playbook
	cands  []store.Candidate
	steps  map[int]store.Step // of the current remedy, by index
	now    time.Time
	queued []journal.Entry // to go with the next transition
	held   *claim          // the lease, renewed in the background
	read   reading         // of the decision at hand
	alive  bool            // the lease is still ours and the run has not been let go of
	told   bool            // the next transition carries a report
	report Report
	saved  store.Run // as the last transition left it, or the claim
}

// drive moves a claimed run on until it has to wait or has ended.
func (e *Engine) drive(ctx context.Context, run store.Run) {
	log := e.Logger.With("run", run.ID, "playbook", run.Playbook, "target", run.Target.String())
	// A transition that has begun is finished even when the process is asked to
	// stop: a call whose outcome is not recorded would be a needless unknown.
	// A worker that hangs for all that keeps its lease no longer than this.
	wctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), workLimit+2*e.CallTimeout)
	defer cancel()
	w := &work{e: e, run: run, alive: true, held: e.leases.hold(wctx, run.ID, claim{fence: run.Fence()})}
	defer e.leases.drop(run.ID, w.held)
	defer func() {
		if p := recover(); p != nil {
			e.m.panics.Inc()
			log.Error("panic while working on the run; its lease runs out and it is tried again", "panic", p, "stack", string(debug.Stack()))
		}
	}()
	w.read = e.readings.take(run.ID)
	began := time.Now()
	err := w.load(wctx)
	for err == nil && w.alive {
		if ctx.Err() != nil || time.Since(began) > workLimit {
			err = w.release(wctx, w.now, w.run.Wait) // stopping, or held for long: another worker goes on at once
			break
		}
		err = w.advance(wctx)
		if errors.Is(err, store.ErrJoined) { // decided without that alert: decide again
			w.run, w.queued, w.told = w.saved, nil, false
			err = w.load(wctx)
		}
	}
	switch {
	case err == nil:
	case errors.Is(err, store.ErrFenced):
		e.m.fenced.Inc()
		log.Warn("another worker took the run over; nothing more is done here")
	default:
		log.Error("work on the run; trying again", "err", err)
		w.giveBack(wctx, err)
	}
}

// planRetry is the longest wait of a run that has not changed anything: a short
// outage must not cost an alert minutes.
const planRetry = 15 * time.Second

// giveBack releases a run after a failure of the machinery, with back-off.
func (w *work) giveBack(ctx context.Context, cause error) {
	if !w.alive || w.now.IsZero() {
		return // the lease runs out
	}
	// The move failed as a whole: what it would have recorded, its steps and its
	// entries with it, is not recorded in part. The next worker begins it anew.
	since := w.st.Verify.HealthySince // seen, and no part of the move
	st, err := decodeState(w.saved.State)
	if err != nil {
		return
	}
	w.run, w.st, w.queued, w.told = w.saved, st, nil, false
	w.st.Verify.HealthySince = since
	w.st.Backoffs++
	w.run.Message = cause.Error()
	due := w.now.Add(w.e.backoff(w.st.Backoffs))
	if !w.st.Mutated && due.After(w.now.Add(planRetry)) {
		due = w.now.Add(planRetry)
	}
	if end := w.heldUntil(); end.After(w.now) && due.After(end) {
		due = end // end as expired on time, not late
	}
	if err := w.release(ctx, due, store.WaitRetry); err != nil {
		w.e.Logger.Error("give the run back; its lease runs out", "run", w.run.ID, "err", err)
	}
}

func (w *work) load(ctx context.Context) error {
	var err error
	w.saved = w.run
	if w.run.TakenOver {
		en := w.entry(journal.RunTakenOver)
		en.Message = "the lease of the worker before ran out"
		w.queued = append(w.queued, en)
	}
	if w.run.WorkersLost >= maxLost {
		return w.abandon(ctx, string(action.ReasonInternal), fmt.Sprintf("%d workers in a row got stuck with the run or died of it", w.run.WorkersLost))
	}
	if w.st, err = decodeState(w.run.State); err != nil {
		return w.abandon(ctx, string(action.ReasonInternal), err.Error())
	}
	if w.now, err = w.e.Store.Now(ctx); err != nil {
		return fmt.Errorf("read the clock: %w", err)
	}
	if w.cands, err = w.e.Store.RunCandidates(ctx, w.run.ID); err != nil {
		return fmt.Errorf("read the candidates: %w", err)
	}
	steps, err := w.e.Store.Steps(ctx, w.run.ID)
	if err != nil {
		return fmt.Errorf("read the steps: %w", err)
	}
	w.steps = map[int]store.Step{}
	for _, s := range steps {
		if s.Remedy == w.rung() {
			w.steps[s.Step] = s
		}
	}
	if w.st.Mutated && !w.st.Touched {
		w.st.Touched = slices.ContainsFunc(steps, w.mayHaveChanged)
	}
	w.pb, err = w.e.playbook(ctx, w.run.PlaybookHash)
	var broken *snapshotError
	if errors.As(err, &broken) || errors.Is(err, store.ErrNotFound) {
		return w.abandon(ctx, "playbook-broken", err.Error())
	}
	return err
}

// advance makes the next move. Each move ends in exactly one transition.
func (w *work) advance(ctx context.Context) error {
	var err error
	if w.now, err = w.e.Store.Now(ctx); err != nil {
		return fmt.Errorf("read the clock: %w", err)
	}
	before := w.read
	w.read = reading{}
	for _, i := range w.order() {
		if w.steps[i].Status == store.StepIntended {
			return w.recover(ctx, w.steps[i])
		}
	}
	switch w.st.Stage {
	case stagePlan:
		if done, err := w.healedMeanwhile(ctx); done || err != nil {
			return err
		}
		return w.plan(w.reads(ctx, before))
	case stageApproval:
		return w.awaitApproval(w.reads(ctx, reading{}))
	case stageStep:
		return w.step(w.reads(ctx, reading{}))
	case stageVerify:
		return w.verify(ctx)
	case stageRevert:
		return w.revert(ctx)
	}
	return w.end(ctx, store.Escalated, "unknown-stage", fmt.Sprintf("the run is in stage %q, which this version does not know", w.st.Stage))
}

// rung is the index of the remedy whose steps are at hand: the current one, but
// for a run that has healed and takes back what all of them did.
func (w *work) rung() int {
	if w.st.Stage == stageRevert && w.st.Revert.Healed {
		return w.st.Revert.Remedy
	}
	return w.run.Remedy
}

// remedy returns the current rung, nil past the end of the ladder.
func (w *work) remedy() *playbooks.Remedy {
	if w.pb == nil || w.run.Remedy >= len(w.pb.Remedies) {
		return nil
	}
	return &w.pb.Remedies[w.run.Remedy]
}

// order returns the indices of the steps that are known, ascending.
func (w *work) order() []int {
	out := make([]int, 0, len(w.steps))
	for i := 0; len(out) < len(w.steps); i++ {
		if _, ok := w.steps[i]; ok {
			out = append(out, i)
		}
	}
	return out
}

// transition returns the change that is about to be made, with the state and
// the queued entries in it.
func (w *work) transition(entries ...journal.Entry) store.Transition {
	w.run.State = encode(w.st)
	t := store.Transition{Fence: w.run.Fence(), Run: w.run, Entries: append(w.queued, entries...)}
	if w.told && w.e.Reporter != nil {
		w.report.Run, w.report.Playbook, w.report.At = w.run, w.pb, w.now
		w.report.SlackChannel = w.slackChannel()
		w.report.Alerts = w.alerts()
		for _, i := range w.order() {
			w.report.Steps = append(w.report.Steps, w.steps[i])
		}
		for _, r := range w.st.Rungs {
			w.report.Rungs = append(w.report.Rungs, r.Name+": "+r.Result+paren(r.Reason))
		}
		t.Outbox = w.e.Reporter.Messages(w.report)
	}
	return t
}

// slackChannel renders the playbook's channel. A template that fails for this
// alert costs the message its own channel, not its delivery.
func (w *work) slackChannel() string {
	if w.pb == nil || w.pb.Notify.SlackChannel == nil {
		return ""
	}
	channel, err := w.pb.Notify.SlackChannel.Render(templateData(w.firstAlert(), w.runData()))
	if err != nil {
		w.e.Logger.Warn("render notify.slack.channel; the configured channel is used", "playbook", w.run.Playbook, "err", err)
		return ""
	}
	return channel
}

// tell makes the next transition carry a report to people.
func (w *work) tell(event journal.Kind, message string) {
	w.told, w.report = true, Report{Event: event, Message: message}
	w.st.Reported = true
}

// commit applies a transition and takes over what the store made of it.
func (w *work) commit(ctx context.Context, t store.Transition) error {
	began := time.Now()
	run, err := w.e.Store.Apply(ctx, t)
	if err != nil {
		return fmt.Errorf("record the transition: %w", err)
	}
	w.e.leases.extended(w.held, began)
	w.committed(run, t)
	return nil
}

// committed takes over what the store made of a transition.
func (w *work) committed(run store.Run, t store.Transition) {
	w.run, w.saved, w.queued, w.told = run, run, nil, false
	for _, s := range t.Steps {
		if s.Remedy == w.rung() {
			w.steps[s.Step] = s
		}
	}
	for _, en := range t.Entries {
		w.e.m.observe(en)
	}
	if t.Release || run.Phase == store.Done {
		w.alive = false
	}
}

// awaitCall lets go of the run until what a worker before may have sent is settled.
// It is no sign that the run gets on: the next may be lost to it as well.
func (w *work) awaitCall(ctx context.Context, due time.Time) error {
	w.run.DueAt, w.run.Wait = due, store.WaitRetry
	t := w.transition()
	t.Release, t.StillLost = true, true
	return w.commit(ctx, t)
}

// release lets go of the run until due.
func (w *work) release(ctx context.Context, due time.Time, wait store.Wait, entries ...journal.Entry) error {
	w.run.DueAt, w.run.Wait = due, wait
	t := w.transition(entries...)
	t.Release = true
	return w.commit(ctx, t)
}

// alerts returns the alerts of every joined and attached candidate.
func (w *work) alerts() []alert.Alert {
	out := make([]alert.Alert, 0, len(w.cands))
	for _, c := range w.cands {
		out = append(out, c.Episode.Alert)
	}
	return out
}

// firstAlert is the alert that templates and conditions call `alert`.
func (w *work) firstAlert() alert.Alert {
	if len(w.cands) == 0 {
		return alert.Alert{}
	}
	return w.cands[0].Episode.Alert
}

// runData is what templates and conditions see of the run.
func (w *work) runData() playbooks.RunData {
	rd := playbooks.RunData{ID: w.run.ID, Playbook: w.run.Playbook, Target: w.run.Target}
	if r := w.remedy(); r != nil {
		rd.Remedy = r.Name
	}
	return rd
}

// vars reads what conditions may ask for. `now` is the run's creation, constant
// in the run, so that a condition means the same on every rung.
func (w *work) vars(ctx context.Context) (playbooks.Vars, error) {
	facts, object, err := w.e.Cluster.Facts(ctx, w.run.Target)
	if err != nil {
		return playbooks.Vars{}, fmt.Errorf("read the facts of %s: %w", w.run.Target, err)
	}
	v := playbooks.Vars{Alert: alertData(w.firstAlert()), Target: object, Facts: facts, Run: w.runData(), Now: w.run.CreatedAt}
	for _, a := range w.alerts() {
		v.Alerts = append(v.Alerts, alertData(a))
	}
	return v, nil
}

// end closes the run: locks and reservations are released with it.
func (w *work) end(ctx context.Context, outcome store.Outcome, reason, message string, entries ...journal.Entry) error {
	t := w.ending(outcome, reason, message, entries...)
	return w.commit(ctx, t)
}

// ending prepares the last transition of a run.
func (w *work) ending(outcome store.Outcome, reason, message string, entries ...journal.Entry) store.Transition {
	lostTarget := outcome == store.Suppressed && lost(reason)
	if lostTarget && w.givesUp() {
		outcome, message = store.Escalated, message+"; its alert has not resolved, and its target is looked for no more: a person must look"
	}
	w.run.Phase, w.run.Wait, w.run.Outcome, w.run.Reason, w.run.Message = store.Done, store.WaitNone, outcome, reason, message
	w.run.EndedAt = w.now
	en := w.entry(journal.RunEnded)
	en.Outcome, en.Reason, en.Message = string(outcome), reason, message
	en.Data = encode(map[string]any{"rungs": w.st.Rungs, "candidates": len(w.cands), "mutated": w.st.Mutated})
	// What a storm held is told of as a whole: see stormLoop.
	held := outcome == store.Expired && (w.st.LastGuard == guard.ReasonStorm || w.st.LastGuard == guard.ReasonUnhealthyBudget)
	if w.st.Reported || needsHuman(outcome) && !held || outcome == store.Simulated {
		w.tell(journal.RunEnded, message)
	}
	var approval *store.Approval
	if w.st.Stage == stageApproval {
		approval = &store.Approval{RunID: w.run.ID, Remedy: w.run.Remedy, PlanHash: w.st.PlanHash, TargetUID: w.run.Target.UID,
			Status: store.ApprovalVoid, AskedAt: w.st.AskedAt, DecidedAt: w.now, Why: reason}
	}
	t := w.transition(append(entries, en)...)
	t.Approval, t.Release = approval, true
	if lostTarget {
		// Another may be in its place, and the alert may be about that one by now.
		t.RequeueAt = w.requeueAt()
	}
	if outcome == store.Suppressed && reason == string(guard.ReasonResolved) {
		t.Observed = w.resolutions()
	}
	if outcome == store.Healed || outcome == store.Suppressed || lostTarget {
		t.Known = len(w.cands) // one that fires and is not among them has no other run
	}
	return t
}

// resolutions tell that the run's alerts have resolved, as Alertmanager would. An
// alert that was away for less than its group_interval it reports as if it had
// never been: the next report finds a closed episode, opens it again and queues
// what was not done.
func (w *work) resolutions() []store.Observation {
	var obs []store.Observation
	for _, c := range w.cands {
		a := c.Episode.Alert.Clone()
		a.Status, a.EndsAt = alert.Resolved, w.now
		obs = append(obs, store.Observation{Source: c.Episode.Signal.Source, Cluster: c.Episode.Cluster, Alert: a})
	}
	return obs
}

// lost tells the reasons that say no more than that the object which an alert led
// to is not there any more.
func lost(reason string) bool {
	return slices.Contains([]string{string(guard.ReasonTargetGone), string(guard.ReasonTargetReplaced), string(action.ReasonGone)}, reason)
}

// requeueAt is when the target of the run's alerts is looked for anew.
func (w *work) requeueAt() time.Time {
	n := 0
	for _, c := range w.cands {
		n = max(n, c.Requeues)
	}
	return w.now.Add(w.e.backoff(n + 1))
}

// givesUp says that an alert of the run fires on and is not queued again: its time
// is over, or it has lost its target too often.
func (w *work) givesUp() bool {
	at := w.requeueAt()
	return slices.ContainsFunc(w.cands, func(c store.Candidate) bool {
		return c.Episode.Open && (c.Requeues >= store.MaxRequeues || !c.ExpiresAt.After(at))
	})
}

// needsHuman says which outcomes people must hear of although the run never
// reported before.
func needsHuman(o store.Outcome) bool {
	switch o {
	case store.NotHealed, store.Escalated, store.OutcomeUnknown, store.Expired:
		return true
	}
	return false
}

func paren(s string) string {
	if s == "" {
		return ""
	}
	return " (" + s + ")"
}
