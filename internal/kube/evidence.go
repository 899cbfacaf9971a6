package kube

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"github.com/alertmedic/alertmedic/internal/action"
	"github.com/alertmedic/alertmedic/internal/guard"
)

// SkipAnnotation opts an object out: on the target, its pod, an owner or its
// namespace, and likewise for what else an action changes or takes away, with any
// value but "false".
const SkipAnnotation = "alertmedic.io/skip"

func optedOut(annotations map[string]string) bool {
	value, ok := annotations[SkipAnnotation]
	return ok && !strings.EqualFold(strings.TrimSpace(value), "false")
}

// EvidenceRequest asks for evidence about a target.
type EvidenceRequest struct {
	Target action.Target
	// NeedNodes asks for the count of nodes, for disruptive actions on nodes.
	NeedNodes bool
	// NeedPods asks for the count of the workload's pods, for disruptive actions
	// on pods.
	NeedPods bool
	// Displaces is how many pods the plan takes down that must find a place
	// elsewhere, Displaced which ones, and Deletes says that no disruption budget
	// can hold them.
	Displaces int
	Displaced []action.Ref
	Deletes   bool
	// Changed are the objects besides the target that the plan changes: their
	// owners are asked as the target's is.
	Changed []action.Ref
	// Begun says that a step goes on: what the owners of its pods say was read as it
	// began, and is not read again at each of its calls.
	Begun bool
	// Controllers are glob patterns of field managers that are no person; nil
	// means Controllers().
	Controllers []string
	Protect     ProtectConfig
}

// Evidence observes what the guards decide by, all but the alert's state.
// ObservedAt is taken before the first read. What could not be observed is left
// unknown and named in Errors: evidence with Errors must not admit anything.
func (c *Client) Evidence(ctx context.Context, r EvidenceRequest) guard.Evidence {
	ctx, cancel := bounded(ctx)
	defer cancel()
	g := &gathering{c: c, r: r, out: guard.Evidence{ObservedAt: c.now()}}
	if r.Target.IsZero() {
		// An empty target is never a wildcard.
		g.out.Errors = append(g.out.Errors, "the target is empty")
		return g.out
	}
	g.target(ctx)
	g.out.Nodes = c.nodes.counted(r.Target.Cluster)
	if r.NeedNodes {
		g.out.Nodes = g.nodeEvidence(ctx)
	}
	if r.Displaces > 0 && g.out.Target.Exists {
		g.capacityEvidence(ctx)
	}
	return g.out
}

// gathering is one collection of evidence.
type gathering struct {
	c   *Client
	r   EvidenceRequest
	out guard.Evidence
	// nodes are the nodes as they were counted, nil when they were not.
	nodes []corev1.Node
}

func (g *gathering) fail(what string, err error) {
	g.out.Errors = append(g.out.Errors, fmt.Sprintf("%s: %v", what, Classify(err, false)))
}

// skip records the first object that opts out.
func (g *gathering) skip(kind, namespace, name string, annotations map[string]string) {
	if g.out.Target.Skip == "" && optedOut(annotations) {
		g.out.Target.Skip = action.Ref{Kind: action.Kind(kind), Namespace: namespace, Name: name}.String()
	}
}

func (g *gathering) skipObject(object *unstructured.Unstructured) {
	g.skip(object.GetKind(), object.GetNamespace(), object.GetName(), object.GetAnnotations())
}

func (g *gathering) target(ctx context.Context) {
	t := g.r.Target
	object, err := g.c.get(ctx, t.Kind, t.Namespace, t.Name)
	switch {
	case apierrors.IsNotFound(err):
		// Positively gone: what it would be protected by does not matter.
		return
	case err != nil:
		g.fail("reading "+t.Ref.String(), err)
		return
	}
	out := &g.out.Target
	out.Exists, out.UID = true, string(object.GetUID())
	out.Terminating = object.GetDeletionTimestamp() != nil
	g.skipObject(object)
	g.namespace(ctx)
	owners := g.owners(ctx, object)
	pod := g.pod(ctx, object)
	// From the top down: a Deployment's annotations are copied to its ReplicaSets,
	// and the owner's mark is to be named where the tool wrote it.
	for _, o := range slices.Backward(owners) {
		if o.object != nil {
			g.trust(o.object)
		}
	}
	g.protection(ctx, object, pod, owners)
	for _, ref := range g.r.Changed {
		g.changed(ctx, ref)
	}
	if g.r.NeedPods {
		g.podEvidence(ctx, owners, pod)
	}
}

// changed looks at an object besides the target that the plan changes.
func (g *gathering) changed(ctx context.Context, ref action.Ref) {
	object, err := g.c.get(ctx, ref.Kind, ref.Namespace, ref.Name)
	switch {
	case apierrors.IsNotFound(err):
		return // then it is not changed
	case err != nil:
		g.fail("reading "+ref.String(), err)
		return
	}
	g.skipObject(object)
	if ref.Namespace != g.r.Target.Namespace {
		g.optedOutNamespace(ctx, ref.Namespace, g.c.namespace)
	}
	for _, o := range slices.Backward(g.controllers(ctx, object, g.c.get)) {
		g.trust(o.object)
	}
}

