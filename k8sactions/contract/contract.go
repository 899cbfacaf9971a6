// Package contract is what an action implements and what it is given. It sits
// below the packages of actions so that they and their catalogue can share it.
package contract

import (
	"context"
	"encoding/json"
	"time"

	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"

	"github.com/alertmedic/alertmedic/internal/action"
)

// What alertmedic signs its changes with.
const (
	// FieldManager owns, in managedFields, what alertmedic has set.
	FieldManager = "alertmedic"
	// AnnotationRun and AnnotationStep say which step of which run changed an
	// object last.
	AnnotationRun  = "alertmedic.io/run"
	AnnotationStep = "alertmedic.io/step"
	// AnnotationCordonedBy marks a node that alertmedic cordoned with the run
	// that did, and is the licence to uncordon it again.
	AnnotationCordonedBy = "alertmedic.io/cordoned-by"
	// AnnotationRestart is set on a pod template to restart its workload.
	AnnotationRestart = "alertmedic.io/restart"
)

// Session is a set of clients of one identity; *kube.Session is one.
type Session interface {
	Typed() kubernetes.Interface
	Dynamic() dynamic.Interface
}

// Clients hands out sessions that impersonate a playbook's ServiceAccount.
type Clients interface {
	For(serviceAccount string) (Session, error)
}

// ClientsFunc adapts a function to Clients.
type ClientsFunc func(serviceAccount string) (Session, error)

// For implements Clients.
func (f ClientsFunc) For(serviceAccount string) (Session, error) { return f(serviceAccount) }

// Action is one remediation. Implementations hold no state: everything that a
// call needs is in its arguments, so that any replica can make the next one.
// Errors are *action.Error; the catalogue turns any other into internal.
type Action interface {
	// Spec describes the action. It is constant.
	Spec() action.Spec
	// Plan reads the live objects, changes nothing, and says what Apply will do.
	Plan(context.Context, Session, action.Request) (action.Plan, error)
	// Apply sends the change, or the next part of it. It never waits: see
	// action.Result. Calling it again after it was applied does no harm.
	Apply(context.Context, Session, Call) (action.Result, error)
	// Observe tells from the live object whether the change is there.
	Observe(context.Context, Session, Call) (action.Observation, error)
}

// Reverter is implemented by actions whose Spec says Reversible.
type Reverter interface {
	// Revert restores what Apply changed where it is still ours.
	Revert(context.Context, Session, Call) (action.Result, error)
}

// Call is one call about a plan.
type Call struct {
	Plan action.Plan
	// State is what the tick before returned; nil in the first.
	State json.RawMessage
	// First says that no tick was recorded before this one. One may have been
	// sent all the same, if its outcome was lost.
	First bool
	// Now is the time of the call by the catalogue's clock.
	Now time.Time
}

// DryRun returns the value of a request's dryRun option.
func (c Call) DryRun() []string {
	if c.Plan.Request.DryRun {
		return []string{"All"}
	}
	return nil
}

// Signature is the value of annotations that tie an object to the step.
func (c Call) Signature() string { return Signature(c.Plan.Request) }

// Signature ties an object to a step of a run. It is the same in every replay
// of the step, which makes the change observable and a repeat harmless.
func Signature(r action.Request) string { return r.RunID + "." + r.StepID }
