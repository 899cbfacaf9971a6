package action

import "strings"

// Kind is a declared target kind of a playbook.
type Kind string

// The kinds that a playbook can declare. Workload is any controller of pods
// (Deployment, StatefulSet, DaemonSet, or a bare ReplicaSet); a resolved
// Target carries the live kind instead.
const (
	KindPod                   Kind = "Pod"
	KindWorkload              Kind = "Workload"
	KindDeployment            Kind = "Deployment"
	KindStatefulSet           Kind = "StatefulSet"
	KindDaemonSet             Kind = "DaemonSet"
	KindReplicaSet            Kind = "ReplicaSet"
	KindNode                  Kind = "Node"
	KindService               Kind = "Service"
	KindJob                   Kind = "Job"
	KindPersistentVolumeClaim Kind = "PersistentVolumeClaim"
	KindHPA                   Kind = "HorizontalPodAutoscaler"
)

// Kinds lists every kind that a playbook can declare.
func Kinds() []Kind {
	return []Kind{KindPod, KindWorkload, KindDeployment, KindStatefulSet, KindDaemonSet, KindReplicaSet,
		KindNode, KindService, KindJob, KindPersistentVolumeClaim, KindHPA}
}

// Covers reports whether an object of the live kind may stand for the declared
// kind k: Workload covers every controller of pods.
func (k Kind) Covers(live Kind) bool {
	if k == live {
		return true
	}
	if k == KindWorkload {
		switch live {
		case KindDeployment, KindStatefulSet, KindDaemonSet, KindReplicaSet:
			return true
		}
	}
	return false
}

// ClusterScoped reports whether objects of the kind live outside namespaces.
func (k Kind) ClusterScoped() bool { return k == KindNode }

// Ref names a live object.
type Ref struct {
	Group     string `json:"group,omitempty"`
	Kind      Kind   `json:"kind"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
	UID       string `json:"uid,omitempty"`
}

// String returns "Kind/namespace/name", or "Kind/name" for a cluster-scoped
// object, as people read it in the log.
func (r Ref) String() string {
	if r.Namespace == "" {
		return string(r.Kind) + "/" + r.Name
	}
	return string(r.Kind) + "/" + r.Namespace + "/" + r.Name
}

// IsZero reports whether r names nothing. An empty reference is never a
// wildcard: whoever meets one must fail.
func (r Ref) IsZero() bool { return r.Kind == "" || r.Name == "" }

// Target is the live object that a run acts on.
type Target struct {
	Cluster string `json:"cluster"`
	Ref
	// Pod is the pod that the alert named when Ref is its workload or node;
	// its UID was read when the target was resolved. Pod actions act on it.
	Pod *Ref `json:"pod,omitempty"`
	// Container is the container that the alert named, if any.
	Container string `json:"container,omitempty"`
	// Top is the topmost controller of Ref (Ref itself if nothing controls it).
	Top Ref `json:"top"`
	// NodePool and Zone are those of a Node target, "" when unknown.
	NodePool string `json:"nodePool,omitempty"`
	Zone     string `json:"zone,omitempty"`
}

// LockKey is the key under which runs on the target exclude each other: the
// top controller for everything in a namespace, the node itself for a node.
func (t Target) LockKey() string {
	if t.Kind == KindNode {
		return Join(t.Cluster, string(KindNode), "", t.Name)
	}
	top := t.Top
	if top.IsZero() {
		top = t.Ref
	}
	return Join(t.Cluster, string(top.Kind), top.Namespace, top.Name)
}

// AttemptKey is what attempts and cooldowns are counted by:
// cluster/kind/namespace/top controller and never a UID, so that a replaced
// object does not start with a clean slate.
func (t Target) AttemptKey() string { return t.LockKey() }

// Join builds a lock or attempt key. Kubernetes names hold no slash, so the
// key is unambiguous.
func Join(cluster, kind, namespace, name string) string {
	return strings.Join([]string{cluster, kind, namespace, name}, "/")
}
