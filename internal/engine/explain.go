package engine

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/common/model"

	"github.com/alertmedic/alertmedic/internal/action"
	"github.com/alertmedic/alertmedic/internal/alert"
	"github.com/alertmedic/alertmedic/internal/guard"
	"github.com/alertmedic/alertmedic/internal/simulate"
	"github.com/alertmedic/alertmedic/internal/store"
	"github.com/alertmedic/alertmedic/playbooks"
)

// Explain says what would become of an alert now: which playbooks match and why
// the others do not, what they would act on, what each guard says, and the plan of
// each step. It is the code that acts, as far as it only reads: nothing is
// written, in the store or in the cluster, and no dry run is sent. An error wraps
// store.ErrNotFound when the request names what does not exist.
func (e *Engine) Explain(ctx context.Context, r simulate.ExplainRequest) (*simulate.Explanation, error) {
	src, err := e.sourceNamed(r.Source)
	if err != nil {
		return nil, err
	}
	now, err := e.Store.Now(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the clock: %w", err)
	}
	labels := model.LabelSet{}
	for k, v := range r.Labels {
		labels[model.LabelName(k)] = model.LabelValue(v)
	}
	a := alert.Alert{Status: alert.Firing, Labels: r.Labels, Annotations: r.Annotations, StartsAt: r.StartsAt, Fingerprint: labels.Fingerprint().String()}
	if a.StartsAt.IsZero() {
		a.StartsAt = e.Store.Wall(now)
	}
	out := &simulate.Explanation{At: now, Source: src.Name, Cluster: src.Cluster, Labels: r.Labels,
		Alert: guard.AlertEvidence{State: guard.AlertUnknown, By: "no Alertmanager and Prometheus are configured for source " + src.Name}}
	if src.Reader != nil {
		out.Alert = src.Reader.State(ctx, a, time.Time{})
	}
	for _, pb := range e.Playbooks().All() {
		if r.Playbook != "" && pb.Name != r.Playbook {
			continue
		}
		p, err := e.explain(ctx, pb, src, a, now)
		if err != nil {
			return nil, err
		}
		out.Playbooks = append(out.Playbooks, p)
	}
	if r.Playbook != "" && len(out.Playbooks) == 0 {
		return nil, fmt.Errorf("%w: no playbook %q is loaded, only %s; `alertmedic check` says what is wrong with those that are not",
			store.ErrNotFound, r.Playbook, e.loaded())
	}
	e.settle(out.Playbooks)
	return out, nil
}

// loaded names the playbooks there are, the first twenty of many.
func (e *Engine) loaded() string {
	const most = 20
	var names []string
	for _, pb := range e.Playbooks().All() {
		names = append(names, pb.Name)
	}
	if len(names) > most {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
	}
	return cmp.Or(strings.Join(names, ", "), "none")
}

func (e *Engine) sourceNamed(name string) (Source, error) {
	var names []string
	for n := range e.Sources {
		names = append(names, n)
	}
	slices.Sort(names)
	if name == "" && len(names) > 0 {
		name = names[0]
	}
	src, ok := e.Sources[name]
	if !ok {
		return Source{}, fmt.Errorf("%w: there is no source %q; there are %s", store.ErrNotFound, name, strings.Join(names, ", "))
	}
	return src, nil
}

// unmatched names the first matcher that does not hold, "" when all do.
func unmatched(pb *playbooks.Playbook, labels map[string]string) string {
	for _, m := range pb.Matchers {
		value, there := labels[m.Name]
		if m.Matches(value) {
			continue
		}
		if !there {
			return fmt.Sprintf("%s: the alert has no label %s", m, m.Name)
		}
		return fmt.Sprintf("%s: %s is %q", m, m.Name, value)
	}
	return ""
}

