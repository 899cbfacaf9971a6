package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/alertmedic/alertmedic/internal/capacity"
	"github.com/alertmedic/alertmedic/internal/testcluster"
)

const (
	comparedNodes = 12
	diskKey       = "capacity-test/disk"
	sizeKey       = "capacity-test/size"
	gpu           = "example.com/gpu"
)

// comparison is a set of nodes that only its pods can use, and what runs there.
type comparison struct {
	*world
	set    string
	spaces []string
	state  capacity.World
	r      *rand.Rand
}

// TestSchedulerAgrees creates random pods one after another and compares, for
// each, whether the real scheduler finds a node with whether this service does;
// the node that the scheduler took must be one of those that fit.
func TestSchedulerAgrees(t *testing.T) {
	t.Parallel()
	rounds, pods := 2, 250
	switch {
	case os.Getenv("ALERTMEDIC_SOAK") != "":
		rounds, pods = 8, 600
	case testing.Short():
		pods = 60
	}
	for seed := range rounds {
		t.Run(fmt.Sprintf("seed-%d", seed), func(t *testing.T) {
			t.Parallel()
			c := newComparison(t, uint64(seed)+1)
			bound, refused := 0, map[string]int{}
			for n := range pods {
				pod, err := c.api.CoreV1().Pods(c.spaces[c.r.IntN(2)]).Create(testContext(t), c.pod(n), metav1.CreateOptions{})
				require.NoError(t, err)
				nodes, why, unknown := capacity.Fits(c.state, pod)
				require.Empty(t, unknown)
				settled, message := c.settled(t, pod)
				if message == "" {
					require.Containsf(t, nodes, settled.Spec.NodeName, "the scheduler took a node that does not fit (%s)\n%s", why, show(pod))
					c.state.Pods = append(c.state.Pods, *settled)
					bound++
					continue
				}
				require.Emptyf(t, nodes, "nodes fit, and the scheduler says: %s\n%s", message, show(pod))
				refused[why]++
				require.NoError(t, c.api.CoreV1().Pods(pod.Namespace).Delete(testContext(t), pod.Name, metav1.DeleteOptions{GracePeriodSeconds: new(int64(0))}))
			}
			t.Logf("%d of %d pods were bound; the others fit nowhere for %d different reasons", bound, pods, len(refused))
			if !testing.Short() {
				require.Greater(t, bound, pods/4, "too few were bound to compare anything")
				require.Greater(t, pods-bound, pods/8, "too few were refused to compare anything")
			}
		})
	}
}

func newComparison(t *testing.T, seed uint64) *comparison {
	t.Helper()
	w := newWorld(t)
	c := &comparison{world: w, set: w.ns, spaces: []string{w.ns, w.Namespace(t)}, r: rand.New(rand.NewPCG(seed, 4))}
	for i := range comparedNodes {
		o := testcluster.NodeOptions{
			Name:   fmt.Sprintf("%s-%d", c.set, i),
			Labels: map[string]string{testcluster.OwnerLabel: c.set, sizeKey: fmt.Sprint(i), diskKey: []string{"ssd", "hdd", "none"}[i%3]},
			Capacity: corev1.ResourceList{
				corev1.ResourceCPU: resource.MustParse("6"), corev1.ResourceMemory: resource.MustParse("12Gi"),
				corev1.ResourcePods: resource.MustParse(fmt.Sprint(15 + 3*i)), gpu: resource.MustParse(fmt.Sprint(i % 3)),
			},
		}
		if i > 0 { // one node is in no rack
			o.Labels[c.rack()] = c.own("r%d", i%4)
		}
		switch i {
		case 2, 5:
			o.Taints = []corev1.Taint{{Key: "special", Value: "yes", Effect: corev1.TaintEffectNoSchedule}}
		case 7:
			o.Taints = []corev1.Taint{{Key: "hot", Effect: corev1.TaintEffectNoExecute}}
		case 8:
			o.Taints = []corev1.Taint{{Key: "rather-not", Effect: corev1.TaintEffectPreferNoSchedule}}
		}
		c.Node(t, o)
	}
	cordoned := fmt.Sprintf("%s-%d", c.set, 9)
	_, err := c.api.CoreV1().Nodes().Patch(testContext(t), cordoned, types.MergePatchType, []byte(`{"spec":{"unschedulable":true}}`), metav1.PatchOptions{})
	require.NoError(t, err)
	require.NoError(t, c.WaitNode(testContext(t), cordoned, func(n *corev1.Node) bool {
		for _, taint := range n.Spec.Taints {
			if taint.Key == corev1.TaintNodeUnschedulable {
				return true
			}
		}
		return false
	}))
	nodes, err := c.api.CoreV1().Nodes().List(testContext(t), metav1.ListOptions{LabelSelector: testcluster.OwnerLabel + "=" + c.set})
	require.NoError(t, err)
	require.Len(t, nodes.Items, comparedNodes)
	c.state.Nodes = nodes.Items
	c.state.Namespaces = map[string]map[string]string{}
	for _, ns := range c.spaces {
		object, err := c.api.CoreV1().Namespaces().Get(testContext(t), ns, metav1.GetOptions{})
		require.NoError(t, err)
		c.state.Namespaces[ns] = object.Labels
	}
	return c
}