// displaced looks at the pods that a plan takes away beside the one that the alert
// named: who opted one of them out, its workload or its namespace meant also this.
func (g *gathering) displaced(ctx context.Context, pods []corev1.Pod) {
	namespaces, controllers := map[string]bool{}, map[types.UID]bool{}
	read := newNeighbours(g.c, pods)
	for i := range pods {
		p := &pods[i]
		g.skip(string(action.KindPod), p.Namespace, p.Name, p.Annotations)
		if !namespaces[p.Namespace] {
			namespaces[p.Namespace] = true
			g.optedOutNamespace(ctx, p.Namespace, read.namespace)
		}
		controller := metav1.GetControllerOfNoCopy(p)
		if g.r.Begun || controller == nil || controllers[controller.UID] {
			continue
		}
		controllers[controller.UID] = true
		object := &unstructured.Unstructured{}
		object.SetNamespace(p.Namespace)
		object.SetName(p.Name)
		object.SetOwnerReferences(p.OwnerReferences)
		g.controllers(ctx, object, read.get)
	}
}

// controllers reads an object's owners, and returns it with those that could be
// read.
func (g *gathering) controllers(ctx context.Context, object *unstructured.Unstructured, get getter) chain {
	owners, err := walk(ctx, object, get)
	if err != nil {
		g.fail("reading the owners of "+refOf(object).String(), err)
		return nil
	}
	owners = slices.DeleteFunc(owners, func(o owned) bool { return o.object == nil })
	for _, o := range slices.Backward(owners[1:]) {
		g.skipObject(o.object)
	}
	return owners
}

// optedOutNamespace looks at the namespace of another object than the target.
func (g *gathering) optedOutNamespace(ctx context.Context, name string, get func(context.Context, string) (metav1.Object, error)) {
	namespace, err := get(ctx, name)
	switch {
	case apierrors.IsNotFound(err): // and so is what was in it
	case err != nil:
		g.fail("reading namespace "+name, err)
	default:
		g.skip("Namespace", "", name, namespace.GetAnnotations())
	}
}

func (c *Client) namespace(ctx context.Context, name string) (metav1.Object, error) {
	return c.own.typed.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{})
}

func (g *gathering) namespace(ctx context.Context) {
	name := g.r.Target.Namespace
	if name == "" {
		return
	}
	namespace, err := g.c.own.typed.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		g.fail("reading namespace "+name, err)
		return
	}
	g.out.Target.Terminating = g.out.Target.Terminating || namespace.DeletionTimestamp != nil
	g.skip("Namespace", "", name, namespace.Annotations)
}

// owners reads the controllers of the target, and its recorded top controller
// where that is another object, as for a claim or an autoscaler. The annotations
// of a custom controller are not read: alertmedic has no right to.
func (g *gathering) owners(ctx context.Context, object *unstructured.Unstructured) chain {
	owners, err := g.c.walk(ctx, object)
	if err != nil {
		g.fail("reading the owners of "+refOf(object).String(), err)
		return chain{{ref: refOf(object), object: object}}
	}
	// From the top down, so that the object where a person wrote the annotation
	// is named, not the ReplicaSet that its controller copied it to.
	for _, o := range slices.Backward(owners[1:]) {
		if o.object != nil {
			g.skipObject(o.object)
		}
	}
	for _, top := range []action.Ref{owners.top(), g.r.Target.Top} {
		if !readable(top) || top.Kind == action.KindNode || read(owners, top) {
			continue
		}
		above, err := g.c.get(ctx, top.Kind, top.Namespace, top.Name)
		switch {
		case err == nil:
			g.skipObject(above)
			owners = append(owners, owned{ref: refOf(above), object: above})
		case !apierrors.IsNotFound(err):
			g.fail("reading "+top.String(), err)
		}
	}
	return owners
}

// read reports whether the chain already holds the object itself.
func read(owners chain, ref action.Ref) bool {
	for _, o := range owners {
		if o.object != nil && o.ref.Kind == ref.Kind && o.ref.Name == ref.Name {
			return true
		}
	}
	return false
}

// pod reads the pod that the alert named, nil when there is none.
func (g *gathering) pod(ctx context.Context, object *unstructured.Unstructured) *unstructured.Unstructured {
	ref := g.r.Target.Pod
	switch {
	case g.r.Target.Kind == action.KindPod:
		g.out.Target.PodExists, g.out.Target.PodUID = true, string(object.GetUID())
		return object
	case ref == nil:
		return nil
	}
	pod, err := g.c.get(ctx, action.KindPod, ref.Namespace, ref.Name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		g.fail("reading "+ref.String(), err)
		return nil
	}
	g.out.Target.PodExists, g.out.Target.PodUID = true, string(pod.GetUID())
	g.skipObject(pod)
	return pod
}