func (e *Engine) explain(ctx context.Context, pb *playbooks.Playbook, src Source, a alert.Alert, now time.Time) (simulate.Considered, error) {
	out := simulate.Considered{Name: pb.Name, Priority: pb.Priority, Mode: guard.Tightest(e.Mode, pb.Mode), Why: unmatched(pb, a.Labels)}
	if out.Why != "" {
		return out, nil
	}
	c := store.Candidate{Playbook: pb.Name, PlaybookHash: pb.Hash, Priority: pb.Priority, Exclusive: pb.Exclusive, ExpiresAt: now.Add(time.Hour),
		Episode: store.Episode{Signal: alert.Signal{Source: src.Name, Fingerprint: a.Fingerprint}, Cluster: src.Cluster, Alert: a, Open: true, OpenedAt: now, LastSeen: now}}
	_, res, err := e.resolutionInTime(ctx, c)
	switch {
	case err != nil:
		out.Matched, out.Why = true, err.Error()
		return out, nil //nolint:nilerr // that it could not be told is the answer
	case res.Run == nil:
		out.Matched, out.Why = !strings.HasPrefix(res.Reason, "condition"), res.Reason+": "+res.Message
		return out, nil
	}
	out.Matched, out.Target, out.Resolution = true, &res.Run.Target, res.Message
	w := &work{e: e, run: *res.Run, pb: pb, cands: []store.Candidate{c}, now: now, steps: map[int]store.Step{}, st: state{Stage: stagePlan}}
	w.run.ID, w.run.CreatedAt = "explain", now
	return out, w.explainRemedies(ctx, &out)
}

// explainRemedies plans what applies, and asks the guards about each change as if
// it came now: about the second step too as if the first had not been made.
func (w *work) explainRemedies(ctx context.Context, out *simulate.Considered) error {
	vars, err := w.vars(ctx)
	if err != nil {
		out.Why = err.Error()
	}
	for i := range w.pb.Remedies {
		w.run.Remedy = i
		r := w.remedy()
		said := simulate.PlannedRemedy{Name: r.Name, Applies: true}
		vars.Run = w.runData()
		if r.When != nil {
			ok, err := r.When.Eval(ctx, vars)
			if !ok || err != nil {
				said.Applies, said.Why = false, "when is false: "+r.When.String()
			}
			if err != nil {
				said.Why = "when: " + err.Error()
			}
		}
		if said.Applies {
			if w.steps, err = w.planSteps(ctx, r, vars); err != nil {
				said.Why, w.steps = err.Error(), map[int]store.Step{}
			}
			for _, n := range w.order() {
				step := stepOf(w.steps[n])
				if err := w.explainGuards(ctx, w.steps[n], &step, out); err != nil {
					return err
				}
				said.Steps = append(said.Steps, step)
			}
		}
		out.Remedies = append(out.Remedies, said)
	}
	return nil
}

func stepOf(s store.Step) simulate.PlannedStep {
	var p action.Plan
	if err := unmarshal(s.Plan, &p); err != nil {
		return simulate.PlannedStep{Name: s.Name, Action: s.Action, Summary: err.Error()} // a plan of our own encoding
	}
	return simulate.PlannedStep{Name: s.Name, Action: s.Action, Summary: p.Summary, Diff: p.Diff, Noop: p.Noop}
}

// explainGuards asks the guards about a step that changes something; what each of
// them says is kept of the first.
func (w *work) explainGuards(ctx context.Context, s store.Step, said *simulate.PlannedStep, out *simulate.Considered) error {
	if !w.mutates(s) {
		return nil
	}
	var plan action.Plan
	if err := unmarshal(s.Plan, &plan); err != nil {
		return err
	}
	spec, ok := w.e.Actions.Lookup(s.Action)
	if !ok {
		return nil // it was planned by the same catalogue
	}
	subject := w.subject(s, spec, plan)
	evidence := w.gather(ctx, subject, plan)
	ledger, err := w.e.Store.Ledger(ctx, w.query(subject, evidence))
	if err != nil {
		return fmt.Errorf("read the ledger: %w", err)
	}
	d, all := guard.Decide(w.e.Guards, guard.Input{Subject: subject, Evidence: evidence, Ledger: ledger, Config: w.e.GuardConfig})
	said.Decision = &d
	if out.Decision == nil {
		out.Decision, out.Guards = &d, all
	}
	return nil
}

// settle says which playbook wins where several have one target.
func (e *Engine) settle(all []simulate.Considered) {
	exclusive := func(name string) bool {
		pb, ok := e.Playbooks().Get(name)
		return ok && pb.Exclusive
	}
	for i := range all {
		for j := range all {
			a, b := &all[i], &all[j]
			if i == j || a.Target == nil || b.Target == nil || a.Target.LockKey() != b.Target.LockKey() || !exclusive(b.Name) || !exclusive(a.Name) {
				continue
			}
			if cmp.Or(cmp.Compare(b.Priority, a.Priority), cmp.Compare(a.Name, b.Name)) > 0 {
				a.SupersededBy = b.Name
			}
		}
	}
}
