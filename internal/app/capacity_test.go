package app

import (
	"testing"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/alertmedic/alertmedic/internal/guard"
	"github.com/alertmedic/alertmedic/internal/simulate"
	"github.com/alertmedic/alertmedic/internal/testcluster"
)

const movePlaybooks = `apiVersion: alertmedic.io/v1alpha1
kind: Playbook
metadata: {name: empty-node}
spec:
  matchers: [alertname = EmptyNode]
  target: {kind: Node}
  mode: Auto
  remedies:
  - name: drain
    steps:
    - {name: drain, action: node.drain}
    verify: {timeout: 5m, stableFor: 3s}
---
apiVersion: alertmedic.io/v1alpha1
kind: Playbook
metadata: {name: move-pod}
spec:
  matchers: [alertname = MovePod]
  target: {kind: Workload}
  mode: Auto
  remedies:
  - name: evict
    steps:
    - {name: evict, action: pod.evict}
    verify: {timeout: 5m, stableFor: 3s}
`

// A drain and an eviction are held for capacity while what they displace fits
// nowhere else, and no longer once there is a node that takes it.
func TestNothingIsDisplacedWithoutAPlace(t *testing.T) {
	t.Parallel()
	s := start(t, movePlaybooks)
	cores := func(name, n string) testcluster.NodeOptions {
		return testcluster.NodeOptions{Name: s.ns + name, Labels: map[string]string{testcluster.OwnerLabel: s.ns},
			Capacity: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(n)}}
	}
	full := s.cluster.Node(t, cores("-full", "4"))
	s.cluster.Node(t, cores("-small", "1"))
	labels := map[string]string{"app": "web"}
	template := corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{Containers: []corev1.Container{{
		Name: "app", Image: "app:1", Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1500m")}}}}}}
	testcluster.OnNode(&template.Spec, s.ns)
	api := s.cluster.Client()
	_, err := api.AppsV1().Deployments(s.ns).Create(t.Context(), &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec: appsv1.DeploymentSpec{Replicas: new(int32(2)), Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: template}}, metav1.CreateOptions{})
	require.NoError(t, err)
	require.NoError(t, s.cluster.WaitDeploymentAvailable(t.Context(), s.ns, "web"))
	pods, err := api.CoreV1().Pods(s.ns).List(t.Context(), metav1.ListOptions{})
	require.NoError(t, err)
	require.Len(t, pods.Items, 2)

	said := func(labels map[string]string) guard.Decision {
		e, err := s.client.Explain(t.Context(), simulate.ExplainRequest{Labels: labels})
		require.NoError(t, err)
		for _, p := range e.Playbooks {
			for _, d := range p.Guards {
				if d.Guard == "capacity" {
					return d
				}
			}
		}
		t.Fatalf("the guards were not asked: %+v", e.Playbooks)
		return guard.Decision{}
	}
	drain := map[string]string{"alertname": "EmptyNode", "node": full.Name}
	evict := map[string]string{"alertname": "MovePod", "namespace": s.ns, "pod": pods.Items[0].Name, "container": "app"}

	d := said(drain)
	require.Equal(t, guard.ReasonCapacity, d.Reason, "%+v", d)
	require.Contains(t, d.Message, "2 of 2 displaced pods fit nowhere else")
	require.Contains(t, d.Message, "not enough cpu (1 node)")
	require.Equal(t, guard.Admit, said(evict).Verdict, "it may come back where it was")

	_, err = api.CoreV1().Nodes().Patch(t.Context(), full.Name, types.MergePatchType, []byte(`{"spec":{"unschedulable":true}}`), metav1.PatchOptions{})
	require.NoError(t, err)
	d = said(evict)
	require.Equal(t, guard.ReasonCapacity, d.Reason, "%+v", d)
	require.Contains(t, d.Message, "1 of 1 displaced pods fit nowhere else")

	s.cluster.Node(t, cores("-roomy", "4"))
	require.Equal(t, guard.Admit, said(drain).Verdict)
	require.Equal(t, guard.Admit, said(evict).Verdict)
}
