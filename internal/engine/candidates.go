package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"time"

	"github.com/alertmedic/alertmedic/internal/action"
	"github.com/alertmedic/alertmedic/internal/alert"
	"github.com/alertmedic/alertmedic/internal/journal"
	"github.com/alertmedic/alertmedic/internal/kube"
	"github.com/alertmedic/alertmedic/internal/store"
	"github.com/alertmedic/alertmedic/playbooks"
)

// resolve turns a candidate into a run, lets it join one, postpones it, or ends
// it with a reason.
func (e *Engine) resolve(ctx context.Context, c store.Candidate) {
	log := e.Logger.With("candidate", c.ID, "playbook", c.Playbook, "alertname", c.Episode.Alert.Name())
	// The call has a deadline of its own: one that is used up by an API server that
	// says nothing must leave time to write that down.
	defer func() {
		if p := recover(); p != nil {
			e.m.panics.Inc()
			log.Error("panic while looking for the target of an alert; its lease runs out and it is tried again", "panic", p, "stack", string(debug.Stack()))
		}
	}()
	read := kube.NewReading()
	began, res, err := e.resolutionInTime(kube.WithReading(ctx, read), c)
	ctx, cancel := context.WithTimeout(ctx, e.CallTimeout)
	defer cancel()
	if err != nil {
		if errors.Is(ctx.Err(), context.Canceled) {
			e.giveBack(ctx, c, log)
			return
		}
		now, nerr := e.Store.Now(ctx)
		if nerr != nil {
			log.Error("resolve the candidate; its lease runs out and it is tried again", "err", err, "clock", nerr)
			return
		}
		log.Warn("resolve the candidate; trying again", "err", err)
		res = store.Resolution{RetryAt: now.Add(e.backoff(c.Attempts)), Message: err.Error()}
	}
	out, err := e.Store.ResolveCandidate(ctx, c, res)
	switch {
	case errors.Is(err, store.ErrFenced):
		log.Info("another worker took the candidate over")
	case err != nil && errors.Is(ctx.Err(), context.Canceled):
		e.giveBack(ctx, c, log)
	case err != nil:
		log.Error("record the resolution; the lease runs out and it is tried again", "err", err)
	default:
		log.Debug("resolved", "outcome", res.Outcome, "reason", res.Reason, "run", out.RunID)
		e.m.resolutions.WithLabelValues(c.Playbook, resolutionLabel(res, out)).Inc()
		if out.Created {
			e.readings.leave(out.RunID, reading{read, began})
			e.m.started.WithLabelValues(c.Playbook).Inc()
		}
	}
}

// giveBack lets go of a candidate at the stop of this process, so that the next
// one need not wait for the end of a lease.
func (e *Engine) giveBack(ctx context.Context, c store.Candidate, log *slog.Logger) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	switch err := e.Store.ReleaseCandidate(ctx, c); {
	case errors.Is(err, store.ErrFenced): // resolved after all, or another's by now
	case err != nil:
		log.Warn("give the candidate back; its lease runs out and another worker goes on", "err", err)
	}
}

func resolutionLabel(r store.Resolution, out store.ResolveResult) string {
	switch {
	case out.Superseded:
		return string(store.Superseded)
	case out.Deferred:
		return "deferred"
	case out.Created:
		return "run"
	case out.RunID != "":
		return string(store.Joined)
	case r.Outcome != "":
		return string(r.Outcome)
	}
	return "retry"
}

// resolutionInTime also returns the time of the store before anything was read.
func (e *Engine) resolutionInTime(ctx context.Context, c store.Candidate) (time.Time, store.Resolution, error) {
	ctx, cancel := context.WithTimeout(ctx, e.CallTimeout)
	defer cancel()
	now, err := e.Store.Now(ctx)
	if err != nil {
		return now, store.Resolution{}, fmt.Errorf("read the clock: %w", err)
	}
	res, err := e.resolution(ctx, c, now)
	return now, res, err
}

// resolution decides about a candidate. An error is temporary.
func (e *Engine) resolution(ctx context.Context, c store.Candidate, now time.Time) (store.Resolution, error) {
	if !c.ExpiresAt.After(now) {
		return ended(store.Expired, "expired", "no target could be resolved before limits.expireAfter was over; the log of the process says why of each attempt"), nil
	}
	pb, err := e.playbook(ctx, c.PlaybookHash)
	var broken *snapshotError
	switch {
	case errors.As(err, &broken):
		return ended(store.Failed, "playbook-broken", err.Error()), nil
	case err != nil:
		return store.Resolution{}, err
	}
	a := c.Episode.Alert
	run := playbooks.RunData{Playbook: pb.Name}
	vars := playbooks.Vars{Alert: alertData(a), Alerts: []playbooks.AlertData{alertData(a)}, Run: run, Now: now}
	if pb.When != nil && pb.When.AlertOnly() {
		if r, stop := evalWhen(ctx, pb, vars); stop {
			return r, nil
		}
	}
	req, err := e.targetRequest(pb, c.Episode, maxTime(a.StartsAt, e.Store.Wall(c.RequeuedAt)), run)
	if err != nil {
		return ended(store.Failed, "target-template", err.Error()), nil
	}
	found, err := e.Cluster.Resolve(ctx, req)
	if err != nil {
		var re *kube.ResolveError
		if errors.As(err, &re) && !re.Temporary() {
			return ended(store.Failed, string(re.Reason), re.Message), nil
		}
		return store.Resolution{}, fmt.Errorf("resolve the target: %w", err)
	}
	t := found.Target
	if pb.When != nil && !pb.When.AlertOnly() {
		facts, object, err := e.Cluster.Facts(ctx, t)
		if err != nil {
			return store.Resolution{}, fmt.Errorf("read the facts of %s: %w", t, err)
		}
		vars.Facts, vars.Target, vars.Run.Target = facts, object, t
		if r, stop := evalWhen(ctx, pb, vars); stop {
			return r, nil
		}
	}
	return store.Resolution{
		Run: &store.Run{
			Playbook: pb.Name, PlaybookHash: pb.Hash, Priority: pb.Priority, Exclusive: pb.Exclusive,
			Source: c.Episode.Signal.Source, Target: t, TargetKey: targetKey(t), AttemptKey: t.AttemptKey(),
			AlertName: a.Name(), Phase: store.Queued, Disruptive: e.disruptive(pb),
			State: encode(state{Stage: stagePlan}), DueAt: now, ExpiresAt: c.ExpiresAt, FiredAt: c.Episode.OpenedAt,
		},
		Message: explanation(found),
	}, nil
}

