package kube

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"

	"github.com/alertmedic/alertmedic/internal/guard"
)

// nodeTracker remembers which nodes are unhealthy, to tell since when their
// number has not grown. A node that joins them counts as growth even when
// another one leaves at the same time.
type nodeTracker struct {
	now func() time.Time

	mu        sync.Mutex
	all       map[string]bool // that did not opt out
	unhealthy map[string]bool
	seeded    bool
	grew      time.Time
}

func newNodeTracker(now func() time.Time) *nodeTracker {
	return &nodeTracker{now: now, all: make(map[string]bool), unhealthy: make(map[string]bool)}
}

// observeAll replaces what is known by a complete list. The first one cannot
// show growth; the transitions that the nodes themselves record stand in for
// it, so that a restart in the middle of a storm does not act at once.
func (t *nodeTracker) observeAll(nodes []corev1.Node) {
	t.mu.Lock()
	defer t.mu.Unlock()
	seeding := !t.seeded
	present := make(map[string]bool, len(nodes))
	for i := range nodes {
		present[nodes[i].Name] = true
		t.observe(&nodes[i], seeding)
	}
	for name := range t.all {
		if !present[name] {
			delete(t.all, name)
			delete(t.unhealthy, name)
		}
	}
	t.seeded = true
}

// observeOne folds in one node; initial says that it belongs to a first list.
func (t *nodeTracker) observeOne(node *corev1.Node, initial bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.observe(node, initial && !t.seeded)
}

func (t *nodeTracker) observe(node *corev1.Node, seeding bool) {
	if optedOut(node.Annotations) {
		delete(t.all, node.Name)
	} else {
		t.all[node.Name] = true
	}
	switch {
	case optedOut(node.Annotations) || !nodeCountsUnhealthy(node):
		delete(t.unhealthy, node.Name)
	case !t.unhealthy[node.Name]:
		t.unhealthy[node.Name] = true
		at := t.now()
		if seeding {
			at = lastTurn(node)
		}
		if at.After(t.grew) {
			t.grew = at
		}
	}
}

func (t *nodeTracker) forget(name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.all, name)
	delete(t.unhealthy, name)
}

// counted is what the watch has told, nil before it has told all.
func (t *nodeTracker) counted(cluster string) *guard.NodeEvidence {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.seeded {
		return nil
	}
	out := &guard.NodeEvidence{Total: len(t.all), GrowingSince: t.grew}
	for name := range t.unhealthy {
		out.Unhealthy = append(out.Unhealthy, nodeKey(cluster, name))
	}
	slices.Sort(out.Unhealthy)
	return out
}

func (t *nodeTracker) markSeeded() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.seeded = true
}

func (t *nodeTracker) growingSince() time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.grew
}

// nodeCountsUnhealthy is wider than nodeHealth: a node that takes no pods is no
// capacity either.
func nodeCountsUnhealthy(node *corev1.Node) bool {
	return node.Spec.Unschedulable || node.DeletionTimestamp != nil || len(nodeProblems(node)) > 0 ||
		slices.ContainsFunc(node.Spec.Taints, func(t corev1.Taint) bool {
			return t.Key == "node.cloudprovider.kubernetes.io/uninitialized" ||
				t.Key == corev1.TaintNodeNotReady || t.Key == corev1.TaintNodeUnreachable
		})
}

// lastTurn is when the node's conditions last turned bad, its creation if they
// never were good.
func lastTurn(node *corev1.Node) time.Time {
	at := node.CreationTimestamp.Time
	for _, c := range node.Status.Conditions {
		good := corev1.ConditionFalse
		if c.Type == corev1.NodeReady {
			good = corev1.ConditionTrue
		}
		if c.Status != good && c.LastTransitionTime.After(at) {
			at = c.LastTransitionTime.Time
		}
	}
	return at
}

// listThenWatch has a reflector list before it watches. One that gets its list by
// the watch waits up to a minute between two tries, whatever becomes of its
// context: a process would not end while the API server is away.
type listThenWatch struct{ *cache.ListWatch }

// IsWatchListSemanticsUnSupported is asked by client-go's reflector.
func (listThenWatch) IsWatchListSemanticsUnSupported() bool { return true }

// WatchNodes observes the nodes until ctx ends, so that Evidence can tell since
// when the number of unhealthy ones has not grown. The application runs it once.
func (c *Client) WatchNodes(ctx context.Context) error {
	api := c.own.typed.CoreV1().Nodes()
	informer := cache.NewSharedIndexInformer(listThenWatch{&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return api.List(ctx, o) },
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			return api.Watch(ctx, o)
		},
	}}, &corev1.Node{}, 0, cache.Indexers{})
	// Images and managed fields are most of a node, and nobody reads them here.
	if err := informer.SetTransform(func(object any) (any, error) {
		if node, ok := object.(*corev1.Node); ok {
			node.ManagedFields, node.Status.Images, node.Status.VolumesInUse = nil, nil, nil
		}
		return object, nil
	}); err != nil {
		return fmt.Errorf("kube: watch of nodes: %w", err)
	}
	if err := informer.SetWatchErrorHandlerWithContext(func(ctx context.Context, _ *cache.Reflector, err error) {
		c.log.WarnContext(ctx, "the watch of nodes broke off and is tried again", "error", err)
	}); err != nil {
		return fmt.Errorf("kube: watch of nodes: %w", err)
	}
	registration, err := informer.AddEventHandler(cache.ResourceEventHandlerDetailedFuncs{
		AddFunc: func(object any, initial bool) {
			if node, ok := object.(*corev1.Node); ok {
				c.nodes.observeOne(node, initial)
			}
		},
		UpdateFunc: func(_, object any) {
			if node, ok := object.(*corev1.Node); ok {
				c.nodes.observeOne(node, false)
			}
		},
		DeleteFunc: func(object any) {
			if name, err := cache.DeletionHandlingMetaNamespaceKeyFunc(object); err == nil {
				c.nodes.forget(name)
			}
		},
	})
	if err != nil {
		return fmt.Errorf("kube: watch of nodes: %w", err)
	}
	synced := make(chan struct{})
	go func() {
		defer close(synced)
		if cache.WaitForCacheSync(ctx.Done(), registration.HasSynced) {
			c.nodes.markSeeded()
		}
	}()
	informer.RunWithContext(ctx)
	<-synced
	return nil
}

// nodeEvidence counts the nodes as they are now.
func (g *gathering) nodeEvidence(ctx context.Context) *guard.NodeEvidence {
	nodes, err := g.c.own.typed.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		g.fail("counting nodes", err)
		return nil
	}
	g.nodes = nodes.Items
	g.c.nodes.observeAll(nodes.Items)
	out := &guard.NodeEvidence{GrowingSince: g.c.nodes.growingSince(), ControlPlane: g.quorum(ctx, nodes.Items)}
	for i := range nodes.Items {
		node := &nodes.Items[i]
		if optedOut(node.Annotations) {
			continue
		}
		out.Total++
		if nodeCountsUnhealthy(node) {
			out.Unhealthy = append(out.Unhealthy, nodeKey(g.r.Target.Cluster, node.Name))
		}
	}
	slices.Sort(out.Unhealthy)
	return out
}
