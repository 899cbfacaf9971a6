package kube

import (
	"context"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/alertmedic/alertmedic/internal/action"
)

// podHealth judges a pod by its top controller, since the pod itself may have
// been deleted to heal it.
func (c *Client) podHealth(ctx context.Context, target action.Target, pod *unstructured.Unstructured) (Health, error) {
	top := target.Top
	switch {
	case top.IsZero() || top.Kind == action.KindPod || top.Kind == action.KindNode:
		if pod == nil {
			return missing(target.Ref), nil
		}
		p, err := typed[corev1.Pod](pod)
		if err != nil {
			return Health{}, err
		}
		return barePodHealth(p, c.now), nil
	case !readable(top):
		return c.customHealth(ctx, top)
	}
	object, err := c.get(ctx, top.Kind, top.Namespace, top.Name)
	if apierrors.IsNotFound(err) {
		object = nil
	} else if err != nil {
		return Health{}, err
	}
	return c.healthOf(ctx, action.Target{Cluster: target.Cluster, Ref: top, Top: top}, object)
}

func barePodHealth(pod *corev1.Pod, now clock) Health {
	switch {
	case pod.DeletionTimestamp != nil:
		return unhealthy("terminating", "pod %s is being deleted", pod.Name)
	case pod.Status.Phase == corev1.PodSucceeded:
		return healthy("succeeded", "pod %s has ended well", pod.Name)
	case pod.Status.Phase == corev1.PodFailed:
		return unhealthy("failed", "pod %s has failed: %s", pod.Name, pod.Status.Message)
	}
	for _, condition := range pod.Status.Conditions {
		if condition.Type == corev1.PodReady && condition.Status == corev1.ConditionTrue {
			return withPods(healthy("ready", "pod %s is ready", pod.Name), []corev1.Pod{*pod}, now())
		}
	}
	return withPods(unhealthy("not-ready", "pod %s is %s and not ready", pod.Name, pod.Status.Phase), []corev1.Pod{*pod}, now())
}

// customHealth judges a controller of a kind that this package does not know by
// what it owns: every workload must be healthy, and every pod ready.
func (c *Client) customHealth(ctx context.Context, top action.Ref) (Health, error) {
	if top.Namespace == "" || top.UID == "" {
		return unknown("unsupported", "no health check for %s", top), nil
	}
	judged := 0
	for _, kind := range []action.Kind{action.KindDeployment, action.KindStatefulSet, action.KindDaemonSet, action.KindReplicaSet} {
		list, err := c.own.dynamic.Resource(resources[kind]).Namespace(top.Namespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			return Health{}, err
		}
		for i := range list.Items {
			object := &list.Items[i]
			replicas, _, _ := unstructured.NestedInt64(object.Object, "spec", "replicas")
			if !ownedBy(object, top) || (kind == action.KindReplicaSet && replicas == 0) {
				continue
			}
			out, err := c.workloadHealth(ctx, object)
			if err != nil || out.State != Healthy {
				return out, err
			}
			judged++
		}
	}
	pods, err := c.own.typed.CoreV1().Pods(top.Namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return Health{}, err
	}
	for i := range pods.Items {
		if !ownedBy(&pods.Items[i], top) || pods.Items[i].DeletionTimestamp != nil {
			continue
		}
		if out := barePodHealth(&pods.Items[i], c.now); out.State != Healthy {
			return out, nil
		}
		judged++
	}
	if judged == 0 {
		return unknown("unsupported", "%s owns no workload or pod that could be judged", top), nil
	}
	return healthy("ready", "all %d workloads and pods of %s are well", judged, top), nil
}

func ownedBy(object metav1.Object, owner action.Ref) bool {
	ref, ok := controllerOf(object)
	return ok && ref.UID == owner.UID
}

func (c *Client) jobHealth(ctx context.Context, target action.Target, object *unstructured.Unstructured) (Health, error) {
	if object == nil {
		if target.Top.Kind == kindCronJob {
			return c.cronJobHealth(ctx, target.Top)
		}
		return missing(target.Ref), nil
	}
	job, err := typed[batchv1.Job](object)
	if err != nil {
		return Health{}, err
	}
	out := jobStatusHealth(job)
	if out.State != Unknown || out.Reason != jobRunning {
		return out, nil
	}
	pods, err := c.own.typed.CoreV1().Pods(job.Namespace).List(ctx, metav1.ListOptions{LabelSelector: batchv1.JobNameLabel + "=" + job.Name})
	if err != nil {
		return Health{}, err
	}
	for i := range pods.Items {
		if !ownedBy(&pods.Items[i], action.Ref{UID: string(job.UID)}) {
			continue
		}
		if why := brokenContainer(&pods.Items[i], c.now()); why != "" {
			return unhealthy(healthCrashLooping, "pod %s: %s", pods.Items[i].Name, why), nil
		}
	}
	return out, nil
}

const jobRunning = "running"

func jobStatusHealth(job *batchv1.Job) Health {
	for _, condition := range job.Status.Conditions {
		if condition.Status != corev1.ConditionTrue {
			continue
		}
		switch condition.Type {
		case batchv1.JobComplete, batchv1.JobSuccessCriteriaMet:
			return healthy("complete", "job %s is complete", job.Name)
		case batchv1.JobFailed, batchv1.JobFailureTarget:
			return unhealthy("failed", "job %s has failed: %s: %s", job.Name, condition.Reason, condition.Message)
		case batchv1.JobSuspended:
			return unknown("suspended", "job %s is suspended", job.Name)
		}
	}
	return unknown(jobRunning, "job %s is still running (%d active, %d failed pods)", job.Name, job.Status.Active, job.Status.Failed)
}

// cronJobHealth judges a CronJob by its newest Job.
func (c *Client) cronJobHealth(ctx context.Context, ref action.Ref) (Health, error) {
	jobs, err := c.own.typed.BatchV1().Jobs(ref.Namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return Health{}, err
	}
	var newest *batchv1.Job
	for i := range jobs.Items {
		job := &jobs.Items[i]
		if owner, ok := controllerOf(job); !ok || owner.Kind != kindCronJob || owner.Name != ref.Name {
			continue
		}
		if newest == nil || newest.CreationTimestamp.Before(&job.CreationTimestamp) {
			newest = job
		}
	}
	if newest == nil {
		return unknown("no-job", "%s has no job to judge by", ref), nil
	}
	return jobStatusHealth(newest), nil
}
