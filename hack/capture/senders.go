package main

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/alertmedic/alertmedic/internal/testcluster"
)

var senderScenarios = []scenario{
	{"alertmanager-volume-lost", alertmanagerVolumeLost},
	{"refire-within-interval", refireWithinInterval},
	{"repeats", repeats},
	{"retried-503", retried503},
	{"webhook-timeout", webhookTimeout},
	{"alertmanager-pair", alertmanagerPair},
	{"refused-429", refused429},
	{"resolved-refused", resolvedRefused},
	{"grouping", grouping},
}

// crash monitors one app that crash-loops, with an Alertmanager so configured.
func (s *stage) crash(ctx context.Context, config string) error {
	if err := s.monitor(ctx, testcluster.MonitoringOptions{Rules: rules(crashLooping), AlertmanagerConfig: config}); err != nil {
		return err
	}
	return s.deploy(ctx, "web", testcluster.PodCrashLoop)
}

// What it had sent is forgotten: it is sent again.
func alertmanagerVolumeLost(ctx context.Context, s *stage) error {
	return first(
		func() error { return s.crash(ctx, "") },
		func() error { return s.firing(ctx, "KubePodCrashLooping") },
		func() error { return s.monitoring.Process("alertmanager-0").Kill() },
		func() error { return os.RemoveAll(filepath.Join(s.monitoring.Dir(), "alertmanager-0")) },
		func() error { return s.monitoring.Process("alertmanager-0").Restart() },
		func() error { return s.firing(ctx, "KubePodCrashLooping") },
	)
}

// The alert ends and begins anew between two flushes of its group: no end is
// sent, and the new startsAt comes with the repeat.
func refireWithinInterval(ctx context.Context, s *stage) error {
	pressure := rule("KubeNodePressure", `kube_node_status_condition{condition="MemoryPressure",status="true"} == 1`, "severity: warning")
	return first(
		func() error { return s.addNode(ctx, "worker-1") },
		func() error {
			return s.monitor(ctx, testcluster.MonitoringOptions{Rules: rules(pressure), AlertmanagerConfig: s.route("alertname", "10s", "15s", "")})
		},
		func() error { return s.SetNodeFault(ctx, "worker-1", testcluster.NodeMemoryPressure) },
		func() error { return s.firing(ctx, "KubeNodePressure") },
		func() error { return s.ClearNodeFault(ctx, "worker-1") },
		func() error { return pause(ctx, 4*time.Second) },
		func() error { return s.SetNodeFault(ctx, "worker-1", testcluster.NodeMemoryPressure) },
		func() error { return s.firing(ctx, "KubeNodePressure") },
	)
}

func repeats(ctx context.Context, s *stage) error {
	return first(
		func() error { return s.crash(ctx, s.route("namespace", "2s", "4s", "")) },
		func() error { return s.settle(ctx, 4) },
	)
}

// answers the first n webhooks with code after a while, and the others at once.
func (s *stage) answerFirst(n, code int, after time.Duration) {
	s.sink.answer = func(i int, _ record) (int, time.Duration) {
		if i < n {
			return code, after
		}
		return http.StatusOK, 0
	}
}

func retried503(ctx context.Context, s *stage) error {
	s.answerFirst(3, http.StatusServiceUnavailable, 0)
	return first(
		func() error { return s.crash(ctx, s.route("namespace", "20s", "1h", "")) },
		func() error { return s.settle(ctx, 4) },
	)
}

// The sender gives up after 2 s and sends again while the first request is still
// being handled.
func webhookTimeout(ctx context.Context, s *stage) error {
	s.answerFirst(1, http.StatusOK, 4*time.Second)
	return first(
		func() error { return s.crash(ctx, s.route("namespace", "20s", "1h", ", timeout: 2s")) },
		func() error { return s.settle(ctx, 2) },
		func() error { return pause(ctx, 4*time.Second) },
	)
}

// Two Alertmanagers that know nothing of each other send the same.
func alertmanagerPair(ctx context.Context, s *stage) error {
	return first(
		func() error {
			return s.monitor(ctx, testcluster.MonitoringOptions{Rules: rules(crashLooping), Alertmanagers: 2, NoGossip: true})
		},
		func() error { return s.deploy(ctx, "web", testcluster.PodCrashLoop) },
		func() error { return s.settle(ctx, 2) },
		func() error { return s.deletePod(ctx, "web") },
		func() error { return pause(ctx, 8*time.Second) },
	)
}

// 429 is not retried: the alert comes again with the group.
func refused429(ctx context.Context, s *stage) error {
	s.answerFirst(2, http.StatusTooManyRequests, 0)
	return first(
		func() error { return s.crash(ctx, s.route("namespace", "5s", "1h", "")) },
		func() error { return s.settle(ctx, 3) },
	)
}

// An end that is answered 4xx comes again at every group_interval.
func resolvedRefused(ctx context.Context, s *stage) error {
	s.sink.answer = func(n int, r record) (int, time.Duration) {
		if n < 4 && r.has("resolved", "KubePodCrashLooping") {
			return http.StatusBadRequest, 0
		}
		return http.StatusOK, 0
	}
	return first(
		func() error { return s.crash(ctx, s.route("namespace, pod", "2s", "1h", "")) },
		func() error { return s.firing(ctx, "KubePodCrashLooping") },
		func() error { return s.restartWell(ctx, "web") },
		func() error { return s.settle(ctx, 5) },
	)
}

// Three receivers, each grouped its own way: by namespace, not at all, by every
// label.
func grouping(ctx context.Context, s *stage) error {
	hook := "\n  webhook_configs: [{url: " + s.sink.url + ", send_resolved: true}]"
	config := `route:
  receiver: by-namespace
  group_wait: 500ms
  group_interval: 1s
  repeat_interval: 1h
  routes:
  - {receiver: by-namespace, group_by: [namespace], continue: true}
  - {receiver: ungrouped, group_by: [], continue: true}
  - {receiver: by-everything, group_by: ['...']}
receivers:
- name: by-namespace` + hook + "\n- name: ungrouped" + hook + "\n- name: by-everything" + hook + "\n"
	text, err := shipped("pods.yaml")
	if err != nil {
		return err
	}
	return first(
		func() error {
			return s.monitor(ctx, testcluster.MonitoringOptions{Rules: text, AlertmanagerConfig: config})
		},
		func() error { return s.deploy(ctx, "web", testcluster.PodCrashLoop) },
		func() error { return s.deploy(ctx, "shop", testcluster.PodPending) },
		func() error {
			return s.until(ctx, "both", func(r record) bool {
				return r.has("firing", "KubePodCrashLooping") && r.has("firing", "KubePodNotReady")
			})
		},
		func() error { return s.restartWell(ctx, "web") },
		func() error {
			return s.until(ctx, "a mixed group", func(r record) bool {
				return r.has("resolved", "KubePodCrashLooping") && r.has("firing", "KubePodNotReady")
			})
		},
		func() error { return pause(ctx, 2*time.Second) },
	)
}
