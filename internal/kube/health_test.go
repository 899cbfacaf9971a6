package kube

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
)

var testNow = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// verdict is the part of a Health that the tables compare.
type verdict struct {
	State  State
	Reason string
}

func verdictOf(h Health) verdict { return verdict{h.State, h.Reason} }

func raw(t *testing.T, object any) *unstructured.Unstructured {
	t.Helper()
	m, err := runtime.DefaultUnstructuredConverter.ToUnstructured(object)
	require.NoError(t, err)
	return &unstructured.Unstructured{Object: m}
}

func TestDeploymentHealth(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		change func(*appsv1.Deployment)
		want   verdict
	}{
		"well":              {func(*appsv1.Deployment) {}, verdict{Healthy, "available"}},
		"not observed":      {func(d *appsv1.Deployment) { d.Generation = 3 }, verdict{Unhealthy, "not-observed"}},
		"never observed":    {func(d *appsv1.Deployment) { d.Generation, d.Status.ObservedGeneration = 0, 0 }, verdict{Unhealthy, "not-observed"}},
		"old pods only":     {func(d *appsv1.Deployment) { d.Status.UpdatedReplicas = 0 }, verdict{Unhealthy, "rolling-out"}},
		"old pods left":     {func(d *appsv1.Deployment) { d.Status.Replicas = 4 }, verdict{Unhealthy, "rolling-out"}},
		"not ready":         {func(d *appsv1.Deployment) { d.Status.ReadyReplicas = 2 }, verdict{Unhealthy, "unavailable-replicas"}},
		"ready too shortly": {func(d *appsv1.Deployment) { d.Status.AvailableReplicas = 2 }, verdict{Unhealthy, "unavailable-replicas"}},
		"default replicas":  {func(d *appsv1.Deployment) { d.Spec.Replicas, d.Status.Replicas, d.Status.UpdatedReplicas = nil, 1, 1 }, verdict{Healthy, "available"}},
		"scaled to zero": {func(d *appsv1.Deployment) {
			d.Spec.Replicas, d.Status = new(int32(0)), appsv1.DeploymentStatus{ObservedGeneration: 2}
		}, verdict{Healthy, "scaled-to-zero"}},
		"still scaling to nil": {func(d *appsv1.Deployment) { d.Spec.Replicas, d.Status.UpdatedReplicas = new(int32(0)), 0 }, verdict{Unhealthy, "rolling-out"}},
		"deadline": {func(d *appsv1.Deployment) {
			d.Status.Conditions = []appsv1.DeploymentCondition{{Type: appsv1.DeploymentProgressing, Status: "False", Reason: "ProgressDeadlineExceeded"}}
		}, verdict{Unhealthy, "progress-deadline-exceeded"}},
		"quota": {func(d *appsv1.Deployment) {
			d.Status.Conditions = []appsv1.DeploymentCondition{{Type: appsv1.DeploymentReplicaFailure, Status: "True"}}
		}, verdict{Unhealthy, "replica-failure"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := &appsv1.Deployment{
				TypeMeta:   metav1.TypeMeta{Kind: "Deployment"},
				ObjectMeta: metav1.ObjectMeta{Generation: 2},
				Spec:       appsv1.DeploymentSpec{Replicas: new(int32(3))},
				Status:     appsv1.DeploymentStatus{ObservedGeneration: 2, Replicas: 3, UpdatedReplicas: 3, ReadyReplicas: 3, AvailableReplicas: 3},
			}
			tc.change(d)
			got, err := rolloutHealth(raw(t, d))
			require.NoError(t, err)
			require.Equal(t, tc.want, verdictOf(got), got.Message)
		})
	}
}

