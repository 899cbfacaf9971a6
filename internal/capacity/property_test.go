package capacity

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"
)

// situation is a cluster of which a node is emptied. Topology spread is left out
// where more nodes may be worse: a new, empty domain is one more to keep up with.
func situation(t *rapid.T, spread bool) (World, Question) {
	w, q := World{Namespaces: map[string]map[string]string{}}, Question{Without: "n0"}
	for i := range rapid.IntRange(1, 6).Draw(t, "nodes") {
		n := aNode(i)
		n.Labels["rack"] = fmt.Sprintf("r%d", i%3)
		n.Status.Allocatable[corev1.ResourceCPU] = *resource.NewQuantity(int64(rapid.IntRange(1, 6).Draw(t, "cores")), resource.DecimalSI)
		n.Spec.Unschedulable = rapid.IntRange(0, 9).Draw(t, "cordon") == 0
		w.Nodes = append(w.Nodes, n)
	}
	for i := range rapid.IntRange(1, 14).Draw(t, "pods") {
		p := aPod(fmt.Sprintf("p%02d", i), w.Nodes[rapid.IntRange(0, len(w.Nodes)-1).Draw(t, "on")].Name)
		p.Labels["app"] = rapid.SampledFrom([]string{"web", "db"}).Draw(t, "app")
		asks(&p, corev1.ResourceCPU, fmt.Sprintf("%dm", 100*rapid.IntRange(0, 25).Draw(t, "cpu")))
		key := rapid.SampledFrom([]string{"rack", corev1.LabelHostname}).Draw(t, "key")
		switch rapid.IntRange(0, 9).Draw(t, "constraint") {
		case 0:
			p.Spec.Affinity = affine(key)
		case 1:
			p.Spec.Affinity = averse(key)
		case 2:
			p.Spec.NodeSelector = map[string]string{"rack": "r1"}
		case 3:
			if spread {
				p.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{MaxSkew: 1, TopologyKey: key, WhenUnsatisfiable: corev1.DoNotSchedule, LabelSelector: web()}}
			}
		}
		w.Pods = append(w.Pods, p)
		if p.Spec.NodeName == "n0" {
			q.Pods = append(q.Pods, p)
		}
	}
	return w, q
}

// The order in which the API server lists things decides nothing.
func TestOrderDoesNotMatter(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		w, q := situation(t, true)
		r := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
		w2, q2 := w, q
		w2.Nodes, w2.Pods, q2.Pods = slices.Clone(w.Nodes), slices.Clone(w.Pods), slices.Clone(q.Pods)
		r.Shuffle(len(w2.Nodes), func(i, j int) { w2.Nodes[i], w2.Nodes[j] = w2.Nodes[j], w2.Nodes[i] })
		r.Shuffle(len(w2.Pods), func(i, j int) { w2.Pods[i], w2.Pods[j] = w2.Pods[j], w2.Pods[i] })
		r.Shuffle(len(q2.Pods), func(i, j int) { q2.Pods[i], q2.Pods[j] = q2.Pods[j], q2.Pods[i] })
		require.Equal(t, Place(w, q), Place(w2, q2))
	})
}

