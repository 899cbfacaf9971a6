package kube

import (
	"maps"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/alertmedic/alertmedic/internal/action"
)

type set = map[string]string

func merged(sets ...set) set {
	out := set{}
	for _, s := range sets {
		maps.Copy(out, s)
	}
	return out
}

// What a scrape of kube-state-metrics adds to every series.
var scrape = set{
	"namespace": "monitoring", "pod": "kube-state-metrics-6d5f7c-x2x8p", "container": "kube-state-metrics",
	"instance": "10.244.1.9:8080", "job": "kube-state-metrics", "service": "kube-state-metrics", "endpoint": "http",
}

func TestReadLabels(t *testing.T) {
	t.Parallel()
	type want struct{ namespace, pod, container, node, service string }
	for name, tc := range map[string]struct {
		labels set
		want   want
	}{
		"pod, honorLabels": {
			merged(scrape, set{"namespace": "shop", "pod": "web-1", "container": "app", "uid": "u"}),
			want{namespace: "shop", pod: "web-1", container: "app", service: "http"},
		},
		"pod, no honorLabels": {
			merged(scrape, set{"exported_namespace": "shop", "exported_pod": "web-1", "exported_container": "app"}),
			want{namespace: "shop", pod: "web-1", container: "app"},
		},
		"deployment, honorLabels": { // the pod is the exporter's
			merged(scrape, set{"namespace": "shop", "deployment": "web"}),
			want{namespace: "shop", service: "http"},
		},
		"deployment, no honorLabels": {
			merged(scrape, set{"exported_namespace": "shop", "deployment": "web"}),
			want{namespace: "shop"},
		},
		"the exporter itself": {
			merged(scrape, set{"uid": "u"}),
			want{namespace: "monitoring", pod: scrape["pod"], container: "kube-state-metrics", service: "http"},
		},
		"node, no label dropped": {
			merged(scrape, set{"node": "n1", "condition": "Ready", "status": "true"}),
			want{namespace: "monitoring", node: "n1", service: "http"},
		},
		"cAdvisor": {
			set{"namespace": "shop", "pod": "web-1", "container": "app", "instance": "10.0.0.1:10250", "node": "n1", "job": "kubelet", "metrics_path": "/metrics/cadvisor", "service": "kubelet"},
			want{namespace: "shop", pod: "web-1", container: "app", node: "n1"},
		},
		"kubelet without node": {
			set{"instance": "n1:10250", "job": "kubelet", "metrics_path": "/metrics"},
			want{node: "n1"},
		},
		"claim": {
			set{"namespace": "shop", "persistentvolumeclaim": "data", "node": "n1", "job": "kubelet", "service": "kubelet", "metrics_path": "/metrics", "instance": "10.0.0.1:10250"},
			want{namespace: "shop", node: "n1"},
		},
		"node-exporter": {
			set{"instance": "10.0.0.1:9100", "job": "node-exporter", "namespace": "monitoring", "pod": "node-exporter-abcde", "container": "node-exporter"},
			want{namespace: "monitoring", pod: "node-exporter-abcde", container: "node-exporter", node: "10.0.0.1"},
		},
		"node-exporter over IPv6": {
			set{"instance": "[fd00::1]:9100", "job": "node-exporter"}, want{node: "fd00::1"},
		},
		"nodename": {
			set{"instance": "10.0.0.1:9100", "nodename": "n1", "job": "node"}, want{node: "n1"},
		},
		"instance alone":      {set{"instance": "10.0.0.1:9100"}, want{node: "10.0.0.1"}},
		"instance of an app":  {set{"instance": "10.244.0.7:8080", "job": "nodejs-shop", "service": "shop"}, want{service: "shop"}},
		"instance of the ksm": {merged(scrape, set{"deployment": "web"}), want{namespace: "monitoring", service: "http"}},
		"service":             {merged(scrape, set{"namespace": "shop", "service": "shop"}), want{namespace: "shop", pod: scrape["pod"], container: "kube-state-metrics", service: "shop"}},
		"endpoint":            {set{"namespace": "shop", "endpoint": "shop", "job": "kube-state-metrics", "service": "kube-state-metrics"}, want{namespace: "shop", service: "shop"}},
		"service, no honorLabels": {
			merged(scrape, set{"exported_namespace": "shop", "exported_service": "shop"}), want{namespace: "shop", service: "shop"},
		},
		"nothing": {set{}, want{}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := readLabels(tc.labels)
			node, _, _ := l.nodeName()
			service, _ := l.service()
			require.Equal(t, tc.want, want{l.namespace(), l.pod(), l.container(), node, service})
		})
	}
}

func TestHints(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		labels set
		want   []hint
	}{
		"deployment": {set{"deployment": "web"}, []hint{{"deployment", action.KindDeployment, "web"}}},
		"two":        {set{"deployment": "web", "statefulset": "db"}, []hint{{"deployment", action.KindDeployment, "web"}, {"statefulset", action.KindStatefulSet, "db"}}},
		"workload":   {set{"workload": "web", "workload_type": "deployment"}, []hint{{"workload", action.KindDeployment, "web"}}},
		"the same":   {set{"workload": "web", "workload_type": "deployment", "deployment": "web"}, []hint{{"deployment", action.KindDeployment, "web"}}},
		"owner":      {set{"owner_kind": "ReplicaSet", "owner_name": "web-1"}, []hint{{"owner_name", action.KindReplicaSet, "web-1"}}},
		"job":        {set{"job": "kube-state-metrics", "job_name": "report"}, []hint{{"job_name", action.KindJob, "report"}}},
		"custom":     {set{"owner_kind": "Rollout", "owner_name": "web"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, tc.want, readLabels(tc.labels).hints())
		})
	}
}

func TestValidName(t *testing.T) {
	t.Parallel()
	for _, hostile := range []string{"", "..", "a/b", "web;rm", "$(id)", "{{.}}", "a b", "A", "web%2f..", "'or'1", "x\x00", string(make([]byte, 300))} {
		require.NotEmpty(t, validName(action.KindPod, hostile), "%q", hostile)
		require.NotEmpty(t, validName("Namespace", hostile), "%q", hostile)
	}
	require.Empty(t, validName(action.KindNode, "ip-10-0-0-1.eu-west-1.compute.internal"))
	require.Empty(t, validName(action.KindPod, "web-6d5f7c-x2x8p"))
	require.NotEmpty(t, validName("Namespace", "a.b"), "a namespace has no dots")
}
