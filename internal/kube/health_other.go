package kube

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/alertmedic/alertmedic/internal/action"
)

type clock func() time.Time

// nodeHealth judges a node by its conditions.
func nodeHealth(object *unstructured.Unstructured) (Health, error) {
	node, err := typed[corev1.Node](object)
	if err != nil {
		return Health{}, err
	}
	if problems := nodeProblems(node); len(problems) > 0 {
		reason := "pressure"
		if !nodeReady(node) {
			reason = "not-ready"
		}
		return unhealthy(reason, "node %s: %s", node.Name, strings.Join(problems, ", ")), nil
	}
	return healthy("ready", "node %s is ready and without pressure", node.Name), nil
}

func nodeReady(node *corev1.Node) bool {
	return slices.ContainsFunc(node.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
}

// nodeProblems lists what is wrong with a node, by its conditions. A pressure
// that is Unknown counts as well: nobody reports it any more.
func nodeProblems(node *corev1.Node) []string {
	var problems []string
	if !nodeReady(node) {
		problem := "not Ready"
		for _, c := range node.Status.Conditions {
			if c.Type == corev1.NodeReady {
				problem = fmt.Sprintf("Ready is %s (%s)", c.Status, c.Reason)
			}
		}
		problems = append(problems, problem)
	}
	for _, c := range node.Status.Conditions {
		switch c.Type {
		case corev1.NodeMemoryPressure, corev1.NodeDiskPressure, corev1.NodePIDPressure, corev1.NodeNetworkUnavailable:
			if c.Status != corev1.ConditionFalse {
				problems = append(problems, fmt.Sprintf("%s is %s", c.Type, c.Status))
			}
		}
	}
	return problems
}

// serviceHealth wants a ready endpoint, and the workloads behind it well.
func (c *Client) serviceHealth(ctx context.Context, service *unstructured.Unstructured) (Health, error) {
	if kind, _, _ := unstructured.NestedString(service.Object, "spec", "type"); kind == string(corev1.ServiceTypeExternalName) {
		return unknown("external", "service %s is a name outside the cluster", service.GetName()), nil
	}
	slices, err := c.own.typed.DiscoveryV1().EndpointSlices(service.GetNamespace()).List(ctx, metav1.ListOptions{
		LabelSelector: discoveryv1.LabelServiceName + "=" + service.GetName(),
	})
	if err != nil {
		return Health{}, err
	}
	out := endpointHealth(service.GetName(), slices.Items)
	if out.State != Healthy {
		return out, nil
	}
	owners, err := c.ownersBehind(ctx, service)
	if err != nil {
		return Health{}, err
	}
	for _, o := range owners {
		workload, ok := o.find(action.KindWorkload)
		if !ok {
			continue // a bare or custom pod: its endpoint speaks for it
		}
		behind, err := c.workloadHealth(ctx, workload.object)
		if err != nil {
			return Health{}, err
		}
		if behind.State != Healthy {
			behind.Message = fmt.Sprintf("%s behind the service: %s", workload.ref, behind.Message)
			return behind, nil
		}
	}
	return out, nil
}

func endpointHealth(service string, slices []discoveryv1.EndpointSlice) Health {
	ready, all := 0, 0
	for _, slice := range slices {
		for _, endpoint := range slice.Endpoints {
			all++
			// The API reads an unset ready as true.
			if endpoint.Conditions.Ready == nil || *endpoint.Conditions.Ready {
				ready++
			}
		}
	}
	if ready == 0 {
		return unhealthy("no-ready-endpoint", "none of the %d endpoints of service %s is ready", all, service)
	}
	return healthy("ready", "%d of %d endpoints of service %s are ready", ready, all, service)
}

// claimHealth wants the claim bound and resized to what it asks for.
func claimHealth(object *unstructured.Unstructured) (Health, error) {
	claim, err := typed[corev1.PersistentVolumeClaim](object)
	if err != nil {
		return Health{}, err
	}
	if claim.Status.Phase != corev1.ClaimBound {
		return unhealthy("not-bound", "claim %s is %s", claim.Name, claim.Status.Phase), nil
	}
	for _, condition := range claim.Status.Conditions {
		if condition.Status != corev1.ConditionTrue {
			continue
		}
		switch condition.Type {
		case corev1.PersistentVolumeClaimResizing, corev1.PersistentVolumeClaimFileSystemResizePending,
			corev1.PersistentVolumeClaimControllerResizeError, corev1.PersistentVolumeClaimNodeResizeError:
			return unhealthy("resizing", "claim %s: %s: %s", claim.Name, condition.Type, condition.Message), nil
		}
	}
	want, have := claim.Spec.Resources.Requests[corev1.ResourceStorage], claim.Status.Capacity[corev1.ResourceStorage]
	if have.Cmp(want) < 0 {
		return unhealthy("resizing", "claim %s asks for %s and has %s", claim.Name, want.String(), have.String()), nil
	}
	return healthy("bound", "claim %s is bound with %s", claim.Name, have.String()), nil
}

// autoscalerHealth wants an autoscaler that works and has room to scale.
func autoscalerHealth(object *unstructured.Unstructured) (Health, error) {
	hpa, err := typed[autoscalingv2.HorizontalPodAutoscaler](object)
	if err != nil {
		return Health{}, err
	}
	seen := map[autoscalingv2.HorizontalPodAutoscalerConditionType]bool{}
	for _, condition := range hpa.Status.Conditions {
		seen[condition.Type] = true
		switch condition.Type {
		case autoscalingv2.ScalingActive, autoscalingv2.AbleToScale:
			if condition.Status != corev1.ConditionTrue {
				return unhealthy("cannot-scale", "autoscaler %s: %s is %s: %s", hpa.Name, condition.Type, condition.Status, condition.Message), nil
			}
		}
	}
	if !seen[autoscalingv2.ScalingActive] || !seen[autoscalingv2.AbleToScale] {
		return unknown(healthUnobserved, "autoscaler %s has no conditions yet", hpa.Name), nil
	}
	if observed := hpa.Status.ObservedGeneration; observed != nil && *observed < hpa.Generation {
		return unhealthy(healthUnobserved, "the autoscaler's controller has observed generation %d of %d", *observed, hpa.Generation), nil
	}
	least, most := wished(hpa.Spec.MinReplicas), hpa.Spec.MaxReplicas
	if hpa.Status.DesiredReplicas >= most && most > least {
		return unhealthy("at-maximum", "autoscaler %s wishes for its maximum of %d replicas: it has no room left", hpa.Name, most), nil
	}
	if hpa.Status.CurrentReplicas < hpa.Status.DesiredReplicas {
		return unhealthy("scaling-up", "autoscaler %s wishes for %d replicas and has %d", hpa.Name, hpa.Status.DesiredReplicas, hpa.Status.CurrentReplicas), nil
	}
	return healthy("active", "autoscaler %s is active, with %d of at most %d replicas", hpa.Name, hpa.Status.CurrentReplicas, most), nil
}
