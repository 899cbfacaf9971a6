package kube

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/watchlist"

	"github.com/alertmedic/alertmedic/internal/action"
	"github.com/alertmedic/alertmedic/internal/testcluster"
)

func (w *world) skip(t *testing.T, kind action.Kind, namespace, name, value string) {
	t.Helper()
	patch := []byte(`{"metadata":{"annotations":{"` + SkipAnnotation + `":` + value + `}}}`)
	gvr, ok := Resource(kind)
	if !ok {
		_, err := w.api.CoreV1().Namespaces().Patch(t.Context(), name, types.MergePatchType, patch, metav1.PatchOptions{})
		require.NoError(t, err)
		return
	}
	_, err := w.client.own.dynamic.Resource(gvr).Namespace(namespace).Patch(t.Context(), name, types.MergePatchType, patch, metav1.PatchOptions{})
	require.NoError(t, err)
}

func TestEvidenceOfWorkload(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	d, pods := w.deployment(t, "web", 1)
	pod := pods[0].Name
	target := w.target(t, action.KindWorkload, set{"pod": pod})
	before := time.Now()
	got := w.client.Evidence(t.Context(), EvidenceRequest{Target: target})
	require.Empty(t, got.Errors)
	require.False(t, got.ObservedAt.Before(before))
	require.True(t, got.Target.Exists)
	require.Equal(t, string(d.UID), got.Target.UID)
	require.True(t, got.Target.PodExists)
	require.Equal(t, string(pods[0].UID), got.Target.PodUID)
	require.False(t, got.Target.Terminating)
	require.Empty(t, got.Target.Skip)
	require.Empty(t, got.Target.Protected)
	require.Nil(t, got.Nodes)

	// Opting out works on the object, its pod, its owner and its namespace.
	podTarget := w.target(t, action.KindPod, set{"pod": pod})
	for _, tc := range []struct {
		kind            action.Kind
		namespace, name string
		target          action.Target
		want            string
	}{
		{action.KindDeployment, w.ns, "web", target, "Deployment/" + w.ns + "/web"},
		{action.KindDeployment, w.ns, "web", podTarget, "Deployment/" + w.ns + "/web"},
		{action.KindPod, w.ns, pod, target, "Pod/" + w.ns + "/" + pod},
		{"Namespace", "", w.ns, podTarget, "Namespace/" + w.ns},
	} {
		w.skip(t, tc.kind, tc.namespace, tc.name, `"true"`)
		got := w.client.Evidence(t.Context(), EvidenceRequest{Target: tc.target})
		require.Empty(t, got.Errors)
		require.Equal(t, tc.want, got.Target.Skip)
		w.skip(t, tc.kind, tc.namespace, tc.name, `"false"`)
		w.eventually(t, func(ctx context.Context) (bool, error) { // until its ReplicaSet has it too
			return w.client.Evidence(ctx, EvidenceRequest{Target: tc.target}).Target.Skip == "", nil
		})
	}

	require.NoError(t, w.api.CoreV1().Pods(w.ns).Delete(t.Context(), pod, metav1.DeleteOptions{}))
	require.NoError(t, w.WaitPodGone(testContext(t), &pods[0]))
	got = w.client.Evidence(t.Context(), EvidenceRequest{Target: target})
	require.True(t, got.Target.Exists)
	require.False(t, got.Target.PodExists)
	got = w.client.Evidence(t.Context(), EvidenceRequest{Target: podTarget})
	require.False(t, got.Target.Exists)
	require.Empty(t, got.Errors)
}

func TestEvidenceProtectsNamespaces(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.deployment(t, "web", 1)
	target := w.target(t, action.KindDeployment, set{"deployment": "web"})
	protected := ProtectConfig{Namespaces: []string{w.ns}}
	require.Contains(t, w.client.Evidence(t.Context(), EvidenceRequest{Target: target, Protect: protected}).Target.Protected, "unless the playbook names it")
	protected.Named = []string{w.ns}
	require.Empty(t, w.client.Evidence(t.Context(), EvidenceRequest{Target: target, Protect: protected}).Target.Protected)

	own := newWorld(t, func(o *Options) { o.Self = Self{Namespace: w.ns, Pod: "alertmedic-0", Node: "n"} })
	require.Contains(t, own.client.Evidence(t.Context(), EvidenceRequest{Target: target, Protect: protected}).Target.Protected, "alertmedic's own namespace")
}

