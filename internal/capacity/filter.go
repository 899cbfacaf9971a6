package capacity

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// filter answers for one pod which nodes could take it, as things stand.
type filter struct {
	c       *cluster
	in      *info
	vol     *volumes
	domains []map[string]int
	// attract counts, by topology key and value, the pods that match all terms of
	// affinity; repel those that match a term of anti-affinity, of either side.
	attract, repel map[pair]int
}

type pair struct{ key, value string }

func (c *cluster) filter(in *info, vol *volumes) *filter {
	f := &filter{c: c, in: in, vol: vol, attract: map[pair]int{}, repel: map[pair]int{}}
	if len(in.spread) > 0 {
		f.domains = c.domains(in)
	}
	for _, p := range c.repelling {
		for i := range p.in.anti {
			t := &p.in.anti[i]
			if v, ok := p.on.node.Labels[t.key]; ok && t.matches(in.pod, c.world.Namespaces, true) {
				f.repel[pair{t.key, v}]++
			}
		}
	}
	if len(in.affinity) == 0 && len(in.anti) == 0 {
		return f
	}
	for _, n := range c.nodes {
		for _, other := range n.pods {
			if len(in.affinity) > 0 && f.matchesAll(other.pod) {
				for i := range in.affinity {
					if v, ok := n.node.Labels[in.affinity[i].key]; ok {
						f.attract[pair{in.affinity[i].key, v}]++
					}
				}
			}
			for i := range in.anti {
				t := &in.anti[i]
				if v, ok := n.node.Labels[t.key]; ok && t.matches(other.pod, c.world.Namespaces, true) {
					f.repel[pair{t.key, v}]++
				}
			}
		}
	}
	return f
}

func (f *filter) matchesAll(pod *corev1.Pod) bool {
	for i := range f.in.affinity {
		if !f.in.affinity[i].matches(pod, f.c.world.Namespaces, false) {
			return false
		}
	}
	return true
}

// refuses says why the node cannot take the pod, "" when it can. The order is
// that of how much a reader can do about it.
func (f *filter) refuses(n *node) string {
	node, in := n.node, f.in
	switch taint := in.repelled(node); {
	case n.away != "":
		return n.away
	case !ready(node) && !ofDaemonSet(in.pod):
		return "not ready"
	case node.Spec.Unschedulable && !in.tolerates(corev1.Taint{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule}):
		return "cordoned"
	case !in.wants(node):
		return "node selector or affinity does not match"
	case taint != nil:
		return "taint " + taint.ToString()
	}
	if name := f.lacks(n); name != "" {
		return "not enough " + string(name)
	}
	for _, other := range n.pods {
		for _, p := range in.ports {
			if slices.ContainsFunc(other.ports, p.conflicts) {
				return fmt.Sprintf("host port %d is taken", p.number)
			}
		}
	}
	switch {
	case !f.attracts(node):
		return "pod affinity does not hold"
	case f.repels(node):
		return "pod anti-affinity does not hold"
	case !f.spreads(node):
		return "topology spread does not hold"
	}
	return f.vol.refuses(f.c, n)
}

func ofDaemonSet(pod *corev1.Pod) bool {
	owner := metav1.GetControllerOf(pod)
	return owner != nil && owner.Kind == "DaemonSet"
}

// lacks is a resource of which the node has too little left.
func (f *filter) lacks(n *node) corev1.ResourceName {
	if int64(len(n.pods))+1 > amount(n.node.Status.Allocatable, corev1.ResourcePods) {
		return corev1.ResourcePods
	}
	var out []corev1.ResourceName
	for name, want := range f.in.requests {
		if want > amount(n.node.Status.Allocatable, name)-n.used[name] {
			out = append(out, name)
		}
	}
	if len(out) == 0 {
		return ""
	}
	return slices.Min(out)
}

// attracts tells whether every term of affinity finds a matching pod in the
// node's domain, or the pod is the first of those that seek each other.
func (f *filter) attracts(n *corev1.Node) bool {
	found := true
	for i := range f.in.affinity {
		v, ok := n.Labels[f.in.affinity[i].key]
		if !ok {
			return false
		}
		found = found && f.attract[pair{f.in.affinity[i].key, v}] > 0
	}
	return found || len(f.attract) == 0 && f.matchesAll(f.in.pod)
}

func (f *filter) repels(n *corev1.Node) bool {
	if len(f.repel) == 0 {
		return false
	}
	for k, v := range n.Labels {
		if f.repel[pair{k, v}] > 0 {
			return true
		}
	}
	return false
}

// best is the node that takes the pod and has the most room left, by name where
// they are equal, or nil and the reasons, most frequent first.
func (f *filter) best() (*node, string) {
	var out *node
	why := map[string]int{}
	for _, n := range f.c.nodes {
		if reason := f.refuses(n); reason != "" {
			why[reason]++
			continue
		}
		if out == nil || n.free() > out.free() {
			out = n
		}
	}
	if out != nil {
		return out, ""
	}
	return nil, summary(why)
}

func summary(why map[string]int) string {
	if len(why) == 0 {
		return "there is no node"
	}
	reasons := make([]string, 0, len(why))
	for r := range why {
		reasons = append(reasons, r)
	}
	slices.SortFunc(reasons, func(a, b string) int { return cmp.Or(cmp.Compare(why[b], why[a]), cmp.Compare(a, b)) })
	for i, r := range reasons {
		reasons[i] = fmt.Sprintf("%s (%d nodes)", r, why[r])
		if why[r] == 1 {
			reasons[i] = r + " (1 node)"
		}
	}
	return strings.Join(reasons, ", ")
}
