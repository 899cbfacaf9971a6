package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/alertmedic/alertmedic/internal/action"
	"github.com/alertmedic/alertmedic/internal/guard"
	"github.com/alertmedic/alertmedic/internal/journal"
	"github.com/alertmedic/alertmedic/internal/kube"
	"github.com/alertmedic/alertmedic/internal/store"
)

// lockRetry is how long a run waits when a plan needs a key that another holds.
const lockRetry = 5 * time.Second

// admit asks every guard whether step i may be sent now and, in the same
// transaction, records the answer and the intent (and the plans, when they are
// new). It is the only way to a mutation.
func (w *work) admit(ctx context.Context, i int, fresh bool) error {
	s := w.steps[i]
	var plan action.Plan
	if err := unmarshal(s.Plan, &plan); err != nil {
		return err
	}
	spec, ok := w.e.Actions.Lookup(s.Action)
	if !ok {
		return w.failStep(ctx, s, action.ReasonUnsupported, "this version has no action "+s.Action)
	}
	subject := w.subject(s, spec, plan)
	evidence := w.gather(ctx, subject, plan)
	query := w.query(subject, evidence)
	before := *w // what decide changes is undone when the transaction fails
	var decision guard.Decision
	var sent store.Transition
	began := time.Now()
	run, err := w.e.Store.Admit(ctx, query, w.run.Fence(), func(l guard.Ledger) (store.Transition, error) {
		*w = before
		w.now = l.Now
		var all []guard.Decision
		decision, all = guard.Decide(w.e.Guards, guard.Input{Subject: subject, Evidence: evidence, Ledger: l, Config: w.e.GuardConfig})
		sent = w.decided(decision, all, subject, evidence, s, spec, plan, fresh)
		sent.Storms = guard.Signs(all)
		if decision.Verdict == guard.Admit {
			sent.Buckets = guard.Draw(subject, l)
			if s.Ticks == 0 {
				sent.Reserve = guard.Reserve(subject, evidence, l.Now)
			}
		}
		return sent, nil
	})
	var locked *store.LockedError
	if errors.As(err, &locked) {
		*w = before
		return w.waitForLock(ctx, locked)
	}
	if err != nil {
		*w = before
		return fmt.Errorf("admit step %s: %w", s.Name, err)
	}
	w.e.leases.extended(w.held, began)
	w.committed(run, sent)
	w.e.m.decision(w.run.Playbook, decision)
	if len(sent.Storms) > 0 {
		w.e.stormSeen()
	}
	switch decision.Verdict {
	case guard.Admit:
		return w.call(ctx, w.steps[i])
	case guard.Simulate:
		return w.simulate(ctx)
	}
	return nil
}

// query says what the guards must know of the store about a subject.
func (w *work) query(s guard.Subject, e guard.Evidence) guard.Query {
	l := s.Limits
	return guard.Query{
		RunID: w.run.ID, AttemptKey: w.run.AttemptKey, Since: e.ObservedAt,
		PastSince:     w.now.Add(-max(l.AttemptsWindow, l.CooldownAfterFailure, l.CooldownAfterSuccess)),
		ReservedSince: w.now.Add(-l.RemoveWindow), StormSince: w.now.Add(-l.StormWindow), StormLimit: l.StormRuns,
		Scopes: guard.Scopes(s),
	}
}

// subject says what asks for admission.
func (w *work) subject(s store.Step, spec action.Spec, plan action.Plan) guard.Subject {
	src := w.e.Sources[w.run.Source]
	r := &w.pb.Remedies[s.Remedy] // a revert's is not the one the run has come to
	begun := len(s.State) > 0     // a call has got so far; one that was refused is made anew, and asked about anew
	sub := guard.Subject{
		RunID: w.run.ID, Playbook: w.run.Playbook, Remedy: s.RemedyName, Step: s.Name, Action: s.Action, Target: w.run.Target,
		Disruptive: spec.Disruptive, Mutating: spec.Mutating && !plan.Noop,
		Mode:     guard.Tightest(w.e.Mode, w.pb.Mode, r.Mode),
		Approved: w.st.Approved != "" && w.st.Approved == w.st.PlanHash,
		First:    !w.st.Mutated, Untouched: !w.st.Touched, NeedsPod: podAction(s.Action) && !begun, Begun: begun,
		WritesSpec: spec.WritesSpec, Failover: spec.Failover,
		Displaces: displaces(plan, w.run.Target), Removes: plan.Removes, Replicas: plan.Replicas, FiringSince: w.e.byStore(w.firingSince(), w.now),
		SourceCluster: src.Cluster, AlertCluster: w.firstAlert().Labels["cluster"],
		AllowedNamespaces: src.Namespaces, AllowedPlaybooks: src.Playbooks,
		Limits: w.e.Limits(w.pb, r),
	}
	if begun && podAction(s.Action) {
		sub.Displaces = 0 // it has been displaced
	}
	if w.pb.Target.Namespace != nil && w.pb.Target.Namespace.Static() {
		sub.NamedNamespaces = []string{w.pb.Target.Namespace.String()}
	}
	return sub
}

