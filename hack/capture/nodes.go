package main

import (
	"context"
	"fmt"
	"time"

	"github.com/alertmedic/alertmedic/internal/testcluster"
)

var nodeScenarios = []scenario{
	{"cordon-resolves", cordonResolves},
	{"node-storm", nodeStorm},
	{"truncated", truncated},
}

// A cordon ends the alert, an uncordon brings it back, the node is sick all the
// while.
func cordonResolves(ctx context.Context, s *stage) error {
	return first(
		func() error { return s.addNode(ctx, "worker-1") },
		func() error { return s.monitor(ctx, testcluster.MonitoringOptions{Rules: rules(nodeNotReady)}) },
		func() error { return s.SetNodeFault(ctx, "worker-1", testcluster.NodeNotReady) },
		func() error { return s.firing(ctx, "KubeNodeNotReady") },
		func() error { return s.cordon(ctx, "worker-1", true) },
		func() error { return s.resolved(ctx, "KubeNodeNotReady") },
		func() error { return s.cordon(ctx, "worker-1", false) },
		func() error { return s.firing(ctx, "KubeNodeNotReady") },
	)
}

// Ten nodes fail one after another; each notification names more of them.
func nodeStorm(ctx context.Context, s *stage) error {
	text, err := shipped("nodes.yaml")
	if err != nil {
		return err
	}
	const n = 10
	for i := range n {
		if err := s.addNode(ctx, fmt.Sprintf("worker-%d", i)); err != nil {
			return err
		}
	}
	if err := s.monitor(ctx, testcluster.MonitoringOptions{Rules: text, AlertmanagerConfig: s.route("alertname", "2s", "1h", "")}); err != nil {
		return err
	}
	for i := range n {
		if err := s.SetNodeFault(ctx, fmt.Sprintf("worker-%d", i), testcluster.NodeNotReady); err != nil {
			return err
		}
		if err := pause(ctx, 1700*time.Millisecond); err != nil {
			return err
		}
	}
	return s.until(ctx, "all nodes", func(r record) bool { return r.count("firing", "KubeNodeNotReady") == n })
}

// Of eight nodes that fail, max_alerts lets through three; then some heal and
// what is shown is mostly those.
func truncated(ctx context.Context, s *stage) error {
	text, err := shipped("nodes.yaml")
	if err != nil {
		return err
	}
	const n = 8
	for i := range n {
		if err := s.addNode(ctx, fmt.Sprintf("worker-%d", i)); err != nil {
			return err
		}
	}
	if err := s.monitor(ctx, testcluster.MonitoringOptions{Rules: text, AlertmanagerConfig: s.route("alertname", "1s", "1h", ", max_alerts: 3")}); err != nil {
		return err
	}
	for i := range n {
		if err := s.SetNodeFault(ctx, fmt.Sprintf("worker-%d", i), testcluster.NodeNotReady); err != nil {
			return err
		}
	}
	if err := s.until(ctx, "eight alerts", func(r record) bool { return len(r.payload.Alerts)+r.payload.TruncatedAlerts == n }); err != nil {
		return err
	}
	for i := range 2 {
		if err := s.ClearNodeFault(ctx, fmt.Sprintf("worker-%d", i)); err != nil {
			return err
		}
	}
	return s.resolved(ctx, "KubeNodeNotReady")
}
