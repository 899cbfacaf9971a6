package kube

import (
	"context"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/alertmedic/alertmedic/internal/action"
)

// controller resolves the kinds that control pods: by the playbook's template,
// by the pod that the alert names, by a label with the controller's name, and
// last by what a claim, an autoscaler or a service leads to.
func (v *resolver) controller(ctx context.Context) (Resolved, *ResolveError) {
	namespace, err := v.namespace()
	if err != nil {
		return Resolved{}, err
	}
	if v.r.Name != "" {
		return v.namedController(ctx, namespace, v.kindsToTry(), v.r.Name, "target.name")
	}
	hints := v.controllerHints()
	if len(hints) > 1 {
		return Resolved{}, refuse(Ambiguous, "the alert names %s %q and %s %q; declare one of these kinds, or set target.name", hints[0].kind, hints[0].name, hints[1].kind, hints[1].name)
	}
	if v.l.pod() != "" {
		out, err := v.controllerOfPod(ctx, namespace)
		lost := err != nil && (err.Reason == Gone || err.Reason == Replaced)
		if !lost || len(hints) == 0 {
			return out, err
		}
		v.note("%s; going on with label %s", err.Message, hints[0].label)
	}
	if len(hints) == 1 {
		return v.namedController(ctx, namespace, []action.Kind{hints[0].kind}, hints[0].name, "label "+hints[0].label)
	}
	return v.indirectController(ctx, namespace)
}

// kindsToTry are the kinds that a bare name may be of.
func (v *resolver) kindsToTry() []action.Kind {
	if v.r.Kind == action.KindWorkload {
		return []action.Kind{action.KindDeployment, action.KindStatefulSet, action.KindDaemonSet}
	}
	return []action.Kind{v.r.Kind}
}

// controllerHints are the labels that name an object of the declared kind. A
// ReplicaSet beside another controller is only the way to it.
func (v *resolver) controllerHints() []hint {
	hints := slices.DeleteFunc(v.l.hints(), func(h hint) bool { return !v.r.Kind.Covers(h.kind) })
	if len(hints) > 1 && v.r.Kind == action.KindWorkload {
		hints = slices.DeleteFunc(hints, func(h hint) bool { return h.kind == action.KindReplicaSet })
	}
	return hints
}

// namedController reads the one object of that name among the kinds.
func (v *resolver) namedController(ctx context.Context, namespace string, kinds []action.Kind, name, label string) (Resolved, *ResolveError) {
	if err := v.valid(kinds[0], name, label); err != nil {
		return Resolved{}, err
	}
	var found []*unstructured.Unstructured
	for _, kind := range kinds {
		object, err := v.c.get(ctx, kind, namespace, name)
		if err == nil {
			found = append(found, object)
		} else if !apierrors.IsNotFound(err) {
			return Resolved{}, v.failed(ctx, err, kind, namespace, name)
		}
	}
	switch len(found) {
	case 0:
		kind := kinds[0]
		if len(kinds) > 1 {
			kind = v.r.Kind
		}
		return Resolved{}, v.gone(ctx, nil, action.Ref{Kind: kind, Namespace: namespace, Name: name})
	case 1:
	default:
		return Resolved{}, refuse(Ambiguous, "%s %q is both a %s and a %s; declare the kind in the playbook's target", label, name, found[0].GetKind(), found[1].GetKind())
	}
	v.note("%s names %s", label, refOf(found[0]))
	owners, err := v.walk(ctx, found[0])
	if err != nil {
		return Resolved{}, err
	}
	return v.fromChain(owners)
}