func TestStatefulSetHealth(t *testing.T) {
	t.Parallel()
	rolling := func(s *appsv1.StatefulSet, updated int32) {
		s.Status.UpdateRevision, s.Status.UpdatedReplicas = "b", updated
	}
	for name, tc := range map[string]struct {
		change func(*appsv1.StatefulSet)
		want   verdict
	}{
		"well":            {func(*appsv1.StatefulSet) {}, verdict{Healthy, "available"}},
		"never observed":  {func(s *appsv1.StatefulSet) { s.Status.ObservedGeneration = 0 }, verdict{Unhealthy, "not-observed"}},
		"half rolled out": {func(s *appsv1.StatefulSet) { rolling(s, 1) }, verdict{Unhealthy, "rolling-out"}},
		"partition reached": {func(s *appsv1.StatefulSet) {
			rolling(s, 1)
			s.Spec.UpdateStrategy.RollingUpdate.Partition = new(int32(2))
		}, verdict{Healthy, "available"}},
		"partition not yet": {func(s *appsv1.StatefulSet) {
			rolling(s, 0)
			s.Spec.UpdateStrategy.RollingUpdate.Partition = new(int32(2))
		}, verdict{Unhealthy, "rolling-out"}},
		"on delete": {func(s *appsv1.StatefulSet) {
			rolling(s, 0)
			s.Spec.UpdateStrategy.Type = appsv1.OnDeleteStatefulSetStrategyType
		}, verdict{Healthy, "available"}},
		"not ready": {func(s *appsv1.StatefulSet) { s.Status.ReadyReplicas = 2 }, verdict{Unhealthy, "unavailable-replicas"}},
		"missing":   {func(s *appsv1.StatefulSet) { s.Status.Replicas = 2 }, verdict{Unhealthy, "unavailable-replicas"}},
		"too many":  {func(s *appsv1.StatefulSet) { s.Status.Replicas = 4 }, verdict{Unhealthy, "scaling-down"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := &appsv1.StatefulSet{
				TypeMeta:   metav1.TypeMeta{Kind: "StatefulSet"},
				ObjectMeta: metav1.ObjectMeta{Generation: 2},
				Spec: appsv1.StatefulSetSpec{Replicas: new(int32(3)), UpdateStrategy: appsv1.StatefulSetUpdateStrategy{
					Type: appsv1.RollingUpdateStatefulSetStrategyType, RollingUpdate: &appsv1.RollingUpdateStatefulSetStrategy{},
				}},
				Status: appsv1.StatefulSetStatus{ObservedGeneration: 2, Replicas: 3, UpdatedReplicas: 3, ReadyReplicas: 3, AvailableReplicas: 3, CurrentRevision: "a", UpdateRevision: "a"},
			}
			tc.change(s)
			got, err := rolloutHealth(raw(t, s))
			require.NoError(t, err)
			require.Equal(t, tc.want, verdictOf(got), got.Message)
		})
	}
}

func TestDaemonSetAndReplicaSetHealth(t *testing.T) {
	t.Parallel()
	d := &appsv1.DaemonSet{TypeMeta: metav1.TypeMeta{Kind: "DaemonSet"}, ObjectMeta: metav1.ObjectMeta{Generation: 1}, Status: appsv1.DaemonSetStatus{
		ObservedGeneration: 1, DesiredNumberScheduled: 2, UpdatedNumberScheduled: 2, NumberReady: 2, NumberAvailable: 2,
	}}
	check := func(object any, want verdict) {
		t.Helper()
		got, err := rolloutHealth(raw(t, object))
		require.NoError(t, err)
		require.Equal(t, want, verdictOf(got), got.Message)
	}
	check(d, verdict{Healthy, "available"})
	d.Status.UpdatedNumberScheduled = 1
	check(d, verdict{Unhealthy, "rolling-out"})
	d.Spec.UpdateStrategy.Type = appsv1.OnDeleteDaemonSetStrategyType
	check(d, verdict{Healthy, "available"})
	d.Status.NumberAvailable = 1
	check(d, verdict{Unhealthy, "unavailable-replicas"})

	r := &appsv1.ReplicaSet{TypeMeta: metav1.TypeMeta{Kind: "ReplicaSet"}, ObjectMeta: metav1.ObjectMeta{Generation: 1},
		Status: appsv1.ReplicaSetStatus{ObservedGeneration: 1, Replicas: 1, ReadyReplicas: 1, AvailableReplicas: 1}}
	check(r, verdict{Healthy, "available"})
	r.Status.AvailableReplicas = 0
	check(r, verdict{Unhealthy, "unavailable-replicas"})
}

