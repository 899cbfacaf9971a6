package capacity

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// aNode is a ready node of 4 cores, 8 GiB and 10 pods in rack r<n>.
func aNode(n int) corev1.Node {
	name := fmt.Sprintf("n%d", n)
	return corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name, "rack": fmt.Sprintf("r%d", n)}},
		Status: corev1.NodeStatus{
			Allocatable: corev1.ResourceList{
				corev1.ResourceCPU: resource.MustParse("4"), corev1.ResourceMemory: resource.MustParse("8Gi"), corev1.ResourcePods: resource.MustParse("10"),
			},
			Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
		},
	}
}

// aPod is a running, ready pod that asks for a core.
func aPod(name, on string) corev1.Pod {
	return corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID(name), Labels: map[string]string{"app": "web"}},
		Spec: corev1.PodSpec{NodeName: on, Containers: []corev1.Container{{
			Name: "app", Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1")}},
		}}},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}},
	}
}

func web() *metav1.LabelSelector {
	return &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}
}

func affine(key string) *corev1.Affinity {
	return &corev1.Affinity{PodAffinity: &corev1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{LabelSelector: web(), TopologyKey: key}}}}
}

func averse(key string) *corev1.Affinity {
	return &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{LabelSelector: web(), TopologyKey: key}}}}
}

// scene is the drain of n1 whose only pod is moved; n2 holds web-2.
type scene struct {
	w    World
	q    Question
	pod  *corev1.Pod // the displaced one
	node *corev1.Node
	rest *corev1.Pod
}

func draw(change func(*scene)) Answer {
	s := &scene{w: World{Nodes: []corev1.Node{aNode(1), aNode(2)}, Claims: map[string]Claim{}}, q: Question{Without: "n1"}}
	moved, other := aPod("web-1", "n1"), aPod("web-2", "n2")
	s.pod, s.rest, s.node = &moved, &other, &s.w.Nodes[1]
	change(s)
	s.w.Pods = append(s.w.Pods, moved, other)
	s.q.Pods = append(s.q.Pods, moved)
	return Place(s.w, s.q)
}

func claimed(s *scene, volume *corev1.PersistentVolume) {
	s.pod.Spec.Volumes = []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}}}}
	claim := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "data"}}
	if volume != nil {
		claim.Spec.VolumeName = volume.Name
	}
	s.w.Claims["shop/data"] = Claim{claim, volume}
}

func localOn(node string) *corev1.PersistentVolume {
	pv := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "pv"}}
	pv.Spec.Local = &corev1.LocalVolumeSource{Path: "/disk"}
	pv.Spec.NodeAffinity = &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
		MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{node}}},
	}}}}
	return pv
}

func onCSI() *corev1.PersistentVolume {
	pv := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "pv"}}
	pv.Spec.CSI = &corev1.CSIPersistentVolumeSource{Driver: "disk.example.com"}
	return pv
}

func driver(node string, count *int32) storagev1.CSINode {
	return storagev1.CSINode{ObjectMeta: metav1.ObjectMeta{Name: node}, Spec: storagev1.CSINodeSpec{Drivers: []storagev1.CSINodeDriver{{
		Name: "disk.example.com", Allocatable: &storagev1.VolumeNodeResources{Count: count},
	}}}}
}

func asks(pod *corev1.Pod, name corev1.ResourceName, q string) {
	pod.Spec.Containers[0].Resources.Requests = corev1.ResourceList{name: resource.MustParse(q)}
}