func TestEvidenceOfNode(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := testContext(t)
	protection := func(name string, client *Client, protect ProtectConfig) string {
		t.Helper()
		got := client.Evidence(ctx, EvidenceRequest{Target: action.Target{Cluster: "prod", Ref: action.Ref{Kind: action.KindNode, Name: name}}, Protect: protect, NeedNodes: true})
		require.Empty(t, got.Errors)
		require.NotNil(t, got.Nodes)
		return got.Target.Protected
	}
	worker := w.Node(t, testcluster.NodeOptions{Labels: map[string]string{"tier": "gold"}})
	control := w.Node(t, testcluster.NodeOptions{Labels: map[string]string{"node-role.kubernetes.io/control-plane": ""}})
	tainted := w.Node(t, testcluster.NodeOptions{Taints: []corev1.Taint{{Key: "node-role.kubernetes.io/control-plane", Effect: corev1.TaintEffectNoSchedule}}})
	require.Empty(t, protection(worker.Name, w.client, ProtectConfig{}))
	require.Contains(t, protection(control.Name, w.client, ProtectConfig{}), "control plane: label")
	require.Contains(t, protection(tainted.Name, w.client, ProtectConfig{}), "control plane: taint")
	require.Contains(t, protection(worker.Name, w.client, ProtectConfig{NodeSelectors: []string{"tier=gold"}}), "protected by selector")
	own := newWorld(t, func(o *Options) { o.Self.Node = worker.Name })
	require.Contains(t, protection(worker.Name, own.client, ProtectConfig{}), "alertmedic runs on node")

	spec := podTemplate("db", nil).Spec
	testcluster.OnNode(&spec, worker.Name)
	pod, err := w.api.CoreV1().Pods(w.ns).Create(ctx, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "prometheus-0", Labels: map[string]string{"app.kubernetes.io/name": "prometheus"}}, Spec: spec,
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	require.NoError(t, w.WaitPod(ctx, w.ns, pod.Name, func(p *corev1.Pod) bool { return p.Spec.NodeName != "" }))
	require.Contains(t, protection(worker.Name, w.client, ProtectConfig{}), "hosts pod "+w.ns+"/prometheus-0")
	require.Empty(t, protection(worker.Name, w.client, ProtectConfig{PodSelectors: []string{"app=other"}}))
	self := newWorld(t, func(o *Options) { o.Self = Self{Namespace: w.ns, Pod: pod.Name} })
	require.Contains(t, protection(worker.Name, self.client, ProtectConfig{PodSelectors: []string{"app=other"}}), "alertmedic runs on node")

	require.ErrorContains(t, ProtectConfig{PodSelectors: []string{"a=b,,", ""}, NodeSelectors: []string{"!!"}}.Validate(), "would protect everything")
	got := w.client.Evidence(ctx, EvidenceRequest{Target: action.Target{Ref: action.Ref{Kind: action.KindNode, Name: worker.Name}}, Protect: ProtectConfig{PodSelectors: []string{"!!"}}})
	require.NotEmpty(t, got.Errors, "protection that cannot be judged must deny")
}

func TestEvidenceCountsNodes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := testContext(t)
	first := w.Node(t, testcluster.NodeOptions{})
	second := w.Node(t, testcluster.NodeOptions{Annotations: map[string]string{SkipAnnotation: "true"}})
	request := EvidenceRequest{Target: action.Target{Cluster: "prod", Ref: action.Ref{Kind: action.KindNode, Name: first.Name}}, NeedNodes: true}
	require.NotContains(t, w.client.Evidence(ctx, request).Nodes.Unhealthy, "prod/Node//"+first.Name)

	broke := time.Now()
	for _, n := range []string{first.Name, second.Name} {
		require.NoError(t, w.SetNodeFault(ctx, n, testcluster.NodeNotReady))
		require.NoError(t, w.WaitNodeReady(ctx, n, corev1.ConditionFalse))
	}
	got := w.client.Evidence(ctx, request).Nodes
	require.Contains(t, got.Unhealthy, "prod/Node//"+first.Name)
	require.NotContains(t, got.Unhealthy, "prod/Node//"+second.Name, "opted out")
	require.True(t, got.GrowingSince.After(broke), "growth seen at %s, not after %s", got.GrowingSince, broke)
}

func TestEvidenceUnknown(t *testing.T) {
	t.Parallel()
	c := severed(t)
	got := c.Evidence(t.Context(), EvidenceRequest{Target: action.Target{Ref: action.Ref{Kind: action.KindNode, Name: "n1"}}, NeedNodes: true})
	require.Len(t, got.Errors, 2)
	require.False(t, got.Target.Exists)
	require.Nil(t, got.Nodes)
	require.NotEmpty(t, c.Evidence(t.Context(), EvidenceRequest{}).Errors, "an empty target is never a wildcard")
}

