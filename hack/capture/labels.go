package main

import (
	"context"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/alertmedic/alertmedic/internal/testcluster"
)

var labelScenarios = []scenario{
	{"exporter-labels", exporterLabels},
	{"no-honor-labels", noHonorLabels},
	{"lying-labels", lyingLabels},
}

// restartWell rolls the Deployment out without its fault.
func (s *stage) restartWell(ctx context.Context, name string) error {
	_, err := s.Client().AppsV1().Deployments(s.namespace).Patch(ctx, name, types.MergePatchType,
		[]byte(`{"spec":{"template":{"metadata":{"annotations":{"`+testcluster.FaultAnnotation+`":null}}}}}`), metav1.PatchOptions{})
	return err
}

// The series of a node has no namespace and no pod: the exporter's stay.
func exporterLabels(ctx context.Context, s *stage) error {
	return first(
		func() error { return s.addNode(ctx, "worker-1") },
		func() error { return s.monitor(ctx, testcluster.MonitoringOptions{Rules: rules(nodeNotReady)}) },
		func() error { return s.SetNodeFault(ctx, "worker-1", testcluster.NodeNotReady) },
		func() error { return s.firing(ctx, "KubeNodeNotReady") },
	)
}

// Without honor_labels the object's labels are exported_namespace and so on.
func noHonorLabels(ctx context.Context, s *stage) error {
	return first(
		func() error {
			return s.monitor(ctx, testcluster.MonitoringOptions{Rules: rules(crashLooping), NoHonorLabels: true})
		},
		func() error { return s.deploy(ctx, "web", testcluster.PodCrashLoop) },
		func() error { return s.firing(ctx, "KubePodCrashLooping") },
	)
}

// The rule's own labels name a Deployment and a reason that are not the pod's.
func lyingLabels(ctx context.Context, s *stage) error {
	lying := rule("KubePodCrashLooping", `kube_pod_container_status_waiting_reason{reason="CrashLoopBackOff"} == 1`,
		"severity: warning, deployment: innocent, reason: OOMKilled")
	return first(
		func() error { return s.monitor(ctx, testcluster.MonitoringOptions{Rules: rules(lying)}) },
		func() error { return s.deploy(ctx, "innocent", "") },
		func() error { return s.deploy(ctx, "web", testcluster.PodCrashLoop) },
		func() error { return s.firing(ctx, "KubePodCrashLooping") },
	)
}