// TestOneConstraint has a row for every constraint: with it the pod fits
// nowhere, or it cannot be told. Each row is one change away from a pod that fits.
func TestOneConstraint(t *testing.T) {
	t.Parallel()
	fits := draw(func(*scene) {})
	require.Equal(t, Answer{Displaced: 1, Placed: 1, Places: map[string]string{"shop/web-1": "n2"}}, fits)

	for _, row := range []struct {
		name   string
		change func(*scene)
		why    string
	}{
		{"CPU", func(s *scene) { asks(s.pod, "cpu", "3001m") }, "not enough cpu"},
		{"memory", func(s *scene) { asks(s.pod, "memory", "9Gi") }, "not enough memory"},
		{"an extended resource", func(s *scene) { asks(s.pod, "example.com/gpu", "1") }, "not enough example.com/gpu"},
		{"an init container", func(s *scene) {
			s.pod.Spec.InitContainers = []corev1.Container{{Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{"cpu": resource.MustParse("3500m")}}}}
		}, "not enough cpu"},
		{"a sidecar adds to the rest", func(s *scene) {
			always := corev1.ContainerRestartPolicyAlways
			s.pod.Spec.InitContainers = []corev1.Container{{RestartPolicy: &always, Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{"cpu": resource.MustParse("2500m")}}}}
		}, "not enough cpu"},
		{"overhead", func(s *scene) { s.pod.Spec.Overhead = corev1.ResourceList{"cpu": resource.MustParse("2500m")} }, "not enough cpu"},
		{"the number of pods", func(s *scene) { s.node.Status.Allocatable[corev1.ResourcePods] = resource.MustParse("1") }, "not enough pods"},
		{"a pod that waits takes its room first", func(s *scene) {
			waiting := aPod("waits", "")
			waiting.Status.Phase = corev1.PodPending
			asks(&waiting, "cpu", "2500m")
			s.w.Pods = append(s.w.Pods, waiting)
		}, "not enough cpu"},
		{"a node selector", func(s *scene) { s.pod.Spec.NodeSelector = map[string]string{"rack": "r1"} }, "node selector"},
		{"node affinity", func(s *scene) {
			s.pod.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: localOn("n1").Spec.NodeAffinity.Required}}
		}, "node selector"},
		{"a taint", func(s *scene) {
			s.node.Spec.Taints = []corev1.Taint{{Key: "only", Value: "gpu", Effect: corev1.TaintEffectNoSchedule}}
		}, "taint only=gpu:NoSchedule"},
		{"a taint that evicts", func(s *scene) {
			s.node.Spec.Taints = []corev1.Taint{{Key: "only", Effect: corev1.TaintEffectNoExecute}}
		}, "taint only"},
		{"a cordon", func(s *scene) { s.node.Spec.Unschedulable = true }, "cordoned"},
		{"a node that is not ready", func(s *scene) { s.node.Status.Conditions[0].Status = corev1.ConditionUnknown }, "not ready"},
		{"a node that goes", func(s *scene) { s.node.DeletionTimestamp = new(metav1.Now()) }, "being deleted"},
		{"a host port", func(s *scene) {
			s.pod.Spec.Containers[0].Ports = []corev1.ContainerPort{{HostPort: 80}}
			s.rest.Spec.Containers[0].Ports = []corev1.ContainerPort{{HostPort: 80, HostIP: "127.0.0.1", Protocol: corev1.ProtocolTCP}}
		}, "host port 80"},
		{"its anti-affinity", func(s *scene) { s.pod.Spec.Affinity = averse("rack") }, "anti-affinity"},
		{"the anti-affinity of another", func(s *scene) { s.rest.Spec.Affinity = averse("rack") }, "anti-affinity"},
		{"anti-affinity across namespaces", func(s *scene) {
			s.rest.Namespace = "stock"
			s.rest.Spec.Affinity = averse("rack")
			s.rest.Spec.Affinity.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution[0].NamespaceSelector = &metav1.LabelSelector{}
		}, "anti-affinity"},
		{"affinity to nobody", func(s *scene) {
			s.pod.Spec.Affinity = affine("rack")
			s.pod.Labels, s.rest.Labels = nil, nil
		}, "pod affinity"},
		{"affinity without the topology", func(s *scene) { s.pod.Spec.Affinity = affine("zone") }, "pod affinity"},
		{"spread", func(s *scene) {
			s.pod.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{MaxSkew: 1, TopologyKey: "rack", WhenUnsatisfiable: corev1.DoNotSchedule, LabelSelector: web()}}
		}, "topology spread"}, // the cordoned node counts as a domain of none
		{"spread over too few domains", func(s *scene) {
			honor := corev1.NodeInclusionPolicyHonor
			s.pod.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{MaxSkew: 1, TopologyKey: "rack", WhenUnsatisfiable: corev1.DoNotSchedule,
				LabelSelector: web(), MinDomains: new(int32(2)), NodeTaintsPolicy: &honor}}
		}, "topology spread"},
		{"a local volume", func(s *scene) { claimed(s, localOn("n1")) }, "has its volume elsewhere"},
		{"a volume of another zone", func(s *scene) {
			pv := localOn("n2")
			pv.Labels = map[string]string{corev1.LabelTopologyZone: "a__b"}
			claimed(s, pv)
		}, "has its volume in a__b"},
		{"a claim for one pod", func(s *scene) {
			claimed(s, localOn("n2"))
			s.w.Claims["shop/data"].Claim.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOncePod}
			s.rest.Spec.Volumes = s.pod.Spec.Volumes
		}, "in use by another pod"},
		{"no driver", func(s *scene) { claimed(s, onCSI()); s.w.Drivers = []storagev1.CSINode{driver("n1", nil)} }, "is not there"},
		{"too many volumes", func(s *scene) { claimed(s, onCSI()); s.w.Drivers = []storagev1.CSINode{driver("n2", new(int32(0)))} }, "too many volumes"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			a := draw(row.change)
			require.Equal(t, 1, a.Displaced)
			require.Zero(t, a.Placed)
			require.Empty(t, a.Unevaluated)
			require.Len(t, a.Unplaced, 1)
			require.Contains(t, a.Unplaced[0], row.why)
		})
	}
}