func testNode(name string, ready corev1.ConditionStatus, since time.Time) corev1.Node {
	return corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Status:     corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready, LastTransitionTime: metav1.NewTime(since)}}},
	}
}

func TestNodeTracker(t *testing.T) {
	t.Parallel()
	now := testNow
	tracker := newNodeTracker(func() time.Time { return now })
	hour := now.Add(-time.Hour)
	well, ill := testNode("a", "True", hour), testNode("a", "False", now)
	old := testNode("b", "Unknown", hour)

	tracker.observeAll([]corev1.Node{well})
	require.Zero(t, tracker.growingSince(), "nothing is unhealthy")
	now = now.Add(time.Minute)
	tracker.observeOne(&ill, false)
	require.Equal(t, now, tracker.growingSince())
	grew := now
	now = now.Add(time.Minute)
	tracker.observeOne(&ill, false)
	tracker.observeOne(&well, false)
	require.Equal(t, grew, tracker.growingSince(), "fewer is no growth")
	tracker.observeAll([]corev1.Node{old})
	require.Equal(t, now, tracker.growingSince(), "another node is growth, even if the count is the same")

	restarted := newNodeTracker(func() time.Time { return now })
	restarted.observeAll([]corev1.Node{old, testNode("c", "False", now.Add(-5*time.Second))})
	require.Equal(t, now.Add(-5*time.Second), restarted.growingSince(), "after a restart the nodes themselves tell")

	cordoned := well
	cordoned.Spec.Unschedulable = true
	require.True(t, nodeCountsUnhealthy(&cordoned))
}

func TestWatchNodes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx, cancel := context.WithCancel(testContext(t))
	defer cancel()
	var done sync.WaitGroup
	done.Go(func() { require.NoError(t, w.client.WatchNodes(ctx)) })
	node := w.Node(t, testcluster.NodeOptions{})
	w.eventually(t, func(context.Context) (bool, error) {
		w.client.nodes.mu.Lock()
		defer w.client.nodes.mu.Unlock()
		return w.client.nodes.seeded && !w.client.nodes.unhealthy[node.Name], nil
	})
	broke := time.Now()
	require.NoError(t, w.SetNodeFault(ctx, node.Name, testcluster.NodeNotReady))
	w.eventually(t, func(context.Context) (bool, error) { return w.client.nodes.growingSince().After(broke), nil })
	cancel()
	done.Wait()
}

// Not parallel: it looks at all goroutines of the process.
func TestWatchNodesLeaksNothing(t *testing.T) {
	c := severed(t)
	before := goleak.IgnoreCurrent()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	require.NoError(t, c.WatchNodes(ctx))
	c.Close()
	goleak.VerifyNone(t, before)
}

// The interface by which client-go asks is of a method's name alone.
func TestNodesAreListedBeforeTheyAreWatched(t *testing.T) {
	t.Parallel()
	require.True(t, watchlist.DoesClientNotSupportWatchListSemantics(listThenWatch{&cache.ListWatch{}}))
	require.False(t, watchlist.DoesClientNotSupportWatchListSemantics(&cache.ListWatch{}))
}

// Who opts out a workload behind a Service, or one whose pod a drain would evict,
// means that as well as one that an alert names.
func TestEvidenceOfWhatElseIsChanged(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.deployment(t, "web", 1)
	other, pods := w.deployment(t, "other", 1)
	pod := pods[0]
	behind := EvidenceRequest{
		Target:  w.target(t, action.KindWorkload, set{"deployment": "web"}),
		Changed: []action.Ref{{Group: "apps", Kind: action.KindDeployment, Namespace: w.ns, Name: "other", UID: string(other.UID)}},
		// What this test itself changes bears the same second as what the person does.
		Controllers: append(Controllers(), "kube.test*"),
	}
	node, err := w.api.CoreV1().Nodes().Get(t.Context(), pod.Spec.NodeName, metav1.GetOptions{})
	require.NoError(t, err)
	ref := action.Ref{Kind: action.KindNode, Name: node.Name, UID: string(node.UID)}
	drain := EvidenceRequest{
		Target: action.Target{Cluster: "prod", Ref: ref, Top: ref}, Displaces: 1,
		Displaced: []action.Ref{{Kind: action.KindPod, Namespace: w.ns, Name: pod.Name, UID: string(pod.UID)}},
	}
	begun := drain
	begun.Begun = true
	skips := func(r EvidenceRequest) string {
		got := w.client.Evidence(t.Context(), r)
		require.Empty(t, got.Errors)
		return got.Target.Skip
	}
	require.Empty(t, skips(behind))
	require.Empty(t, skips(drain))
	for _, tc := range []struct {
		kind            action.Kind
		namespace, name string
		want            string
		asked           []EvidenceRequest
	}{
		{action.KindPod, w.ns, pod.Name, "Pod/" + w.ns + "/" + pod.Name, []EvidenceRequest{drain, begun}},
		{"Namespace", "", w.ns, "Namespace/" + w.ns, []EvidenceRequest{drain, begun}},
		{action.KindDeployment, w.ns, "other", "Deployment/" + w.ns + "/other", []EvidenceRequest{behind, drain}},
	} {
		w.skip(t, tc.kind, tc.namespace, tc.name, `"true"`)
		for _, r := range tc.asked {
			require.Equal(t, tc.want, skips(r))
		}
		if tc.kind == action.KindDeployment {
			require.Empty(t, skips(begun), "owners are asked once a step")
		}
		w.skip(t, tc.kind, tc.namespace, tc.name, "null")
	}

	_, err = w.api.AppsV1().Deployments(w.ns).Patch(t.Context(), "other", types.StrategicMergePatchType, []byte(`{"spec":{"replicas":2}}`),
		metav1.PatchOptions{FieldManager: "kubectl-edit"})
	require.NoError(t, err)
	got := w.client.Evidence(t.Context(), behind)
	require.NotNil(t, got.Target.Touched, "a person has just changed what is behind the Service")
	require.Equal(t, "kubectl-edit", got.Target.Touched.Manager)
	behind.Changed[0].Name = "gone"
	require.Empty(t, skips(behind), "what is not there is not changed")
}