// controllerOfPod walks from the alert's pod to its controller.
func (v *resolver) controllerOfPod(ctx context.Context, namespace string) (Resolved, *ResolveError) {
	pod, err := v.read(ctx, action.KindPod, namespace, v.l.pod(), "label pod")
	if err != nil {
		return Resolved{}, err
	}
	if err := v.replaced(pod); err != nil {
		return Resolved{}, err
	}
	owners, err := v.walk(ctx, pod)
	if err != nil {
		return Resolved{}, err
	}
	if err := v.contradicted(owners); err != nil {
		return Resolved{}, err
	}
	out, err := v.fromChain(owners)
	if err != nil {
		return Resolved{}, err
	}
	ref := refOf(pod)
	out.Target.Pod = &ref
	out.Target.Container = v.containerOf(pod)
	return out, nil
}

// fromChain picks the target of the declared kind from an owner walk.
func (v *resolver) fromChain(owners chain) (Resolved, *ResolveError) {
	found, ok := owners.find(v.r.Kind)
	if !ok {
		if len(owners) == 1 {
			return Resolved{}, refuse(KindMismatch, "%s has no living controller, and the playbook declares %s; declare Pod for bare pods", owners[0].ref, v.r.Kind)
		}
		return Resolved{}, refuse(KindMismatch, "%s is controlled by %s, and the playbook declares %s", owners[0].ref, owners.top(), v.r.Kind)
	}
	return Resolved{Target: action.Target{Ref: found.ref, Top: owners.top()}, Object: found.object}, nil
}

// indirectController finds the controller behind an autoscaler, a claim or a service.
func (v *resolver) indirectController(ctx context.Context, namespace string) (Resolved, *ResolveError) {
	if name := v.autoscalerName(); name != "" {
		object, err := v.read(ctx, action.KindHPA, namespace, name, "label horizontalpodautoscaler")
		if err != nil {
			return Resolved{}, err
		}
		scaled := scaledBy(object)
		if !readable(scaled) || !v.r.Kind.Covers(scaled.Kind) {
			return Resolved{}, refuse(KindMismatch, "%s scales %s, and the playbook declares %s", refOf(object), scaled, v.r.Kind)
		}
		return v.namedController(ctx, namespace, []action.Kind{scaled.Kind}, scaled.Name, "its scaleTargetRef")
	}
	if name := v.l.value("persistentvolumeclaim"); name != "" {
		object, err := v.read(ctx, action.KindPersistentVolumeClaim, namespace, name, "label persistentvolumeclaim")
		if err != nil {
			return Resolved{}, err
		}
		owners, walkErr := v.c.ownersOfPods(ctx, namespace, mounts(object.GetName()))
		return v.single(ctx, namespace, "pods that mount "+refOf(object).String(), owners, walkErr)
	}
	if name, label := v.l.service(); name != "" {
		object, err := v.read(ctx, action.KindService, namespace, name, "label "+label)
		if err != nil {
			return Resolved{}, err
		}
		owners, walkErr := v.c.ownersBehind(ctx, object)
		return v.single(ctx, namespace, "pods behind "+refOf(object).String(), owners, walkErr)
	}
	return Resolved{}, refuse(MissingLabel, "the alert has no label that leads to a %s (one of pod, deployment, statefulset, daemonset, replicaset, job_name, horizontalpodautoscaler, persistentvolumeclaim, service); keep one in the rule's expression, or set target.name in the playbook", v.r.Kind)
}

// single accepts one controller and refuses none or several.
func (v *resolver) single(ctx context.Context, namespace, what string, owners []chain, err error) (Resolved, *ResolveError) {
	if err != nil {
		return Resolved{}, v.failed(ctx, err, action.KindPod, namespace, "")
	}
	switch len(owners) {
	case 0:
		return Resolved{}, refuse(Gone, "there are no %s, and the alert names no controller", what)
	case 1:
		v.note("all %s belong to %s", what, owners[0].top())
		return v.fromChain(owners[0])
	}
	names := make([]string, len(owners))
	for i, o := range owners {
		names[i] = o.top().String()
	}
	slices.Sort(names)
	return Resolved{}, refuse(Ambiguous, "the %s belong to several controllers: %s; set target.name in the playbook", what, strings.Join(names, ", "))
}
