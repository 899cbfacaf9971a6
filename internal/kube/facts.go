package kube

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/alertmedic/alertmedic/internal/action"
	"github.com/alertmedic/alertmedic/playbooks"
)

// revisionAnnotation numbers the ReplicaSets of a Deployment.
const revisionAnnotation = "deployment.kubernetes.io/revision"

// Facts observes the target for a playbook's conditions, and returns the raw
// object too, nil when it is not there. A fact that the kind does not have, or
// that could not be read, stays nil; an error, a *action.Error, means that the
// target itself could not be read.
//
// Restarts are those of the pod for a Pod target, and of all live pods of the
// workload otherwise. The other facts are of the workload: the target itself,
// the controller of a pod, or what an autoscaler scales.
func (c *Client) Facts(ctx context.Context, target action.Target) (playbooks.Facts, map[string]any, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	if target.IsZero() {
		return playbooks.Facts{}, nil, action.Errorf(action.ReasonInternal, "kube: facts of an empty target")
	}
	object, err := c.get(ctx, target.Kind, target.Namespace, target.Name)
	if err != nil && !apierrors.IsNotFound(err) {
		return playbooks.Facts{}, nil, Classify(err, false)
	}
	var raw map[string]any
	if err == nil {
		raw = object.Object
	} else {
		object = nil
	}
	var facts playbooks.Facts
	workload, err := c.workloadOf(ctx, target, object)
	if err == nil && workload != nil {
		err = c.workloadFacts(ctx, workload, &facts)
	}
	if err != nil {
		c.log.WarnContext(ctx, "some facts are unknown", "target", target.Ref.String(), "error", err)
	}
	if target.Kind == action.KindPod {
		facts.Restarts = nil
		if object != nil {
			if pod, err := typed[corev1.Pod](object); err == nil {
				facts.Restarts = new(restarts([]corev1.Pod{*pod}))
			}
		}
	}
	return facts, raw, nil
}

// workloadOf returns the workload that the target's facts are about, nil when
// it has none or is gone.
func (c *Client) workloadOf(ctx context.Context, target action.Target, object *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	if action.KindWorkload.Covers(target.Kind) {
		return object, nil
	}
	ref := target.Top
	switch target.Kind {
	case action.KindPod:
		if object != nil {
			owners, err := c.walk(ctx, object)
			if err != nil {
				return nil, err
			}
			if found, ok := owners.find(action.KindWorkload); ok {
				return found.object, nil
			}
			return nil, nil
		}
	case action.KindHPA:
		if object != nil {
			ref = scaledBy(object)
		}
	default:
		return nil, nil
	}
	if !readable(ref) || !action.KindWorkload.Covers(ref.Kind) {
		return nil, nil
	}
	workload, err := c.get(ctx, ref.Kind, ref.Namespace, ref.Name)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	return workload, err
}

