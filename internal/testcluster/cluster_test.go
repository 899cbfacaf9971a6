package testcluster

import (
	"context"
	"io"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

const image = "registry.example/shop:1"

func deployment(ns, name string, replicas int32, change func(*corev1.PodTemplateSpec)) *appsv1.Deployment {
	labels := map[string]string{"app": name}
	d := &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: ns},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas,
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels, Annotations: map[string]string{}},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "shop", Image: image}}},
			},
		},
	}
	if change != nil {
		change(&d.Spec.Template)
	}
	return d
}

func podsOf(t *testing.T, c *Cluster, ns, app string) []corev1.Pod {
	t.Helper()
	list, err := c.Client().CoreV1().Pods(ns).List(t.Context(), metav1.ListOptions{LabelSelector: "app=" + app})
	require.NoError(t, err)
	return list.Items
}

func TestADeploymentBecomesAvailable(t *testing.T) {
	c := Shared(t)
	ctx := patient(t)
	ns := c.Namespace(t)
	_, err := c.Client().AppsV1().Deployments(ns).Create(ctx, deployment(ns, "shop", 3, nil), metav1.CreateOptions{})
	require.NoError(t, err)
	require.NoError(t, c.WaitDeploymentAvailable(ctx, ns, "shop"))
	pods := podsOf(t, c, ns, "shop")
	require.Len(t, pods, 3)
	for _, pod := range pods {
		require.True(t, PodReady(&pod))
		require.NotEmpty(t, pod.Status.PodIP)
		require.Equal(t, "127.0.0.1", pod.Status.HostIP)
		require.EqualValues(t, 1, len(pod.Status.ContainerStatuses))
		require.NotNil(t, pod.Status.ContainerStatuses[0].State.Running)
	}
	require.NoError(t, c.Client().CoreV1().Pods(ns).Delete(ctx, pods[0].Name, metav1.DeleteOptions{}))
	require.NoError(t, c.WaitPodGone(ctx, &pods[0]))
	require.NoError(t, c.WaitDeploymentAvailable(ctx, ns, "shop"))
}

func TestACrashLoopingPodIsReplacedBySound(t *testing.T) {
	c := Shared(t)
	ctx := patient(t)
	ns := c.Namespace(t)
	_, err := c.Client().AppsV1().Deployments(ns).Create(ctx, deployment(ns, "shop", 1, func(p *corev1.PodTemplateSpec) {
		p.Annotations[CrashIntervalAnnotation] = "200ms"
	}), metav1.CreateOptions{})
	require.NoError(t, err)
	require.NoError(t, c.WaitDeploymentAvailable(ctx, ns, "shop"))
	pod := podsOf(t, c, ns, "shop")[0]

	require.NoError(t, c.SetPodFault(ctx, ns, pod.Name, PodCrashLoop))
	require.NoError(t, c.WaitPod(ctx, ns, pod.Name, func(p *corev1.Pod) bool {
		s := p.Status.ContainerStatuses[0]
		return s.RestartCount >= 3 && s.State.Waiting != nil && s.State.Waiting.Reason == "CrashLoopBackOff" &&
			s.LastTerminationState.Terminated != nil && s.LastTerminationState.Terminated.ExitCode == 1 && !PodReady(p)
	}))
	require.NoError(t, c.WaitDeployment(ctx, ns, "shop", func(d *appsv1.Deployment) bool { return d.Status.AvailableReplicas == 0 }))

	// It heals in place, and its restarts stay counted.
	require.NoError(t, c.ClearPodFault(ctx, ns, pod.Name))
	require.NoError(t, c.WaitPod(ctx, ns, pod.Name, func(p *corev1.Pod) bool { return PodReady(p) && p.Status.ContainerStatuses[0].RestartCount >= 3 }))

	// An OOM-killed one is replaced by a sound one.
	require.NoError(t, c.SetPodFault(ctx, ns, pod.Name, PodOOMKill))
	require.NoError(t, c.WaitPod(ctx, ns, pod.Name, func(p *corev1.Pod) bool {
		last := p.Status.ContainerStatuses[0].LastTerminationState.Terminated
		return last != nil && last.Reason == "OOMKilled" && last.ExitCode == 137
	}))
	require.NoError(t, c.Client().CoreV1().Pods(ns).Delete(ctx, pod.Name, metav1.DeleteOptions{}))
	require.NoError(t, c.WaitPodGone(ctx, &pod))
	require.NoError(t, c.WaitDeploymentAvailable(ctx, ns, "shop"))
	require.Error(t, c.SetPodFault(ctx, ns, pod.Name, "nonsense"))
}