// displaces is how many pods the plan takes down that must find a place
// elsewhere. The controller of a workload replaces pods at its own pace and puts
// no more of them at risk than its strategy says, and a rollback is the remedy
// for a revision that fits nowhere: a plan for a workload that names no pod is
// not asked.
func displaces(plan action.Plan, t action.Target) int {
	if t.Kind != action.KindNode && len(displaced(plan)) == 0 {
		return 0
	}
	return plan.Displaces
}

// displaced are the pods that the plan names as taken down.
func displaced(plan action.Plan) []action.Ref {
	var out []action.Ref
	for _, c := range plan.Changes {
		if c.Object.Kind == action.KindPod && c.Path == "" {
			out = append(out, c.Object)
		}
	}
	return out
}

// changed are the objects besides the target that the plan changes and leaves in
// being: the workloads behind a Service.
func changed(plan action.Plan) []action.Ref {
	var out []action.Ref
	for _, c := range plan.Changes {
		if c.Path != "" && c.Object.UID != plan.Request.Target.UID && !slices.Contains(out, c.Object) {
			out = append(out, c.Object)
		}
	}
	return out
}

// podAction tells the actions that act on the pod which the alert named, and
// not on the target's controller.
func podAction(name string) bool { return name == "pod.delete" || name == "pod.evict" }

// gather observes the world right before the decision.
func (w *work) gather(ctx context.Context, s guard.Subject, plan action.Plan) guard.Evidence {
	protect := w.e.Protect
	protect.ControlPlane = s.Limits.ControlPlane == guard.ControlPlaneOneAtATime
	protect.Named = s.NamedNamespaces
	observed := w.read.since // what was read for this decision before counts as well
	if observed.IsZero() {
		var err error
		if observed, err = w.e.Store.Now(ctx); err != nil {
			return guard.Evidence{Errors: []string{"reading the store's clock: " + err.Error()}}
		}
	}
	request := kube.EvidenceRequest{
		Target: s.Target, Protect: protect,
		NeedNodes: s.Disruptive && s.Target.Kind == action.KindNode, NeedPods: s.Mutating && s.Disruptive && s.NeedsPod,
		Displaces: s.Displaces, Displaced: displaced(plan), Deletes: s.Action == "pod.delete", Changed: changed(plan), Begun: s.Begun,
		Controllers: w.e.Controllers,
	}
	var ev guard.Evidence
	var state guard.AlertEvidence
	w.e.both(func() { // the API server and the monitoring are asked at once
		if s.Mutating {
			state = w.alertState(ctx, w.lastSeen())
		}
	}, func() { ev = w.e.Cluster.Evidence(ctx, request) })
	// Age is counted by one clock, the store's: replicas and the database may
	// differ from each other by more than evidence may be old.
	if n := ev.Nodes; n != nil && !n.GrowingSince.IsZero() && !ev.ObservedAt.IsZero() {
		nodes := *n
		nodes.GrowingSince = observed.Add(-ev.ObservedAt.Sub(n.GrowingSince)) // both by the observer's clock
		ev.Nodes = &nodes
	}
	ev.ObservedAt = observed
	if t := ev.Target.Touched; t != nil {
		touched := *t
		touched.At = w.e.byStore(t.At, observed)
		ev.Target.Touched = &touched
	}
	if s.Mutating {
		ev.Alert = state
	}
	if s.Mutating && s.Mode == guard.Auto {
		src := w.e.Sources[w.run.Source]
		ev.Resynced = w.e.resynced.has(src.Name)
		if s.Limits.WatchdogAge != guard.Off {
			ev.Watchdog = w.watchdog(ctx, src, observed)
		}
	}
	return ev
}

// watchdog asks when the alert that always fires was last heard of.
func (w *work) watchdog(ctx context.Context, src Source, now time.Time) guard.WatchdogEvidence {
	if src.Reader == nil {
		return guard.WatchdogEvidence{Err: "no Alertmanager is configured for source " + w.run.Source}
	}
	heard, err := src.Reader.Watchdog(ctx)
	if err != nil {
		return guard.WatchdogEvidence{Err: err.Error()}
	}
	return guard.WatchdogEvidence{HeardAt: w.e.byStore(heard, now)}
}

// byStore turns a time of the world's clocks into one of the store's, which the
// guards count by; now is the store's. The two differ while a step of the wall
// clock is made up for.
func (e *Engine) byStore(at, now time.Time) time.Time {
	if at.IsZero() {
		return at
	}
	return now.Add(at.Sub(e.Store.Wall(now)))
}

