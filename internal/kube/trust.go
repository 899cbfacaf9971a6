package kube

import (
	"path"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/alertmedic/alertmedic/internal/guard"
)

// Controllers are the field managers that are no person, as glob patterns: those
// of Kubernetes, of clouds, of what scales nodes and pods, and of GitOps tools,
// whose writes are dealt with by who owns the object.
func Controllers() []string {
	return []string{
		"alertmedic*", "kube-controller-manager", "kube-scheduler", "kube-apiserver", "kubelet", "kubeadm", "kwok*", "*cloud-controller-manager",
		"cluster-autoscaler", "karpenter*", "vpa-*", "keda*", "node-problem-detector", "k3s", "rke2", "machine-config-*", "capi-*", "manager",
		"argocd*", "kustomize-controller", "helm-controller", "flux*",
	}
}

// touched returns the latest change of an object's spec by a field manager that
// none of the patterns names, nil when none is recorded. Writes of the status
// are not changes of a person.
func touched(object *unstructured.Unstructured, controllers []string) *guard.Touch {
	var out *guard.Touch
	for _, f := range object.GetManagedFields() {
		if f.Subresource == "status" || f.Time == nil || f.FieldsV1 == nil || !strings.Contains(f.FieldsV1.GetRawString(), `"f:spec"`) {
			continue
		}
		if slices.ContainsFunc(controllers, func(p string) bool { ok, err := path.Match(p, f.Manager); return ok && err == nil }) {
			continue
		}
		if out == nil || f.Time.After(out.At) {
			out = &guard.Touch{Object: refOf(object).String(), Manager: f.Manager, At: f.Time.Time}
		}
	}
	return out
}

// The marks that GitOps tools leave on what they own.
const (
	argoTracking  = "argocd.argoproj.io/tracking-id"
	argoInstance  = "argocd.argoproj.io/instance"
	fluxKustomize = "kustomize.toolkit.fluxcd.io/name"
	fluxHelm      = "helm.toolkit.fluxcd.io/name"
	helmRelease   = "meta.helm.sh/release-name"
	managedBy     = "app.kubernetes.io/managed-by"
)

// ownership says which GitOps tool owns an object, nil when none does.
func ownership(object metav1.Object, name string) *guard.Ownership {
	labels, annotations := object.GetLabels(), object.GetAnnotations()
	own := func(tool, of string) *guard.Ownership { return &guard.Ownership{Tool: tool, Name: of, Object: name} }
	switch {
	case annotations[argoTracking] != "":
		return own("Argo CD", annotations[argoTracking])
	case labels[argoInstance] != "":
		return own("Argo CD", labels[argoInstance])
	case annotations[argoInstance] != "":
		return own("Argo CD", annotations[argoInstance])
	case labels[fluxKustomize] != "":
		return own("Flux", labels[fluxKustomize])
	case labels[fluxHelm] != "":
		return own("Flux", labels[fluxHelm])
	case annotations[helmRelease] != "" && labels[managedBy] == "Helm":
		return own("Helm", annotations[helmRelease])
	}
	return nil
}

// trust records who else has a say in an object: the latest person to touch it
// and the tool that owns it. The first object that is looked at names the owner.
func (g *gathering) trust(object *unstructured.Unstructured) {
	controllers := g.r.Controllers
	if controllers == nil {
		controllers = Controllers()
	}
	t := &g.out.Target
	if hit := touched(object, controllers); hit != nil && (t.Touched == nil || hit.At.After(t.Touched.At)) {
		t.Touched = hit
	}
	if t.Owner == nil {
		t.Owner = ownership(object, refOf(object).String())
	}
}
