package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/alertmedic/alertmedic/internal/testcluster"
)

// clusterName is the label that every alert carries.
const clusterName = "c1"

// stage is what one scenario plays on.
type stage struct {
	*testcluster.Cluster
	sink       *sink
	monitoring *testcluster.Monitoring
	namespace  string
	nodes      []string
	seen       int // webhooks before this one are not waited for
}

func openStage(ctx context.Context, c *testcluster.Cluster, name string) (*stage, error) {
	s := &stage{Cluster: c, namespace: name}
	var err error
	if s.sink, err = openSink(ctx); err != nil {
		return nil, err
	}
	return s, c.AddNamespace(ctx, s.namespace)
}

func (s *stage) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	var errs []error
	if s.monitoring != nil {
		errs = append(errs, s.monitoring.Stop())
	}
	errs = append(errs, s.sink.close())
	for _, n := range s.nodes {
		errs = append(errs, s.RemoveNode(ctx, n))
	}
	return errors.Join(append(errs, s.Client().CoreV1().Namespaces().Delete(ctx, s.namespace, metav1.DeleteOptions{}))...)
}

// monitor starts the monitoring; the empty options send everything, grouped by
// namespace, at once.
func (s *stage) monitor(ctx context.Context, o testcluster.MonitoringOptions) error {
	o.Namespaces = []string{s.namespace}
	o.ExternalLabels = map[string]string{"cluster": clusterName}
	if o.AlertmanagerConfig == "" {
		o.AlertmanagerConfig = s.route("namespace", "1s", "1h", "")
	}
	var err error
	s.monitoring, err = s.StartMonitoring(ctx, o)
	return err
}

// route is an Alertmanager configuration; more are settings of the webhook.
func (s *stage) route(groupBy, groupInterval, repeatInterval, more string) string {
	return fmt.Sprintf(`global: {resolve_timeout: 1m}
route: {receiver: webhook, group_by: [%s], group_wait: 500ms, group_interval: %s, repeat_interval: %s}
receivers:
- name: webhook
  webhook_configs: [{url: %q, send_resolved: true%s}]
`, groupBy, groupInterval, repeatInterval, s.sink.url, more)
}

// firing and resolved wait for such an alert in a webhook not waited for yet.
func (s *stage) firing(ctx context.Context, name string) error { return s.await(ctx, "firing", name) }
func (s *stage) resolved(ctx context.Context, name string) error {
	return s.await(ctx, "resolved", name)
}

func (s *stage) await(ctx context.Context, status, name string) error {
	return s.until(ctx, status+" "+name, func(r record) bool { return r.has(status, name) })
}

func (s *stage) until(ctx context.Context, what string, check func(record) bool) error {
	at, err := s.sink.wait(ctx, what, s.seen, check)
	if err == nil {
		s.seen = at + 1
	}
	return err
}

// settle waits until n webhooks have arrived in all.
func (s *stage) settle(ctx context.Context, n int) error {
	_, err := s.sink.wait(ctx, fmt.Sprintf("%d webhooks", n), n-1, func(record) bool { return true })
	return err
}

func (s *stage) addNode(ctx context.Context, name string) error {
	s.nodes = append(s.nodes, name)
	_, err := s.AddNode(ctx, testcluster.NodeOptions{Name: name, Taints: []corev1.Taint{
		{Key: testcluster.OwnerLabel, Value: name, Effect: corev1.TaintEffectNoSchedule}}})
	return err
}

func (s *stage) cordon(ctx context.Context, node string, yes bool) error {
	_, err := s.Client().CoreV1().Nodes().Patch(ctx, node, types.MergePatchType,
		fmt.Appendf(nil, `{"spec":{"unschedulable":%t}}`, yes), metav1.PatchOptions{})
	return err
}

func template(app string, fault testcluster.PodFault) (*metav1.LabelSelector, corev1.PodTemplateSpec) {
	labels := map[string]string{"app": app}
	t := corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: labels, Annotations: map[string]string{}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "app", Image: "registry.example/shop:1"}}},
	}
	if fault != "" {
		t.Annotations[testcluster.FaultAnnotation] = string(fault)
	}
	return &metav1.LabelSelector{MatchLabels: labels}, t
}

