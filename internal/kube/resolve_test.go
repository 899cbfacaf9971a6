package kube

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/alertmedic/alertmedic/internal/action"
	"github.com/alertmedic/alertmedic/internal/testcluster"
)

// refused asserts that a resolution was refused, and why.
func refused(t *testing.T, c *Client, r Request, reason ResolveReason, says ...string) *ResolveError {
	t.Helper()
	got, err := c.Resolve(t.Context(), r)
	var re *ResolveError
	require.ErrorAs(t, err, &re, "resolved %s by %v", got.Target.Ref, got.Explanation)
	require.Equal(t, reason, re.Reason, re.Message)
	for _, s := range says {
		require.Contains(t, re.Message, s)
	}
	require.NotEmpty(t, re.Explanation)
	return re
}

func TestResolveNeedsLabels(t *testing.T) {
	t.Parallel()
	c := severed(t)
	for name, tc := range map[string]struct {
		r      Request
		reason ResolveReason
		says   string
	}{
		"no labels":          {Request{Kind: action.KindPod}, MissingLabel, "no namespace label"},
		"no pod":             {Request{Kind: action.KindPod, Labels: set{"namespace": "shop"}}, MissingLabel, "no pod label"},
		"hostile namespace":  {Request{Kind: action.KindPod, Labels: set{"namespace": "../kube-system", "pod": "web"}}, MissingLabel, "names no Namespace"},
		"hostile pod":        {Request{Kind: action.KindPod, Labels: set{"namespace": "shop", "pod": "web/exec?command=sh"}}, MissingLabel, "names no Pod"},
		"hostile deployment": {Request{Kind: action.KindDeployment, Labels: set{"namespace": "shop", "deployment": "$(id)"}}, MissingLabel, "names no Deployment"},
		"hostile node":       {Request{Kind: action.KindNode, Labels: set{"node": "a b"}}, MissingLabel, "names no Node"},
		"exporter only":      {Request{Kind: action.KindNode, Labels: scrape}, MissingLabel, "no node label"},
		"two controllers":    {Request{Kind: action.KindWorkload, Labels: set{"namespace": "shop", "deployment": "a", "statefulset": "b"}}, Ambiguous, "declare one of these kinds"},
		"exporter's pod":     {Request{Kind: action.KindPod, Labels: merged(scrape, set{"namespace": "shop", "deployment": "web"})}, Ambiguous, "exporter's"},
		"half exported":      {Request{Kind: action.KindPod, Labels: set{"namespace": "monitoring", "exported_pod": "web"}}, Ambiguous, "honorLabels"},
		"kubelet's service":  {Request{Kind: action.KindService, Labels: set{"namespace": "shop", "service": "kubelet", "job": "kubelet"}}, MissingLabel, "names a service"},
		"a scrape's job":     {Request{Kind: action.KindJob, Labels: set{"namespace": "shop", "job": "web"}}, MissingLabel, "job_name"},
		"unknown kind":       {Request{Kind: "Secret", Labels: set{"namespace": "shop"}}, KindMismatch, "no target kind"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			re := refused(t, c, tc.r, tc.reason, tc.says)
			require.False(t, re.Temporary())
		})
	}
	re := refused(t, c, Request{Kind: action.KindPod, Labels: set{"namespace": "shop", "pod": "web"}}, ResolveUnavailable)
	require.True(t, re.Temporary(), "an API server that is away is no verdict on the labels")
}