// workloadFacts fills in facts one by one; the first failure leaves those after
// it unknown.
func (c *Client) workloadFacts(ctx context.Context, workload *unstructured.Unstructured, facts *playbooks.Facts) error {
	if replicas, ok, _ := unstructured.NestedInt64(workload.Object, "spec", "replicas"); ok {
		facts.Replicas = new(replicas)
	}
	ref := refOf(workload)
	at, count, err := c.revisions(ctx, workload)
	if err != nil {
		return err
	}
	facts.RolledOutAt, facts.Revisions = at, count
	pods, err := c.podsOf(ctx, workload)
	if err != nil {
		return err
	}
	facts.Restarts = new(restarts(pods))
	list, err := c.own.dynamic.Resource(resources[action.KindHPA]).Namespace(ref.Namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	facts.HPA = new(slices.ContainsFunc(list.Items, func(o unstructured.Unstructured) bool {
		scaled := scaledBy(&o)
		return scaled.Group == ref.Group && scaled.Kind == ref.Kind && scaled.Name == ref.Name
	}))
	return nil
}

func restarts(pods []corev1.Pod) int64 {
	var sum int64
	for i := range pods {
		for _, s := range slices.Concat(pods[i].Status.InitContainerStatuses, pods[i].Status.ContainerStatuses) {
			sum += int64(s.RestartCount)
		}
	}
	return sum
}

// revisions tells when the current revision was created and how many are kept.
func (c *Client) revisions(ctx context.Context, workload *unstructured.Unstructured) (*time.Time, *int64, error) {
	selector, err := podSelector(workload)
	if err != nil {
		return nil, nil, err
	}
	options := metav1.ListOptions{LabelSelector: selector.String()}
	owner := refOf(workload)
	switch owner.Kind {
	case action.KindDeployment:
		sets, err := c.own.typed.AppsV1().ReplicaSets(owner.Namespace).List(ctx, options)
		if err != nil {
			return nil, nil, err
		}
		at, count := deploymentRevisions(workload.GetAnnotations()[revisionAnnotation], owner, sets.Items)
		return at, count, nil
	case action.KindStatefulSet, action.KindDaemonSet:
		all, err := c.own.typed.AppsV1().ControllerRevisions(owner.Namespace).List(ctx, options)
		if err != nil {
			return nil, nil, err
		}
		current, _, _ := unstructured.NestedString(workload.Object, "status", "updateRevision")
		at, count := controllerRevisions(current, owner, all.Items)
		return at, count, nil
	}
	return nil, nil, nil
}

// RestartAnnotations are those by which people and programs restart a workload:
// they make a revision of the same release.
func RestartAnnotations() []string {
	return []string{"kubectl.kubernetes.io/restartedAt", "alertmedic.io/restart"}
}

// release is what a pod template is compared by.
func release(t corev1.PodTemplateSpec) corev1.PodTemplateSpec {
	out := *t.DeepCopy()
	delete(out.Labels, appsv1.DefaultDeploymentUniqueLabelKey)
	for _, mark := range RestartAnnotations() {
		delete(out.Annotations, mark)
	}
	return out
}

// deploymentRevisions tells when the release of the current revision came: with
// its first ReplicaSet, since a restart makes another one.
func deploymentRevisions(current string, owner action.Ref, sets []appsv1.ReplicaSet) (*time.Time, *int64) {
	sets = slices.DeleteFunc(sets, func(s appsv1.ReplicaSet) bool { return !ownedBy(&s, owner) })
	count := int64(len(sets))
	is := slices.IndexFunc(sets, func(s appsv1.ReplicaSet) bool { return current != "" && s.Annotations[revisionAnnotation] == current })
	if is < 0 {
		return nil, &count
	}
	at, runs := sets[is].CreationTimestamp.Time, release(sets[is].Spec.Template)
	for _, s := range sets {
		if s.CreationTimestamp.Time.Before(at) && equality.Semantic.DeepEqual(release(s.Spec.Template), runs) {
			at = s.CreationTimestamp.Time
		}
	}
	return &at, &count
}

// controllerRevisions is like deploymentRevisions. It finds the current revision
// by its name, or for a DaemonSet, which does not tell, by the highest number.
func controllerRevisions(current string, owner action.Ref, revisions []appsv1.ControllerRevision) (*time.Time, *int64) {
	var runs *appsv1.ControllerRevision
	var highest int64
	revisions = slices.DeleteFunc(revisions, func(r appsv1.ControllerRevision) bool { return !ownedBy(&r, owner) })
	count := int64(len(revisions))
	for i := range revisions {
		if r := &revisions[i]; r.Name == current || current == "" && r.Revision > highest {
			highest, runs = r.Revision, r
		}
	}
	if runs == nil {
		return nil, &count
	}
	at := runs.CreationTimestamp.Time
	template, ok := revisionTemplate(runs)
	for i := range revisions {
		other, readable := revisionTemplate(&revisions[i])
		if created := revisions[i].CreationTimestamp.Time; ok && readable && created.Before(at) && equality.Semantic.DeepEqual(other, template) {
			at = created
		}
	}
	return &at, &count
}

// revisionTemplate reads the pod template that a ControllerRevision keeps.
func revisionTemplate(r *appsv1.ControllerRevision) (corev1.PodTemplateSpec, bool) {
	var kept struct {
		Spec struct {
			Template *corev1.PodTemplateSpec `json:"template"`
		} `json:"spec"`
	}
	if err := json.Unmarshal(r.Data.Raw, &kept); err != nil || kept.Spec.Template == nil {
		return corev1.PodTemplateSpec{}, false
	}
	return release(*kept.Spec.Template), true
}