// settled waits until the scheduler has decided; the message is its refusal.
func (c *comparison) settled(t *testing.T, pod *corev1.Pod) (settled *corev1.Pod, message string) {
	t.Helper()
	c.eventually(t, func(ctx context.Context) (bool, error) {
		p, err := c.api.CoreV1().Pods(pod.Namespace).Get(ctx, pod.Name, metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		settled = p
		for _, cond := range p.Status.Conditions {
			if cond.Type == corev1.PodScheduled && cond.Status == corev1.ConditionFalse && cond.Reason == corev1.PodReasonUnschedulable {
				message = cond.Message
			}
		}
		return p.Spec.NodeName != "" || message != "", nil
	})
	return settled, message
}

// rack is a label that no other comparison's nodes have: a constraint may count
// the domains of nodes that the pod cannot run on.
func (c *comparison) rack() string { return "capacity-test/rack-" + c.set[len(c.set)-8:] }

// own makes a value that no other comparison has: terms may mean the pods of all
// namespaces.
func (c *comparison) own(format string, args ...any) string {
	return fmt.Sprintf(format, args...) + "." + c.set[len(c.set)-8:]
}

func show(pod *corev1.Pod) string {
	out, err := json.Marshal(pod.Spec)
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%v %s", pod.Labels, out)
}

func (c *comparison) odds(percent int) bool { return c.r.IntN(100) < percent }

func pick[T any](c *comparison, of ...T) T { return of[c.r.IntN(len(of))] }

// pod is a random pod for the nodes of the set.
func (c *comparison) pod(n int) *corev1.Pod {
	app := c.own("app-%d", c.r.IntN(15))
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("p%d", n), Labels: map[string]string{"app": app, "rev": pick(c, "1", "2")}},
		Spec: corev1.PodSpec{
			TerminationGracePeriodSeconds: new(int64(0)),
			Containers:                    []corev1.Container{{Name: "app", Image: "shop/app:1"}},
		},
	}
	testcluster.OnNode(&p.Spec, c.set)
	requests := corev1.ResourceList{}
	if c.odds(85) {
		requests[corev1.ResourceCPU] = resource.MustParse(pick(c, "20m", "20m", "50m", "50m", "100m", "150m", "300m", "700m", "3", "7"))
	}
	if c.odds(60) {
		requests[corev1.ResourceMemory] = resource.MustParse(pick(c, "64Mi", "200M", "256Mi", "1Gi", "4Gi"))
	}
	p.Spec.Containers[0].Resources.Requests = requests
	if c.odds(7) {
		p.Spec.Containers[0].Resources.Limits = corev1.ResourceList{gpu: resource.MustParse(pick(c, "1", "2", "3"))}
	}
	if c.odds(15) {
		init := corev1.Container{Name: "init", Image: "shop/init:1", Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{
			corev1.ResourceCPU: resource.MustParse(pick(c, "100m", "1", "4"))}}}
		if c.odds(50) {
			init.RestartPolicy = new(corev1.ContainerRestartPolicyAlways)
		}
		p.Spec.InitContainers = []corev1.Container{init}
	}
	if c.odds(10) {
		p.Spec.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: 80, HostPort: int32(9000 + c.r.IntN(3)),
			HostIP: pick(c, "", "127.0.0.1", "10.0.0.1"), Protocol: pick(c, corev1.ProtocolTCP, corev1.ProtocolUDP)}}
	}
	if c.odds(12) {
		p.Spec.NodeSelector[diskKey] = pick(c, "ssd", "hdd", "tape")
	}
	if c.odds(45) { // a pod for one node tells whether that very node fits, not only whether any does
		p.Spec.NodeSelector[sizeKey] = fmt.Sprint(c.r.IntN(comparedNodes))
	}
	if c.odds(35) {
		p.Spec.Tolerations = append(p.Spec.Tolerations, pick(c,
			corev1.Toleration{Key: "special", Operator: corev1.TolerationOpExists},
			corev1.Toleration{Key: "special", Value: "no"},
			corev1.Toleration{Key: "hot", Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute},
			corev1.Toleration{Key: corev1.TaintNodeUnschedulable, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule},
			corev1.Toleration{Operator: corev1.TolerationOpExists}))
	}
	p.Spec.Affinity = c.affinity(app)
	for range c.r.IntN(6) / 4 * (1 + c.r.IntN(2)) {
		p.Spec.TopologySpreadConstraints = append(p.Spec.TopologySpreadConstraints, c.spread(p))
	}
	return p
}

