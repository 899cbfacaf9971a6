package engine

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/alertmedic/alertmedic/internal/guard"
	"github.com/alertmedic/alertmedic/internal/journal"
	"github.com/alertmedic/alertmedic/internal/kube"
	"github.com/alertmedic/alertmedic/internal/store"
	"github.com/alertmedic/alertmedic/playbooks"
)

// Verdict is what a verification concludes.
type Verdict string

// The verdicts. Only a positively observed NotHealed climbs the ladder; Unknown
// extends the verification once and then goes to a person.
const (
	Healed    Verdict = "healed"
	NotHealed Verdict = "not-healed"
	Unknown   Verdict = "unknown"
)

// observation is one look at the target and its alerts.
type observation struct {
	Health     kube.State         `json:"health"`
	HealthWhy  string             `json:"healthWhy,omitempty"`
	Unseen     bool               `json:"unseen,omitempty"` // the API server did not tell of the object
	Alert      guard.AlertState   `json:"alert,omitempty"`  // "" when the playbook ignores it
	AlertWhy   string             `json:"alertWhy,omitempty"`
	Conditions []conditionOutcome `json:"conditions,omitempty"`
}

type conditionOutcome struct {
	Message string `json:"message"`
	True    bool   `json:"true"`
	Error   string `json:"error,omitempty"`
}

// judge turns one look into a verdict and says what is missing. The object's
// health is always a witness: a resolved alert alone proves nothing, since our
// own change may have hidden it. An alert that fires proves nothing either while
// the API server is away: what exporters read from it they go on telling as it was.
func judge(o observation) (Verdict, string) {
	var bad, open []string
	switch o.Health {
	case kube.Healthy:
	case kube.Unhealthy:
		bad = append(bad, o.HealthWhy)
	default:
		open = append(open, "health unknown: "+o.HealthWhy)
	}
	switch o.Alert {
	case "", guard.AlertResolved:
	case guard.AlertFiring:
		bad = append(bad, "the alert still fires")
	case guard.AlertSilenced, guard.AlertInhibited:
		open = append(open, fmt.Sprintf("the alert is %s (%s)", o.Alert, o.AlertWhy))
	default:
		open = append(open, "alert unknown: "+o.AlertWhy)
	}
	for _, c := range o.Conditions {
		switch {
		case c.Error != "":
			open = append(open, c.Message+": "+c.Error)
		case !c.True:
			bad = append(bad, "not yet: "+c.Message)
		}
	}
	switch {
	case o.Unseen:
		return Unknown, strings.Join(append(open, bad...), "; ")
	case len(bad) > 0:
		return NotHealed, strings.Join(append(bad, open...), "; ")
	case len(open) > 0:
		return Unknown, strings.Join(open, "; ")
	}
	return Healed, ""
}

// startVerify begins to look whether the remedy has healed.
func (w *work) startVerify(ctx context.Context) error {
	r := w.remedy()
	w.st.Stage = stageVerify
	w.st.Verify = verifyState{StartedAt: w.now, Deadline: w.now.Add(r.Verify.Timeout)}
	en := w.entry(journal.VerifyStarted)
	en.Message = fmt.Sprintf("healed when healthy for %s, within %s", r.Verify.StableFor, r.Verify.Timeout)
	en.Data = encode(map[string]any{"deadline": w.st.Verify.Deadline, "stableFor": r.Verify.StableFor.String(), "alert": r.Verify.Alert})
	return w.release(ctx, w.now.Add(min(w.e.VerifyEvery, r.Verify.StableFor)), store.WaitVerify, en)
}

