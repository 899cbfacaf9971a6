package capacity

import (
	"cmp"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"

	scheduling "k8s.io/component-helpers/scheduling/corev1"
)

// cluster is the state that placements are tried on.
type cluster struct {
	world World
	nodes []*node // by name
	// repelling are the pods on nodes that have required anti-affinity.
	repelling []placed
	drivers   map[string]map[string]int // node -> CSI driver -> volumes that it may attach, -1 without a limit
}

type node struct {
	node *corev1.Node
	pods []*info
	used map[corev1.ResourceName]int64
	// away says why the node takes nothing that is displaced, "" when it does.
	away string
}

type placed struct {
	in *info
	on *node
}

// build prepares the nodes and what runs on them. Pods for which leaves is true
// are left out, or stay on as terminating ones where ghost is true.
func build(w World, without string, leaves, ghost func(*corev1.Pod) bool) (*cluster, []string) {
	c := &cluster{world: w}
	byName := make(map[string]*node, len(w.Nodes))
	for i := range w.Nodes {
		n := &node{node: &w.Nodes[i], used: map[corev1.ResourceName]int64{}}
		switch {
		case n.node.Name == without:
			n.node, n.away = cordoned(n.node), "is the one that is emptied"
		case n.node.DeletionTimestamp != nil:
			n.away = "is being deleted"
		}
		byName[n.node.Name] = n
		c.nodes = append(c.nodes, n)
	}
	slices.SortFunc(c.nodes, func(a, b *node) int { return cmp.Compare(a.node.Name, b.node.Name) })
	var broken []string
	for i := range w.Pods {
		pod := &w.Pods[i]
		n, ok := byName[pod.Spec.NodeName]
		if !ok || ended(pod) {
			continue
		}
		if leaves(pod) {
			if !ghost(pod) {
				continue
			}
			gone := *pod
			now := pod.CreationTimestamp
			gone.DeletionTimestamp = &now
			pod = &gone
		}
		in, err := parse(pod)
		if err != nil {
			broken = append(broken, "pod "+key(pod)+": "+err.Error())
			continue
		}
		c.add(in, n)
	}
	if w.Drivers != nil {
		c.drivers = map[string]map[string]int{}
		for i := range w.Drivers {
			limits := map[string]int{}
			for _, d := range w.Drivers[i].Spec.Drivers {
				limits[d.Name] = -1
				if d.Allocatable != nil && d.Allocatable.Count != nil {
					limits[d.Name] = int(*d.Allocatable.Count)
				}
			}
			c.drivers[w.Drivers[i].Name] = limits
		}
	}
	return c, broken
}

// cordoned is the node as it is once it is cordoned: the taint follows.
func cordoned(n *corev1.Node) *corev1.Node {
	out := n.DeepCopy()
	out.Spec.Unschedulable = true
	taint := corev1.Taint{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule}
	if !slices.ContainsFunc(out.Spec.Taints, func(t corev1.Taint) bool { return t.MatchTaint(&taint) }) {
		out.Spec.Taints = append(out.Spec.Taints, taint)
	}
	return out
}

func (c *cluster) add(in *info, n *node) {
	n.pods = append(n.pods, in)
	for name, q := range in.requests {
		n.used[name] += q
	}
	if len(in.anti) > 0 {
		c.repelling = append(c.repelling, placed{in, n})
	}
}

// free is the share of the node's CPU and memory that is not asked for: the
// default scheduler prefers the node with the most of it.
func (n *node) free() float64 {
	var sum float64
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
		if total := amount(n.node.Status.Allocatable, name); total > 0 {
			sum += 1 - float64(n.used[name])/float64(total)
		}
	}
	return sum
}

func ready(n *corev1.Node) bool {
	return slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
}

func (i *info) wants(n *corev1.Node) bool {
	ok, err := i.required.Match(n)
	return ok && err == nil
}

// repelled is a taint of the node that the pod does not tolerate, nil if none.
// Tolerations that compare numbers are a gate of the API server that may be
// closed: they count as none.
func (i *info) repelled(n *corev1.Node) *corev1.Taint {
	taint, found := scheduling.FindMatchingUntoleratedTaint(klog.Logger{}, n.Spec.Taints, i.pod.Spec.Tolerations, func(t *corev1.Taint) bool {
		return t.Effect == corev1.TaintEffectNoSchedule || t.Effect == corev1.TaintEffectNoExecute
	}, false)
	if !found {
		return nil
	}
	return &taint
}

func (i *info) tolerates(taint corev1.Taint) bool {
	return scheduling.TolerationsTolerateTaint(klog.Logger{}, i.pod.Spec.Tolerations, &taint, false)
}
