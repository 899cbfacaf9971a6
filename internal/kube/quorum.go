package kube

import (
	"context"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/alertmedic/alertmedic/internal/action"
	"github.com/alertmedic/alertmedic/internal/guard"
)

// etcdPods selects the members of etcd where they run as static pods. A managed
// or external etcd cannot be seen, which leaves the quorum unknown.
const etcdPods = "component=etcd,tier=control-plane"

// controlPlaneMark names what marks a node as one of the control plane, "" when
// nothing does.
func controlPlaneMark(node *corev1.Node) string {
	for _, key := range controlPlaneKeys {
		if _, ok := node.Labels[key]; ok {
			return "label " + key
		}
		if slices.ContainsFunc(node.Spec.Taints, func(t corev1.Taint) bool { return t.Key == key }) {
			return "taint " + key
		}
	}
	return ""
}

// quorum counts the control plane, when the target is a node of it.
func (g *gathering) quorum(ctx context.Context, nodes []corev1.Node) *guard.ControlPlaneEvidence {
	target := slices.IndexFunc(nodes, func(n corev1.Node) bool { return n.Name == g.r.Target.Name })
	if target < 0 && !g.out.Target.Exists {
		return nil // positively gone
	}
	if target < 0 {
		// Gone since it was read: whether it was of the control plane is not known.
		g.out.Errors = append(g.out.Errors, "counting nodes: "+g.r.Target.String()+" is not among them")
		return nil
	}
	if controlPlaneMark(&nodes[target]) == "" {
		return nil
	}
	out := &guard.ControlPlaneEvidence{}
	for i := range nodes {
		if controlPlaneMark(&nodes[i]) == "" {
			continue
		}
		out.Total++
		if nodeCountsUnhealthy(&nodes[i]) {
			out.Unhealthy = append(out.Unhealthy, nodeKey(g.r.Target.Cluster, nodes[i].Name))
		}
	}
	slices.Sort(out.Unhealthy)
	pods, err := g.c.own.typed.CoreV1().Pods(metav1.NamespaceSystem).List(ctx, metav1.ListOptions{LabelSelector: etcdPods})
	if err != nil {
		g.fail("listing the members of etcd", err)
		return out
	}
	for i := range pods.Items {
		p := &pods.Items[i]
		out.EtcdTotal++
		if podAvailable(p) {
			out.EtcdReady++
			out.TargetEtcdReady = out.TargetEtcdReady || p.Spec.NodeName == g.r.Target.Name
		}
	}
	return out
}

func nodeKey(cluster, name string) string {
	return action.Target{Cluster: cluster, Ref: action.Ref{Kind: action.KindNode, Name: name}}.LockKey()
}
