package testcluster

import (
	"context"
	"errors"
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	watchtools "k8s.io/client-go/tools/watch"
)

// Poll calls check at once and then every 50 ms until it reports true, it
// returns an error, or ctx ends.
func Poll(ctx context.Context, check func(context.Context) (bool, error)) error {
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for {
		done, err := check(ctx)
		if err != nil || done {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-ticker.C:
		}
	}
}

// until watches the one object that list and watch are narrowed to until
// check accepts it; check sees nil when the object is absent.
func until[T runtime.Object](ctx context.Context, what string, object T, lw cache.ListerWatcher, check func(T, bool) bool) error {
	var last T
	var exists bool
	_, err := watchtools.UntilWithSync(ctx, lw, object, func(store cache.Store) (bool, error) {
		if len(store.List()) > 0 {
			return false, nil
		}
		var none T
		return check(none, false), nil
	}, func(e watch.Event) (bool, error) {
		got, ok := e.Object.(T)
		if !ok {
			return false, nil
		}
		last, exists = got, e.Type != watch.Deleted
		return check(last, exists), nil
	})
	if err == nil {
		return nil
	}
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	} else if errors.Is(err, watchtools.ErrWatchClosed) {
		err = errors.New("the watch ended")
	}
	state := "it does not exist"
	if exists {
		state = describe(last)
	}
	return fmt.Errorf("wait for %s: %w; last seen: %s", what, err, state)
}

func byName(name string) func(*metav1.ListOptions) {
	return func(o *metav1.ListOptions) {
		o.FieldSelector = fields.OneTermEqualSelector("metadata.name", name).String()
	}
}

// WaitNode waits until check accepts the node.
func (c *Cluster) WaitNode(ctx context.Context, name string, check func(*corev1.Node) bool) error {
	lw := cache.NewFilteredListWatchFromClient(c.client.CoreV1().RESTClient(), "nodes", "", byName(name))
	return until(ctx, "node "+name, &corev1.Node{}, lw, func(n *corev1.Node, ok bool) bool { return ok && check(n) })
}

// WaitNodeReady waits until the node's Ready condition has the status: True,
// False or Unknown.
func (c *Cluster) WaitNodeReady(ctx context.Context, name string, status corev1.ConditionStatus) error {
	return c.WaitNode(ctx, name, func(n *corev1.Node) bool { return NodeReady(n) == status })
}

// WaitPod waits until check accepts the pod.
func (c *Cluster) WaitPod(ctx context.Context, namespace, name string, check func(*corev1.Pod) bool) error {
	lw := cache.NewFilteredListWatchFromClient(c.client.CoreV1().RESTClient(), "pods", namespace, byName(name))
	return until(ctx, "pod "+namespace+"/"+name, &corev1.Pod{}, lw, func(p *corev1.Pod, ok bool) bool { return ok && check(p) })
}

// WaitPodGone waits until no pod of that name has that UID; a StatefulSet's
// next pod of the same name counts as gone.
func (c *Cluster) WaitPodGone(ctx context.Context, pod *corev1.Pod) error {
	lw := cache.NewFilteredListWatchFromClient(c.client.CoreV1().RESTClient(), "pods", pod.Namespace, byName(pod.Name))
	return until(ctx, "the end of pod "+pod.Namespace+"/"+pod.Name, &corev1.Pod{}, lw, func(p *corev1.Pod, ok bool) bool {
		return !ok || p.UID != pod.UID
	})
}

// WaitDeployment waits until check accepts the Deployment.
func (c *Cluster) WaitDeployment(ctx context.Context, namespace, name string, check func(*appsv1.Deployment) bool) error {
	lw := cache.NewFilteredListWatchFromClient(c.client.AppsV1().RESTClient(), "deployments", namespace, byName(name))
	return until(ctx, "deployment "+namespace+"/"+name, &appsv1.Deployment{}, lw, func(d *appsv1.Deployment, ok bool) bool { return ok && check(d) })
}

// WaitDeploymentAvailable waits until the Deployment's latest generation is
// rolled out in full and every replica is available.
func (c *Cluster) WaitDeploymentAvailable(ctx context.Context, namespace, name string) error {
	return c.WaitDeployment(ctx, namespace, name, func(d *appsv1.Deployment) bool {
		want := int32(1)
		if d.Spec.Replicas != nil {
			want = *d.Spec.Replicas
		}
		s := d.Status
		return s.ObservedGeneration >= d.Generation && s.Replicas == want && s.UpdatedReplicas == want && s.AvailableReplicas == want
	})
}

// NodeReady is the status of the node's Ready condition; Unknown if it has
// none.
func NodeReady(n *corev1.Node) corev1.ConditionStatus {
	for _, condition := range n.Status.Conditions {
		if condition.Type == corev1.NodeReady {
			return condition.Status
		}
	}
	return corev1.ConditionUnknown
}

// PodReady reports whether the pod's Ready condition is True.
func PodReady(p *corev1.Pod) bool {
	for _, condition := range p.Status.Conditions {
		if condition.Type == corev1.PodReady {
			return condition.Status == corev1.ConditionTrue
		}
	}
	return false
}

func describe(object runtime.Object) string {
	switch o := object.(type) {
	case *corev1.Node:
		return fmt.Sprintf("conditions %+v", o.Status.Conditions)
	case *corev1.Pod:
		return fmt.Sprintf("node %q, deleted %v, status %+v", o.Spec.NodeName, o.DeletionTimestamp, o.Status)
	case *appsv1.Deployment:
		return fmt.Sprintf("generation %d, status %+v", o.Generation, o.Status)
	default:
		return fmt.Sprintf("%+v", object)
	}
}