func TestCrashLoopOverridesCounts(t *testing.T) {
	t.Parallel()
	waiting := func(reason string) corev1.ContainerStatus {
		return corev1.ContainerStatus{Name: "app", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason}}}
	}
	crashed := func(ago time.Duration, code int32) corev1.ContainerStatus {
		return corev1.ContainerStatus{Name: "app", Ready: true, RestartCount: 7, LastTerminationState: corev1.ContainerState{
			Terminated: &corev1.ContainerStateTerminated{ExitCode: code, FinishedAt: metav1.NewTime(testNow.Add(-ago))},
		}}
	}
	for name, tc := range map[string]struct {
		status corev1.ContainerStatus
		broken bool
	}{
		"running":              {corev1.ContainerStatus{Name: "app", Ready: true}, false},
		"starting":             {waiting("ContainerCreating"), false},
		"crash loop":           {waiting("CrashLoopBackOff"), true},
		"image":                {waiting("ImagePullBackOff"), true},
		"image, first try":     {waiting("ErrImagePull"), true},
		"configuration":        {waiting("CreateContainerConfigError"), true},
		"image name":           {waiting("InvalidImageName"), true},
		"between two crashes":  {crashed(20*time.Second, 1), true},
		"crashed long ago":     {crashed(time.Hour, 1), false},
		"ended well before it": {crashed(20*time.Second, 0), false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pod := corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "web-1"}, Status: corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{tc.status}}}
			got := withPods(healthy("available", "3 of 3"), []corev1.Pod{pod}, testNow)
			require.Equal(t, tc.broken, got.State == Unhealthy, got.Message)

			init := pod
			init.Status.ContainerStatuses, init.Status.InitContainerStatuses = nil, pod.Status.ContainerStatuses
			require.Equal(t, tc.broken, withPods(healthy("available", ""), []corev1.Pod{init}, testNow).State == Unhealthy, "an init container counts")

			pod.DeletionTimestamp = new(metav1.NewTime(testNow))
			require.Equal(t, Healthy, withPods(healthy("available", ""), []corev1.Pod{pod}, testNow).State, "a pod on its way out does not count")
		})
	}
}

func TestBarePodHealth(t *testing.T) {
	t.Parallel()
	now := func() time.Time { return testNow }
	ready := corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}}
	require.Equal(t, verdict{Healthy, "ready"}, verdictOf(barePodHealth(&corev1.Pod{Status: ready}, now)))
	require.Equal(t, verdict{Unhealthy, "terminating"}, verdictOf(barePodHealth(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{DeletionTimestamp: new(metav1.NewTime(testNow))}, Status: ready}, now)))
	require.Equal(t, verdict{Unhealthy, "not-ready"}, verdictOf(barePodHealth(&corev1.Pod{Status: corev1.PodStatus{Phase: corev1.PodRunning}}, now)))
	require.Equal(t, verdict{Unhealthy, "failed"}, verdictOf(barePodHealth(&corev1.Pod{Status: corev1.PodStatus{Phase: corev1.PodFailed}}, now)))
	require.Equal(t, verdict{Healthy, "succeeded"}, verdictOf(barePodHealth(&corev1.Pod{Status: corev1.PodStatus{Phase: corev1.PodSucceeded}}, now)))
}

func TestNodeHealth(t *testing.T) {
	t.Parallel()
	condition := func(kind corev1.NodeConditionType, status corev1.ConditionStatus) corev1.NodeCondition {
		return corev1.NodeCondition{Type: kind, Status: status}
	}
	for name, tc := range map[string]struct {
		node corev1.Node
		want verdict
	}{
		"ready":      {corev1.Node{Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{condition("Ready", "True"), condition("DiskPressure", "False")}}}, verdict{Healthy, "ready"}},
		"cordoned":   {corev1.Node{Spec: corev1.NodeSpec{Unschedulable: true}, Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{condition("Ready", "True")}}}, verdict{Healthy, "ready"}},
		"not ready":  {corev1.Node{Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{condition("Ready", "False")}}}, verdict{Unhealthy, "not-ready"}},
		"silent":     {corev1.Node{Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{condition("Ready", "Unknown")}}}, verdict{Unhealthy, "not-ready"}},
		"new":        {corev1.Node{}, verdict{Unhealthy, "not-ready"}},
		"pressure":   {corev1.Node{Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{condition("Ready", "True"), condition("MemoryPressure", "True")}}}, verdict{Unhealthy, "pressure"}},
		"no network": {corev1.Node{Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{condition("Ready", "True"), condition("NetworkUnavailable", "True")}}}, verdict{Unhealthy, "pressure"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := nodeHealth(raw(t, &tc.node))
			require.NoError(t, err)
			require.Equal(t, tc.want, verdictOf(got), got.Message)
		})
	}
}