func TestABadRolloutSticks(t *testing.T) {
	c := Shared(t)
	ctx := patient(t)
	ns := c.Namespace(t)
	_, err := c.Client().AppsV1().Deployments(ns).Create(ctx, deployment(ns, "shop", 2, nil), metav1.CreateOptions{})
	require.NoError(t, err)
	require.NoError(t, c.WaitDeploymentAvailable(ctx, ns, "shop"))

	setImage := func(image string) {
		d, err := c.Client().AppsV1().Deployments(ns).Get(ctx, "shop", metav1.GetOptions{})
		require.NoError(t, err)
		d.Spec.Template.Spec.Containers[0].Image = image
		_, err = c.Client().AppsV1().Deployments(ns).Update(ctx, d, metav1.UpdateOptions{})
		require.NoError(t, err)
	}
	setImage("registry.example/shop:broken")
	require.NoError(t, c.WaitDeployment(ctx, ns, "shop", func(d *appsv1.Deployment) bool {
		return d.Status.ObservedGeneration >= d.Generation && d.Status.UpdatedReplicas == 1 && d.Status.UnavailableReplicas >= 1
	}))
	require.NoError(t, Poll(ctx, func(ctx context.Context) (bool, error) {
		for _, pod := range podsOf(t, c, ns, "shop") {
			for _, s := range pod.Status.ContainerStatuses {
				if s.State.Waiting != nil && s.State.Waiting.Reason == "ImagePullBackOff" && pod.Status.Phase == corev1.PodPending {
					return true, nil
				}
			}
		}
		return false, nil
	}))
	setImage(image)
	require.NoError(t, c.WaitDeploymentAvailable(ctx, ns, "shop"))
}

func TestANotReadyPodLeavesItsService(t *testing.T) {
	c := Shared(t)
	ctx := patient(t)
	ns := c.Namespace(t)
	_, err := c.Client().AppsV1().Deployments(ns).Create(ctx, deployment(ns, "shop", 1, nil), metav1.CreateOptions{})
	require.NoError(t, err)
	_, err = c.Client().CoreV1().Services(ns).Create(ctx, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "shop"},
		Spec:       corev1.ServiceSpec{Selector: map[string]string{"app": "shop"}, Ports: []corev1.ServicePort{{Port: 80}}},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	require.NoError(t, c.WaitDeploymentAvailable(ctx, ns, "shop"))
	ready := func(want int) {
		t.Helper()
		require.NoError(t, Poll(ctx, func(ctx context.Context) (bool, error) {
			slices, err := c.Client().DiscoveryV1().EndpointSlices(ns).List(ctx, metav1.ListOptions{LabelSelector: "kubernetes.io/service-name=shop"})
			if err != nil {
				return false, err
			}
			n := 0
			for _, slice := range slices.Items {
				for _, e := range slice.Endpoints {
					if e.Conditions.Ready != nil && *e.Conditions.Ready {
						n++
					}
				}
			}
			return n == want, nil
		}))
	}
	ready(1)
	pod := podsOf(t, c, ns, "shop")[0]
	require.NoError(t, c.SetPodFault(ctx, ns, pod.Name, PodNotReady))
	ready(0)
	require.NoError(t, c.ClearPodFault(ctx, ns, pod.Name))
	ready(1)
}

func TestAJobCompletesAndFails(t *testing.T) {
	c := Shared(t)
	ctx := patient(t)
	ns := c.Namespace(t)
	job := func(name string, fault PodFault) {
		none := int32(0)
		j := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: batchv1.JobSpec{BackoffLimit: &none}}
		j.Spec.Template.Spec = corev1.PodSpec{RestartPolicy: corev1.RestartPolicyNever, Containers: []corev1.Container{{Name: "c", Image: image}}}
		if fault != "" {
			j.Spec.Template.Annotations = map[string]string{FaultAnnotation: string(fault)}
		}
		_, err := c.Client().BatchV1().Jobs(ns).Create(ctx, j, metav1.CreateOptions{})
		require.NoError(t, err)
	}
	condition := func(name string, want batchv1.JobConditionType) {
		t.Helper()
		require.NoError(t, Poll(ctx, func(ctx context.Context) (bool, error) {
			j, err := c.Client().BatchV1().Jobs(ns).Get(ctx, name, metav1.GetOptions{})
			if err != nil {
				return false, err
			}
			for _, cond := range j.Status.Conditions {
				if cond.Type == want && cond.Status == corev1.ConditionTrue {
					return true, nil
				}
			}
			return false, nil
		}), name)
	}
	job("good", "")
	job("bad", PodFail)
	condition("good", batchv1.JobComplete)
	condition("bad", batchv1.JobFailed)
}