// TestFitsAllTheSame has the other side of constraints that are easily applied
// too strictly.
func TestFitsAllTheSame(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name   string
		change func(*scene)
	}{
		{"just enough", func(s *scene) { asks(s.pod, "cpu", "3") }},
		{"a pod that has ended takes nothing", func(s *scene) { asks(s.rest, "cpu", "4"); s.rest.Status.Phase = corev1.PodSucceeded }},
		{"a tolerated taint", func(s *scene) {
			s.node.Spec.Taints = []corev1.Taint{{Key: "only", Effect: corev1.TaintEffectNoSchedule}}
			s.pod.Spec.Tolerations = []corev1.Toleration{{Key: "only", Operator: corev1.TolerationOpExists}}
		}},
		{"a preference", func(s *scene) {
			s.node.Spec.Taints = []corev1.Taint{{Key: "only", Effect: corev1.TaintEffectPreferNoSchedule}}
		}},
		{"another address", func(s *scene) {
			s.pod.Spec.Containers[0].Ports = []corev1.ContainerPort{{HostPort: 80, HostIP: "10.0.0.1"}}
			s.rest.Spec.Containers[0].Ports = []corev1.ContainerPort{{HostPort: 80, HostIP: "127.0.0.1"}}
		}},
		{"affinity to a neighbour", func(s *scene) { s.pod.Spec.Affinity = affine("rack") }},
		{"the first of those that seek each other", func(s *scene) { s.pod.Spec.Affinity = affine("rack"); s.rest.Labels = nil }},
		{"anti-affinity in another namespace", func(s *scene) { s.rest.Namespace = "stock"; s.rest.Spec.Affinity = averse("rack") }},
		{"spread that leaves tainted nodes out", func(s *scene) {
			honor := corev1.NodeInclusionPolicyHonor
			s.pod.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{MaxSkew: 1, TopologyKey: "rack", WhenUnsatisfiable: corev1.DoNotSchedule,
				LabelSelector: web(), NodeTaintsPolicy: &honor}}
		}},
		{"spread of one revision", func(s *scene) {
			s.pod.Labels["rev"], s.rest.Labels["rev"] = "2", "1"
			s.pod.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{MaxSkew: 1, TopologyKey: "rack", WhenUnsatisfiable: corev1.DoNotSchedule,
				LabelSelector: web(), MatchLabelKeys: []string{"rev"}}}
		}},
		{"a volume that is there", func(s *scene) { claimed(s, localOn("n2")) }},
		{"a volume of a driver", func(s *scene) { claimed(s, onCSI()); s.w.Drivers = []storagev1.CSINode{driver("n2", new(int32(1)))} }},
		{"its own node, when that is not emptied", func(s *scene) { s.q.Without = ""; claimed(s, localOn("n1")) }},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			a := draw(row.change)
			require.Empty(t, a.Unevaluated)
			require.Empty(t, a.Unplaced)
			require.Equal(t, 1, a.Placed)
		})
	}
}

// TestADeadNodeKeepsItsPods: a pod on a node that does not answer stays in the
// way of its successor until somebody confirms its end.
func TestADeadNodeKeepsItsPods(t *testing.T) {
	t.Parallel()
	inTheWay := func(s *scene) {
		s.w.Nodes[0].Labels["rack"] = "r2"
		s.rest.Labels, s.pod.Spec.Affinity = nil, averse("rack")
	}
	require.Equal(t, 1, draw(inTheWay).Placed)
	require.Zero(t, draw(func(s *scene) {
		inTheWay(s)
		s.w.Nodes[0].Status.Conditions[0].Status = corev1.ConditionUnknown
	}).Placed)
}

