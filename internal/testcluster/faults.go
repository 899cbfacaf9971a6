package testcluster

import (
	"context"
	"fmt"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// NodeFault is what is wrong with a node; the value of its annotation
// medic-test/fault.
type NodeFault string

// What can be wrong with a node.
const (
	// NodeNotReady: Ready becomes False at once and heartbeats go on, as with
	// a dead container runtime.
	NodeNotReady NodeFault = "notready"
	// NodeUnreachable: heartbeats stop; the node lifecycle controller sets
	// Ready to Unknown after [Options].NodeMonitorGracePeriod.
	NodeUnreachable NodeFault = "unreachable"
	// The pressures: the condition becomes True, Ready stays.
	NodeMemoryPressure NodeFault = "memory-pressure"
	NodeDiskPressure   NodeFault = "disk-pressure"
	NodePIDPressure    NodeFault = "pid-pressure"
)

var nodeFaults = []NodeFault{NodeNotReady, NodeUnreachable, NodeMemoryPressure, NodeDiskPressure, NodePIDPressure}

// freezesPods reports whether pods on such a node are beyond the kubelet's
// reach: they neither end when deleted nor change their state.
func (f NodeFault) freezesPods() bool { return f == NodeNotReady || f == NodeUnreachable }

// PodFault is what is wrong with a pod; the value of its annotation
// medic-test/fault. In a pod template it also breaks every later pod.
type PodFault string

// What can be wrong with a pod.
const (
	// PodCrashLoop: waiting in CrashLoopBackOff, not ready, one restart more
	// every 5 s or medic-test/crash-interval; last exit 1.
	PodCrashLoop PodFault = "crashloop"
	// PodOOMKill: like PodCrashLoop, the last exit was 137, OOMKilled.
	PodOOMKill PodFault = "oomkill"
	// PodNotReady: running, but the readiness probe fails.
	PodNotReady PodFault = "notready"
	// PodPending: stays in ContainerCreating; only before it has started.
	PodPending PodFault = "pending"
	// PodFail: phase Failed with exit 1. A Job's pod then counts as failed.
	PodFail PodFault = "fail"
	// PodEvicted: phase Failed, reason Evicted.
	PodEvicted PodFault = "evicted"
	// PodHang: a Job's pod runs for ever.
	PodHang PodFault = "hang"
	// PodStuckTerminating: once deleted, it stays until it is deleted with a
	// grace period of 0.
	PodStuckTerminating PodFault = "stuck-terminating"
)

var podFaults = []PodFault{PodCrashLoop, PodOOMKill, PodNotReady, PodPending, PodFail, PodEvicted, PodHang, PodStuckTerminating}

// SetNodeFault breaks a node; it does not wait until that shows.
func (c *Cluster) SetNodeFault(ctx context.Context, name string, fault NodeFault) error {
	if !slices.Contains(nodeFaults, fault) {
		return fmt.Errorf("unknown node fault %q", fault)
	}
	if err := c.annotate(ctx, "nodes", "", name, "annotations", FaultAnnotation, string(fault)); err != nil {
		return err
	}
	if !fault.freezesPods() {
		return nil
	}
	// The node agent would do it, but perhaps only after the caller's next
	// request.
	pods, err := c.client.CoreV1().Pods("").List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=" + name})
	if err != nil {
		return err
	}
	for i := range pods.Items {
		if err := setFrozen(ctx, c.client, &pods.Items[i], fault); err != nil {
			return err
		}
	}
	return nil
}

// ClearNodeFault heals a node, and with it the pods that it froze.
func (c *Cluster) ClearNodeFault(ctx context.Context, name string) error {
	return c.annotate(ctx, "nodes", "", name, "annotations", FaultAnnotation, "")
}

// SetPodFault breaks one pod; the pod that replaces it is sound.
func (c *Cluster) SetPodFault(ctx context.Context, namespace, name string, fault PodFault) error {
	if !slices.Contains(podFaults, fault) {
		return fmt.Errorf("unknown pod fault %q", fault)
	}
	return c.annotate(ctx, "pods", namespace, name, "annotations", FaultAnnotation, string(fault))
}

// ClearPodFault heals a pod in place; its restarts stay counted.
func (c *Cluster) ClearPodFault(ctx context.Context, namespace, name string) error {
	return c.annotate(ctx, "pods", namespace, name, "annotations", FaultAnnotation, "")
}
