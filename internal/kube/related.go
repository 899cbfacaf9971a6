package kube

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/alertmedic/alertmedic/internal/action"
)

// maxControllers bounds how many different controllers a search follows.
const maxControllers = 10

var errTooMany = fmt.Errorf("the pods belong to more than %d controllers", maxControllers)

// mounts matches pods that mount the claim.
func mounts(claim string) func(*corev1.Pod) bool {
	return func(p *corev1.Pod) bool {
		for _, volume := range p.Spec.Volumes {
			if source := volume.PersistentVolumeClaim; source != nil && source.ClaimName == claim {
				return true
			}
			if volume.Ephemeral != nil && p.Name+"-"+volume.Name == claim {
				return true
			}
		}
		return false
	}
}

// selectorOf returns a Service's selector, false when it has none.
func selectorOf(service *unstructured.Unstructured) (labels.Selector, bool) {
	set, _, _ := unstructured.NestedStringMap(service.Object, "spec", "selector")
	if len(set) == 0 {
		return labels.Nothing(), false // an empty selector must not mean every pod
	}
	return labels.SelectorFromSet(set), true
}

// ownersBehind returns the distinct controllers of the pods behind a Service.
func (c *Client) ownersBehind(ctx context.Context, service *unstructured.Unstructured) ([]chain, error) {
	selector, ok := selectorOf(service)
	if !ok {
		return nil, nil
	}
	return c.ownersOfPods(ctx, service.GetNamespace(), func(p *corev1.Pod) bool {
		return selector.Matches(labels.Set(p.Labels))
	})
}

// ownersOfPods returns the distinct owner chains of the pods of a namespace
// that match and have not ended, one for each top controller.
func (c *Client) ownersOfPods(ctx context.Context, namespace string, match func(*corev1.Pod) bool) ([]chain, error) {
	pods, err := c.own.typed.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	var out []chain
	walked := make(map[string]bool) // by UID of the direct controller
	tops := make(map[action.Ref]bool)
	for i := range pods.Items {
		p := &pods.Items[i]
		if !match(p) || ended(p) {
			continue
		}
		if owner, ok := controllerOf(p); ok {
			if walked[owner.UID] {
				continue
			}
			walked[owner.UID] = true
		}
		object, err := runtime.DefaultUnstructuredConverter.ToUnstructured(p)
		if err != nil {
			return nil, err
		}
		raw := &unstructured.Unstructured{Object: object}
		raw.SetAPIVersion("v1")
		raw.SetKind("Pod")
		owners, err := c.walk(ctx, raw)
		if err != nil {
			return nil, err
		}
		if tops[owners.top()] {
			continue
		}
		tops[owners.top()] = true
		if out = append(out, owners); len(out) > maxControllers {
			return nil, errTooMany
		}
	}
	return out, nil
}

// ended reports whether the pod runs no more and will not again.
func ended(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
}

// scaledBy returns the object that a HorizontalPodAutoscaler scales.
func scaledBy(hpa *unstructured.Unstructured) action.Ref {
	get := func(field string) string {
		s, _, _ := unstructured.NestedString(hpa.Object, "spec", "scaleTargetRef", field)
		return s
	}
	return action.Ref{
		Group: groupOf(get("apiVersion")), Kind: action.Kind(get("kind")),
		Namespace: hpa.GetNamespace(), Name: get("name"),
	}
}
