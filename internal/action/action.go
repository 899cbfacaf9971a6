// Package action is the contract between the engine, which decides when a
// change may be made, and k8sactions, which knows how to make it. It holds data
// only: no client, no clock, no goroutine.
//
// It is a leaf: it imports nothing of this module.
package action

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// ReplayClass says what may be done about a step whose intent is recorded and
// whose outcome is not, because the process died or the call's fate is unclear.
type ReplayClass string

const (
	// Observable: Observe can tell from the live object whether the change is
	// there. "Not applied" may be concluded only after the call's deadline plus
	// the API server's request timeout have passed.
	Observable ReplayClass = "Observable"
	// Idempotent: sending the same change again does no harm.
	Idempotent ReplayClass = "Idempotent"
	// AtMostOnce: the change must not be sent twice and cannot be observed; an
	// unclear fate ends the run outcome-unknown.
	AtMostOnce ReplayClass = "AtMostOnce"
)

// Rule is one RBAC rule that an action needs.
type Rule struct {
	APIGroups     []string `json:"apiGroups"`
	Resources     []string `json:"resources"`
	Verbs         []string `json:"verbs"`
	ClusterScoped bool     `json:"clusterScoped,omitempty"` // needs a ClusterRole: the resource lives outside namespaces or in any
	// Kinds are the target kinds for which the right is needed; empty means all.
	Kinds []Kind `json:"kinds,omitempty"`
}

// For reports whether the right is needed by a playbook that declares targets of
// kind k; "" stands for any.
func (r Rule) For(k Kind) bool {
	if len(r.Kinds) == 0 || k == "" {
		return true
	}
	for _, own := range r.Kinds {
		if own.Covers(k) || k.Covers(own) {
			return true
		}
	}
	return false
}

// Spec describes an action to the playbook loader, the engine and the reader
// of `alertmedic actions`.
type Spec struct {
	Name        string // "pod.delete"
	Summary     string // one line, imperative
	Description string // what it does, what it refuses, what it reverts
	Kinds       []Kind // live target kinds that it accepts
	// NewParams returns a pointer to a fresh parameter struct holding the
	// defaults; its json and jsonschema tags are the parameters' schema. An
	// optional method Validate() error checks what a schema cannot.
	NewParams  func() any
	RBAC       []Rule
	Disruptive bool // takes capacity away, if only for a while
	Mutating   bool // false only for actions that just read, such as diagnose
	Reversible bool
	// WritesSpec says that it writes fields which a GitOps tool, where one owns the
	// object, would write back; Failover that it moves traffic to a standby.
	WritesSpec bool
	Failover   bool
	Replay     ReplayClass
	// DefaultTimeout bounds the whole step, all of its ticks included.
	DefaultTimeout time.Duration
	Example        string // a step in YAML
}

// Accepts reports whether the action can act on a live object of kind k.
func (s Spec) Accepts(k Kind) bool {
	for _, own := range s.Kinds {
		if own.Covers(k) {
			return true
		}
	}
	return false
}

// Rules are the rights that a playbook needs whose targets are of kind k.
func (s Spec) Rules(k Kind) []Rule {
	var out []Rule
	for _, r := range s.RBAC {
		if r.For(k) {
			out = append(out, r)
		}
	}
	return out
}

// Request asks for a plan.
type Request struct {
	Action         string          `json:"action"`
	Params         json.RawMessage `json:"params"` // rendered; decoded strictly into Spec.NewParams()
	Target         Target          `json:"target"`
	RunID          string          `json:"runID"`
	StepID         string          `json:"stepID"` // remedy/step: unique in the run
	ServiceAccount string          `json:"serviceAccount"`
	// DryRun asks Apply to send the change with dryRun=All.
	DryRun bool `json:"dryRun,omitempty"`
	// Deadline is when the whole step must be over.
	Deadline time.Time `json:"deadline,omitzero"`
}

// FieldChange is one field that a plan changes, as people read it.
type FieldChange struct {
	Object Ref             `json:"object"`
	Path   string          `json:"path"` // JSON pointer, or "" for the whole object
	Before json.RawMessage `json:"before,omitempty"`
	After  json.RawMessage `json:"after,omitempty"`
}

