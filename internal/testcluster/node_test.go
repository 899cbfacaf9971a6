package testcluster

import (
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestANodeFaultShowsFreezesItsPodsAndHeals(t *testing.T) {
	for _, tc := range []struct {
		fault  NodeFault
		status corev1.ConditionStatus
		taint  string
	}{
		{NodeNotReady, corev1.ConditionFalse, corev1.TaintNodeNotReady},
		{NodeUnreachable, corev1.ConditionUnknown, corev1.TaintNodeUnreachable},
	} {
		t.Run(string(tc.fault), func(t *testing.T) {
			t.Parallel()
			c := Shared(t)
			ctx := patient(t)
			ns := c.Namespace(t)
			node := c.Node(t, NodeOptions{Zone: "a"})
			_, err := c.Client().AppsV1().Deployments(ns).Create(ctx, deployment(ns, "shop", 2, func(p *corev1.PodTemplateSpec) {
				OnNode(&p.Spec, node.Name)
			}), metav1.CreateOptions{})
			require.NoError(t, err)
			require.NoError(t, c.WaitDeploymentAvailable(ctx, ns, "shop"))
			pods := podsOf(t, c, ns, "shop")
			require.Equal(t, node.Name, pods[0].Spec.NodeName)

			require.NoError(t, c.SetNodeFault(ctx, node.Name, tc.fault))
			require.NoError(t, c.WaitNode(ctx, node.Name, func(n *corev1.Node) bool {
				return NodeReady(n) == tc.status && tainted(n, tc.taint)
			}))
			// The node lifecycle controller marks the pods of a silent node; one
			// that speaks for itself it believes.
			for _, pod := range pods {
				if tc.status == corev1.ConditionUnknown {
					require.NoError(t, c.WaitPod(ctx, ns, pod.Name, func(p *corev1.Pod) bool { return !PodReady(p) }))
				}
			}
			require.NoError(t, c.Client().CoreV1().Pods(ns).Delete(ctx, pods[0].Name, metav1.DeleteOptions{}))
			require.NoError(t, c.WaitPod(ctx, ns, pods[0].Name, func(p *corev1.Pod) bool { return p.DeletionTimestamp != nil }))

			require.NoError(t, c.ClearNodeFault(ctx, node.Name))
			require.NoError(t, c.WaitNodeReady(ctx, node.Name, corev1.ConditionTrue))
			require.NoError(t, c.WaitPodGone(ctx, &pods[0]))
			require.NoError(t, c.WaitPod(ctx, ns, pods[1].Name, PodReady))
			require.NoError(t, c.WaitDeploymentAvailable(ctx, ns, "shop"))
		})
	}
}

func TestAPodOnADeadNodeStaysTerminating(t *testing.T) {
	c := Shared(t)
	ctx := patient(t)
	ns := c.Namespace(t)
	node := c.Node(t, NodeOptions{})
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "shop"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: image}}}}
	OnNode(&pod.Spec, node.Name)
	_, err := c.Client().CoreV1().Pods(ns).Create(ctx, pod, metav1.CreateOptions{})
	require.NoError(t, err)
	require.NoError(t, c.WaitPod(ctx, ns, "shop", PodReady))
	require.NoError(t, c.SetNodeFault(ctx, node.Name, NodeUnreachable))
	live, err := c.Client().CoreV1().Pods(ns).Get(ctx, "shop", metav1.GetOptions{})
	require.NoError(t, err)
	require.Equal(t, "unreachable", live.Annotations[nodeFaultAnnotation])

	require.NoError(t, c.Client().CoreV1().Pods(ns).Delete(ctx, "shop", metav1.DeleteOptions{}))
	// A sound pod, deleted later, is gone first: had the frozen one been
	// going to end, it would have.
	_, err = c.Client().CoreV1().Pods(ns).Create(ctx, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "sound"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: image}}},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	require.NoError(t, c.WaitPod(ctx, ns, "sound", PodReady))
	sound, err := c.Client().CoreV1().Pods(ns).Get(ctx, "sound", metav1.GetOptions{})
	require.NoError(t, err)
	require.NoError(t, c.Client().CoreV1().Pods(ns).Delete(ctx, "sound", metav1.DeleteOptions{}))
	require.NoError(t, c.WaitPodGone(ctx, sound))
	live, err = c.Client().CoreV1().Pods(ns).Get(ctx, "shop", metav1.GetOptions{})
	require.NoError(t, err)
	require.NotNil(t, live.DeletionTimestamp)

	now := int64(0)
	require.NoError(t, c.Client().CoreV1().Pods(ns).Delete(ctx, "shop", metav1.DeleteOptions{GracePeriodSeconds: &now}))
	require.NoError(t, c.WaitPodGone(ctx, live))
}

func TestANodeUnderPressureStaysReady(t *testing.T) {
	c := Shared(t)
	ctx := patient(t)
	node := c.Node(t, NodeOptions{})
	pressed := func(n *corev1.Node) bool {
		for _, condition := range n.Status.Conditions {
			if condition.Type == corev1.NodeMemoryPressure {
				return condition.Status == corev1.ConditionTrue
			}
		}
		return false
	}
	require.NoError(t, c.SetNodeFault(ctx, node.Name, NodeMemoryPressure))
	require.NoError(t, c.WaitNode(ctx, node.Name, func(n *corev1.Node) bool {
		return pressed(n) && NodeReady(n) == corev1.ConditionTrue && tainted(n, corev1.TaintNodeMemoryPressure)
	}))
	require.NoError(t, c.ClearNodeFault(ctx, node.Name))
	require.NoError(t, c.WaitNode(ctx, node.Name, func(n *corev1.Node) bool { return !pressed(n) }))
	require.Error(t, c.SetNodeFault(ctx, node.Name, "nonsense"))
}
