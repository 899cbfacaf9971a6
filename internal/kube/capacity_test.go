package kube

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/alertmedic/alertmedic/internal/action"
	"github.com/alertmedic/alertmedic/internal/guard"
	"github.com/alertmedic/alertmedic/internal/testcluster"
)

// moving asks for evidence about taking one pod of a workload away.
func (w *world) moving(t *testing.T, pod corev1.Pod) guard.Evidence {
	t.Helper()
	return w.client.Evidence(t.Context(), EvidenceRequest{Target: w.target(t, action.KindWorkload, set{"pod": pod.Name}), Displaces: 1,
		Displaced: []action.Ref{{Kind: action.KindPod, Namespace: pod.Namespace, Name: pod.Name, UID: string(pod.UID)}}})
}

func TestCapacityEvidence(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	_, pods := w.deployment(t, "web", 1)
	got := w.moving(t, pods[0])
	require.Empty(t, got.Errors)
	require.Equal(t, &guard.CapacityEvidence{Displaced: 1, Placed: 1}, got.Capacity)

	// A budget that allows nothing.
	_, err := w.api.PolicyV1().PodDisruptionBudgets(w.ns).Create(t.Context(), &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec: policyv1.PodDisruptionBudgetSpec{MinAvailable: new(intstr.FromInt32(1)),
			Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	w.eventually(t, func(context.Context) (bool, error) {
		got = w.moving(t, pods[0])
		return len(got.Capacity.Blocked) == 1 && got.Capacity.Placed == 1, nil
	})
	require.Contains(t, got.Capacity.Blocked[0], w.ns+"/web allows no disruption")

	// The pod was made anew under its name: the plan's one is gone.
	other := pods[0]
	other.UID = "another"
	require.Equal(t, &guard.CapacityEvidence{}, w.moving(t, other).Capacity)

	// A plan that displaces and says not what.
	none := w.client.Evidence(t.Context(), EvidenceRequest{Target: w.target(t, action.KindWorkload, set{"pod": pods[0].Name}), Displaces: 2})
	require.Nil(t, none.Capacity)
	require.NotEmpty(t, none.Errors)

	// Nobody asked.
	require.Nil(t, w.client.Evidence(t.Context(), EvidenceRequest{Target: w.target(t, action.KindWorkload, set{"pod": pods[0].Name})}).Capacity)
}

// A pod follows its volume: with the volume on a node that is emptied it has no
// place, and none can be told before the claim is bound.
func TestCapacityFollowsVolumes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	home := w.Node(t, testcluster.NodeOptions{})
	api := w.api.CoreV1()
	size := corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}
	volume := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: w.ns}, Spec: corev1.PersistentVolumeSpec{
		Capacity: size, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, StorageClassName: w.ns,
		PersistentVolumeSource: corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: "/disk"}},
		NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
			MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{home.Name}}}}}}},
	}}
	_, err := api.PersistentVolumes().Create(t.Context(), volume, metav1.CreateOptions{})
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, api.PersistentVolumes().Delete(context.Background(), volume.Name, metav1.DeleteOptions{}))
	})
	_, err = api.PersistentVolumeClaims(w.ns).Create(t.Context(), &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: "data"},
		Spec: corev1.PersistentVolumeClaimSpec{AccessModes: volume.Spec.AccessModes, StorageClassName: new(w.ns), VolumeName: volume.Name,
			Resources: corev1.VolumeResourceRequirements{Requests: size}}}, metav1.CreateOptions{})
	require.NoError(t, err)
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "db"}, Spec: corev1.PodSpec{
		Containers: []corev1.Container{{Name: "db", Image: "shop/db:1"}}, TerminationGracePeriodSeconds: new(int64(0)),
		Volumes: []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}}}},
	}}
	pod.Spec.Tolerations = []corev1.Toleration{{Key: testcluster.OwnerLabel, Value: home.Name, Effect: corev1.TaintEffectNoSchedule}}
	made, err := api.Pods(w.ns).Create(t.Context(), pod, metav1.CreateOptions{})
	require.NoError(t, err)
	w.eventually(t, func(ctx context.Context) (bool, error) {
		made, err = api.Pods(w.ns).Get(ctx, "db", metav1.GetOptions{})
		return err == nil && made.Spec.NodeName != "", err
	})
	require.Equal(t, home.Name, made.Spec.NodeName)

	drain := EvidenceRequest{Target: w.target(t, action.KindNode, set{"node": home.Name}), NeedNodes: true, Displaces: 1,
		Displaced: []action.Ref{{Kind: action.KindPod, Namespace: w.ns, Name: "db", UID: string(made.UID)}}}
	got := w.client.Evidence(t.Context(), drain)
	require.Empty(t, got.Errors)
	require.Equal(t, 1, got.Capacity.Displaced)
	require.Zero(t, got.Capacity.Placed)
	require.Empty(t, got.Capacity.Unevaluated)
	require.Contains(t, got.Capacity.Unplaced[0], "claim data has its volume elsewhere")

	onSpot := drain
	onSpot.Target = action.Target{Cluster: drain.Target.Cluster, Ref: action.Ref{Kind: action.KindPod, Namespace: w.ns, Name: "db", UID: string(made.UID)}}
	onSpot.NeedNodes = false
	require.Equal(t, 1, w.client.Evidence(t.Context(), onSpot).Capacity.Placed)
}