func TestWhatCannotBeEvaluatedIsNamed(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name   string
		change func(*scene)
		why    string
	}{
		{"a scheduler of its own", func(s *scene) { s.pod.Spec.SchedulerName = "mine" }, "scheduler mine"},
		{"devices", func(s *scene) { s.pod.Spec.ResourceClaims = []corev1.PodResourceClaim{{Name: "gpu"}} }, "claims devices"},
		{"gates", func(s *scene) { s.pod.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "quota"}} }, "scheduling gate quota"},
		{"a group", func(s *scene) { s.pod.Spec.SchedulingGroup = &corev1.PodSchedulingGroup{} }, "its group"},
		{"namespaces by label", func(s *scene) {
			s.pod.Spec.Affinity = averse("rack")
			s.pod.Spec.Affinity.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution[0].NamespaceSelector = web()
		}, "namespaces could not be listed"},
		{"a claim that was not read", func(s *scene) { claimed(s, nil); delete(s.w.Claims, "shop/data") }, "claim data could not be read"},
		{"a claim without a volume", func(s *scene) { claimed(s, nil) }, "is not bound"},
		{"a volume that was not read", func(s *scene) {
			claimed(s, localOn("n2"))
			c := s.w.Claims["shop/data"]
			c.Volume = nil
			s.w.Claims["shop/data"] = c
		}, "volume pv, which could not be read"},
		{"a volume of some kind", func(s *scene) { claimed(s, &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "pv"}}) }, "of a kind"},
		{"drivers that were not read", func(s *scene) { claimed(s, onCSI()) }, "CSINodes could not be listed"},
		{"a volume made for the pod", func(s *scene) {
			s.pod.Spec.Volumes = []corev1.Volume{{Name: "tmp", VolumeSource: corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{}}}}
		}, "volume tmp is provisioned anew"},
		{"a selector that cannot be read", func(s *scene) {
			s.pod.Spec.Affinity = averse("rack")
			s.pod.Spec.Affinity.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution[0].LabelSelector = &metav1.LabelSelector{
				MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "app", Operator: "Near"}}}
		}, "its pod anti-affinity"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			a := draw(row.change)
			require.NotEmpty(t, a.Unevaluated)
			require.Contains(t, a.Unevaluated[0], "pod shop/web-1")
			require.Contains(t, a.Unevaluated[0], row.why)
		})
	}
}

func TestBudgets(t *testing.T) {
	t.Parallel()
	budget := func(name string, allowed int32) policyv1.PodDisruptionBudget {
		return policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name},
			Spec:   policyv1.PodDisruptionBudgetSpec{Selector: web(), MinAvailable: new(intstr.FromInt32(2))},
			Status: policyv1.PodDisruptionBudgetStatus{DisruptionsAllowed: allowed, CurrentHealthy: 1, DesiredHealthy: 2}}
	}
	sick := func(s *scene) { s.pod.Status.Conditions[0].Status = corev1.ConditionFalse }
	for _, row := range []struct {
		name    string
		change  func(*scene)
		blocked bool
	}{
		{"one that allows", func(s *scene) { s.w.Budgets = []policyv1.PodDisruptionBudget{budget("a", 1)} }, false},
		{"one that does not", func(s *scene) { s.w.Budgets = []policyv1.PodDisruptionBudget{budget("a", 0)} }, true},
		{"two", func(s *scene) { s.w.Budgets = []policyv1.PodDisruptionBudget{budget("a", 1), budget("b", 1)} }, true},
		{"one of others", func(s *scene) {
			s.w.Budgets = []policyv1.PodDisruptionBudget{budget("a", 0)}
			s.w.Budgets[0].Namespace = "stock"
		}, false},
		{"one that has not caught up", func(s *scene) {
			s.w.Budgets = []policyv1.PodDisruptionBudget{budget("a", 1)}
			s.w.Budgets[0].Generation = 2
		}, true},
		{"an unhealthy pod counts", func(s *scene) { s.w.Budgets = []policyv1.PodDisruptionBudget{budget("a", 0)}; sick(s) }, true},
		{"an unhealthy pod of an otherwise healthy set", func(s *scene) {
			s.w.Budgets = []policyv1.PodDisruptionBudget{budget("a", 0)}
			s.w.Budgets[0].Status.CurrentHealthy = 2
			sick(s)
		}, false},
		{"unhealthy pods may always go", func(s *scene) {
			s.w.Budgets = []policyv1.PodDisruptionBudget{budget("a", 0)}
			s.w.Budgets[0].Spec.UnhealthyPodEvictionPolicy = new(policyv1.AlwaysAllow)
			sick(s)
		}, false},
		{"a pod that waits", func(s *scene) {
			s.w.Budgets = []policyv1.PodDisruptionBudget{budget("a", 0)}
			s.pod.Status.Phase = corev1.PodPending
		}, false},
		{"deleting one that serves", func(s *scene) {
			s.w.Budgets, s.q.Deletes = []policyv1.PodDisruptionBudget{budget("a", 0)}, true
		}, true},
		{"deleting one that does not", func(s *scene) {
			s.w.Budgets, s.q.Deletes = []policyv1.PodDisruptionBudget{budget("a", 0)}, true
			sick(s)
		}, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			a := draw(row.change)
			require.Equal(t, 1, a.Placed)
			require.Equal(t, row.blocked, len(a.Blocked) > 0, "%v", a.Blocked)
		})
	}
}
