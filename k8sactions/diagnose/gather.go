package diagnose

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/alertmedic/alertmedic/internal/action"
	"github.com/alertmedic/alertmedic/internal/kube"
	"github.com/alertmedic/alertmedic/k8sactions/contract"
	"github.com/alertmedic/alertmedic/k8sactions/live"
	"github.com/alertmedic/alertmedic/k8sactions/redact"
	"github.com/alertmedic/alertmedic/k8sactions/workload"
)

// What is read at most. A workload of a thousand pods is described by those
// that are worst off.
const (
	maxPods     = 20
	maxLogPods  = 3
	maxEvents   = 50
	maxRollouts = 10
	maxMessage  = 1024
	maxLogBytes = 128 << 10
)

// gatherer collects evidence about one target.
type gatherer struct {
	session contract.Session
	target  action.Target
	params  *Params
	now     time.Time
	out     Evidence
}

func (g *gatherer) missing(what string, err error) {
	e := kube.Classify(err, false)
	g.out.Missing = append(g.out.Missing, shortened(redact.Text(what+": "+e.Error()), maxMessage))
}

// gather reads everything that it can. A failure is noted and the rest goes on.
func (g *gatherer) gather(ctx context.Context) *Evidence {
	ref := g.target.Ref
	g.out.Target = ref.String()
	obj, err := live.Get(ctx, g.session, ref)
	if err != nil {
		g.missing(ref.String(), err)
		obj = nil
	}
	if obj != nil {
		g.out.Conditions = conditions(obj)
		g.out.Status = numbers(obj)
	}
	pods := g.pods(ctx, obj)
	g.events(ctx, ref, pods)
	if obj != nil {
		g.rollouts(ctx, ref, obj)
	}
	if ref.Kind == action.KindService {
		g.endpoints(ctx, ref)
	}
	g.logs(ctx, pods)
	return &g.out
}

// conditions reads status.conditions, which all kinds write alike.
func conditions(obj *unstructured.Unstructured) []Condition {
	list, _ := live.Value(obj.Object, "status", "conditions").([]any)
	var out []Condition
	for _, c := range list {
		m, ok := c.(map[string]any)
		if !ok {
			continue
		}
		out = append(out, Condition{
			Type: live.String(m, "type"), Status: live.String(m, "status"), Reason: live.String(m, "reason"),
			Message: shortened(redact.Text(live.String(m, "message")), maxMessage), Since: live.String(m, "lastTransitionTime"),
		})
	}
	return out
}

// numbers keeps the whole numbers and short texts of the status, such as
// replica counts, and what was asked for.
func numbers(obj *unstructured.Unstructured) any {
	out := map[string]any{}
	status, _ := live.Value(obj.Object, "status").(map[string]any)
	for key, v := range status {
		switch v := v.(type) {
		case int64, bool:
			out[key] = v
		case string:
			out[key] = shortened(redact.Text(v), maxMessage)
		}
	}
	for _, key := range []string{"replicas", "unschedulable", "paused", "minReplicas", "maxReplicas", "taints", "parallelism", "completions"} {
		if v := live.Value(obj.Object, "spec", key); v != nil {
			out["spec."+key] = v
		}
	}
	if len(out) == 0 {
		return nil
	}
	return out
}

// pods lists the pods of the target, the worst off first.
func (g *gatherer) pods(ctx context.Context, obj *unstructured.Unstructured) []corev1.Pod {
	var found []corev1.Pod
	client := g.session.Typed().CoreV1().Pods(g.target.Namespace)
	switch g.target.Kind {
	case action.KindPod:
		p, err := client.Get(ctx, g.target.Name, metav1.GetOptions{})
		if err != nil {
			g.missing("pod", err)
			return nil
		}
		found = []corev1.Pod{*p}
	default:
		selector := podSelector(g.target.Kind, obj)
		if selector == "" {
			return nil
		}
		list, err := client.List(ctx, metav1.ListOptions{LabelSelector: selector, Limit: 500})
		if err != nil {
			g.missing("pods", err)
			return nil
		}
		found = list.Items
	}
	slices.SortFunc(found, func(a, b corev1.Pod) int {
		return cmp.Or(
			cmp.Compare(rank(g.target, &a), rank(g.target, &b)),
			b.CreationTimestamp.Compare(a.CreationTimestamp.Time),
			cmp.Compare(a.Name, b.Name))
	})
	if len(found) > maxPods {
		g.out.Cut = append(g.out.Cut, fmt.Sprintf("%d pods that are better off", len(found)-maxPods))
		found = found[:maxPods]
	}
	for i := range found {
		g.out.Pods = append(g.out.Pods, describePod(&found[i]))
	}
	return found
}

// podSelector returns the selector of the target's pods, "" when it has none.
// An empty selector is never used: it would select every pod of the namespace.
func podSelector(kind action.Kind, obj *unstructured.Unstructured) string {
	if obj == nil {
		return ""
	}
	if kind == action.KindService {
		m, _, err := unstructured.NestedStringMap(obj.Object, "spec", "selector")
		if err != nil || len(m) == 0 {
			return ""
		}
		return labels.SelectorFromSet(m).String()
	}
	if kind == action.KindPersistentVolumeClaim {
		return "" // its selector is of volumes
	}
	raw, ok := live.Value(obj.Object, "spec", "selector").(map[string]any)
	if !ok || len(raw) == 0 {
		return ""
	}
	var sel metav1.LabelSelector
	if runtime.DefaultUnstructuredConverter.FromUnstructured(raw, &sel) != nil {
		return ""
	}
	parsed, err := metav1.LabelSelectorAsSelector(&sel)
	if err != nil || parsed.Empty() {
		return ""
	}
	return parsed.String()
}

