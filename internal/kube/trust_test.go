package kube

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/alertmedic/alertmedic/internal/guard"
)

func TestTouched(t *testing.T) {
	t.Parallel()
	at := metav1.NewTime(testNow)
	entry := func(manager, subresource, fields string) metav1.ManagedFieldsEntry {
		return metav1.ManagedFieldsEntry{Manager: manager, Operation: metav1.ManagedFieldsOperationUpdate, Subresource: subresource,
			Time: &at, FieldsType: "FieldsV1", FieldsV1: metav1.NewFieldsV1(fields)}
	}
	for name, tc := range map[string]struct {
		entry  metav1.ManagedFieldsEntry
		person bool
	}{
		"spec by a person":  {entry("kubectl-edit", "", `{"f:spec":{"f:replicas":{}}}`), true},
		"scale by a person": {entry("kubectl", "scale", `{"f:spec":{"f:replicas":{}}}`), true},
		"status":            {entry("kubectl-edit", "status", `{"f:status":{}}`), false},
		"alertmedic":        {entry("alertmedic", "", `{"f:spec":{}}`), false},
		"argo":              {entry("argocd-controller", "", `{"f:spec":{}}`), false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := &unstructured.Unstructured{}
			o.SetKind("Deployment")
			o.SetName("web")
			o.SetManagedFields([]metav1.ManagedFieldsEntry{tc.entry})
			require.Equal(t, tc.person, touched(o, Controllers()) != nil)
		})
	}
}

func TestCountPods(t *testing.T) {
	t.Parallel()
	pod := func(name string, ready, skipped bool) corev1.Pod {
		p := corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name}}
		if ready {
			p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
		}
		if skipped {
			p.Annotations = map[string]string{SkipAnnotation: "true"}
		}
		return p
	}
	leaving := pod("d", true, false)
	leaving.DeletionTimestamp = &metav1.Time{Time: testNow.Add(-time.Minute)}
	got := countPods("prod", 6, []corev1.Pod{pod("a", true, false), pod("b", false, false), pod("c", true, true), leaving})
	require.Equal(t, 5, got.Desired)
	require.Equal(t, []string{"missing-1", "missing-2", guard.PodKey("prod", "shop", "b"), guard.PodKey("prod", "shop", "d")}, got.Unavailable)

	surge := countPods("prod", 1, []corev1.Pod{pod("a", true, true), pod("b", true, true)})
	require.Zero(t, surge.Desired)
}

func TestOwnership(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		labels, annotations map[string]string
		want                string
	}{
		"nobody":             {nil, nil, ""},
		"Argo CD annotation": {nil, map[string]string{argoTracking: "shop:apps/Deployment:shop/web"}, "Argo CD"},
		"Argo CD label":      {map[string]string{argoInstance: "shop"}, nil, "Argo CD"},
		"Flux kustomize":     {map[string]string{fluxKustomize: "shop"}, nil, "Flux"},
		"Flux over Helm":     {map[string]string{fluxHelm: "shop", managedBy: "Helm"}, map[string]string{helmRelease: "shop"}, "Flux"},
		"Helm":               {map[string]string{managedBy: "Helm"}, map[string]string{helmRelease: "shop"}, "Helm"},
		"Helm without label": {nil, map[string]string{helmRelease: "shop"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := ownership(&metav1.ObjectMeta{Labels: tc.labels, Annotations: tc.annotations}, "Deployment/shop/web")
			if tc.want == "" {
				require.Nil(t, got)
				return
			}
			require.Equal(t, tc.want, got.Tool)
			require.Equal(t, "Deployment/shop/web", got.Object)
		})
	}
}
