package kube

import (
	"context"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/alertmedic/alertmedic/internal/action"
)

// Request asks which live object an alert is about.
type Request struct {
	Cluster string
	// Kind is the kind that the playbook declares. It decides; labels do not.
	Kind action.Kind
	// Name and Namespace are the playbook's rendered templates, "" if it has none.
	Name      string
	Namespace string
	Labels    map[string]string
	StartsAt  time.Time
}

// Resolved is the answer.
type Resolved struct {
	Target action.Target
	// Object is the target as it was read.
	Object *unstructured.Unstructured
	// Explanation says step by step how the labels led to the object.
	Explanation []string
}

// ResolveReason says why an alert led to no object: a closed set, fit for a
// metric label.
type ResolveReason string

// The reasons of a ResolveError.
const (
	MissingLabel        ResolveReason = "target-missing-label" // no label, or no valid name in it
	Gone                ResolveReason = "target-gone"
	Ambiguous           ResolveReason = "target-ambiguous"
	LabelContradiction  ResolveReason = "label-contradiction" // labels disagree with the object's owners
	Replaced            ResolveReason = "target-replaced"     // the pod is another one of the same name
	KindMismatch        ResolveReason = "kind-mismatch"
	NamespaceTerminates ResolveReason = "terminating"
	ResolveUnavailable  ResolveReason = "unavailable"
	ResolveForbidden    ResolveReason = "forbidden"
)

// ResolveReasons lists all reasons, to initialise metrics.
func ResolveReasons() []ResolveReason {
	return []ResolveReason{MissingLabel, Gone, Ambiguous, LabelContradiction, Replaced, KindMismatch,
		NamespaceTerminates, ResolveUnavailable, ResolveForbidden}
}

// ResolveError is the only error type of Resolve.
type ResolveError struct {
	Reason  ResolveReason
	Message string // what was found, and what to do
	// Explanation is how far the resolution came.
	Explanation []string
	Err         error
}

func (e *ResolveError) Error() string { return fmt.Sprintf("%s: %s", e.Reason, e.Message) }

// Unwrap returns the cause.
func (e *ResolveError) Unwrap() error { return e.Err }

// Temporary reports whether the same request may succeed later without anyone
// changing labels, playbook or rights.
func (e *ResolveError) Temporary() bool { return e.Reason == ResolveUnavailable }

// Resolve finds the live object that the alert is about, or says with a
// *ResolveError why there is none to act on.
func (c *Client) Resolve(ctx context.Context, r Request) (Resolved, error) {
	return Resolved{}, &ResolveError{Reason: ResolveUnavailable, Message: "resolution is not built yet"}
}
