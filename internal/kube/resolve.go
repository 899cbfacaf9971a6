package kube

import (
	"context"
	"errors"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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

// creationSkew is how much later than the alert's start a pod may have been
// created, by clocks that disagree, and still be the pod that the alert means.
const creationSkew = 5 * time.Second

// Resolve finds the live object that the alert is about, or says with a
// *ResolveError why there is none to act on. It reads as alertmedic itself.
func (c *Client) Resolve(ctx context.Context, r Request) (Resolved, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	v := &resolver{c: c, r: r, l: readLabels(r.Labels)}
	v.note("the playbook declares kind %s", r.Kind)
	if v.l.exported {
		v.note("exported_* labels are there: plain namespace, pod, container and service are the exporter's")
	}
	if v.l.exporterPod && v.l.pod() == "" {
		v.note("pod %q is the exporter's own: ignored", r.Labels["pod"])
	}
	out, err := v.resolve(ctx)
	if err != nil {
		err.Explanation = v.notes
		return Resolved{}, err
	}
	out.Target.Cluster = r.Cluster
	v.note("target %s, uid %s, topmost controller %s", out.Target.Ref, out.Target.UID, out.Target.Top)
	out.Explanation = v.notes
	return out, nil
}

// resolver is one resolution.
type resolver struct {
	c     *Client
	r     Request
	l     labelSet
	notes []string
}

func (v *resolver) note(format string, args ...any) {
	v.notes = append(v.notes, fmt.Sprintf(format, args...))
}

func refuse(reason ResolveReason, format string, args ...any) *ResolveError {
	return &ResolveError{Reason: reason, Message: fmt.Sprintf(format, args...)}
}

func (v *resolver) resolve(ctx context.Context) (Resolved, *ResolveError) {
	switch v.r.Kind {
	case action.KindNode:
		return v.node(ctx)
	case action.KindPod:
		return v.pod(ctx)
	case action.KindWorkload, action.KindDeployment, action.KindStatefulSet, action.KindDaemonSet,
		action.KindReplicaSet, action.KindJob:
		return v.controller(ctx)
	case action.KindService:
		return v.service(ctx)
	case action.KindPersistentVolumeClaim:
		return v.claim(ctx)
	case action.KindHPA:
		return v.autoscaler(ctx)
	}
	return Resolved{}, refuse(KindMismatch, "kind %q is no target kind; declare one of %v", v.r.Kind, action.Kinds())
}

// namespace returns the namespace to look in.
func (v *resolver) namespace() (string, *ResolveError) {
	namespace := v.r.Namespace
	if namespace == "" {
		namespace = v.l.namespace()
	}
	switch {
	case namespace == "" && v.l.exported && v.r.Labels["namespace"] != "":
		return "", refuse(Ambiguous, "the alert has exported_* labels but no exported_namespace, and namespace=%q is the exporter's; set honorLabels on the scrape, or name the namespace in the playbook's target", v.r.Labels["namespace"])
	case namespace == "":
		return "", refuse(MissingLabel, "the alert has no namespace label; keep it in the rule's expression, or set target.namespace in the playbook")
	}
	return namespace, v.valid("Namespace", namespace, "namespace")
}

func (v *resolver) valid(kind action.Kind, value, label string) *ResolveError {
	if problem := validName(kind, value); problem != "" {
		return refuse(MissingLabel, "%s %q names no %s: %s", label, value, kind, problem)
	}
	return nil
}

// failed turns a failed read into a ResolveError.
func (v *resolver) failed(ctx context.Context, err error, kind action.Kind, namespace, name string) *ResolveError {
	what := action.Ref{Kind: kind, Namespace: namespace, Name: name}
	if name == "" {
		what.Name = "*"
	}
	switch {
	case errors.Is(err, errTooMany):
		return &ResolveError{Reason: Ambiguous, Message: err.Error() + "; set target.name in the playbook", Err: err}
	case apierrors.IsNotFound(err):
		return v.gone(ctx, err, what)
	case apierrors.IsForbidden(err), apierrors.IsUnauthorized(err):
		return &ResolveError{Reason: ResolveForbidden, Err: err,
			Message: fmt.Sprintf("alertmedic may not read %s: %v; grant its own ServiceAccount get and list", what, err)}
	}
	return &ResolveError{Reason: ResolveUnavailable, Err: err, Message: fmt.Sprintf("reading %s: %v", what, err)}
}

// gone says what is missing: the object, or the namespace around it.
func (v *resolver) gone(ctx context.Context, err error, what action.Ref) *ResolveError {
	out := &ResolveError{Reason: Gone, Message: what.String() + " is not there", Err: err}
	if what.Namespace == "" {
		return out
	}
	namespace, nsErr := v.c.own.typed.CoreV1().Namespaces().Get(ctx, what.Namespace, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(nsErr):
		out.Message += ", nor is its namespace"
	case nsErr == nil && namespace.DeletionTimestamp != nil:
		out.Reason = NamespaceTerminates
		out.Message += ": its namespace is being deleted"
	}
	return out
}

// read gets one object whose name came from label.
func (v *resolver) read(ctx context.Context, kind action.Kind, namespace, name, label string) (*unstructured.Unstructured, *ResolveError) {
	if err := v.valid(kind, name, label); err != nil {
		return nil, err
	}
	object, err := v.c.get(ctx, kind, namespace, name)
	if err != nil {
		return nil, v.failed(ctx, err, kind, namespace, name)
	}
	v.note("%s names %s", label, refOf(object))
	return object, nil
}

// walk is Client.walk with the error of a resolution.
func (v *resolver) walk(ctx context.Context, object *unstructured.Unstructured) (chain, *ResolveError) {
	owners, err := v.c.walk(ctx, object)
	if err != nil {
		ref := refOf(object)
		return nil, v.failed(ctx, err, "owner of "+ref.Kind, ref.Namespace, ref.Name)
	}
	for _, o := range owners[1:] {
		v.note("it is controlled by %s", o.ref)
	}
	return owners, nil
}

// contradicted compares the controllers that labels name with the real ones: a
// rule's static labels, or a bad join, can lie.
func (v *resolver) contradicted(owners chain) *ResolveError {
	for _, h := range v.l.hints() {
		name, ok := owners.holds(h.kind)
		if ok && name == h.name {
			continue
		}
		return refuse(LabelContradiction, "the alert says %s=%q, but %s is controlled by %s; correct the rule's labels", h.label, h.name, owners[0].ref, owners.top())
	}
	return nil
}
