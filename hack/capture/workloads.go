package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/alertmedic/alertmedic/internal/testcluster"
)

var workloadScenarios = []scenario{
	{"rollout-silences", rolloutSilences},
	{"deleted-pod-resolves", deletedPodResolves},
	{"metrics-restart", metricsRestart},
	{"prometheus-killed", prometheusKilled},
	{"prometheus-pair", prometheusPair},
	{"statefulset-pod", statefulSetPod},
}

// with monitors the shipped rules of a file and has an app with the fault.
func (s *stage) with(ctx context.Context, file string, replicas int32, fault testcluster.PodFault) error {
	text, err := shipped(file)
	if err != nil {
		return err
	}
	if err := s.monitor(ctx, testcluster.MonitoringOptions{Rules: text}); err != nil {
		return err
	}
	return s.deployMany(ctx, "web", replicas, fault)
}

// A mere restart ends KubeDeploymentReplicasMismatch; the new pod is as broken as
// the old ones, the rollout gets stuck with it, and the alert comes back.
func rolloutSilences(ctx context.Context, s *stage) error {
	return first(
		func() error { return s.with(ctx, "workloads.yaml", 3, testcluster.PodCrashLoop) },
		func() error { return s.firing(ctx, "KubeDeploymentReplicasMismatch") },
		func() error { return s.restart(ctx, "web") },
		func() error { return s.resolved(ctx, "KubeDeploymentReplicasMismatch") },
		func() error { return s.firing(ctx, "KubeDeploymentReplicasMismatch") },
	)
}

// Deleting the pod ends its series; the replacement crashes as well.
func deletedPodResolves(ctx context.Context, s *stage) error {
	return first(
		func() error { return s.with(ctx, "pods.yaml", 1, testcluster.PodCrashLoop) },
		func() error { return s.firing(ctx, "KubePodCrashLooping") },
		func() error { return s.deletePod(ctx, "web") },
		func() error { return s.resolved(ctx, "KubePodCrashLooping") },
		func() error { return pause(ctx, 3*time.Second) },
	)
}

// The exporter is away for a moment: resolved, and firing again.
func metricsRestart(ctx context.Context, s *stage) error {
	return first(
		func() error { return s.monitor(ctx, testcluster.MonitoringOptions{Rules: rules(crashLooping)}) },
		func() error { return s.deploy(ctx, "web", testcluster.PodCrashLoop) },
		func() error { return s.firing(ctx, "KubePodCrashLooping") },
		func() error { return s.monitoring.Process("kube-state-metrics").Kill() },
		func() error { return s.resolved(ctx, "KubePodCrashLooping") },
		func() error { return s.monitoring.Process("kube-state-metrics").Restart() },
		func() error { return s.firing(ctx, "KubePodCrashLooping") },
	)
}

// Nobody says anything more: Alertmanager resolves what it was told last.
func prometheusKilled(ctx context.Context, s *stage) error {
	return first(
		func() error {
			return s.monitor(ctx, testcluster.MonitoringOptions{Rules: rules(crashLooping, watchdog)})
		},
		func() error { return s.deploy(ctx, "web", testcluster.PodCrashLoop) },
		func() error { return s.firing(ctx, "KubePodCrashLooping") },
		func() error { return s.monitoring.Process("prometheus-0").Kill() },
		func() error { return s.resolved(ctx, "KubePodCrashLooping") },
		func() error { return os.RemoveAll(filepath.Join(s.monitoring.Dir(), "prometheus-0")) },
		func() error { return s.monitoring.Process("prometheus-0").Restart() },
		func() error { return s.firing(ctx, "KubePodCrashLooping") },
	)
}

// The second of two replicas wakes up late, so its startsAt is later; then the
// first one holds the alert to be over for a while, and changes its mind.
func prometheusPair(ctx context.Context, s *stage) error {
	text := rules(crashLooping)
	dissent := strings.Replace(text, "== 1", "== 2", 1)
	reload := func(text string) error {
		if err := os.WriteFile(filepath.Join(s.monitoring.Dir(), "rules.yml"), []byte(text), 0o644); err != nil {
			return err
		}
		return s.monitoring.Reload(ctx, 0)
	}
	return first(
		func() error { return s.monitor(ctx, testcluster.MonitoringOptions{Rules: text, Prometheuses: 2}) },
		func() error { return s.monitoring.Process("prometheus-1").Pause() },
		func() error { return s.deploy(ctx, "web", testcluster.PodCrashLoop) },
		func() error { return s.firing(ctx, "KubePodCrashLooping") },
		func() error { return pause(ctx, 2*time.Second) },
		func() error { return s.monitoring.Process("prometheus-1").Resume() },
		func() error { return pause(ctx, 6*time.Second) },
		func() error { return reload(dissent) },
		func() error { return s.resolved(ctx, "KubePodCrashLooping") },
		func() error { return s.firing(ctx, "KubePodCrashLooping") },
		func() error { return pause(ctx, 4*time.Second) },
		func() error { return reload(text) },
		func() error { return pause(ctx, 8*time.Second) },
	)
}

// Two pods of StatefulSets are re-created under their names. One alert has the
// pod's uid as a label, the other one has not.
func statefulSetPod(ctx context.Context, s *stage) error {
	text, err := shipped("pods.yaml")
	if err != nil {
		return err
	}
	both := func(r record) bool { return r.has("firing", "KubePodCrashLooping") }
	return first(
		func() error {
			return s.monitor(ctx, testcluster.MonitoringOptions{Rules: text, AlertmanagerConfig: s.route("namespace", "2s", "4s", "")})
		},
		func() error { return s.deployStateful(ctx, "db", testcluster.PodCrashLoop) },
		func() error { return s.deployStateful(ctx, "cache", testcluster.PodPending) },
		func() error {
			return s.until(ctx, "both pods", func(r record) bool { return both(r) && r.has("firing", "KubePodNotReady") })
		},
		func() error { return s.deletePod(ctx, "db") },
		func() error { return s.deletePod(ctx, "cache") },
		func() error {
			return s.until(ctx, "the old and the new pod", func(r record) bool {
				return r.count("firing", "KubePodCrashLooping")+r.count("resolved", "KubePodCrashLooping") == 2
			})
		},
		func() error { return s.resolved(ctx, "KubePodCrashLooping") },
		func() error { return s.firing(ctx, "KubePodNotReady") },
	)
}