// rank orders pods by how much they have to tell: the one that the alert named,
// those that are not ready, the others.
func rank(t action.Target, p *corev1.Pod) int {
	switch {
	case t.Pod != nil && t.Pod.Name == p.Name:
		return 0
	case !podReady(p):
		return 1
	}
	return 2
}

func podReady(p *corev1.Pod) bool {
	return slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

func describePod(p *corev1.Pod) Pod {
	out := Pod{Name: p.Name, Phase: string(p.Status.Phase), Node: p.Spec.NodeName, Ready: podReady(p)}
	if p.DeletionTimestamp != nil {
		out.Phase = "Terminating"
	}
	for _, list := range [][]corev1.ContainerStatus{p.Status.InitContainerStatuses, p.Status.ContainerStatuses} {
		for _, c := range list {
			out.Containers = append(out.Containers, Container{Name: c.Name, Image: redact.Text(c.Image), Restarts: c.RestartCount,
				State: describeState(c.State), Last: describeState(c.LastTerminationState)})
		}
	}
	return out
}

func describeState(s corev1.ContainerState) string {
	switch {
	case s.Waiting != nil:
		return shortened(redact.Text(fmt.Sprintf("waiting: %s %s", s.Waiting.Reason, s.Waiting.Message)), maxMessage)
	case s.Running != nil:
		return "running since " + s.Running.StartedAt.UTC().Format(time.RFC3339)
	case s.Terminated != nil:
		t := s.Terminated
		return shortened(redact.Text(fmt.Sprintf("terminated: %s, exit code %d, signal %d, at %s %s", t.Reason, t.ExitCode, t.Signal,
			t.FinishedAt.UTC().Format(time.RFC3339), t.Message)), maxMessage)
	}
	return ""
}

// endpoints counts what a Service sends traffic to.
func (g *gatherer) endpoints(ctx context.Context, ref action.Ref) {
	list, err := g.session.Typed().DiscoveryV1().EndpointSlices(ref.Namespace).List(ctx, metav1.ListOptions{
		LabelSelector: labels.SelectorFromSet(labels.Set{discoveryv1.LabelServiceName: ref.Name}).String(),
	})
	if err != nil {
		g.missing("endpoints", err)
		return
	}
	g.out.Endpoints = &Endpoints{}
	for _, slice := range list.Items {
		for _, e := range slice.Endpoints {
			if e.Conditions.Ready == nil || *e.Conditions.Ready {
				g.out.Endpoints.Ready += len(e.Addresses)
			} else {
				g.out.Endpoints.NotReady += len(e.Addresses)
			}
		}
	}
}

// events reads the Events about the target and its pods, newest first.
func (g *gatherer) events(ctx context.Context, ref action.Ref, pods []corev1.Pod) {
	namespace := ref.Namespace
	if namespace == "" {
		namespace = metav1.NamespaceDefault // where Events of cluster-scoped objects go
	}
	seen := map[string]bool{}
	var found []corev1.Event
	read := func(kind, name string) {
		selector := fields.Set{"involvedObject.kind": kind, "involvedObject.name": name}
		list, err := g.session.Typed().CoreV1().Events(namespace).List(ctx, metav1.ListOptions{FieldSelector: selector.String(), Limit: 200})
		if err != nil {
			g.missing("events of "+kind+" "+name, err)
			return
		}
		for _, e := range list.Items {
			if !seen[string(e.UID)] {
				seen[string(e.UID)] = true
				found = append(found, e)
			}
		}
	}
	read(string(ref.Kind), ref.Name)
	for i := range pods {
		if ref.Kind != action.KindPod && i < maxLogPods {
			read("Pod", pods[i].Name)
		}
	}
	slices.SortFunc(found, func(a, b corev1.Event) int { return lastSeen(b).Compare(lastSeen(a)) })
	if len(found) > maxEvents {
		g.out.Cut = append(g.out.Cut, fmt.Sprintf("%d older events", len(found)-maxEvents))
		found = found[:maxEvents]
	}
	for _, e := range found {
		g.out.Events = append(g.out.Events, Event{
			Object: e.InvolvedObject.Kind + "/" + e.InvolvedObject.Name, Type: e.Type, Reason: e.Reason,
			Message: shortened(redact.Text(e.Message), maxMessage), Count: e.Count, Last: lastSeen(e).UTC().Format(time.RFC3339),
		})
	}
}

// lastSeen is when an Event happened last; each API writes another field.
func lastSeen(e corev1.Event) time.Time {
	switch {
	case e.Series != nil && !e.Series.LastObservedTime.IsZero():
		return e.Series.LastObservedTime.Time
	case !e.LastTimestamp.IsZero():
		return e.LastTimestamp.Time
	case !e.EventTime.IsZero():
		return e.EventTime.Time
	}
	return e.CreationTimestamp.Time
}

// rollouts lists the revisions of a workload.
func (g *gatherer) rollouts(ctx context.Context, ref action.Ref, obj *unstructured.Unstructured) {
	switch ref.Kind {
	case action.KindDeployment, action.KindStatefulSet, action.KindDaemonSet:
	default:
		return
	}
	revisions, err := workload.Revisions(ctx, g.session, ref, obj)
	if err != nil {
		g.missing("rollout history", err)
		return
	}
	for i, r := range revisions {
		if i == maxRollouts {
			break
		}
		item := Rollout{Revision: r.Number, Name: r.Name, Created: r.Created.UTC().Format(time.RFC3339)}
		for _, image := range r.Images {
			item.Images = append(item.Images, redact.Text(image))
		}
		g.out.Rollout = append(g.out.Rollout, item)
	}
}