func TestJobHealth(t *testing.T) {
	t.Parallel()
	job := func(conditions ...batchv1.JobCondition) *batchv1.Job {
		return &batchv1.Job{Status: batchv1.JobStatus{Conditions: conditions}}
	}
	require.Equal(t, verdict{Unknown, "running"}, verdictOf(jobStatusHealth(job())))
	require.Equal(t, verdict{Healthy, "complete"}, verdictOf(jobStatusHealth(job(batchv1.JobCondition{Type: batchv1.JobComplete, Status: "True"}))))
	require.Equal(t, verdict{Unhealthy, "failed"}, verdictOf(jobStatusHealth(job(batchv1.JobCondition{Type: batchv1.JobFailed, Status: "True"}))))
	require.Equal(t, verdict{Unknown, "suspended"}, verdictOf(jobStatusHealth(job(batchv1.JobCondition{Type: batchv1.JobSuspended, Status: "True"}))))
	require.Equal(t, verdict{Unknown, "running"}, verdictOf(jobStatusHealth(job(batchv1.JobCondition{Type: batchv1.JobSuspended, Status: "False"}))))
}

func TestEndpointHealth(t *testing.T) {
	t.Parallel()
	slice := func(ready ...*bool) []discoveryv1.EndpointSlice {
		var s discoveryv1.EndpointSlice
		for _, r := range ready {
			s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Conditions: discoveryv1.EndpointConditions{Ready: r}})
		}
		return []discoveryv1.EndpointSlice{{}, s}
	}
	require.Equal(t, Unhealthy, endpointHealth("shop", nil).State)
	require.Equal(t, Unhealthy, endpointHealth("shop", slice(new(false))).State)
	require.Equal(t, Healthy, endpointHealth("shop", slice(new(false), new(true))).State)
	require.Equal(t, Healthy, endpointHealth("shop", slice(nil)).State, "an unset ready means true")
}

func TestClaimHealth(t *testing.T) {
	t.Parallel()
	claim := &corev1.PersistentVolumeClaim{
		Spec:   corev1.PersistentVolumeClaimSpec{Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{"storage": resource.MustParse("2Gi")}}},
		Status: corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimBound, Capacity: corev1.ResourceList{"storage": resource.MustParse("2Gi")}},
	}
	check := func(want verdict) {
		t.Helper()
		got, err := claimHealth(raw(t, claim))
		require.NoError(t, err)
		require.Equal(t, want, verdictOf(got), got.Message)
	}
	check(verdict{Healthy, "bound"})
	claim.Status.Capacity["storage"] = resource.MustParse("1Gi")
	check(verdict{Unhealthy, "resizing"})
	claim.Status.Capacity["storage"] = resource.MustParse("4Gi")
	check(verdict{Healthy, "bound"})
	claim.Status.Conditions = []corev1.PersistentVolumeClaimCondition{{Type: corev1.PersistentVolumeClaimFileSystemResizePending, Status: "True"}}
	check(verdict{Unhealthy, "resizing"})
	claim.Status.Phase = corev1.ClaimLost
	check(verdict{Unhealthy, "not-bound"})
}

func TestAutoscalerHealth(t *testing.T) {
	t.Parallel()
	hpa := &autoscalingv2.HorizontalPodAutoscaler{
		Spec:   autoscalingv2.HorizontalPodAutoscalerSpec{MinReplicas: new(int32(2)), MaxReplicas: 5},
		Status: autoscalingv2.HorizontalPodAutoscalerStatus{CurrentReplicas: 3, DesiredReplicas: 3},
	}
	check := func(want verdict) {
		t.Helper()
		got, err := autoscalerHealth(raw(t, hpa))
		require.NoError(t, err)
		require.Equal(t, want, verdictOf(got), got.Message)
	}
	check(verdict{Unknown, "not-observed"})
	hpa.Status.Conditions = []autoscalingv2.HorizontalPodAutoscalerCondition{
		{Type: autoscalingv2.ScalingActive, Status: "True"}, {Type: autoscalingv2.AbleToScale, Status: "True"},
	}
	check(verdict{Healthy, "active"})
	hpa.Status.DesiredReplicas = 4
	check(verdict{Unhealthy, "scaling-up"})
	hpa.Status.DesiredReplicas, hpa.Status.CurrentReplicas = 5, 5
	check(verdict{Unhealthy, "at-maximum"})
	hpa.Spec.MinReplicas = new(int32(5))
	check(verdict{Healthy, "active"})
	hpa.Status.Conditions[0].Status = "False"
	check(verdict{Unhealthy, "cannot-scale"})
}