// A node full of pods of as many workloads is asked about in few requests, and each
// of them, its ReplicaSet and its Deployment, is seen.
func TestEvidenceOfManyNeighboursInFewRequests(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	far := w.Namespace(t)
	node := w.Node(t, testcluster.NodeOptions{})
	ref := action.Ref{Kind: action.KindNode, Name: node.Name, UID: string(node.UID)}
	drain := EvidenceRequest{Target: action.Target{Cluster: "prod", Ref: ref, Top: ref}}
	const workloads = 12
	for i := range workloads {
		ns, name := w.ns, fmt.Sprintf("web-%02d", i)
		if i == 0 {
			ns = far
		}
		here := *w
		here.ns = ns
		_, pods := here.deployment(t, name, 1)
		drain.Displaced = append(drain.Displaced, action.Ref{Kind: action.KindPod, Namespace: ns, Name: pods[0].Name, UID: string(pods[0].UID)})
	}
	drain.Displaces = workloads
	skips := func() (string, int64) {
		before := w.gets.Load()
		got := w.client.Evidence(t.Context(), drain)
		require.Empty(t, got.Errors)
		require.Equal(t, workloads, got.Capacity.Displaced)
		return got.Target.Skip, w.gets.Load() - before
	}
	skip, requests := skips()
	require.Empty(t, skip)
	require.Less(t, requests, int64(workloads), "one by one they would be %d", 2*workloads)
	w.skip(t, "Namespace", "", far, `"true"`)
	skip, _ = skips()
	require.Equal(t, "Namespace/"+far, skip)
	w.skip(t, "Namespace", "", far, "null")
	w.skip(t, action.KindDeployment, w.ns, "web-07", `"true"`)
	skip, _ = skips()
	require.Equal(t, "Deployment/"+w.ns+"/web-07", skip)
}

// A pod of a controller that alertmedic cannot read counts with its siblings.
func TestEvidenceOfPodsOfACustomController(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	_, pods := w.deployment(t, "lone", 1)
	controller := metav1.OwnerReference{APIVersion: "apps.example.org/v1", Kind: "CloneSet", Name: "web", UID: "c10e", Controller: new(true)}
	var made []*corev1.Pod
	for _, name := range []string{"web-a", "web-b", "web-c"} {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: w.ns, OwnerReferences: []metav1.OwnerReference{controller}}, Spec: *pods[0].Spec.DeepCopy()}
		p.Spec.NodeName = ""
		p.Spec.NodeSelector = map[string]string{"nowhere": "true"} // they stay pending
		p, err := w.api.CoreV1().Pods(w.ns).Create(t.Context(), p, metav1.CreateOptions{})
		require.NoError(t, err)
		made = append(made, p)
	}
	pod := made[0]
	ref := action.Ref{Kind: action.KindPod, Namespace: w.ns, Name: pod.Name, UID: string(pod.UID)}
	got := w.client.Evidence(t.Context(), EvidenceRequest{Target: action.Target{Cluster: "prod", Ref: ref, Top: ref, Pod: &ref}, NeedPods: true})
	require.Empty(t, got.Errors)
	require.Equal(t, 3, got.Pods.Desired)
	require.Len(t, got.Pods.Unavailable, 3)
}
