package capacity

import (
	"cmp"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// maxWaiting bounds how many pods may wait for a place before the question is
// given up: with that many nobody can tell what is left for others.
const maxWaiting = 1000

// Place tells whether the displaced pods find places. They are placed twice, the
// big ones first and the small ones first, each where the scheduler would rather
// put it, because nobody knows the order in which they come back; a pod counts as
// placed only if both times there was a node for it.
func Place(w World, q Question) Answer {
	var out Answer
	leaves := map[types.UID]bool{}
	for i := range q.Pods {
		leaves[q.Pods[i].UID] = true
	}
	var small []*info
	named := map[string]*info{}
	for i := range q.Pods {
		pod := &q.Pods[i]
		if ended(pod) {
			continue
		}
		out.Displaced++
		in, err := parse(pod)
		if err != nil {
			out.Unevaluated = append(out.Unevaluated, "pod "+key(pod)+": "+err.Error())
			continue
		}
		named[key(pod)] = in
		small = append(small, in)
	}
	out.Blocked = blocked(w.Budgets, q)
	slices.SortFunc(small, bySize)
	big := slices.Clone(small)
	slices.Reverse(big)
	fits := map[string]int{}
	for _, order := range [][]*info{big, small} {
		out.Places = map[string]string{}
		c, broken := build(w, q.Without, func(p *corev1.Pod) bool { return leaves[p.UID] }, stays(w))
		c.seatWaiting(leaves, &broken)
		out.Unevaluated = append(out.Unevaluated, broken...)
		for _, in := range order {
			name := key(in.pod)
			vol, unknown := c.volumes(in.pod)
			for _, u := range append(in.unevaluated(w.Namespaces), unknown...) {
				out.Unevaluated = append(out.Unevaluated, "pod "+name+" "+u)
			}
			n, why := c.filter(in, vol).best()
			if n == nil {
				out.Unplaced = append(out.Unplaced, "pod "+name+": "+why)
				continue
			}
			c.add(in, n)
			out.Places[name] = n.node.Name
			fits[name]++
		}
	}
	for name := range named {
		if fits[name] == 2 {
			out.Placed++
		} else {
			delete(out.Places, name)
		}
	}
	out.Unplaced, out.Unevaluated = firstOfEach(out.Unplaced), firstOfEach(out.Unevaluated)
	return out
}

// Fits are the names of the nodes that would take a new pod as things stand, or
// why none would, and what of its constraints could not be evaluated.
func Fits(w World, pod *corev1.Pod) (nodes []string, why string, unevaluated []string) {
	nobody := func(*corev1.Pod) bool { return false }
	c, broken := build(w, "", nobody, nobody)
	in, err := parse(pod)
	if err != nil {
		return nil, "", append(broken, err.Error())
	}
	vol, unknown := c.volumes(pod)
	unevaluated = append(append(broken, in.unevaluated(w.Namespaces)...), unknown...)
	f := c.filter(in, vol)
	for _, n := range c.nodes {
		if f.refuses(n) == "" {
			nodes = append(nodes, n.node.Name)
		}
	}
	if len(nodes) == 0 {
		_, why = f.best()
	}
	return nodes, why, unevaluated
}

// stays tells displaced pods that never finish: nobody confirms their end on a
// node that does not answer, and until then the scheduler counts them.
func stays(w World) func(*corev1.Pod) bool {
	dead := map[string]bool{}
	for i := range w.Nodes {
		dead[w.Nodes[i].Name] = !ready(&w.Nodes[i])
	}
	return func(p *corev1.Pod) bool { return dead[p.Spec.NodeName] }
}

// seatWaiting gives the pods that wait for a place already what they would take:
// they may well come first. One that fits nowhere takes nothing.
func (c *cluster) seatWaiting(leaves map[types.UID]bool, broken *[]string) {
	var waiting []*info
	for i := range c.world.Pods {
		p := &c.world.Pods[i]
		if p.Spec.NodeName != "" || ended(p) || p.DeletionTimestamp != nil || leaves[p.UID] || len(p.Spec.SchedulingGates) > 0 {
			continue
		}
		in, err := parse(p)
		if err != nil {
			continue // the scheduler cannot place it either
		}
		waiting = append(waiting, in)
	}
	if len(waiting) > maxWaiting {
		*broken = append(*broken, fmt.Sprintf("%d pods wait for a place already", len(waiting)))
		return
	}
	slices.SortFunc(waiting, bySize)
	for _, in := range slices.Backward(waiting) {
		if n, _ := c.filter(in, nil).best(); n != nil {
			c.add(in, n)
		}
	}
}

// bySize orders by CPU, then memory, then name: the order of the input must not
// matter.
func bySize(a, b *info) int {
	return cmp.Or(
		cmp.Compare(a.requests[corev1.ResourceCPU], b.requests[corev1.ResourceCPU]),
		cmp.Compare(a.requests[corev1.ResourceMemory], b.requests[corev1.ResourceMemory]),
		cmp.Compare(key(a.pod), key(b.pod)))
}

func firstOfEach(list []string) []string {
	slices.Sort(list)
	return slices.Compact(list)
}
