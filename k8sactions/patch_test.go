package k8sactions_test

import (
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/alertmedic/alertmedic/internal/action"
	"github.com/alertmedic/alertmedic/k8sactions/contract"
	"github.com/alertmedic/alertmedic/k8sactions/live"
)

// TestPatchTestsWhatItTouches changes the object between the read and the
// patch, in the gap that no check of ours can close: the API server must be
// the one that says no.
func TestPatchTestsWhatItTouches(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "workload.scale")
	s, err := w.client.As("")
	require.NoError(t, err)
	d := w.deployment(t, "web", 1)
	target := deploymentTarget(d)
	call := contract.Call{Plan: action.Plan{Request: w.request(target, "")}}

	ctx := testContext(t)
	stale, err := live.Get(ctx, s, target.Ref)
	require.NoError(t, err)

	// Status and foreign annotations churn: that must not stand in the way.
	patchAs(t, w, "kubectl", "deployments", w.ns, "web", `{"metadata":{"annotations":{"team":"shop"}}}`)
	require.NoError(t, w.WaitDeploymentAvailable(ctx, w.ns, "web"))
	fresh, err := live.Patch(ctx, s, call, target.Ref, stale, live.Set(int64(2), "spec", "replicas"))
	require.NoError(t, err)
	require.Equal(t, "shop", fresh.GetAnnotations()["team"])
	require.Equal(t, "run-1", fresh.GetAnnotations()["alertmedic.io/run"])
	require.Equal(t, "remedy/step", fresh.GetAnnotations()["alertmedic.io/step"])
	ours, others := live.Owners(fresh, "spec", "replicas")
	require.True(t, ours, "the field manager is our own")
	require.Empty(t, others)

	_, err = live.Patch(ctx, s, call, target.Ref, stale, live.Set(int64(5), "spec", "replicas"))
	require.Equal(t, action.ReasonDrift, action.ReasonOf(err), "%v", err)
	require.EqualValues(t, 2, *w.getDeployment(t, "web").Spec.Replicas)

	impostor := fresh.DeepCopy()
	impostor.SetUID("00000000-0000-0000-0000-000000000000")
	other := target.Ref
	other.UID = "00000000-0000-0000-0000-000000000000"
	_, err = live.Patch(ctx, s, call, other, impostor, live.Set(int64(5), "spec", "replicas"))
	require.Equal(t, action.ReasonDrift, action.ReasonOf(err), "%v", err)
	require.EqualValues(t, 2, *w.getDeployment(t, "web").Spec.Replicas)
}

// TestPatchMakesMissingParents adds the first annotations of an object that
// gets its first ones from somebody else in the same moment.
func TestPatchMakesMissingParents(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "workload.scale")
	s, err := w.client.As("")
	require.NoError(t, err)
	ctx := testContext(t)
	svc, err := w.api.CoreV1().Services(w.ns).Create(ctx, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "bare"},
		Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}}}, metav1.CreateOptions{})
	require.NoError(t, err)
	require.Empty(t, svc.Annotations)
	target := targetOf(action.KindService, "", svc)
	call := contract.Call{Plan: action.Plan{Request: w.request(target, "")}}
	stale, err := live.Get(ctx, s, target.Ref)
	require.NoError(t, err)

	got, err := live.Patch(ctx, s, call, target.Ref, stale, live.Set("v", "metadata", "annotations", "a/b-c"))
	require.NoError(t, err)
	require.Equal(t, map[string]string{"a/b-c": "v", "alertmedic.io/run": "run-1", "alertmedic.io/step": "remedy/step"}, got.GetAnnotations())

	// stale still shows no annotations; adding the map anew would wipe them.
	_, err = live.Patch(ctx, s, call, target.Ref, stale, live.Set("w", "metadata", "annotations", "x"))
	require.Equal(t, action.ReasonDrift, action.ReasonOf(err), "%v", err)

	back, err := live.PatchBack(ctx, s, call, target.Ref, got, live.Set(nil, "metadata", "annotations", "a/b-c"), live.Set(nil, "spec", "nothing", "here"))
	require.NoError(t, err)
	require.NotContains(t, back.GetAnnotations(), "a/b-c")
	require.True(t, live.SignedRevert(back, call))
	require.False(t, live.Signed(back, call))
}