func TestResolveDeployment(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	d, pods := w.deployment(t, "web", 1)
	w.deployment(t, "innocent", 1)
	pod := pods[0]
	deployment := action.Ref{Group: "apps", Kind: action.KindDeployment, Namespace: w.ns, Name: "web", UID: string(d.UID)}
	podRef := action.Ref{Kind: action.KindPod, Namespace: w.ns, Name: pod.Name, UID: string(pod.UID)}
	byPod := set{"namespace": w.ns, "pod": pod.Name, "container": "app", "uid": string(pod.UID)}
	started := time.Now().Add(time.Minute)

	for name, tc := range map[string]struct {
		r    Request
		want action.Ref
		pod  *action.Ref
		gets int64
	}{
		"pod":               {Request{Kind: action.KindPod, Labels: byPod}, podRef, &podRef, 3},
		"workload by pod":   {Request{Kind: action.KindWorkload, Labels: byPod}, deployment, &podRef, 3},
		"deployment by pod": {Request{Kind: action.KindDeployment, Labels: byPod}, deployment, &podRef, 3},
		"both":              {Request{Kind: action.KindWorkload, Labels: merged(byPod, set{"deployment": "web"})}, deployment, &podRef, 3},
		"no uid":            {Request{Kind: action.KindWorkload, Labels: set{"namespace": w.ns, "pod": pod.Name}, StartsAt: started}, deployment, &podRef, 3},
		"deployment":        {Request{Kind: action.KindDeployment, Labels: set{"namespace": w.ns, "deployment": "web"}}, deployment, nil, 1},
		"exporter's pod":    {Request{Kind: action.KindWorkload, Labels: merged(scrape, set{"namespace": w.ns, "deployment": "web"})}, deployment, nil, 1},
		"no honorLabels":    {Request{Kind: action.KindWorkload, Labels: merged(scrape, set{"exported_namespace": w.ns, "exported_pod": pod.Name})}, deployment, &podRef, 3},
		"pod is gone":       {Request{Kind: action.KindWorkload, Labels: set{"namespace": w.ns, "pod": "web-gone", "deployment": "web"}}, deployment, nil, 3},
		"pod was replaced":  {Request{Kind: action.KindWorkload, Labels: merged(byPod, set{"uid": "other", "deployment": "web"})}, deployment, nil, 2},
		"by template":       {Request{Kind: action.KindWorkload, Name: "web", Namespace: w.ns, Labels: set{"namespace": "elsewhere"}}, deployment, nil, 3},
		"cAdvisor":          {Request{Kind: action.KindWorkload, Labels: merged(byPod, set{"node": pod.Spec.NodeName, "instance": "10.0.0.1:10250", "job": "kubelet", "service": "kubelet", "metrics_path": "/metrics/cadvisor"})}, deployment, &podRef, 3},
	} {
		t.Run(name, func(t *testing.T) {
			w.gets.Store(0)
			tc.r.Cluster = "prod"
			got, err := w.client.Resolve(t.Context(), tc.r)
			require.NoError(t, err)
			require.Equal(t, tc.want, got.Target.Ref, "%v", got.Explanation)
			require.Equal(t, deployment, got.Target.Top)
			require.Equal(t, tc.pod, got.Target.Pod)
			require.Equal(t, "prod", got.Target.Cluster)
			require.Equal(t, tc.want.UID, string(got.Object.GetUID()))
			require.LessOrEqual(t, w.gets.Load(), tc.gets, "requests")
		})
	}
	got, err := w.client.Resolve(t.Context(), Request{Kind: action.KindPod, Labels: byPod})
	require.NoError(t, err)
	require.Equal(t, "app", got.Target.Container)

	for name, tc := range map[string]struct {
		r      Request
		reason ResolveReason
		says   string
	}{
		"lying deployment, pod":      {Request{Kind: action.KindPod, Labels: merged(byPod, set{"deployment": "innocent"})}, LabelContradiction, "correct the rule's labels"},
		"lying deployment, workload": {Request{Kind: action.KindWorkload, Labels: merged(byPod, set{"deployment": "innocent"})}, LabelContradiction, "innocent"},
		"lying kind":                 {Request{Kind: action.KindPod, Labels: merged(byPod, set{"statefulset": "db"})}, LabelContradiction, "statefulset"},
		"other uid":                  {Request{Kind: action.KindPod, Labels: merged(byPod, set{"uid": "other"})}, Replaced, "replaced by one with uid"},
		"older alert":                {Request{Kind: action.KindPod, Labels: set{"namespace": w.ns, "pod": pod.Name}, StartsAt: pod.CreationTimestamp.Add(-time.Minute)}, Replaced, "after the alert began"},
		"older alert, workload":      {Request{Kind: action.KindWorkload, Labels: set{"namespace": w.ns, "pod": pod.Name}, StartsAt: pod.CreationTimestamp.Add(-time.Minute)}, Replaced, "after the alert began"},
		"gone pod":                   {Request{Kind: action.KindWorkload, Labels: set{"namespace": w.ns, "pod": "web-gone"}}, Gone, "is not there"},
		"gone deployment":            {Request{Kind: action.KindDeployment, Labels: set{"namespace": w.ns, "deployment": "nope"}}, Gone, "is not there"},
		"other kind":                 {Request{Kind: action.KindStatefulSet, Labels: byPod}, KindMismatch, "declares StatefulSet"},
		"no namespace":               {Request{Kind: action.KindPod, Labels: set{"namespace": "no-such-namespace", "pod": "web"}}, Gone, "nor is its namespace"},
	} {
		t.Run(name, func(t *testing.T) { refused(t, w.client, tc.r, tc.reason, tc.says) })
	}
}

