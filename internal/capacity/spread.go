package capacity

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// spread is a topology spread constraint with DoNotSchedule.
type spread struct {
	key                 string
	maxSkew, minDomains int
	selector            labels.Selector
	affinity, taints    bool // nodes that the pod's affinity or tolerations rule out are left out
}

func spreads(pod *corev1.Pod) ([]spread, error) {
	var out []spread
	for i := range pod.Spec.TopologySpreadConstraints {
		c := &pod.Spec.TopologySpreadConstraints[i]
		if c.WhenUnsatisfiable != corev1.DoNotSchedule {
			continue
		}
		selector, err := metav1.LabelSelectorAsSelector(c.LabelSelector)
		if err != nil {
			return nil, err
		}
		// A selector of nothing stays one: the keys narrow, they do not widen.
		if _, selectable := selector.Requirements(); selectable {
			same := labels.Set{}
			for _, k := range c.MatchLabelKeys {
				if v, ok := pod.Labels[k]; ok {
					same[k] = v
				}
			}
			if len(same) > 0 {
				more, _ := labels.SelectorFromSet(same).Requirements()
				selector = selector.Add(more...)
			}
		}
		s := spread{key: c.TopologyKey, maxSkew: int(c.MaxSkew), minDomains: 1, selector: selector, affinity: true}
		if c.MinDomains != nil {
			s.minDomains = int(*c.MinDomains)
		}
		if c.NodeAffinityPolicy != nil {
			s.affinity = *c.NodeAffinityPolicy == corev1.NodeInclusionPolicyHonor
		}
		if c.NodeTaintsPolicy != nil {
			s.taints = *c.NodeTaintsPolicy == corev1.NodeInclusionPolicyHonor
		}
		out = append(out, s)
	}
	return out, nil
}

// domains counts the matching pods of every domain of each constraint, over all
// nodes that count, not only those that could take the pod.
func (c *cluster) domains(in *info) []map[string]int {
	out := make([]map[string]int, len(in.spread))
	for i := range out {
		out[i] = map[string]int{}
	}
	for _, n := range c.nodes {
		if !labelled(n.node, in.spread) {
			continue
		}
		for i := range in.spread {
			s := &in.spread[i]
			if s.affinity && !in.wants(n.node) || s.taints && in.repelled(n.node) != nil {
				continue
			}
			out[i][n.node.Labels[s.key]] += n.count(in.pod.Namespace, s.selector)
		}
	}
	return out
}

func labelled(n *corev1.Node, list []spread) bool {
	for i := range list {
		if _, ok := n.Labels[list[i].key]; !ok {
			return false
		}
	}
	return true
}

// count counts the live pods of a namespace that a selector means; a selector of
// everything counts nothing, as in the scheduler.
func (n *node) count(namespace string, selector labels.Selector) int {
	if selector.Empty() {
		return 0
	}
	out := 0
	for _, p := range n.pods {
		if p.pod.DeletionTimestamp == nil && p.pod.Namespace == namespace && selector.Matches(labels.Set(p.pod.Labels)) {
			out++
		}
	}
	return out
}

// spreads reports whether the pod on this node would keep every constraint.
func (f *filter) spreads(n *corev1.Node) bool {
	for i := range f.in.spread {
		s := &f.in.spread[i]
		domain, ok := n.Labels[s.key]
		if !ok {
			return false
		}
		least, first := 0, true
		for _, count := range f.domains[i] {
			if first || count < least {
				least, first = count, false
			}
		}
		if len(f.domains[i]) < s.minDomains {
			least = 0
		}
		self := 0
		if s.selector.Matches(labels.Set(f.in.pod.Labels)) {
			self = 1
		}
		if f.domains[i][domain]+self-least > s.maxSkew {
			return false
		}
	}
	return true
}
