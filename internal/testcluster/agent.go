package testcluster

import (
	"context"
	"encoding/json"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/util/workqueue"
)

// The node agent does the part of a kubelet that kwok's stages cannot, since
// each of them sees one object: a pod on a dead node neither ends when it is
// deleted nor reports anything, and when the node is back its kubelet says
// again that the pods are ready which the node lifecycle controller had marked
// as not ready. It runs in the process that started the cluster.
type nodeAgent struct {
	client kubernetes.Interface
	nodes  cache.Store
	pods   cache.Indexer
	queue  workqueue.TypedRateLimitingInterface[string] // names of nodes
}

const byNodeIndex = "node"

func (c *Cluster) startNodeAgent(kubeconfig string) (stop func(), err error) {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, err
	}
	config.QPS = -1
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	factory := informers.NewSharedInformerFactory(client, 0)
	nodes, pods := factory.Core().V1().Nodes().Informer(), factory.Core().V1().Pods().Informer()
	a := &nodeAgent{
		client: client,
		nodes:  nodes.GetStore(),
		pods:   pods.GetIndexer(),
		queue: workqueue.NewTypedRateLimitingQueue(
			workqueue.NewTypedItemExponentialFailureRateLimiter[string](20*time.Millisecond, time.Second)),
	}
	if err := pods.AddIndexers(cache.Indexers{byNodeIndex: func(o any) ([]string, error) {
		pod, ok := o.(*corev1.Pod)
		if !ok || pod.Spec.NodeName == "" {
			return nil, nil
		}
		return []string{pod.Spec.NodeName}, nil
	}}); err != nil {
		return nil, err
	}
	enqueue := func(o any) {
		switch o := o.(type) {
		case *corev1.Node:
			a.queue.Add(o.Name)
		case *corev1.Pod:
			if o.Spec.NodeName != "" {
				a.queue.Add(o.Spec.NodeName)
			}
		}
	}
	handler := cache.ResourceEventHandlerFuncs{AddFunc: enqueue, UpdateFunc: func(_, o any) { enqueue(o) }}
	for _, informer := range []cache.SharedIndexInformer{nodes, pods} {
		if _, err := informer.AddEventHandler(handler); err != nil {
			return nil, err
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	factory.StartWithContext(ctx)
	var workers sync.WaitGroup
	for range 2 {
		workers.Go(func() { a.work(ctx) })
	}
	return func() {
		cancel()
		a.queue.ShutDown()
		workers.Wait()
		factory.Shutdown()
		CloseIdle(client)
	}, nil
}

func (a *nodeAgent) work(ctx context.Context) {
	for {
		name, shutdown := a.queue.Get()
		if shutdown {
			return
		}
		if err := a.sync(ctx, name); err != nil && ctx.Err() == nil {
			a.queue.AddRateLimited(name)
		} else {
			a.queue.Forget(name)
		}
		a.queue.Done(name)
	}
}

// sync brings the pods of one node to what its kubelet could do and say.
func (a *nodeAgent) sync(ctx context.Context, name string) error {
	object, exists, err := a.nodes.GetByKey(name)
	if err != nil || !exists {
		return err
	}
	node := object.(*corev1.Node)
	fault := faultOf(node)
	pods, err := a.pods.ByIndex(byNodeIndex, name)
	if err != nil {
		return err
	}
	for _, object := range pods {
		pod := object.(*corev1.Pod)
		if err := setFrozen(ctx, a.client, pod, fault); err != nil {
			return err
		}
		if fault.freezesPods() || NodeReady(node) != corev1.ConditionTrue {
			continue
		}
		if err := a.sayReadyAgain(ctx, pod); err != nil {
			return err
		}
	}
	return nil
}

func faultOf(node *corev1.Node) NodeFault {
	if fault := node.Annotations[FaultAnnotation]; fault != "" {
		return NodeFault(fault)
	}
	return NodeFault(node.Labels[FaultAnnotation])
}

// setFrozen makes the pod's mark agree with its node's fault.
func setFrozen(ctx context.Context, client kubernetes.Interface, pod *corev1.Pod, fault NodeFault) error {
	want := ""
	if fault.freezesPods() {
		want = string(fault)
	}
	if pod.Annotations[nodeFaultAnnotation] == want {
		return nil
	}
	var value any = want
	if want == "" {
		value = nil
	}
	return patchPod(ctx, client, pod, map[string]any{"annotations": map[string]any{nodeFaultAnnotation: value}}, nil)
}

// sayReadyAgain restores a Ready condition that was taken from outside, while
// all the pod's containers are ready.
func (a *nodeAgent) sayReadyAgain(ctx context.Context, pod *corev1.Pod) error {
	if pod.Status.Phase != corev1.PodRunning || pod.DeletionTimestamp != nil || PodReady(pod) {
		return nil
	}
	containers := false
	for _, condition := range pod.Status.Conditions {
		if condition.Type == corev1.ContainersReady {
			containers = condition.Status == corev1.ConditionTrue
		}
	}
	for _, gate := range pod.Spec.ReadinessGates {
		for _, condition := range pod.Status.Conditions {
			if condition.Type == gate.ConditionType && condition.Status != corev1.ConditionTrue {
				return nil
			}
		}
	}
	if !containers {
		return nil
	}
	ready := corev1.PodCondition{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now()}
	return patchPod(ctx, a.client, pod, nil, map[string]any{"conditions": []corev1.PodCondition{ready}})
}

// patchPod patches this very pod; that it is gone or another has its name is
// no error.
func patchPod(ctx context.Context, client kubernetes.Interface, pod *corev1.Pod, metadata, status map[string]any) error {
	if metadata == nil {
		metadata = map[string]any{}
	}
	metadata["uid"] = pod.UID
	body := map[string]any{"metadata": metadata}
	var subresources []string
	if status != nil {
		body["status"] = status
		subresources = []string{"status"}
	}
	patch, err := json.Marshal(body)
	if err != nil {
		return err
	}
	_, err = client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, subresources...)
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) || apierrors.IsInvalid(err) {
		return nil
	}
	return err
}