func TestResolveOtherControllers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := testContext(t)
	selector := func(app string) *metav1.LabelSelector {
		return &metav1.LabelSelector{MatchLabels: map[string]string{"app": app}}
	}
	claim := corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: "data"}, Spec: corev1.PersistentVolumeClaimSpec{
		AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
		Resources:   corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{"storage": resource.MustParse("1Gi")}},
	}}
	_, err := w.api.AppsV1().StatefulSets(w.ns).Create(ctx, &appsv1.StatefulSet{
		ObjectMeta: metav1.ObjectMeta{Name: "db"},
		Spec: appsv1.StatefulSetSpec{Replicas: new(int32(1)), Selector: selector("db"), Template: podTemplate("db", nil),
			VolumeClaimTemplates: []corev1.PersistentVolumeClaim{claim}},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	_, err = w.api.AppsV1().ReplicaSets(w.ns).Create(ctx, &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{Name: "canary-1", OwnerReferences: []metav1.OwnerReference{{
			APIVersion: "argoproj.io/v1alpha1", Kind: "Rollout", Name: "canary", UID: "rollout-uid", Controller: new(true),
		}}},
		Spec: appsv1.ReplicaSetSpec{Replicas: new(int32(1)), Selector: selector("canary"), Template: podTemplate("canary", nil)},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	jobTemplate := podTemplate("report", map[string]string{"medic-test/fault": "hang"})
	jobTemplate.Spec.RestartPolicy = corev1.RestartPolicyNever
	cron, err := w.api.BatchV1().CronJobs(w.ns).Create(ctx, &batchv1.CronJob{
		ObjectMeta: metav1.ObjectMeta{Name: "report"},
		Spec: batchv1.CronJobSpec{Schedule: "0 0 1 1 *", Suspend: new(true),
			JobTemplate: batchv1.JobTemplateSpec{Spec: batchv1.JobSpec{Template: jobTemplate}}},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	_, err = w.api.BatchV1().Jobs(w.ns).Create(ctx, &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{Name: "report-1", OwnerReferences: []metav1.OwnerReference{{
			APIVersion: "batch/v1", Kind: "CronJob", Name: "report", UID: cron.UID, Controller: new(true),
		}}},
		Spec: batchv1.JobSpec{Template: jobTemplate},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	_, err = w.api.CoreV1().Pods(w.ns).Create(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "bare"}, Spec: podTemplate("bare", nil).Spec}, metav1.CreateOptions{})
	require.NoError(t, err)
	_, err = w.api.AutoscalingV2().HorizontalPodAutoscalers(w.ns).Create(ctx, &autoscalingv2.HorizontalPodAutoscaler{
		ObjectMeta: metav1.ObjectMeta{Name: "db-scaler"},
		Spec: autoscalingv2.HorizontalPodAutoscalerSpec{MaxReplicas: 3, ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{
			APIVersion: "apps/v1", Kind: "StatefulSet", Name: "db"}},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	for _, name := range []string{"db", "canary"} {
		_, err = w.api.CoreV1().Services(w.ns).Create(ctx, &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec:       corev1.ServiceSpec{Selector: map[string]string{"app": name}, Ports: []corev1.ServicePort{{Port: 80}}},
		}, metav1.CreateOptions{})
		require.NoError(t, err)
	}
	db := w.pods(t, "app=db", 1)[0]
	canary := w.pods(t, "app=canary", 1)[0]
	report := w.pods(t, "app=report", 1)[0]

	for name, tc := range map[string]struct {
		kind   action.Kind
		labels set
		want   string // the target
		top    string
	}{
		"pod of a set":        {action.KindPod, set{"pod": "db-0"}, "Pod/db-0", "StatefulSet/db"},
		"set by pod":          {action.KindWorkload, set{"pod": "db-0"}, "StatefulSet/db", "StatefulSet/db"},
		"set by claim":        {action.KindWorkload, set{"persistentvolumeclaim": "data-db-0"}, "StatefulSet/db", "StatefulSet/db"},
		"set by autoscaler":   {action.KindWorkload, set{"horizontalpodautoscaler": "db-scaler"}, "StatefulSet/db", "StatefulSet/db"},
		"set by service":      {action.KindWorkload, set{"service": "db"}, "StatefulSet/db", "StatefulSet/db"},
		"claim":               {action.KindPersistentVolumeClaim, set{"persistentvolumeclaim": "data-db-0", "service": "kubelet", "node": "n1", "metrics_path": "/metrics"}, "PersistentVolumeClaim/data-db-0", "StatefulSet/db"},
		"autoscaler":          {action.KindHPA, set{"horizontalpodautoscaler": "db-scaler"}, "HorizontalPodAutoscaler/db-scaler", "StatefulSet/db"},
		"autoscaler of a set": {action.KindHPA, set{"statefulset": "db"}, "HorizontalPodAutoscaler/db-scaler", "StatefulSet/db"},
		"service":             {action.KindService, set{"service": "db"}, "Service/db", "Service/db"},
		"service by pod":      {action.KindService, set{"pod": "db-0"}, "Service/db", "Service/db"},
		"custom, pod":         {action.KindPod, set{"pod": canary.Name}, "Pod/" + canary.Name, "Rollout/canary"},
		"custom, workload":    {action.KindWorkload, set{"pod": canary.Name}, "ReplicaSet/canary-1", "Rollout/canary"},
		"job":                 {action.KindJob, set{"job_name": "report-1", "job": "kube-state-metrics"}, "Job/report-1", "CronJob/report"},
		"job by pod":          {action.KindJob, set{"pod": report.Name}, "Job/report-1", "CronJob/report"},
		"pod of a job":        {action.KindPod, set{"pod": report.Name}, "Pod/" + report.Name, "CronJob/report"},
		"bare pod":            {action.KindPod, set{"pod": "bare"}, "Pod/bare", "Pod/bare"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := w.client.Resolve(ctx, Request{Kind: tc.kind, Labels: merged(set{"namespace": w.ns}, tc.labels)})
			require.NoError(t, err)
			short := func(r action.Ref) string { return string(r.Kind) + "/" + r.Name }
			require.Equal(t, tc.want, short(got.Target.Ref), "%v", got.Explanation)
			require.Equal(t, tc.top, short(got.Target.Top))
			require.NotEmpty(t, got.Target.UID)
		})
	}
	refused(t, w.client, Request{Kind: action.KindWorkload, Labels: set{"namespace": w.ns, "pod": "bare"}}, KindMismatch, "declare Pod for bare pods")

	// The pod of a set keeps its name when it is replaced; its uid does not.
	old := set{"namespace": w.ns, "pod": "db-0", "uid": string(db.UID)}
	require.NoError(t, w.api.CoreV1().Pods(w.ns).Delete(ctx, "db-0", metav1.DeleteOptions{}))
	require.NoError(t, w.WaitPod(ctx, w.ns, "db-0", func(p *corev1.Pod) bool { return p.UID != db.UID }))
	refused(t, w.client, Request{Kind: action.KindPod, Labels: old}, Replaced)
}

func TestResolveNode(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := testContext(t)
	node := w.Node(t, testcluster.NodeOptions{Zone: "b", Labels: map[string]string{"karpenter.sh/nodepool": "spot"}})
	address := "192.0.2.77"
	w.eventually(t, func(ctx context.Context) (bool, error) {
		live, err := w.api.CoreV1().Nodes().Get(ctx, node.Name, metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		live.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: address}, {Type: corev1.NodeHostName, Address: "host-" + node.Name}}
		_, err = w.api.CoreV1().Nodes().UpdateStatus(ctx, live, metav1.UpdateOptions{})
		return err == nil, nil
	})
	for name, labels := range map[string]set{
		"kube-state-metrics": merged(scrape, set{"node": node.Name, "condition": "Ready"}),
		"no honorLabels":     merged(scrape, set{"exported_node": node.Name, "exported_namespace": "x"}),
		"kubelet":            {"job": "kubelet", "instance": node.Name + ":10250"},
		"cAdvisor":           {"job": "kubelet", "metrics_path": "/metrics/cadvisor", "node": node.Name, "instance": "10.0.0.1:10250", "namespace": w.ns, "pod": "web-1"},
		"node-exporter, ip":  {"job": "node-exporter", "instance": address + ":9100"},
		"node-exporter":      {"job": "node-exporter", "instance": node.Name},
		"nodename":           {"job": "node", "nodename": "host-" + node.Name},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := w.client.Resolve(ctx, Request{Cluster: "prod", Kind: action.KindNode, Labels: labels})
			require.NoError(t, err)
			require.Equal(t, action.Ref{Kind: action.KindNode, Name: node.Name, UID: string(node.UID)}, got.Target.Ref)
			require.Equal(t, "spot", got.Target.NodePool)
			require.Equal(t, "b", got.Target.Zone)
			require.Nil(t, got.Target.Pod)
			require.Equal(t, "prod/Node//"+node.Name, got.Target.LockKey())
		})
	}
	refused(t, w.client, Request{Kind: action.KindNode, Labels: set{"node": "no-such-node"}}, Gone)
	refused(t, w.client, Request{Kind: action.KindNode, Labels: set{"job": "node", "instance": "192.0.2.250:9100"}}, Gone, "no node has the address")
}

