package node

import (
	"cmp"
	"context"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"

	"github.com/alertmedic/alertmedic/internal/action"
	"github.com/alertmedic/alertmedic/internal/kube"
	"github.com/alertmedic/alertmedic/k8sactions/contract"
	"github.com/alertmedic/alertmedic/k8sactions/pod"
)

// fate is what a drain does with a pod.
type fate string

const (
	evict     fate = "evict"
	daemonSet fate = "daemonset" // stays: its controller tolerates the cordon and would put it back
	mirror    fate = "mirror"    // stays: only the node's own kubelet can end it
	refused   fate = "refused"   // must not go unless the playbook says so
)

// fateOf decides about one pod. The order of the questions is that of `kubectl
// drain`; unlike its filters, which drop what they skip and keep one warning a
// pod, every pod gets an answer that can be reported.
func fateOf(p *corev1.Pod, params *DrainParams) (fate, string) {
	controller := metav1.GetControllerOf(p)
	switch {
	case pod.IsMirror(p):
		return mirror, "static pod of the node"
	case pod.Finished(p):
		return evict, "has ended"
	case controller != nil && controller.Kind == string(action.KindDaemonSet):
		return daemonSet, "belongs to DaemonSet " + controller.Name
	case controller == nil && !params.Force:
		return refused, "has no controller that would replace it; force: true takes it away all the same"
	case usesEmptyDir(p) && !params.DeleteEmptyDirData:
		return refused, "keeps data in an emptyDir volume; deleteEmptyDirData: true gives it up"
	}
	return evict, ""
}

func usesEmptyDir(p *corev1.Pod) bool {
	return slices.ContainsFunc(p.Spec.Volumes, func(v corev1.Volume) bool { return v.EmptyDir != nil })
}

// podsOn lists the pods bound to the node, ordered by name.
func podsOn(ctx context.Context, s contract.Session, node string) ([]corev1.Pod, error) {
	list, err := s.Typed().CoreV1().Pods(metav1.NamespaceAll).List(ctx, metav1.ListOptions{
		FieldSelector: fields.OneTermEqualSelector("spec.nodeName", node).String(),
	})
	if err != nil {
		return nil, kube.Classify(err, false)
	}
	slices.SortFunc(list.Items, func(a, b corev1.Pod) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	return list.Items, nil
}

func refOf(p *corev1.Pod) action.Ref {
	return action.Ref{Kind: action.KindPod, Namespace: p.Namespace, Name: p.Name, UID: string(p.UID)}
}
