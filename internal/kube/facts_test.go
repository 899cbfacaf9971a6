package kube

import (
	"crypto/rand"
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"github.com/alertmedic/alertmedic/internal/action"
	"github.com/alertmedic/alertmedic/internal/testcluster"
)

func TestFacts(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := testContext(t)
	began := time.Now().Add(-2 * time.Second)
	_, pods := w.deployment(t, "web", 2)
	workload := w.target(t, action.KindDeployment, set{"deployment": "web"})
	pod := w.target(t, action.KindPod, set{"pod": pods[0].Name})

	facts, object, err := w.client.Facts(ctx, workload)
	require.NoError(t, err)
	require.Equal(t, "Deployment", object["kind"])
	require.Equal(t, new(int64(2)), facts.Replicas)
	require.Equal(t, new(int64(1)), facts.Revisions)
	require.Equal(t, new(int64(0)), facts.Restarts)
	require.Equal(t, new(false), facts.HPA)
	require.True(t, facts.RolledOutAt.After(began))

	_, err = w.api.AutoscalingV2().HorizontalPodAutoscalers(w.ns).Create(ctx, &autoscalingv2.HorizontalPodAutoscaler{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec: autoscalingv2.HorizontalPodAutoscalerSpec{MaxReplicas: 3, MinReplicas: new(int32(2)), ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{
			APIVersion: "apps/v1", Kind: "Deployment", Name: "web"}},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	require.NoError(t, w.SetPodFault(ctx, w.ns, pods[0].Name, testcluster.PodCrashLoop))
	w.becomes(t, workload, Unhealthy)
	_, err = w.api.AppsV1().Deployments(w.ns).Patch(ctx, "web", types.JSONPatchType,
		[]byte(`[{"op":"replace","path":"/spec/template/spec/containers/0/image","value":"shop/web:broken"}]`), metav1.PatchOptions{})
	require.NoError(t, err)
	require.NoError(t, w.WaitDeployment(ctx, w.ns, "web", func(d *appsv1.Deployment) bool {
		return d.Annotations[revisionAnnotation] == "2"
	}))

	facts, object, err = w.client.Facts(ctx, pod)
	require.NoError(t, err)
	require.Equal(t, "Pod", object["kind"])
	require.Equal(t, new(int64(2)), facts.Revisions)
	require.Equal(t, new(true), facts.HPA)
	require.Positive(t, *facts.Restarts, "the pod's own restarts")

	scaler := w.target(t, action.KindHPA, set{"horizontalpodautoscaler": "web"})
	facts, _, err = w.client.Facts(ctx, scaler)
	require.NoError(t, err)
	require.Equal(t, new(int64(2)), facts.Replicas)

	require.NoError(t, w.api.AppsV1().Deployments(w.ns).Delete(ctx, "web", metav1.DeleteOptions{}))
	facts, object, err = w.client.Facts(ctx, workload)
	require.NoError(t, err)
	require.Nil(t, object)
	require.Nil(t, facts.Replicas)

	_, _, err = severed(t).Facts(ctx, workload)
	require.Equal(t, action.ReasonUnavailable, action.ReasonOf(err))
}

func TestRevisions(t *testing.T) {
	t.Parallel()
	owner := action.Ref{Kind: action.KindDeployment, Name: "web", UID: "d"}
	meta := func(name, revision, uid string, age time.Duration) metav1.ObjectMeta {
		return metav1.ObjectMeta{
			Name: name, Annotations: map[string]string{revisionAnnotation: revision}, CreationTimestamp: metav1.NewTime(testNow.Add(-age)),
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "Deployment", Name: "web", UID: types.UID(uid), Controller: new(true)}},
		}
	}
	template := func(image string, annotations ...string) corev1.PodTemplateSpec {
		out := corev1.PodTemplateSpec{Spec: corev1.PodSpec{Containers: []corev1.Container{{Image: image}}}}
		out.Labels = map[string]string{appsv1.DefaultDeploymentUniqueLabelKey: rand.Text()}
		for _, a := range annotations {
			metav1.SetMetaDataAnnotation(&out.ObjectMeta, a, "now")
		}
		return out
	}
	replicas := func(m metav1.ObjectMeta, pod corev1.PodTemplateSpec) appsv1.ReplicaSet {
		return appsv1.ReplicaSet{ObjectMeta: m, Spec: appsv1.ReplicaSetSpec{Template: pod}}
	}
	at, count := deploymentRevisions("2", owner, []appsv1.ReplicaSet{
		replicas(meta("a", "1", "d", time.Hour), template("v1")), replicas(meta("b", "2", "d", time.Minute), template("v2")), replicas(meta("c", "2", "other", 0), template("v2")),
	})
	require.Equal(t, new(testNow.Add(-time.Minute)), at)
	require.Equal(t, new(int64(2)), count)
	at, _ = deploymentRevisions("4", owner, []appsv1.ReplicaSet{
		replicas(meta("a", "1", "d", 3*time.Hour), template("v1")), replicas(meta("b", "2", "d", 2*time.Hour), template("v2")),
		replicas(meta("c", "3", "d", time.Hour), template("v2", RestartAnnotations()[0])), replicas(meta("d", "4", "d", 0), template("v2", RestartAnnotations()[1])),
	})
	require.Equal(t, new(testNow.Add(-2*time.Hour)), at, "a restart is no rollout")
	at, _ = deploymentRevisions("", owner, []appsv1.ReplicaSet{{ObjectMeta: meta("a", "", "d", time.Hour)}})
	require.Nil(t, at, "a deployment not yet rolled out has no current revision")

	kept := func(m metav1.ObjectMeta, number int64, pod corev1.PodTemplateSpec) appsv1.ControllerRevision {
		raw, err := json.Marshal(map[string]any{"spec": map[string]any{"template": pod}})
		require.NoError(t, err)
		return appsv1.ControllerRevision{ObjectMeta: m, Revision: number, Data: runtime.RawExtension{Raw: raw}}
	}
	revisions := []appsv1.ControllerRevision{
		kept(meta("a", "", "d", time.Hour), 3, template("v2")), kept(meta("b", "", "d", time.Minute), 2, template("v1")),
	}
	at, _ = controllerRevisions("c", owner, append(revisions, kept(meta("c", "", "d", 0), 4, template("v2", RestartAnnotations()[1]))))
	require.Equal(t, new(testNow.Add(-time.Hour)), at, "a restart is no rollout")
	at, _ = controllerRevisions("b", owner, revisions)
	require.Equal(t, new(testNow.Add(-time.Minute)), at)
	at, _ = controllerRevisions("", owner, revisions)
	require.Equal(t, new(testNow.Add(-time.Hour)), at, "a DaemonSet's current revision has the highest number")
}
