package playbooks

import (
	"fmt"
	"strings"
	"time"

	"github.com/prometheus/common/model"

	"github.com/alertmedic/alertmedic/internal/action"
	"github.com/alertmedic/alertmedic/internal/guard"
)

func (c *conversion) remedy(r *v1Remedy, p *Playbook, path string) Remedy {
	out := Remedy{
		Name:      r.Name,
		When:      c.condition(r.When, path+".when"),
		Mode:      guard.Mode(r.Mode),
		Limits:    c.limits(&r.Limits, path+".limits"),
		Verify:    c.verify(&r.Verify, path+".verify"),
		OnFailure: OnFailure(r.OnFailure),
	}
	if out.OnFailure == "" {
		out.OnFailure = Keep
	}
	if p.Mode != "" && out.Mode != "" && guard.Tightest(p.Mode, out.Mode) != out.Mode {
		c.errorf(path+".mode", "%s is looser than the playbook's mode, %s: a remedy may only tighten it", out.Mode, p.Mode)
	}
	if c.has(path+".steps") && len(r.Steps) == 0 && !c.reported(path+".steps") {
		c.errorf(path+".steps", "needs at least one step")
	}
	names := map[string]string{}
	reversible := false
	for i := range r.Steps {
		stepPath := fmt.Sprintf("%s.steps[%d]", path, i)
		c.unique(names, r.Steps[i].Name, stepPath+".name", "step")
		step, spec := c.step(&r.Steps[i], p.Target.Kind, stepPath)
		out.Steps = append(out.Steps, step)
		reversible = reversible || spec.Reversible || spec.Name == ""
	}
	if out.OnFailure == Revert && len(r.Steps) > 0 && !reversible {
		c.warnf(path+".onFailure", "none of the actions can be reverted: this is the same as Keep")
	}
	return out
}

// step returns the zero Spec when the action is not known.
func (c *conversion) step(s *v1Step, kind action.Kind, path string) (Step, action.Spec) {
	out := Step{
		Name:            s.Name,
		Action:          s.Action,
		When:            c.condition(s.When, path+".when"),
		Timeout:         c.duration(s.Timeout, path+".timeout", 0),
		ContinueOnError: s.ContinueOnError,
	}
	if out.When.never() {
		c.warnf(path+".when", "is never true: the step does nothing")
	}
	if !c.has(path+".action") || c.reported(path+".action") {
		return out, action.Spec{}
	}
	spec, ok := c.cat.Lookup(s.Action)
	if !ok {
		p := Problem{Path: path + ".action", Message: fmt.Sprintf("unknown action %s", quote(s.Action)), Suggestion: suggest(s.Action, c.cat.Names())}
		if p.Suggestion == "" {
			p.Message += ": the command alertmedic actions lists those that exist"
		}
		c.add(p)
		return out, action.Spec{}
	}
	if kind != "" && !spec.Accepts(kind) {
		kinds := make([]string, len(spec.Kinds))
		for i, k := range spec.Kinds {
			kinds[i] = string(k)
		}
		c.errorf(path+".action", "%s does not act on a %s; it acts on %s", s.Action, kind, strings.Join(kinds, ", "))
	}
	if c.reported(path + ".with") {
		return out, spec // it is no mapping
	}
	out.With = newParams(s.With.root, spec, path+".with", c.reporter)
	return out, spec
}

func (c *conversion) verify(v *v1Verify, path string) Verify {
	out := Verify{
		Timeout:   c.duration(v.Timeout, path+".timeout", defaultVerifyTimeout),
		StableFor: c.duration(v.StableFor, path+".stableFor", defaultStableFor),
		Alert:     AlertWish(v.Alert),
	}
	if out.Alert == "" {
		out.Alert = AlertResolved
	}
	if out.Timeout < out.StableFor {
		at := path + ".timeout"
		if !c.has(at) {
			at = path + ".stableFor"
		}
		c.errorf(at, "the timeout (%s) is shorter than stableFor (%s): it could never be met",
			notation(out.Timeout), notation(out.StableFor))
	}
	for i, cond := range v.Conditions {
		at := fmt.Sprintf("%s.conditions[%d].expression", path, i)
		compiled := c.condition(cond.Expression, at)
		if compiled.never() {
			c.warnf(at, "is never true: the remedy can never heal")
		}
		out.Conditions = append(out.Conditions, VerifyCondition{Condition: compiled, Message: cond.Message})
	}
	return out
}

func notation(d time.Duration) string { return model.Duration(d).String() }

// reachable warns of remedies that no run can come to.
func (c *conversion) reachable(p *Playbook) {
	stopped, before := "", ""
	for i, r := range p.Remedies {
		path := fmt.Sprintf("spec.remedies[%d]", i)
		for _, field := range []string{"cooldown", "attempts", "rate", "firingFor"} {
			if at := path + ".limits." + field; before != "" && c.has(at) {
				c.warnf(at, "decides whether a run begins to change something, and remedy %s before it does that in most runs: set it there or in spec.limits", quote(before))
			}
		}
		if before == "" && r.When.always() {
			before = r.Name
		}
		switch {
		case stopped != "":
			c.warnf(path, "can never be reached: remedy %s before it always runs, and stops the ladder when it does not heal", quote(stopped))
		case r.When.never():
			c.warnf(path+".when", "is never true: the remedy can never be reached")
		case r.OnFailure == Stop && r.When.always():
			stopped = r.Name
		}
	}
}