func TestEvictionHonorsDisruptionBudgets(t *testing.T) {
	c := Shared(t)
	ctx := patient(t)
	ns := c.Namespace(t)
	_, err := c.Client().AppsV1().Deployments(ns).Create(ctx, deployment(ns, "shop", 1, nil), metav1.CreateOptions{})
	require.NoError(t, err)
	one := intstr.FromInt32(1)
	_, err = c.Client().PolicyV1().PodDisruptionBudgets(ns).Create(ctx, &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Name: "shop"},
		Spec:       policyv1.PodDisruptionBudgetSpec{MinAvailable: &one, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "shop"}}},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	require.NoError(t, c.WaitDeploymentAvailable(ctx, ns, "shop"))
	pod := podsOf(t, c, ns, "shop")[0]
	err = c.Client().PolicyV1().Evictions(ns).Evict(ctx, &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: pod.Name, Namespace: ns}})
	require.True(t, apierrors.IsTooManyRequests(err), "%v", err)
}

func TestLogsCanBeRead(t *testing.T) {
	c := Shared(t)
	ctx := patient(t)
	ns := c.Namespace(t)
	_, err := c.Client().AppsV1().Deployments(ns).Create(ctx, deployment(ns, "shop", 1, nil), metav1.CreateOptions{})
	require.NoError(t, err)
	require.NoError(t, c.WaitDeploymentAvailable(ctx, ns, "shop"))
	pod := podsOf(t, c, ns, "shop")[0]
	for previous, want := range map[bool]string{false: "listening on :8080", true: "panic:"} {
		stream, err := c.Client().CoreV1().Pods(ns).GetLogs(pod.Name, &corev1.PodLogOptions{Container: "shop", Previous: previous}).Stream(ctx)
		require.NoError(t, err)
		data, err := io.ReadAll(stream)
		require.NoError(t, err)
		require.NoError(t, stream.Close())
		require.Contains(t, string(data), want)
	}
}

func TestAServiceAccountMayDoWhatItsRolesSay(t *testing.T) {
	c := Shared(t)
	ctx := patient(t)
	ns := c.Namespace(t)
	_, err := c.Client().CoreV1().ServiceAccounts(ns).Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "medic"}}, metav1.CreateOptions{})
	require.NoError(t, err)
	_, err = c.Client().RbacV1().RoleBindings(ns).Create(ctx, &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "medic"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "view"},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Name: "medic", Namespace: ns}},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	config, err := c.RESTConfigFor(ctx, ns, "medic")
	require.NoError(t, err)
	client, err := kubernetes.NewForConfig(config)
	require.NoError(t, err)
	t.Cleanup(func() { CloseIdle(client) })
	require.NoError(t, Poll(ctx, func(ctx context.Context) (bool, error) {
		_, err := client.CoreV1().Pods(ns).List(ctx, metav1.ListOptions{})
		if apierrors.IsForbidden(err) {
			return false, nil // the authorizer has not seen the binding yet
		}
		return err == nil, err
	}))
	start := time.Now()
	err = client.CoreV1().Pods(ns).Delete(ctx, "any", metav1.DeleteOptions{})
	require.True(t, apierrors.IsForbidden(err), "%v", err)

	// Both the attempt and who made it are in the audit log.
	mutations, err := c.Mutations(start)
	require.NoError(t, err)
	found := false
	for _, m := range mutations {
		if m.User.Username == "system:serviceaccount:"+ns+":medic" {
			found = true
			require.Equal(t, "delete", m.Verb)
			require.EqualValues(t, 403, m.ResponseStatus.Code)
		}
	}
	require.True(t, found)
}

func TestKubeconfigWorks(t *testing.T) {
	c := Shared(t)
	path := t.TempDir() + "/deep/kubeconfig"
	require.NoError(t, c.Kubeconfig(path))
	config, err := clientcmd.BuildConfigFromFlags("", path)
	require.NoError(t, err)
	client, err := kubernetes.NewForConfig(config)
	require.NoError(t, err)
	t.Cleanup(func() { CloseIdle(client) })
	version, err := client.Discovery().ServerVersion()
	require.NoError(t, err)
	require.Equal(t, kubernetesVersion, version.GitVersion)
	require.NotNil(t, c.RESTConfig())
}
