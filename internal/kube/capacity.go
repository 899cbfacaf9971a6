package kube

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/alertmedic/alertmedic/internal/action"
	"github.com/alertmedic/alertmedic/internal/capacity"
	"github.com/alertmedic/alertmedic/internal/guard"
)

// fromCache lets the API server answer a list from its memory, which may be some
// seconds old, which is good enough for labels of namespaces and drivers. Nodes,
// pods and budgets are read as they are: a displaced pod that an old list does not
// have yet would be taken for one that is gone.
var fromCache = metav1.ListOptions{ResourceVersion: "0"}

// capacityEvidence places what the plan displaces on a snapshot of the cluster.
// What cannot be read of a constraint is told as one that cannot be evaluated;
// without nodes, pods or budgets there is no evidence at all.
func (g *gathering) capacityEvidence(ctx context.Context) {
	if len(g.r.Displaced) == 0 {
		g.out.Errors = append(g.out.Errors, fmt.Sprintf("looking for places: the plan displaces %d pods and names none", g.r.Displaces))
		return
	}
	api := g.c.own.typed
	w := capacity.World{Nodes: g.nodes}
	if w.Nodes == nil {
		nodes, err := api.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
		if err != nil {
			g.fail("looking for places: listing nodes", err)
			return
		}
		w.Nodes = nodes.Items
	}
	pods, err := api.CoreV1().Pods(metav1.NamespaceAll).List(ctx, metav1.ListOptions{})
	if err != nil {
		g.fail("looking for places: listing pods", err)
		return
	}
	w.Pods = pods.Items
	q := capacity.Question{Pods: remaining(w.Pods, g.r.Displaced), Deletes: g.r.Deletes}
	if g.r.Target.Kind == action.KindNode {
		q.Without = g.r.Target.Name
	}
	if g.r.Target.Kind == action.KindNode {
		g.displaced(ctx, q.Pods)
	}
	if len(q.Pods) == 0 { // all are gone or on their way
		g.out.Capacity = &guard.CapacityEvidence{}
		return
	}
	budgets, err := api.PolicyV1().PodDisruptionBudgets(metav1.NamespaceAll).List(ctx, metav1.ListOptions{})
	if err != nil {
		g.fail("looking for places: listing PodDisruptionBudgets", err)
		return
	}
	w.Budgets = budgets.Items
	if capacity.NeedsNamespaces(w.Pods) {
		w.Namespaces = g.namespaceLabels(ctx)
	}
	g.claims(ctx, &w, q.Pods)
	a := capacity.Place(w, q)
	g.out.Capacity = &guard.CapacityEvidence{
		Displaced: a.Displaced, Placed: a.Placed, Unplaced: a.Unplaced, Unevaluated: a.Unevaluated, Blocked: a.Blocked,
	}
}

// remaining are the pods of the plan that are still there, by UID: one that was
// made anew under the same name is not displaced.
func remaining(all []corev1.Pod, planned []action.Ref) []corev1.Pod {
	uids := make(map[string]bool, len(planned))
	for _, ref := range planned {
		uids[ref.UID] = true
	}
	var out []corev1.Pod
	for i := range all {
		if p := &all[i]; uids[string(p.UID)] && p.DeletionTimestamp == nil {
			out = append(out, *p)
		}
	}
	return out
}

// namespaceLabels is nil when they cannot be read: the pods whose constraints
// need them are then named as not evaluated.
func (g *gathering) namespaceLabels(ctx context.Context) map[string]map[string]string {
	list, err := g.c.own.typed.CoreV1().Namespaces().List(ctx, fromCache)
	if err != nil {
		return nil
	}
	out := make(map[string]map[string]string, len(list.Items))
	for i := range list.Items {
		out[list.Items[i].Name] = list.Items[i].Labels
	}
	return out
}

// claims reads the claims of the displaced pods, their volumes, and the drivers
// of the nodes where a volume has one. What is missing afterwards was not
// readable, and the answer says so.
func (g *gathering) claims(ctx context.Context, w *capacity.World, pods []corev1.Pod) {
	api := g.c.own.typed
	w.Claims = map[string]capacity.Claim{}
	drivers := false
	for i := range pods {
		for _, name := range capacity.ClaimNames(&pods[i]) {
			key := capacity.ClaimKey(pods[i].Namespace, name)
			if _, known := w.Claims[key]; known {
				continue
			}
			var claim capacity.Claim
			var err error
			if claim.Claim, err = api.CoreV1().PersistentVolumeClaims(pods[i].Namespace).Get(ctx, name, metav1.GetOptions{}); err != nil {
				claim.Claim = nil
			} else if volume := claim.Claim.Spec.VolumeName; volume != "" {
				if claim.Volume, err = api.CoreV1().PersistentVolumes().Get(ctx, volume, metav1.GetOptions{}); err != nil {
					claim.Volume = nil
				}
				drivers = drivers || claim.Volume != nil && claim.Volume.Spec.CSI != nil
			}
			if err != nil && !apierrors.IsNotFound(err) {
				g.c.log.WarnContext(ctx, "a claim of a displaced pod cannot be read, so its place cannot be told", "claim", key, "error", Classify(err, false))
			}
			w.Claims[key] = claim
		}
	}
	if !drivers {
		return
	}
	list, err := api.StorageV1().CSINodes().List(ctx, fromCache)
	if err != nil {
		g.c.log.WarnContext(ctx, "CSINodes cannot be listed, so places of pods with volumes cannot be told", "error", Classify(err, false))
		return
	}
	w.Drivers = list.Items
	if w.Drivers == nil {
		w.Drivers = []storagev1.CSINode{} // read, and there are none
	}
}