// Plan is what an action will do, made from the live object and recorded
// before anything is sent. Everything that Apply needs is in it: Apply reads
// the object again only to check that the plan still holds.
type Plan struct {
	Request Request       `json:"request"`
	Summary string        `json:"summary"` // one line, past the params: "delete pod shop/web-1 (uid ...), grace period 30s"
	Changes []FieldChange `json:"changes,omitempty"`
	Diff    string        `json:"diff,omitempty"` // unified, for people
	// Before is the before-state that Revert needs, private to the action.
	Before json.RawMessage `json:"before,omitempty"`
	// Locks are keys that the change needs beyond its target's own.
	Locks []string `json:"locks,omitempty"`
	// Displaces counts the pods that the change takes down and that must find a
	// place elsewhere.
	Displaces int `json:"displaces,omitempty"`
	// Removes is how many of Replicas the change takes away for good.
	Removes  int `json:"removes,omitempty"`
	Replicas int `json:"replicas,omitempty"`
	// Noop says that the live object is already as wished; nothing is sent.
	Noop bool `json:"noop,omitempty"`
}

// Result is the outcome of one Apply or Revert call (a tick). An action that
// must wait, such as a drain, never blocks: it returns Done false with its
// State and the delay after which it wishes to be called again.
type Result struct {
	Done    bool            `json:"done"`
	Again   time.Duration   `json:"again,omitempty"` // delay until the next tick; 0 means the engine's default
	State   json.RawMessage `json:"state,omitempty"` // handed to the next tick
	Message string          `json:"message,omitempty"`
	// Evidence is recorded in the journal: what was seen, what blocked. Like State,
	// it counts also when it is returned along with an error.
	Evidence json.RawMessage `json:"evidence,omitempty"`
}

// Observation is what Observe concluded about a change whose fate is unclear.
type Observation string

// What Observe can conclude.
const (
	Applied      Observation = "Applied"
	NotApplied   Observation = "NotApplied"
	Undetermined Observation = "Undetermined"
)

// Reason classifies why an action could not do its work. Reasons are a closed
// set, fit for a metric label.
type Reason string

// The reasons of a failed call.
const (
	ReasonGone           Reason = "target-gone"     // the object, or its UID, is no longer there
	ReasonDrift          Reason = "drift"           // a field that the plan relies on has changed
	ReasonRefused        Reason = "refused"         // the action refuses this target or these parameters
	ReasonForbidden      Reason = "forbidden"       // RBAC
	ReasonInvalid        Reason = "invalid"         // the API server or an admission webhook rejected it
	ReasonBlocked        Reason = "blocked"         // a PodDisruptionBudget or the like says not now
	ReasonThrottled      Reason = "throttled"       // the API server is overloaded: 429 without a budget's cause
	ReasonUnavailable    Reason = "unavailable"     // refused connection or 5xx: surely or probably not applied
	ReasonUnclear        Reason = "outcome-unknown" // time-out or cut connection after the request was sent
	ReasonRevertConflict Reason = "revert-conflict" // someone else owns the field now
	ReasonTimeout        Reason = "timeout"         // the step's deadline has passed
	ReasonTerminating    Reason = "terminating"     // the object or its namespace is being deleted
	ReasonUnsupported    Reason = "unsupported"     // the cluster cannot do it
	ReasonInternal       Reason = "internal"        // a defect here
)

// Reasons lists all reasons, to initialise metrics.
func Reasons() []Reason {
	return []Reason{ReasonGone, ReasonDrift, ReasonRefused, ReasonForbidden, ReasonInvalid, ReasonBlocked,
		ReasonThrottled, ReasonUnavailable, ReasonUnclear, ReasonRevertConflict, ReasonTimeout,
		ReasonTerminating, ReasonUnsupported, ReasonInternal}
}

// Retryable reports whether the same call may succeed a little later without
// anyone changing anything, and is known not to have been applied.
func (r Reason) Retryable() bool {
	switch r {
	case ReasonBlocked, ReasonThrottled, ReasonUnavailable:
		return true
	}
	return false
}

// Error is the only error type that crosses the contract.
type Error struct {
	Reason     Reason
	Message    string        // what happened, the cause's text included, and what to do about it
	RetryAfter time.Duration // the server's advice, 0 if none
	Err        error
}

func (e *Error) Error() string {
	return fmt.Sprintf("%s: %s", e.Reason, e.Message)
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Errorf makes an Error; %w is honoured.
func Errorf(reason Reason, format string, args ...any) *Error {
	wrapped := fmt.Errorf(format, args...)
	return &Error{Reason: reason, Message: wrapped.Error(), Err: errors.Unwrap(wrapped)}
}

// ReasonOf returns the reason of err, ReasonInternal when it has none.
func ReasonOf(err error) Reason {
	var e *Error
	if errors.As(err, &e) {
		return e.Reason
	}
	return ReasonInternal
}
