package main

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"

	"github.com/alertmedic/alertmedic/internal/testcluster"
)

const benchNamespace = "bench-shop"

// deploy makes n Deployments of one pod each and returns the names of the pods.
func deploy(ctx context.Context, c *testcluster.Cluster, prefix string, n int) ([]string, error) {
	client := c.Client()
	if _, err := client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: benchNamespace}}, metav1.CreateOptions{}); made(err) != nil {
		return nil, err
	}
	for i := range n {
		labels := map[string]string{"app": fmt.Sprintf("%s-%d", prefix, i)}
		one := int32(1)
		if _, err := client.AppsV1().Deployments(benchNamespace).Create(ctx, &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: labels["app"]},
			Spec: appsv1.DeploymentSpec{Replicas: &one, Selector: &metav1.LabelSelector{MatchLabels: labels},
				Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels},
					Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "app", Image: "app:1"}}}}}}, metav1.CreateOptions{}); err != nil {
			return nil, err
		}
	}
	pods := make([]string, n)
	for i := range n {
		name := fmt.Sprintf("%s-%d", prefix, i)
		if err := c.WaitDeploymentAvailable(ctx, benchNamespace, name); err != nil {
			return nil, err
		}
		list, err := client.CoreV1().Pods(benchNamespace).List(ctx, metav1.ListOptions{LabelSelector: "app=" + name})
		if err != nil || len(list.Items) == 0 {
			return nil, fmt.Errorf("%s has no pod: %w", name, err)
		}
		pods[i] = list.Items[0].Name
	}
	return pods, nil
}

func podLabels(pod string) map[string]string {
	return map[string]string{"alertname": benchAlert, "namespace": benchNamespace, "pod": pod, "severity": "warning"}
}

// react measures from the webhook to the acknowledged PATCH, in turns with what
// client-go alone takes for the same and with a commit.
func react(ctx context.Context, b *bench) error {
	c, err := b.controlPlane(ctx)
	if err != nil {
		return err
	}
	mon, err := b.monitoring()
	if err != nil {
		return err
	}
	n := 8 * b.rounds
	b.progress("making %d Deployments", 2*n)
	pods, err := deploy(ctx, c, "react", 2*n)
	if err != nil {
		return err
	}
	beganNow()
	dsn, err := b.database(ctx, "sqlite")
	if err != nil {
		return err
	}
	otherDSN, err := b.database(ctx, "sqlite")
	if err != nil {
		return err
	}
	other, err := open(ctx, otherDSN)
	if err != nil {
		return err
	}
	defer other.Close()
	m, err := b.startMedic(ctx, settings{name: "react", dsn: dsn, monitoring: mon.url, qps: 500})
	if err != nil {
		return err
	}
	var product, bare, commits, allowed, requests []float64
	var made []string // by the service for the last alert
	for i := range n {
		began := time.Now()
		if err := walkAndPatch(ctx, c, pods[n+i]); err != nil {
			return err
		}
		bare = append(bare, ms(time.Since(began)))
		for range 3 {
			began = time.Now()
			if err := other.SetValue(ctx, "bench", began.String()); err != nil {
				return err
			}
			commits = append(commits, ms(time.Since(began)))
		}
		if err := mon.hold(podLabels(pods[i])); err != nil {
			return err
		}
		// The state of an alert is read at most once a second, and a real alert is
		// there for group_wait before it is sent.
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(1100 * time.Millisecond):
		}
		began = time.Now()
		status, err := post(ctx, m.url, webhookOf(podLabels(pods[i])))
		if err != nil || status != http.StatusOK {
			return fmt.Errorf("webhook: %d, %w", status, err)
		}
		patched, by, err := waitForPatch(ctx, c, began, fmt.Sprintf("react-%d", i))
		if err != nil {
			return fmt.Errorf("%w\n%s", err, m.runs(ctx))
		}
		product = append(product, ms(patched.Sub(began)))
		requests, made = append(requests, float64(len(by))), by
	}
	slices.Sort(commits)
	for i := range bare {
		allowed = append(allowed, 2*bare[i]+3*median(commits))
	}
	b.figure("owner walk and PATCH by client-go", "ms", bare, 0, false, "")
	b.figure("a commit, sqlite", "ms", commits, 0, false, "")
	slices.Sort(allowed)
	b.figure("from POST to the PATCH acknowledged, sqlite", "ms", product, median(allowed), false, "2 × client-go + 3 commits allowed")
	b.figure("requests to the API server up to the PATCH", "requests", requests, 6, false, "Events excluded; the last: "+strings.Join(made, ", "))
	return nil
}

// walkAndPatch does by client-go alone what a restart found from a pod needs.
func walkAndPatch(ctx context.Context, c *testcluster.Cluster, pod string) error {
	client := c.Client()
	p, err := client.CoreV1().Pods(benchNamespace).Get(ctx, pod, metav1.GetOptions{})
	if err != nil {
		return err
	}
	rs, err := client.AppsV1().ReplicaSets(benchNamespace).Get(ctx, metav1.GetControllerOf(p).Name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	d, err := client.AppsV1().Deployments(benchNamespace).Get(ctx, metav1.GetControllerOf(rs).Name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	_, err = client.AppsV1().Deployments(benchNamespace).Patch(ctx, d.Name, types.MergePatchType,
		fmt.Appendf(nil, `{"spec":{"template":{"metadata":{"annotations":{"kubectl.kubernetes.io/restartedAt":%q}}}}}`, time.Now().Format(time.RFC3339)), metav1.PatchOptions{})
	return err
}

// waitForPatch finds the service's PATCH of a Deployment in the audit log: when
// it was answered, and how many requests the service had made by then.
func waitForPatch(ctx context.Context, c *testcluster.Cluster, since time.Time, deployment string) (time.Time, []string, error) {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	for {
		events, err := c.AuditEvents(since)
		if err != nil {
			return time.Time{}, nil, err
		}
		for _, e := range events {
			if own(e) && e.Verb == "patch" && e.ObjectRef.Name == deployment {
				var made []string
				for _, before := range events {
					if own(before) && !before.RequestReceivedTimestamp.After(e.RequestReceivedTimestamp.Time) {
						made = append(made, before.Verb+" "+before.ObjectRef.Resource)
					}
				}
				return e.StageTimestamp.Time, made, nil
			}
		}
		select {
		case <-ctx.Done():
			return time.Time{}, nil, fmt.Errorf("no PATCH of %s came: %w", deployment, ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// own tells a request of the service that counts: no Event, and no watch, which
// is not for a single run.
func own(e auditv1.Event) bool {
	return e.User.Username == medicUser && e.Verb != "watch" && e.ObjectRef != nil && e.ObjectRef.Resource != "events"
}
