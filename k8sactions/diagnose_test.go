package k8sactions_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/alertmedic/alertmedic/internal/action"
	"github.com/alertmedic/alertmedic/internal/testcluster"
	"github.com/alertmedic/alertmedic/k8sactions/diagnose"
)

// evidence applies diagnose to the target; only logs may be missing, as no
// container runs here.
func (w *world) evidence(t *testing.T, target action.Target) diagnose.Evidence {
	t.Helper()
	res := w.done(t, w.plan(t, target, ""))
	require.NotContains(t, string(res.Evidence), "hunter2")
	var ev diagnose.Evidence
	require.NoError(t, json.Unmarshal(res.Evidence, &ev))
	for _, m := range ev.Missing {
		require.True(t, strings.HasPrefix(m, "log of ") || strings.HasPrefix(m, "previous log of "), m)
		require.NotContains(t, m, "forbidden")
	}
	return ev
}

func TestDiagnoseLooksAtEveryKind(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "diagnose")
	ctx := testContext(t)
	w.deployment(t, "web", 2)
	w.setImage(t, "web", "shop/web:broken")
	d := w.getDeployment(t, "web")

	ev := w.evidence(t, deploymentTarget(d))
	require.NotEmpty(t, ev.Conditions)
	require.NotEmpty(t, ev.Events)
	require.Equal(t, []string{"shop/web:broken"}, ev.Rollout[0].Images)
	require.Equal(t, []string{"shop/web:1"}, ev.Rollout[1].Images)
	require.False(t, ev.Pods[0].Ready, "those that are worst off come first")
	require.Contains(t, ev.Pods[0].Containers[0].State, "waiting: ")
	target := deploymentTarget(d)
	healthy := w.pods(t, "web")[0]
	for _, p := range w.pods(t, "web") {
		if testcluster.PodReady(&p) {
			healthy = p
		}
	}
	target.Pod = &action.Ref{Kind: action.KindPod, Namespace: w.ns, Name: healthy.Name, UID: string(healthy.UID)}
	require.Equal(t, healthy.Name, w.evidence(t, target).Pods[0].Name, "the pod that the alert named comes before all others")

	require.Len(t, w.evidence(t, targetOf(action.KindPod, "", &healthy)).Pods, 1)
	web := w.evidence(t, targetOf(action.KindService, "", w.service(t, "web", map[string]string{"app": "web"})))
	require.Len(t, web.Pods, len(w.pods(t, "web")))
	require.NotNil(t, web.Endpoints)
	require.Empty(t, w.evidence(t, targetOf(action.KindService, "", w.service(t, "blind", nil))).Pods, "no selector selects nothing")
	set := w.statefulSet(t, "db", 1)
	require.NotEmpty(t, w.evidence(t, targetOf(action.KindStatefulSet, "apps", set)).Rollout)
	agent := w.daemonSet(t, "agent")
	require.NotEmpty(t, w.evidence(t, targetOf(action.KindDaemonSet, "apps", agent)).Rollout)
	require.NotNil(t, w.evidence(t, targetOf(action.KindReplicaSet, "apps", w.replicaSetOf(t, "web"))).Status)

	job, err := w.api.BatchV1().Jobs(w.ns).Create(ctx, &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: "job"}, Spec: batchv1.JobSpec{
		Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{RestartPolicy: corev1.RestartPolicyNever, Containers: []corev1.Container{{Name: "app", Image: "shop/job:1"}}}}}}, metav1.CreateOptions{})
	require.NoError(t, err)
	require.NotNil(t, w.evidence(t, targetOf(action.KindJob, "batch", job)).Status)
	pvc, err := w.api.CoreV1().PersistentVolumeClaims(w.ns).Create(ctx, &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: "data"},
		Spec: corev1.PersistentVolumeClaimSpec{AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}}}}, metav1.CreateOptions{})
	require.NoError(t, err)
	require.Equal(t, "PersistentVolumeClaim/"+w.ns+"/data", w.evidence(t, targetOf(action.KindPersistentVolumeClaim, "", pvc)).Target)
	hpa, err := w.api.AutoscalingV2().HorizontalPodAutoscalers(w.ns).Create(ctx, &autoscalingv2.HorizontalPodAutoscaler{ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec: autoscalingv2.HorizontalPodAutoscalerSpec{MaxReplicas: 3, ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: "web"}}}, metav1.CreateOptions{})
	require.NoError(t, err)
	require.NotNil(t, w.evidence(t, targetOf(action.KindHPA, "autoscaling", hpa)).Status)
}

func TestDiagnoseLooksAtNodes(t *testing.T) {
	t.Parallel()
	w := newWideWorld(t, "diagnose")
	node, _ := theNode(t, w)
	ev := w.evidence(t, targetOf(action.KindNode, "", node))
	require.NotEmpty(t, ev.Conditions)
	require.Empty(t, ev.Pods)
}