func (c *comparison) affinity(app string) *corev1.Affinity {
	out := &corev1.Affinity{}
	if c.odds(12) {
		out.NodeAffinity = &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{
			{MatchExpressions: []corev1.NodeSelectorRequirement{pick(c,
				corev1.NodeSelectorRequirement{Key: c.rack(), Operator: corev1.NodeSelectorOpIn, Values: []string{c.own("r1"), c.own("r2")}},
				corev1.NodeSelectorRequirement{Key: c.rack(), Operator: corev1.NodeSelectorOpNotIn, Values: []string{c.own("r1"), c.own("r2")}},
				corev1.NodeSelectorRequirement{Key: c.rack(), Operator: corev1.NodeSelectorOpDoesNotExist},
				corev1.NodeSelectorRequirement{Key: sizeKey, Operator: corev1.NodeSelectorOpGt, Values: []string{"8"}})}},
			{MatchFields: []corev1.NodeSelectorRequirement{{Key: "metadata.name", Operator: corev1.NodeSelectorOpIn, Values: []string{c.set + "-3"}}}},
		}}}
	}
	if c.odds(8) {
		out.PodAffinity = &corev1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: c.terms(app)}
	}
	if c.odds(15) {
		out.PodAntiAffinity = &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: c.terms(app)}
	}
	return out
}

func (c *comparison) terms(app string) []corev1.PodAffinityTerm {
	var out []corev1.PodAffinityTerm
	for range 1 + c.r.IntN(6)/5 {
		term := corev1.PodAffinityTerm{
			TopologyKey:   pick(c, corev1.LabelHostname, corev1.LabelHostname, c.rack()),
			LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": pick(c, app, app, c.own("app-%d", c.r.IntN(17)))}},
		}
		switch c.r.IntN(6) {
		case 0:
			term.Namespaces = []string{c.spaces[0]}
		case 1:
			term.NamespaceSelector = &metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelMetadataName: c.spaces[1]}}
		case 2:
			term.NamespaceSelector = &metav1.LabelSelector{}
		case 3:
			term.MatchLabelKeys = []string{"rev"}
		case 4:
			term.MismatchLabelKeys = []string{"rev"}
		}
		out = append(out, term)
	}
	return out
}

func (c *comparison) spread(p *corev1.Pod) corev1.TopologySpreadConstraint {
	s := corev1.TopologySpreadConstraint{
		MaxSkew: int32(1 + c.r.IntN(2)), TopologyKey: c.rack(), WhenUnsatisfiable: corev1.DoNotSchedule,
		LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": p.Labels["app"]}},
	}
	if len(p.Spec.TopologySpreadConstraints) > 0 {
		s.TopologyKey = corev1.LabelHostname // over the nodes of the set alone: the default policy honours the node selector
		return s
	}
	if c.odds(40) {
		s.NodeTaintsPolicy = new(pick(c, corev1.NodeInclusionPolicyHonor, corev1.NodeInclusionPolicyIgnore))
		s.NodeAffinityPolicy = new(pick(c, corev1.NodeInclusionPolicyHonor, corev1.NodeInclusionPolicyIgnore))
	}
	if c.odds(25) {
		s.MinDomains = new(int32(1 + c.r.IntN(6)))
	}
	if c.odds(40) {
		s.MatchLabelKeys = []string{"rev"}
	}
	if c.odds(15) {
		s.LabelSelector = &metav1.LabelSelector{}
	}
	return s
}
