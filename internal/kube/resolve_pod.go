package kube

import (
	"context"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/alertmedic/alertmedic/internal/action"
)

// pod resolves a playbook's kind Pod.
func (v *resolver) pod(ctx context.Context) (Resolved, *ResolveError) {
	if v.r.Name == "" && v.l.exporterPod && v.l.namesOther() {
		return Resolved{}, refuse(Ambiguous, "pod=%q is the exporter's and another label names the object; declare the kind of that object, or drop the exporter's labels from the scrape", v.r.Labels["pod"])
	}
	namespace, err := v.namespace()
	if err != nil {
		return Resolved{}, err
	}
	name, label := v.r.Name, "target.name"
	if name == "" {
		name, label = v.l.pod(), "label pod"
	}
	if name == "" {
		return Resolved{}, refuse(MissingLabel, "the alert has no pod label; keep it in the rule's expression, or set target.name in the playbook")
	}
	object, err := v.read(ctx, action.KindPod, namespace, name, label)
	if err != nil {
		return Resolved{}, err
	}
	if name == v.l.pod() {
		if err := v.replaced(object); err != nil {
			return Resolved{}, err
		}
	}
	owners, err := v.walk(ctx, object)
	if err != nil {
		return Resolved{}, err
	}
	if v.r.Name == "" {
		if err := v.contradicted(owners); err != nil {
			return Resolved{}, err
		}
	}
	ref := refOf(object)
	target := action.Target{Ref: ref, Pod: &ref, Top: owners.top(), Container: v.containerOf(object)}
	return Resolved{Target: target, Object: object}, nil
}

// replaced refuses a pod that is another one than the alert was raised for: its
// uid label decides when there is one, otherwise the times do.
func (v *resolver) replaced(pod *unstructured.Unstructured) *ResolveError {
	ref := refOf(pod)
	if uid := v.l.value("uid"); uid != "" {
		if uid != ref.UID {
			return refuse(Replaced, "the alert is about %s with uid %s, which was replaced by one with uid %s", ref, uid, ref.UID)
		}
		v.note("label uid is that of the live pod")
		return nil
	}
	created := pod.GetCreationTimestamp().Time
	if !v.r.StartsAt.IsZero() && created.After(v.r.StartsAt.Add(creationSkew)) {
		return refuse(Replaced, "%s was created at %s, after the alert began at %s: the alert was raised for the pod before it", ref, created.UTC().Format(time.RFC3339), v.r.StartsAt.UTC().Format(time.RFC3339))
	}
	return nil
}

// containerOf returns the container that the alert names, "" when the pod has none of that name.
func (v *resolver) containerOf(pod *unstructured.Unstructured) string {
	wanted := v.l.container()
	if wanted == "" {
		return ""
	}
	for _, field := range []string{"containers", "initContainers", "ephemeralContainers"} {
		containers, _, _ := unstructured.NestedSlice(pod.Object, "spec", field)
		for _, c := range containers {
			if m, ok := c.(map[string]any); ok && m["name"] == wanted {
				return wanted
			}
		}
	}
	v.note("the pod has no container %q: ignored", wanted)
	return ""
}
