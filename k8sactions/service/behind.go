package service

import (
	"cmp"
	"context"
	"slices"
	"strings"

	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/alertmedic/alertmedic/internal/action"
	"github.com/alertmedic/alertmedic/internal/kube"
	"github.com/alertmedic/alertmedic/k8sactions/contract"
	"github.com/alertmedic/alertmedic/k8sactions/live"
	"github.com/alertmedic/alertmedic/k8sactions/workload"
)

// candidate is a workload behind a Service.
type candidate struct {
	ref action.Ref
	obj *unstructured.Unstructured
}

// selectorOf reads the Service's selector. A Service without one has endpoints
// that somebody else writes; it must never be taken for one that selects all.
func selectorOf(ref action.Ref, obj *unstructured.Unstructured) (labels.Selector, error) {
	if live.String(obj.Object, "spec", "type") == "ExternalName" {
		return nil, action.Errorf(action.ReasonRefused, "%s only names a host outside the cluster", ref)
	}
	raw, _, err := unstructured.NestedStringMap(obj.Object, "spec", "selector")
	if err != nil {
		return nil, action.Errorf(action.ReasonUnsupported, "selector of %s: %w", ref, err)
	}
	if len(raw) == 0 {
		return nil, action.Errorf(action.ReasonRefused, "%s has no selector: what is behind it cannot be told", ref)
	}
	return labels.SelectorFromSet(raw), nil
}

// behind lists the workloads whose pods the selector selects, by name, and
// names apart those that want no pods. The templates are asked, not the pods:
// a Service that has lost every pod is why this action exists.
func behind(ctx context.Context, s contract.Session, service action.Ref, selector labels.Selector) (found []candidate, idle []string, err error) {
	for _, kind := range []action.Kind{action.KindDeployment, action.KindStatefulSet, action.KindDaemonSet} {
		client, err := live.Client(s, kind, service.Namespace)
		if err != nil {
			return nil, nil, err
		}
		list, err := client.List(ctx, metav1.ListOptions{})
		if err != nil {
			return nil, nil, kube.Classify(err, false)
		}
		for i := range list.Items {
			obj := &list.Items[i]
			own, _, err := unstructured.NestedStringMap(obj.Object, "spec", "template", "metadata", "labels")
			if err != nil || !selector.Matches(labels.Set(own)) {
				continue
			}
			ref := action.Ref{Group: "apps", Kind: kind, Namespace: service.Namespace, Name: obj.GetName(), UID: string(obj.GetUID())}
			if kind != action.KindDaemonSet && workload.Wanted(ref, obj) == 0 {
				idle = append(idle, ref.String())
				continue
			}
			found = append(found, candidate{ref, obj})
		}
	}
	slices.SortFunc(found, func(a, b candidate) int {
		return cmp.Or(cmp.Compare(a.ref.Name, b.ref.Name), cmp.Compare(a.ref.Kind, b.ref.Kind))
	})
	return found, idle, nil
}

func names(list []candidate) string {
	var out []string
	for _, w := range list {
		out = append(out, w.ref.String())
	}
	return strings.Join(out, ", ")
}

// readyEndpoints counts the addresses that the Service sends traffic to.
func readyEndpoints(ctx context.Context, s contract.Session, service action.Ref) (int, error) {
	slices, err := s.Typed().DiscoveryV1().EndpointSlices(service.Namespace).List(ctx, metav1.ListOptions{
		LabelSelector: labels.SelectorFromSet(labels.Set{discoveryv1.LabelServiceName: service.Name}).String(),
	})
	if err != nil {
		return 0, kube.Classify(err, false)
	}
	n := 0
	for _, slice := range slices.Items {
		for _, e := range slice.Endpoints {
			// The API says to take an unset condition for ready.
			if e.Conditions.Ready == nil || *e.Conditions.Ready {
				n += len(e.Addresses)
			}
		}
	}
	return n, nil
}
