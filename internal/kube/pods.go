package kube

import (
	"context"
	"fmt"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/alertmedic/alertmedic/internal/action"
	"github.com/alertmedic/alertmedic/internal/guard"
)

// podEvidence counts the pods of the workload at the top of the chain, as far as
// it could be read. A pod whose controller is not read counts with its siblings,
// one that nothing controls is a workload of its own.
func (g *gathering) podEvidence(ctx context.Context, owners chain, pod *unstructured.Unstructured) {
	workload, ok := owners.find(action.KindWorkload)
	if !ok {
		workload, ok = owners.find(action.KindJob)
	}
	if !ok {
		if pod == nil {
			g.out.Errors = append(g.out.Errors, "counting the pods of "+g.r.Target.String()+": no workload of its own kind was found")
			return
		}
		siblings, err := g.siblings(ctx, pod)
		if err != nil {
			g.fail("counting the pods beside "+pod.GetName(), err)
			return
		}
		// How many there should be only the controller knows.
		g.out.Pods = countPods(g.r.Target.Cluster, len(siblings), siblings)
		return
	}
	desired, err := desiredPods(workload.object)
	if err != nil {
		g.fail("reading "+workload.ref.String(), err)
		return
	}
	pods, err := g.c.podsOf(ctx, workload.object)
	if err != nil {
		g.fail("listing the pods of "+workload.ref.String(), err)
		return
	}
	g.out.Pods = countPods(g.r.Target.Cluster, desired, pods)
}

// siblings are the pods of a pod's controller, itself included; a pod without one
// is alone.
func (g *gathering) siblings(ctx context.Context, pod *unstructured.Unstructured) ([]corev1.Pod, error) {
	controller := metav1.GetControllerOfNoCopy(pod)
	if controller == nil {
		p, err := typed[corev1.Pod](pod)
		if err != nil || ended(p) {
			return nil, err
		}
		return []corev1.Pod{*p}, nil
	}
	pods, err := g.c.own.typed.CoreV1().Pods(pod.GetNamespace()).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(pods.Items, func(p corev1.Pod) bool {
		other := metav1.GetControllerOfNoCopy(&p)
		return ended(&p) || other == nil || other.UID != controller.UID
	}), nil
}

// countPods tells which pods of a workload are not available. One that opted out
// is left out of everything.
func countPods(cluster string, desired int, pods []corev1.Pod) *guard.PodEvidence {
	out := &guard.PodEvidence{Desired: desired}
	live := 0
	for i := range pods {
		p := &pods[i]
		switch {
		case ended(p):
			continue
		case optedOut(p.Annotations):
			out.Desired--
			continue
		}
		live++
		if !podAvailable(p) {
			out.Unavailable = append(out.Unavailable, guard.PodKey(cluster, p.Namespace, p.Name))
		}
	}
	for i := live; i < out.Desired; i++ {
		out.Unavailable = append(out.Unavailable, fmt.Sprintf("missing-%d", i-live+1))
	}
	out.Desired = max(out.Desired, 0) // a surge may opt out too
	slices.Sort(out.Unavailable)
	return out
}

// podAvailable tells pods that are ready and not on their way out.
func podAvailable(p *corev1.Pod) bool {
	return p.DeletionTimestamp == nil && slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// desiredPods is how many pods a workload should have.
func desiredPods(object *unstructured.Unstructured) (int, error) {
	var replicas *int32
	switch action.Kind(object.GetKind()) {
	case action.KindDaemonSet:
		d, err := typed[appsv1.DaemonSet](object)
		if err != nil {
			return 0, err
		}
		return int(d.Status.DesiredNumberScheduled), nil
	case action.KindJob:
		j, err := typed[batchv1.Job](object)
		if err != nil {
			return 0, err
		}
		replicas = j.Spec.Parallelism
	default:
		d, err := typed[appsv1.Deployment](object) // spec.replicas is the same for all of them
		if err != nil {
			return 0, err
		}
		replicas = d.Spec.Replicas
	}
	return int(wished(replicas)), nil
}
