package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/alertmedic/alertmedic/internal/journal"
	"github.com/alertmedic/alertmedic/internal/testcluster"
)

// stormNodes fail at once.
const stormNodes = 3

// storm breaks most nodes at once: the cause is then not the nodes, and whatever
// alertmedic did would make it worse. It returns when every failed node has a
// run that is held back and people were told, and reports whether that is all
// that happened.
func (s *stage) storm(ctx context.Context) (bool, error) {
	nodes, err := s.client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return false, fmt.Errorf("list the nodes: %w", err)
	}
	var victims []string
	for _, n := range nodes.Items {
		if n.Name != s.node && len(victims) < stormNodes {
			victims = append(victims, n.Name)
		}
	}
	before, err := s.mutations()
	if err != nil {
		return false, err
	}
	follow, cancel := context.WithCancel(ctx)
	defer cancel()
	entries, failed := make(chan journal.Entry), make(chan error, 1)
	began := time.Now()
	go func() { failed <- s.follow(follow, entries) }()
	s.view.fault(fmt.Sprintf("a storm: %d of the %d nodes that are left go NotReady at once", len(victims), len(nodes.Items)-1))
	for _, name := range victims {
		if err := s.cluster.SetNodeFault(ctx, name, testcluster.NodeNotReady); err != nil {
			return false, fmt.Errorf("break node %s: %w", name, err)
		}
	}
	held, why, told := map[string]string{}, map[string]string{}, ""
	for len(held) < len(victims) || told == "" {
		select {
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				s.view.note("time is up: %d of %d nodes were refused, and the storm was told of: %t", len(held), len(victims), told != "")
				return false, nil
			}
			return false, ctx.Err()
		case err := <-failed:
			return false, fmt.Errorf("follow the log: %w", err)
		case en := <-entries:
			if en.At.Before(began) {
				continue // of the faults before
			}
			s.view.entry(en)
			switch {
			case en.Kind == journal.StormBegan:
				told = en.Message
			case en.Kind == journal.GuardDecided && en.Target != nil && en.Outcome == "delay" && (en.Reason == "unhealthy-budget" || en.Reason == "storm"):
				for _, name := range victims {
					if en.Target.Name == name {
						held[name], why[en.Reason] = en.Reason, en.Message
					}
				}
			}
		}
	}
	after, err := s.mutations()
	if err != nil {
		return false, err
	}
	s.view.note("")
	for _, message := range why {
		s.view.note("Refused: %s", message)
	}
	s.view.note("People are asked: %s", told)
	s.view.note("Since the storm began the API server's audit log holds %d changes by alertmedic.", after-before)
	return after == before, nil
}