func TestResolveInTerminatingNamespace(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := testContext(t)
	hold, err := w.api.CoreV1().ConfigMaps(w.ns).Create(ctx, &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: "hold", Finalizers: []string{"medic-test/hold"}},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
		defer cancel()
		live, err := w.api.CoreV1().ConfigMaps(w.ns).Get(ctx, hold.Name, metav1.GetOptions{})
		if err == nil {
			live.Finalizers = nil
			_, err = w.api.CoreV1().ConfigMaps(w.ns).Update(ctx, live, metav1.UpdateOptions{})
		}
		if err != nil {
			t.Errorf("release the namespace: %v", err)
		}
	})
	require.NoError(t, w.api.CoreV1().Namespaces().Delete(ctx, w.ns, metav1.DeleteOptions{}))

	refused(t, w.client, Request{Kind: action.KindPod, Labels: set{"namespace": w.ns, "pod": "web"}}, NamespaceTerminates, "is being deleted")

	_, err = w.api.CoreV1().ConfigMaps(w.ns).Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "late"}}, metav1.CreateOptions{})
	require.Equal(t, action.ReasonTerminating, Classify(err, true).Reason, "%v", err)

	evidence := w.client.Evidence(ctx, EvidenceRequest{Target: action.Target{Ref: action.Ref{Kind: action.KindService, Namespace: w.ns, Name: "none"}}})
	require.False(t, evidence.Target.Exists)
	require.Empty(t, evidence.Errors, "gone is observed, not unknown")
}

func TestResolveForbidden(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	config, err := w.RESTConfigAs("nobody")
	require.NoError(t, err)
	c, err := New(Options{Config: config, Namespace: w.ns})
	require.NoError(t, err)
	t.Cleanup(c.Close)
	re := refused(t, c, Request{Kind: action.KindPod, Labels: set{"namespace": w.ns, "pod": "web"}}, ResolveForbidden, "get and list")
	require.False(t, re.Temporary())
	require.True(t, strings.HasPrefix(re.Error(), "forbidden: "))
	require.NotNil(t, errors.Unwrap(re))
}