// What is said to fit can stand together: no node has more than it can hold, no
// pod is on the node that is emptied or on a cordoned one, and none is next to
// one that it cannot bear.
func TestWhatFitsStandsTogether(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		w, q := situation(t, true)
		a := Place(w, q)
		require.Equal(t, len(q.Pods), a.Displaced)
		require.Equal(t, a.Placed, len(a.Places))
		require.Equal(t, a.Placed < a.Displaced, len(a.Unplaced) > 0)
		on := map[string][]corev1.Pod{}
		for _, p := range w.Pods {
			if p.Spec.NodeName == q.Without {
				p.Spec.NodeName = a.Places[key(&p)]
			} else {
				p.Labels["stayed"] = "yes"
			}
			on[p.Spec.NodeName] = append(on[p.Spec.NodeName], p)
		}
		require.Empty(t, on[q.Without])
		for _, n := range w.Nodes {
			var cpu, came int64
			for i, p := range on[n.Name] {
				cpu += p.Spec.Containers[0].Resources.Requests.Cpu().MilliValue()
				if p.Labels["stayed"] == "yes" {
					continue
				}
				came += p.Spec.Containers[0].Resources.Requests.Cpu().MilliValue()
				require.False(t, n.Spec.Unschedulable)
				if p.Spec.NodeSelector != nil {
					require.Equal(t, p.Spec.NodeSelector["rack"], n.Labels["rack"])
				}
				for j, other := range on[n.Name] {
					if i != j && other.Labels["app"] == "web" && p.Spec.Affinity != nil && p.Spec.Affinity.PodAntiAffinity != nil {
						t.Fatalf("%s is next to %s, which it cannot bear", p.Name, other.Name)
					}
					if i != j && p.Labels["app"] == "web" && other.Spec.Affinity != nil && other.Spec.Affinity.PodAntiAffinity != nil {
						t.Fatalf("%s cannot bear %s next to it", other.Name, p.Name)
					}
				}
			}
			if came > 0 { // one that asks for nothing may join those that have too little already
				require.LessOrEqual(t, cpu, n.Status.Allocatable.Cpu().MilliValue())
			}
		}
	})
}

// One more node takes nothing away from a pod, and one that shrinks, is cordoned
// or fails gives nothing.
func TestMoreRoomIsNeverWorse(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		w, _ := situation(t, false)
		pod := aPod("new", "")
		asks(&pod, corev1.ResourceCPU, fmt.Sprintf("%dm", 100*rapid.IntRange(0, 40).Draw(t, "new cpu")))
		if rapid.Bool().Draw(t, "averse") {
			pod.Spec.Affinity = averse("rack")
		}
		before, _, _ := Fits(w, &pod)

		more := w
		added := aNode(9)
		added.Labels["rack"] = rapid.SampledFrom([]string{"r1", "r9"}).Draw(t, "rack")
		more.Nodes = append(slices.Clone(w.Nodes), added)
		after, _, _ := Fits(more, &pod)
		require.Subset(t, after, before)

		less := w
		less.Nodes = slices.Clone(w.Nodes)
		n := &less.Nodes[rapid.IntRange(0, len(w.Nodes)-1).Draw(t, "less")]
		*n = *n.DeepCopy()
		switch rapid.IntRange(0, 3).Draw(t, "how") {
		case 0:
			n.Spec.Unschedulable = true
		case 1:
			n.Status.Conditions[0].Status = corev1.ConditionUnknown
		case 2:
			n.Status.Allocatable[corev1.ResourceCPU] = resource.MustParse("100m")
		case 3:
			n.DeletionTimestamp = new(metav1.Now())
		}
		after, _, _ = Fits(less, &pod)
		require.Subset(t, before, after)
	})
}

// Pods of one size fit as often as there is room for one, whatever the order.
func TestEqualPodsFillTheRoom(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		w, q, room := World{Nodes: []corev1.Node{aNode(0)}}, Question{Without: "n0"}, 0
		for i := range rapid.IntRange(0, 5).Draw(t, "nodes") {
			n := aNode(i + 1)
			cores := rapid.IntRange(0, 8).Draw(t, "cores")
			n.Status.Allocatable[corev1.ResourceCPU] = *resource.NewQuantity(int64(cores), resource.DecimalSI)
			room += cores / 2
			w.Nodes = append(w.Nodes, n)
		}
		for i := range rapid.IntRange(1, 10).Draw(t, "pods") {
			p := aPod(fmt.Sprintf("p%02d", i), "n0")
			asks(&p, corev1.ResourceCPU, "2")
			w.Pods, q.Pods = append(w.Pods, p), append(q.Pods, p)
		}
		require.Equal(t, room >= len(q.Pods), Place(w, q).Placed == len(q.Pods))
	})
}
