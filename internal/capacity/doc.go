// Package capacity tells, before anything is sent, whether the pods that a plan
// takes down would find a place elsewhere. It applies the hard constraints of
// the default scheduler to a snapshot of the cluster and never asks the network.
// It errs towards "no": what it cannot evaluate it names, preemption is not
// hoped for, and room that waiting pods would take is given to them first.
package capacity

import (
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	storagev1 "k8s.io/api/storage/v1"
)

// World is a snapshot of a cluster. Nothing in it is written to.
type World struct {
	Nodes []corev1.Node
	// Pods are all pods of all namespaces, those without a node included.
	Pods []corev1.Pod
	// Budgets are the PodDisruptionBudgets of the displaced pods' namespaces.
	Budgets []policyv1.PodDisruptionBudget
	// Namespaces are the labels of namespaces by name, nil when not read: needed
	// only if NeedsNamespaces.
	Namespaces map[string]map[string]string
	// Claims are the claims of the displaced pods by ClaimKey. One that is missing
	// was not readable.
	Claims map[string]Claim
	// Drivers are the CSI drivers of the nodes, nil when not read: needed only if
	// a claim's volume has a CSI driver.
	Drivers []storagev1.CSINode
}

// Claim is a PersistentVolumeClaim and the volume that it is bound to, nil if
// there is none.
type Claim struct {
	Claim  *corev1.PersistentVolumeClaim
	Volume *corev1.PersistentVolume
}

// ClaimKey is the key of a claim in World.Claims.
func ClaimKey(namespace, name string) string { return namespace + "/" + name }

// Question is what a plan takes down.
type Question struct {
	// Pods are the displaced pods, each of which its controller makes anew.
	Pods []corev1.Pod
	// Without is a node that takes nothing: the one that is drained, or "".
	Without string
	// Deletes says that the pods are deleted and not evicted: a budget cannot
	// stop that, so it counts only for those that still serve.
	Deletes bool
}

// Answer is the outcome of placing the displaced pods.
type Answer struct {
	Displaced, Placed int
	// Unplaced says for pods that fit nowhere why, in the words of the constraints.
	Unplaced []string
	// Unevaluated are hard constraints that could not be evaluated.
	Unevaluated []string
	// Blocked are disruption budgets that let nothing go now.
	Blocked []string
	// Places is the node of each placed pod by namespace/name.
	Places map[string]string
}