// firingSince is when the oldest of the run's alerts began to fire: not when its
// episode opened, since a flapping alert keeps its episode.
func (w *work) firingSince() time.Time {
	var since time.Time
	for _, a := range w.alerts() {
		if since.IsZero() || a.StartsAt.Before(since) {
			since = a.StartsAt
		}
	}
	return since
}

// lastSeen is when the latest of the run's alerts was last reported. What was read
// before that knows nothing of it.
func (w *work) lastSeen() time.Time {
	var latest time.Time
	for _, c := range w.cands {
		latest = maxTime(latest, c.Episode.LastSeen)
	}
	return latest
}

// alertState reads the alerts of all candidates: one that fires makes the run's
// state firing, one that is unknown makes it unknown unless another fires.
func (w *work) alertState(ctx context.Context, since time.Time) guard.AlertEvidence {
	src, ok := w.e.Sources[w.run.Source]
	if !ok || src.Reader == nil {
		return guard.AlertEvidence{State: guard.AlertUnknown, By: "no Alertmanager or Prometheus is configured for source " + w.run.Source}
	}
	if len(w.cands) == 0 {
		return guard.AlertEvidence{State: guard.AlertUnknown, By: "the run has no alert"}
	}
	rank := map[guard.AlertState]int{guard.AlertResolved: 1, guard.AlertInhibited: 2, guard.AlertUnknown: 3, guard.AlertSilenced: 4, guard.AlertFiring: 5}
	var out guard.AlertEvidence
	for i, a := range w.alerts() {
		st := src.Reader.State(ctx, a, w.e.Store.Wall(since))
		if i == 0 || rank[st.State] > rank[out.State] {
			out = st
		}
		if out.State == guard.AlertFiring {
			break
		}
	}
	return out
}

// decided builds the transition that a decision asks for. It runs inside the
// admission transaction and touches nothing but w.
func (w *work) decided(d guard.Decision, all []guard.Decision, sub guard.Subject, ev guard.Evidence, s store.Step, spec action.Spec, plan action.Plan, fresh bool) store.Transition {
	var entries []journal.Entry
	if d.Reason != w.st.LastGuard || d.Verdict == guard.Admit && fresh {
		en := w.entry(journal.GuardDecided)
		en.Step, en.Action, en.Outcome, en.Reason, en.Message = s.Name, s.Action, string(d.Verdict), string(d.Reason), d.Message
		en.Data = encode(map[string]any{"guard": d.Guard, "decisions": objections(all), "evidence": ev, "limits": sub.Limits, "mode": sub.Mode})
		entries = append(entries, en)
	}
	w.st.LastGuard = d.Reason
	w.run.Message = d.Message
	switch d.Verdict {
	case guard.Admit:
		return w.intend(s, spec, plan, ev, fresh, entries)
	case guard.NeedsApproval:
		return w.ask(entries)
	case guard.Simulate:
		w.run.Message = d.Message
		steps, planned := w.planned(store.StepPlanned)
		t := w.transition(append(entries, planned)...)
		t.Steps = steps
		return t
	case guard.Delay:
		wait := store.WaitGuard
		if d.Reason == guard.ReasonCooldown {
			wait = store.WaitCooldown
		}
		back := w.putBack(s)
		// Ended on time, not late. The time may be over by now, since the guards were
		// asked after it was looked at: then the next look is at once, and ends it.
		w.run.DueAt, w.run.Wait, w.run.Reason = minTime(d.RetryAt, w.stepHeldUntil(w.steps[s.Step])), wait, string(d.Reason)
		if len(entries) > 0 {
			en := w.entry(journal.RunWaiting)
			en.Reason, en.Message = string(d.Reason), d.Message
			en.Data = encode(map[string]any{"wait": wait, "dueAt": w.run.DueAt})
			entries = append(entries, en)
		}
		t := w.transition(entries...)
		t.Steps, t.Release = back, true
		return t
	default:
		outcome := w.without(store.Suppressed)
		if d.Reason == guard.ReasonAttempts {
			outcome = store.Escalated
		}
		return w.ending(outcome, string(d.Reason), d.Message, entries...)
	}
}

// putBack lets a step begin anew whose calls were all refused, now that a guard holds
// it: it waits for the guard, as one that was never sent, and the time that it may
// take is not over meanwhile.
func (w *work) putBack(s store.Step) []store.Step {
	if s.Status != store.StepWaiting || s.Touched || len(s.State) > 0 || !w.mutates(s) {
		return nil
	}
	s.Status, s.StartedAt = store.StepPlanned, time.Time{}
	w.steps[s.Step] = s
	return []store.Step{s}
}

