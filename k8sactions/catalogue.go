// Package k8sactions is the catalogue of remediation actions on Kubernetes. It
// is the only way from the engine to a change in the cluster.
package k8sactions

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"time"

	"github.com/alertmedic/alertmedic/internal/action"
	"github.com/alertmedic/alertmedic/k8sactions/contract"
	"github.com/alertmedic/alertmedic/k8sactions/diagnose"
	"github.com/alertmedic/alertmedic/k8sactions/node"
	"github.com/alertmedic/alertmedic/k8sactions/pod"
	"github.com/alertmedic/alertmedic/k8sactions/service"
	"github.com/alertmedic/alertmedic/k8sactions/workload"
)

// Default lists the actions that ship, in the order in which they are shown.
func Default() []contract.Action {
	return []contract.Action{
		diagnose.Diagnose{},
		pod.Delete{},
		pod.Evict{},
		workload.Restart{},
		workload.Scale{},
		workload.Rollback{},
		service.Restart{},
		node.Cordon{},
		node.Uncordon{},
		node.Drain{},
	}
}

// Specs describes the actions that ship; it needs no cluster.
func Specs() []action.Spec {
	var out []action.Spec
	for _, a := range Default() {
		out = append(out, a.Spec())
	}
	return out
}

// Options of a Catalogue.
type Options struct {
	// Actions replaces the actions that ship; nil means Default().
	Actions []contract.Action
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Catalogue finds actions by name and calls them. It is safe for concurrent use.
type Catalogue struct {
	clients contract.Clients
	now     func() time.Time
	actions []contract.Action
	byName  map[string]entry
}

type entry struct {
	contract.Action
	spec action.Spec
}

// New makes a catalogue. With nil clients it describes actions, as `check`
// needs it, and carries out none.
func New(clients contract.Clients, options Options) (*Catalogue, error) {
	c := &Catalogue{clients: clients, now: options.Now, actions: options.Actions, byName: map[string]entry{}}
	if c.now == nil {
		c.now = time.Now
	}
	if c.actions == nil {
		c.actions = Default()
	}
	for _, a := range c.actions {
		spec := a.Spec()
		if _, twice := c.byName[spec.Name]; twice {
			return nil, fmt.Errorf("k8sactions: two actions are called %s", spec.Name)
		}
		if err := checkSpec(a, spec); err != nil {
			return nil, fmt.Errorf("k8sactions: action %q: %w", spec.Name, err)
		}
		c.byName[spec.Name] = entry{a, spec}
	}
	return c, nil
}

// checkSpec holds an action to what it says of itself.
func checkSpec(a contract.Action, spec action.Spec) error {
	_, reverter := a.(contract.Reverter)
	switch {
	case spec.Name == "":
		return errors.New("it has no name")
	case len(spec.Kinds) == 0:
		return errors.New("it accepts no kind")
	case spec.NewParams == nil:
		return errors.New("it declares no parameters")
	case spec.Replay == "":
		return errors.New("it declares no replay class")
	case spec.DefaultTimeout <= 0:
		return errors.New("it has no default timeout")
	case spec.Reversible != reverter:
		return errors.New("it must have a Revert exactly if it says Reversible")
	case len(spec.RBAC) == 0:
		return errors.New("it declares no RBAC rule")
	}
	return nil
}

// Lookup returns the description of an action.
func (c *Catalogue) Lookup(name string) (action.Spec, bool) {
	e, ok := c.byName[name]
	return e.spec, ok
}

// Names lists the actions by name, sorted.
func (c *Catalogue) Names() []string {
	out := make([]string, 0, len(c.actions))
	for name := range c.byName {
		out = append(out, name)
	}
	slices.Sort(out)
	return out
}

// All describes the actions in the order in which they are shown.
func (c *Catalogue) All() []action.Spec {
	out := make([]action.Spec, 0, len(c.actions))
	for _, a := range c.actions {
		out = append(out, a.Spec())
	}
	return out
}

// Plan asks the action what it would do. Nothing is changed.
func (c *Catalogue) Plan(ctx context.Context, req action.Request) (action.Plan, error) {
	return call(ctx, c, req, func(ctx context.Context, e entry, s contract.Session) (action.Plan, error) {
		plan, err := e.Plan(ctx, s, req)
		plan.Request = req
		return plan, err
	})
}

// Apply sends the change of the plan, or the next part of it. state is what
// the tick before returned, nil in the first. Nothing is sent for a Noop. The
// result may carry evidence and state along with an error.
func (c *Catalogue) Apply(ctx context.Context, plan action.Plan, state []byte) (action.Result, error) {
	return call(ctx, c, plan.Request, func(ctx context.Context, e entry, s contract.Session) (action.Result, error) {
		if plan.Noop {
			return action.Result{Done: true, Message: "already as wished: " + plan.Summary}, nil
		}
		return e.Apply(ctx, s, c.call(plan, state))
	})
}

// Observe tells whether the change of the plan is there.
func (c *Catalogue) Observe(ctx context.Context, plan action.Plan, state []byte) (action.Observation, error) {
	// The deadline was the change's own; looking for it comes later.
	req := plan.Request
	req.Deadline = time.Time{}
	return call(ctx, c, req, func(ctx context.Context, e entry, s contract.Session) (action.Observation, error) {
		if plan.Noop {
			return action.Applied, nil
		}
		return e.Observe(ctx, s, c.call(plan, state))
	})
}

// Revert restores what the plan's change has changed, where it is still ours.
func (c *Catalogue) Revert(ctx context.Context, plan action.Plan, state []byte) (action.Result, error) {
	req := plan.Request
	req.Deadline = time.Time{}
	return call(ctx, c, req, func(ctx context.Context, e entry, s contract.Session) (action.Result, error) {
		r, ok := e.Action.(contract.Reverter)
		switch {
		case !ok:
			return action.Result{}, action.Errorf(action.ReasonUnsupported, "%s cannot be reverted", e.spec.Name)
		case plan.Noop:
			return action.Result{Done: true, Message: "nothing was changed, so nothing is restored: " + plan.Summary}, nil
		}
		return r.Revert(ctx, s, c.call(plan, state))
	})
}

func (c *Catalogue) call(plan action.Plan, state []byte) contract.Call {
	return contract.Call{Plan: plan, State: json.RawMessage(state), First: len(state) == 0, Now: c.now()}
}

// call checks what every call has in common, gives it the step's deadline, and
// lets out nothing but *action.Error, not even a panic.
func call[T any](ctx context.Context, c *Catalogue, req action.Request, do func(context.Context, entry, contract.Session) (T, error)) (out T, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = &action.Error{Reason: action.ReasonInternal, Message: fmt.Sprintf("%s panicked: %v", req.Action, p),
				Err: fmt.Errorf("panic: %v\n%s", p, debug.Stack())}
		}
		var known *action.Error
		if err != nil && !errors.As(err, &known) {
			err = action.Errorf(action.ReasonInternal, "%s: %w", req.Action, err)
		}
	}()
	e, ok := c.byName[req.Action]
	if !ok {
		return out, action.Errorf(action.ReasonUnsupported, "there is no action %q", req.Action)
	}
	switch {
	case req.Target.IsZero() || req.Target.UID == "":
		return out, action.Errorf(action.ReasonRefused, "%s was given no complete target (%q, UID %q): an empty target never stands for anything",
			req.Action, req.Target.Ref, req.Target.UID)
	case !e.spec.Accepts(req.Target.Kind):
		return out, action.Errorf(action.ReasonRefused, "%s does not act on a %s", req.Action, req.Target.Kind)
	case req.RunID == "" || req.StepID == "":
		return out, action.Errorf(action.ReasonInternal, "%s was called without a run or step to sign its change with", req.Action)
	}
	if err := contract.CheckParams(e.spec, req.Params); err != nil {
		return out, err
	}
	if !req.Deadline.IsZero() {
		left := req.Deadline.Sub(c.now())
		if left <= 0 {
			return out, action.Errorf(action.ReasonTimeout, "the time of the step was over before the call")
		}
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, left)
		defer cancel()
	}
	if c.clients == nil {
		return out, action.Errorf(action.ReasonInternal, "%s: the catalogue was made without clients", req.Action)
	}
	session, err := c.clients.For(req.ServiceAccount)
	if err != nil {
		return out, action.Errorf(action.ReasonInternal, "clients of ServiceAccount %q: %w", req.ServiceAccount, err)
	}
	return do(ctx, e, session)
}