// deploy creates a Deployment of one replica whose pods have the fault.
func (s *stage) deploy(ctx context.Context, name string, fault testcluster.PodFault) error {
	return s.deployMany(ctx, name, 1, fault)
}

func (s *stage) deployMany(ctx context.Context, name string, replicas int32, fault testcluster.PodFault) error {
	selector, t := template(name, fault)
	_, err := s.Client().AppsV1().Deployments(s.namespace).Create(ctx, &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: appsv1.DeploymentSpec{Replicas: &replicas, Selector: selector, Template: t},
	}, metav1.CreateOptions{})
	return err
}

// deployStateful creates a StatefulSet of one replica whose pod has the fault.
func (s *stage) deployStateful(ctx context.Context, name string, fault testcluster.PodFault) error {
	one := int32(1)
	selector, t := template(name, fault)
	_, err := s.Client().AppsV1().StatefulSets(s.namespace).Create(ctx, &appsv1.StatefulSet{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       appsv1.StatefulSetSpec{Replicas: &one, Selector: selector, Template: t, ServiceName: name},
	}, metav1.CreateOptions{})
	return err
}

// restart is what `kubectl rollout restart` does.
func (s *stage) restart(ctx context.Context, name string) error {
	_, err := s.Client().AppsV1().Deployments(s.namespace).Patch(ctx, name, types.MergePatchType,
		[]byte(`{"spec":{"template":{"metadata":{"annotations":{"kubectl.kubernetes.io/restartedAt":"now"}}}}}`), metav1.PatchOptions{})
	return err
}

// pod returns the one pod of the app.
func (s *stage) pod(ctx context.Context, app string) (*corev1.Pod, error) {
	list, err := s.Client().CoreV1().Pods(s.namespace).List(ctx, metav1.ListOptions{LabelSelector: "app=" + app})
	if err == nil && len(list.Items) != 1 {
		err = fmt.Errorf("app %s has %d pods", app, len(list.Items))
	}
	if err != nil {
		return nil, err
	}
	return &list.Items[0], nil
}

// deletePod deletes the one pod of the app and waits until it is gone.
func (s *stage) deletePod(ctx context.Context, app string) error {
	pod, err := s.pod(ctx, app)
	if err != nil {
		return err
	}
	if err := s.Client().CoreV1().Pods(s.namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{}); err != nil {
		return err
	}
	return s.WaitPodGone(ctx, pod)
}

var (
	forClause   = regexp.MustCompile(`(?m)^(\s*for: )\S+$`)
	rangeClause = regexp.MustCompile(`\[(10|20|30)s\]`)
)

// shipped returns a rule file of the project, shortened as the demo's and then
// to what a scenario of half a minute can wait for.
func shipped(file string) (string, error) {
	data, err := os.ReadFile(filepath.Join("rules", file))
	if err != nil {
		return "", fmt.Errorf("%w; run from the root of the module", err)
	}
	text := testcluster.HurryRules(string(data))
	return rangeClause.ReplaceAllString(forClause.ReplaceAllString(text, "${1}3s"), "[8s]"), nil
}

// rules makes a rule file of one group.
func rules(alerts ...string) string {
	return "groups:\n- name: capture\n  rules:\n" + strings.Join(alerts, "")
}

// rule is one alert without annotations worth a test.
func rule(name, expr, labels string) string {
	return fmt.Sprintf("  - alert: %s\n    expr: %s\n    for: 1s\n    labels: {%s}\n", name, expr, labels)
}

// watchdog always fires.
const watchdog = "  - {alert: Watchdog, expr: vector(1), labels: {severity: none}}\n"

// The wording that most rule sets have, and the shipped ones avoid: every label
// of the exporter stays, and a cordoned node is left out.
var (
	nodeNotReady = rule("KubeNodeNotReady", `kube_node_status_condition{condition="Ready",status="true"} == 0 and on (node) kube_node_spec_unschedulable == 0`, "severity: warning")
	crashLooping = rule("KubePodCrashLooping", `kube_pod_container_status_waiting_reason{reason="CrashLoopBackOff"} == 1`, "severity: warning")
)

// pause lets the monitoring run for a while.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}

// first runs the steps until one fails.
func first(steps ...func() error) error {
	for i, step := range steps {
		if err := step(); err != nil {
			return fmt.Errorf("step %d: %w", i+1, err)
		}
	}
	return nil
}