// objections keeps what the journal needs of the decisions: those that object.
func objections(all []guard.Decision) []guard.Decision {
	var out []guard.Decision
	for _, d := range all {
		if d.Verdict != guard.Admit {
			out = append(out, d)
		}
	}
	return out
}

// planned returns the rows of the planned steps and the entry that shows them.
func (w *work) planned(status store.StepStatus) ([]store.Step, journal.Entry) {
	type shown struct {
		Step   string          `json:"step"`
		Action string          `json:"action"`
		Plan   json.RawMessage `json:"plan"`
	}
	var steps []store.Step
	var show []shown
	for _, i := range w.order() {
		s := w.steps[i]
		if s.Status != store.StepDone {
			s.Status = status
		}
		steps = append(steps, s)
		show = append(show, shown{s.Name, s.Action, s.Plan})
	}
	en := w.entry(journal.RunPlanned)
	en.Message = w.planText()
	en.Data = encode(map[string]any{"planHash": w.st.PlanHash, "steps": show})
	return steps, en
}

// planText is the plan in one line: what would be changed. Steps that only look
// are left out unless there is nothing else.
func (w *work) planText() string {
	var changes, looks []string
	for _, i := range w.order() {
		var p action.Plan
		if err := unmarshal(w.steps[i].Plan, &p); err != nil {
			continue // a plan of our own encoding
		}
		if w.mutates(w.steps[i]) {
			changes = append(changes, p.Summary)
		} else {
			looks = append(looks, p.Summary)
		}
	}
	if len(changes) == 0 {
		changes = looks
	}
	return strings.Join(changes, ", then ")
}

// intend writes the intent of step s; the call follows the commit.
func (w *work) intend(s store.Step, spec action.Spec, plan action.Plan, ev guard.Evidence, fresh bool, entries []journal.Entry) store.Transition {
	w.run.Phase, w.run.Wait, w.run.Reason, w.run.Message = store.Active, store.WaitNone, "", plan.Summary
	if w.run.AdmittedAt.IsZero() {
		w.run.AdmittedAt = w.now
	}
	w.st.Stage, w.st.Backoffs, w.run.Step = stageStep, 0, s.Step
	var steps []store.Step
	locks := []string{w.run.Target.LockKey()}
	if fresh {
		var planned journal.Entry
		steps, planned = w.planned(store.StepPlanned)
		entries = append(entries, planned)
		for _, st := range steps {
			var p action.Plan
			if unmarshal(st.Plan, &p) == nil {
				locks = append(locks, p.Locks...)
			}
		}
	}
	if s.StartedAt.IsZero() {
		s.StartedAt = w.now
	}
	s.Status, s.Ticks = store.StepIntended, s.Ticks+1
	s.CallDeadline = w.now.Add(w.e.CallTimeout)
	if end := s.StartedAt.Add(w.stepTimeout(s, spec)); end.Before(s.CallDeadline) && s.Ticks == 1 {
		s.CallDeadline = end
	}
	mutating := spec.Mutating && !plan.Noop
	begins := mutating && !w.st.RemedyMutated // people hear of a remedy when it first changes something
	if mutating {
		if w.run.IntentAt.IsZero() {
			w.run.IntentAt = w.now
		}
		w.st.Mutated, w.st.RemedyMutated, w.st.LastMutation = true, true, w.now
	}
	en := w.entry(journal.StepIntent)
	en.Step, en.Action, en.Message = s.Name, s.Action, plan.Summary
	en.Data = encode(map[string]any{"tick": s.Ticks, "deadline": s.CallDeadline, "observedAt": ev.ObservedAt})
	steps = upsert(steps, s)
	if begins {
		w.tell(journal.StepIntent, w.planText())
	}
	w.steps[s.Step] = s
	t := w.transition(append(entries, en)...)
	t.Steps, t.Locks = steps, locks
	return t
}

func upsert(steps []store.Step, s store.Step) []store.Step {
	for i := range steps {
		if steps[i].Step == s.Step {
			steps[i] = s
			return steps
		}
	}
	return append(steps, s)
}

// waitForLock postpones a run whose plan needs a key that another run holds.
func (w *work) waitForLock(ctx context.Context, l *store.LockedError) error {
	var entries []journal.Entry
	if w.run.Wait != store.WaitLock {
		en := w.entry(journal.RunWaiting)
		en.Reason, en.Message = "lock", l.Error()
		entries = append(entries, en)
	}
	w.run.Message = l.Error()
	return w.release(ctx, w.now.Add(lockRetry), store.WaitLock, entries...)
}

func unmarshal(raw json.RawMessage, v any) error {
	if err := json.Unmarshal(raw, v); err != nil {
		return fmt.Errorf("decode %T: %w", v, err)
	}
	return nil
}