func explanation(r kube.Resolved) string {
	out := r.Target.String()
	for _, line := range r.Explanation {
		out += "; " + line
	}
	return out
}

func ended(o store.Outcome, reason, message string) store.Resolution {
	return store.Resolution{Outcome: o, Reason: reason, Message: message}
}

func evalWhen(ctx context.Context, pb *playbooks.Playbook, vars playbooks.Vars) (store.Resolution, bool) {
	ok, err := pb.When.Eval(ctx, vars)
	switch {
	case err != nil:
		// An evaluation error denies: a condition that cannot be told is not true.
		return ended(store.Suppressed, "condition-error", "spec.when: "+err.Error()+"; an error denies: let the expression hold for such alerts too"), true
	case !ok:
		return ended(store.Suppressed, "condition", "spec.when is false: "+pb.When.String()), true
	}
	return store.Resolution{}, false
}

// targetRequest renders the target's templates and says what to look for. since is
// when the alert began, or when its target was looked for anew: what was created
// later is not what it is about.
func (e *Engine) targetRequest(pb *playbooks.Playbook, ep store.Episode, since time.Time, run playbooks.RunData) (kube.Request, error) {
	data := templateData(ep.Alert, run)
	req := kube.Request{Cluster: ep.Cluster, Kind: pb.Target.Kind, Labels: ep.Alert.Labels, StartsAt: since}
	for _, f := range []struct {
		name string
		tmpl *playbooks.Template
		into *string
	}{{"name", pb.Target.Name, &req.Name}, {"namespace", pb.Target.Namespace, &req.Namespace}} {
		if f.tmpl == nil {
			continue
		}
		out, err := f.tmpl.Render(data)
		if err != nil {
			return req, fmt.Errorf("spec.target.%s: %w; keep the label in the rule's expression, or correct the template", f.name, err)
		}
		if out == "" {
			return req, fmt.Errorf("spec.target.%s: the template %q renders to nothing for this alert; keep the label in the rule's expression, or correct the template", f.name, f.tmpl)
		}
		*f.into = out
	}
	return req, nil
}

// disruptive reports whether any step of any remedy takes capacity away.
func (e *Engine) disruptive(pb *playbooks.Playbook) bool {
	for _, r := range pb.Remedies {
		for _, s := range r.Steps {
			if spec, ok := e.Actions.Lookup(s.Action); ok && spec.Disruptive {
				return true
			}
		}
	}
	return false
}

// targetKey is what candidates join a run by: the live object, UID included.
func targetKey(t action.Target) string {
	key := t.Cluster + "/" + t.Ref.String() + "/" + t.UID
	if t.Pod != nil && t.Kind == action.KindPod {
		key += "/" + t.Pod.UID
	}
	return key
}

// backoff is the delay after so many attempts, doubling up to 32 times the first.
func (e *Engine) backoff(attempts int) time.Duration {
	return e.Backoff << min(max(attempts, 0), 5)
}

func alertData(a alert.Alert) playbooks.AlertData {
	return playbooks.AlertData{Labels: a.Labels, Annotations: a.Annotations, Status: string(a.Status), Fingerprint: a.Fingerprint, StartsAt: a.StartsAt}
}

func templateData(a alert.Alert, run playbooks.RunData) playbooks.TemplateData {
	return playbooks.TemplateData{Labels: a.Labels, Annotations: a.Annotations, Status: string(a.Status),
		Fingerprint: a.Fingerprint, StartsAt: a.StartsAt, Run: run}
}

// entry starts a journal entry about a run.
func (w *work) entry(kind journal.Kind) journal.Entry {
	t := w.run.Target
	en := journal.Entry{Kind: kind, Cluster: t.Cluster, Source: w.run.Source, AlertName: w.run.AlertName,
		RunID: w.run.ID, Playbook: w.run.Playbook, Target: &t, Actor: w.e.Owner}
	if r := w.remedy(); r != nil {
		en.Remedy = r.Name
	}
	return en
}
