package kube

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/alertmedic/alertmedic/internal/action"
	"github.com/alertmedic/alertmedic/internal/testcluster"
)

// becomes waits until the target's health is as wished.
func (w *world) becomes(t *testing.T, target action.Target, state State, reasons ...string) Health {
	t.Helper()
	var last Health
	err := testcluster.Poll(testContext(t), func(ctx context.Context) (bool, error) {
		var err error
		last, err = w.client.Health(ctx, target)
		if err != nil || last.State != state {
			return false, err
		}
		for _, reason := range reasons {
			if last.Reason == reason {
				return true, nil
			}
		}
		return len(reasons) == 0, nil
	})
	require.NoError(t, err, "last seen: %s %s: %s", last.State, last.Reason, last.Message)
	require.False(t, last.ObservedAt.IsZero())
	return last
}

func (w *world) target(t *testing.T, kind action.Kind, labels set) action.Target {
	t.Helper()
	got, err := w.client.Resolve(t.Context(), Request{Kind: kind, Labels: merged(set{"namespace": w.ns}, labels)})
	require.NoError(t, err)
	return got.Target
}

func TestHealthOfRollout(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := testContext(t)
	_, pods := w.deployment(t, "web", 2)
	_, err := w.api.CoreV1().Services(w.ns).Create(ctx, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec:       corev1.ServiceSpec{Selector: map[string]string{"app": "web"}, Ports: []corev1.ServicePort{{Port: 80}}},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	workload := w.target(t, action.KindDeployment, set{"deployment": "web"})
	pod := w.target(t, action.KindPod, set{"pod": pods[0].Name})
	service := w.target(t, action.KindService, set{"service": "web"})
	for _, target := range []action.Target{workload, pod, service} {
		h := w.becomes(t, target, Healthy)
		require.NotNil(t, h.Object)
	}

	// One pod crash-loops: the whole workload is ill, its other pod included.
	require.NoError(t, w.SetPodFault(ctx, w.ns, pods[0].Name, testcluster.PodCrashLoop))
	h := w.becomes(t, workload, Unhealthy)
	require.Contains(t, w.becomes(t, pod, Unhealthy).Message, pods[0].Name)
	w.becomes(t, service, Unhealthy)
	require.NotNil(t, h.Object)

	// Deleted, it is replaced: the pod target is judged by its workload, though
	// the pod itself is not there any more.
	require.NoError(t, w.api.CoreV1().Pods(w.ns).Delete(ctx, pods[0].Name, metav1.DeleteOptions{}))
	require.NoError(t, w.WaitPodGone(ctx, &pods[0]))
	h = w.becomes(t, pod, Healthy, "available")
	require.Nil(t, h.Object)

	// A bad rollout keeps the old pods: still not healthy.
	_, err = w.api.AppsV1().Deployments(w.ns).Patch(ctx, "web", types.JSONPatchType,
		[]byte(`[{"op":"replace","path":"/spec/template/spec/containers/0/image","value":"shop/web:broken"}]`), metav1.PatchOptions{})
	require.NoError(t, err)
	h = w.becomes(t, workload, Unhealthy, "rolling-out")
	require.NotEmpty(t, h.Message)

	require.NoError(t, w.api.AppsV1().Deployments(w.ns).Delete(ctx, "web", metav1.DeleteOptions{}))
	w.becomes(t, workload, Unhealthy, "target-gone")
	w.becomes(t, pod, Unhealthy, "target-gone")
}

func TestHealthOfService(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := testContext(t)
	_, err := w.api.CoreV1().Services(w.ns).Create(ctx, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec:       corev1.ServiceSpec{Selector: map[string]string{"app": "web"}, Ports: []corev1.ServicePort{{Port: 80}}},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	service := w.target(t, action.KindService, set{"service": "web"})
	w.becomes(t, service, Unhealthy, "no-ready-endpoint")
	w.deployment(t, "web", 1)
	w.becomes(t, service, Healthy)
}

func TestHealthOfNode(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := testContext(t)
	node := w.Node(t, testcluster.NodeOptions{})
	target := w.target(t, action.KindNode, set{"node": node.Name})
	w.becomes(t, target, Healthy)
	require.NoError(t, w.SetNodeFault(ctx, node.Name, testcluster.NodeMemoryPressure))
	w.becomes(t, target, Unhealthy, "pressure")
	require.NoError(t, w.SetNodeFault(ctx, node.Name, testcluster.NodeNotReady))
	w.becomes(t, target, Unhealthy, "not-ready")
	require.NoError(t, w.ClearNodeFault(ctx, node.Name))
	w.becomes(t, target, Healthy)
	require.NoError(t, w.RemoveNode(ctx, node.Name))
	w.becomes(t, target, Unknown, "target-gone")
}

func TestHealthOfCustomController(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := testContext(t)
	top := action.Ref{Group: "argoproj.io", Kind: "Rollout", Namespace: w.ns, Name: "canary", UID: "rollout-uid"}
	target := action.Target{Ref: action.Ref{Kind: action.KindPod, Namespace: w.ns, Name: "canary-gone"}, Top: top}
	w.becomes(t, target, Unknown, "unsupported")
	_, err := w.api.AppsV1().ReplicaSets(w.ns).Create(ctx, &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{Name: "canary-1", OwnerReferences: []metav1.OwnerReference{{
			APIVersion: "argoproj.io/v1alpha1", Kind: "Rollout", Name: "canary", UID: "rollout-uid", Controller: new(true),
		}}},
		Spec: appsv1.ReplicaSetSpec{Replicas: new(int32(1)), Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "canary"}}, Template: podTemplate("canary", nil)},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	w.becomes(t, target, Healthy)
}

func TestHealthUnknown(t *testing.T) {
	t.Parallel()
	c := severed(t)
	h, err := c.Health(t.Context(), action.Target{Ref: action.Ref{Kind: action.KindDeployment, Namespace: "shop", Name: "web"}})
	require.NoError(t, err)
	require.Equal(t, verdict{Unknown, "unavailable"}, verdictOf(h))

	h, err = c.Health(t.Context(), action.Target{})
	require.Error(t, err, "an empty target is never healthy")
	require.Equal(t, Unknown, h.State)
	_, err = c.Health(t.Context(), action.Target{Ref: action.Ref{Kind: "Secret", Namespace: "shop", Name: "web"}})
	require.Error(t, err)
}