// verify looks once and decides, or looks again later.
func (w *work) verify(ctx context.Context) error {
	r := w.remedy()
	o := w.look(ctx, r)
	verdict, why := judge(o)
	v := &w.st.Verify
	if verdict != Healed {
		v.HealthySince = time.Time{}
	} else if v.HealthySince.IsZero() {
		v.HealthySince = w.now
	}
	if verdict == Healed && w.now.Sub(v.HealthySince) >= r.Verify.StableFor {
		en := w.entry(journal.VerifyVerdict)
		en.Message = fmt.Sprintf("healthy since %s", v.HealthySince.UTC().Format(time.RFC3339))
		return w.healed(ctx, r, o, en)
	}
	if verdict == Healed {
		why = fmt.Sprintf("healthy since %s, %s are asked for", v.HealthySince.UTC().Format(time.TimeOnly), r.Verify.StableFor)
	}
	last := v.Deadline
	if verdict == Healed {
		// Almost there: what is stable when time runs out may finish.
		last = maxTime(last, v.HealthySince.Add(r.Verify.StableFor))
	}
	if w.now.Before(last) {
		w.run.Message = "verifying: " + why
		v.Last = why
		return w.release(ctx, w.now.Add(w.e.VerifyEvery), store.WaitVerify)
	}
	en := w.entry(journal.VerifyVerdict)
	en.Outcome, en.Message, en.Data = string(verdict), why, encode(o)
	w.e.m.verdicts.WithLabelValues(w.run.Playbook, string(verdict)).Inc()
	if verdict == Unknown && !v.Extended {
		v.Extended, v.Deadline = true, w.now.Add(w.e.UnknownExtension)
		en.Message += fmt.Sprintf("; extended once, until %s", v.Deadline.UTC().Format(time.RFC3339))
		return w.release(ctx, w.now.Add(w.e.VerifyEvery), store.WaitVerify, en)
	}
	if verdict == Unknown {
		w.st.Rungs = append(w.st.Rungs, rung{Name: r.Name, Result: "unknown", Reason: why})
		return w.end(ctx, store.Escalated, "verdict-unknown", "whether the target healed cannot be told: "+why, en)
	}
	w.queued = append(w.queued, en)
	return w.failRemedy(ctx, "not-healed", why, true)
}

func maxTime(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func minTime(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// look observes health, alerts and the playbook's conditions.
func (w *work) look(ctx context.Context, r *playbooks.Remedy) observation {
	var o observation
	h, err := w.e.Cluster.Health(ctx, w.run.Target)
	o.Health, o.HealthWhy, o.Unseen = h.State, h.Message, !h.Seen()
	if err != nil {
		o.Health, o.HealthWhy = kube.Unknown, err.Error()
	}
	if r.Verify.Alert != playbooks.AlertIgnore {
		st := w.alertState(ctx, w.st.LastMutation)
		o.Alert, o.AlertWhy = st.State, st.By
		if o.Alert == "" {
			o.Alert = guard.AlertUnknown
		}
	}
	if len(r.Verify.Conditions) == 0 {
		return o
	}
	vars, verr := w.vars(ctx)
	for _, c := range r.Verify.Conditions {
		out := conditionOutcome{Message: c.Message}
		if out.Message == "" {
			out.Message = c.Condition.String()
		}
		if verr != nil {
			out.Error = verr.Error()
		} else if ok, err := c.Condition.Eval(ctx, vars); err != nil {
			out.Error = err.Error()
		} else {
			out.True = ok
		}
		o.Conditions = append(o.Conditions, out)
	}
	return o
}

// healed ends the run well: by remedy r, as o shows and en says.
func (w *work) healed(ctx context.Context, r *playbooks.Remedy, o observation, en journal.Entry) error {
	en.Outcome, en.Data = string(Healed), encode(o)
	w.e.m.verdicts.WithLabelValues(w.run.Playbook, string(Healed)).Inc()
	w.st.Rungs = append(w.st.Rungs, rung{Name: r.Name, Result: "healed"})
	from := w.run.FiredAt
	if from.IsZero() {
		from = w.run.CreatedAt
	}
	w.e.m.timeToHeal.WithLabelValues(w.run.Playbook).Observe(w.st.Verify.HealthySince.Sub(from).Seconds())
	if undoing, err := w.undo(ctx, en); undoing || err != nil {
		return err
	}
	return w.end(ctx, store.Healed, "", fmt.Sprintf("%s is healthy after %s", w.run.Target, r.Name), en)
}
