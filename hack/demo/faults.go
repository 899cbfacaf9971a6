package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/alertmedic/alertmedic/internal/journal"
	"github.com/alertmedic/alertmedic/internal/testcluster"
)

// act is one fault and what became of it.
type act struct {
	fault    string
	target   string   // the name in the target of its run
	alerts   []string // the alerts that may report it
	cause    func(ctx context.Context) error
	playbook string
	actions  []string
	outcome  string
	message  string
	runID    string
	alert    string

	brokenAt, alertAt, actedAt, endedAt time.Time
}

// done reports whether the act's run has ended.
func (a *act) done() bool { return a.outcome != "" }

// acts are the faults of the demo.
func (s *stage) acts() []*act {
	return []*act{
		{fault: "a node goes NotReady", target: s.node, alerts: []string{"KubeNodeNotReady"}, cause: func(ctx context.Context) error {
			return s.cluster.SetNodeFault(ctx, s.node, testcluster.NodeNotReady)
		}},
		{fault: "a pod crash-loops", target: "cart", alerts: []string{"KubePodCrashLooping", "KubePodRestartingTooOften"}, cause: func(ctx context.Context) error {
			return s.breakPods(ctx, "cart", 1, testcluster.PodCrashLoop)
		}},
		{fault: "a bad rollout sticks", target: "checkout", alerts: []string{"KubeDeploymentRolloutStuck"}, cause: func(ctx context.Context) error {
			patch := `{"spec":{"template":{"spec":{"containers":[{"name":"checkout","image":"shop/checkout:broken"}]}}}}`
			_, err := s.client.AppsV1().Deployments(shopNamespace).Patch(ctx, "checkout", types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{FieldManager: "deployer"})
			return err
		}},
		{fault: "a service loses its endpoints", target: "catalog", alerts: []string{"KubeServiceNoReadyEndpoints"}, cause: func(ctx context.Context) error {
			return s.breakPods(ctx, "catalog", 0, testcluster.PodNotReady)
		}},
	}
}

// breakPods breaks the first n pods of an app that are not on the node that
// fails, all for 0.
func (s *stage) breakPods(ctx context.Context, app string, n int, fault testcluster.PodFault) error {
	pods, err := s.podsOf(ctx, app)
	if err != nil {
		return err
	}
	broken := 0
	for _, p := range pods {
		if n > 0 && (broken == n || p.Spec.NodeName == s.node) {
			continue
		}
		if err := s.cluster.SetPodFault(ctx, shopNamespace, p.Name, fault); err != nil {
			return err
		}
		broken++
	}
	if broken == 0 {
		return fmt.Errorf("no pod of %s to break", app)
	}
	return nil
}

// play breaks everything, follows the remediation log and returns when every
// act has ended, or when time is up.
func (s *stage) play(ctx context.Context) ([]*act, error) {
	acts := s.acts()
	follow, cancel := context.WithCancel(ctx)
	defer cancel()
	entries := make(chan journal.Entry)
	failed := make(chan error, 1)
	go func() { failed <- s.follow(follow, entries) }()
	for _, a := range acts {
		s.view.fault(a.fault)
		a.brokenAt = time.Now()
		if err := a.cause(ctx); err != nil {
			return acts, fmt.Errorf("%s: %w", a.fault, err)
		}
	}
	for {
		open := 0
		for _, a := range acts {
			if !a.done() {
				open++
			}
		}
		if open == 0 {
			return acts, nil
		}
		select {
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				s.view.note("time is up")
				return acts, nil
			}
			return acts, ctx.Err()
		case err := <-failed:
			if ctx.Err() != nil {
				continue
			}
			return acts, fmt.Errorf("follow the log: %w", err)
		case en := <-entries:
			s.view.entry(en)
			for _, a := range acts {
				a.note(en)
			}
			if err := s.react(ctx, en); err != nil {
				return acts, err
			}
		}
	}
}

// note keeps what an entry says about the act.
func (a *act) note(en journal.Entry) {
	if en.Kind == journal.EpisodeOpened && a.alertAt.IsZero() && a.reports(en) {
		a.alertAt, a.alert = en.At, en.AlertName
		return
	}
	if en.Target == nil || en.Target.Name != a.target || !a.alertIs(en.AlertName) || a.done() {
		return
	}
	switch en.Kind {
	case journal.StepIntent, journal.StepSimulated:
		if en.Action != "diagnose" && a.actedAt.IsZero() {
			a.actedAt, a.playbook, a.runID, a.alert = en.At, en.Playbook, en.RunID, en.AlertName
		}
		if len(a.actions) == 0 || a.actions[len(a.actions)-1] != en.Action {
			a.actions = append(a.actions, en.Action)
		}
	case journal.RunEnded:
		if en.Outcome == "superseded" || en.Outcome == "suppressed" && a.actedAt.IsZero() {
			return // another playbook has it
		}
		a.outcome, a.message, a.endedAt = en.Outcome, en.Message, en.At
		a.playbook = en.Playbook
	}
}

func (a *act) alertIs(name string) bool {
	for _, n := range a.alerts {
		if n == name {
			return true
		}
	}
	return false
}

// reports tells whether an opened episode is about the act: by the alert's name
// and, since the target is not known yet, by its labels in the message.
func (a *act) reports(en journal.Entry) bool {
	return a.alertIs(en.AlertName) && (strings.Contains(string(en.Data), a.target) || strings.Contains(en.Message, a.target))
}

// react plays the people around alertmedic: who approves a rollback, and who
// reboots a machine that was drained.
func (s *stage) react(ctx context.Context, en journal.Entry) error {
	switch {
	case en.Kind == journal.ApprovalRequested:
		s.view.person("the person on call reads the plan and approves it through the API")
		if err := s.approve(ctx, en.RunID); err != nil {
			return fmt.Errorf("approve run %s: %w", en.RunID, err)
		}
	case en.Kind == journal.StepDone && en.Action == "node.drain":
		s.view.person("the machine's owner reboots it, and its kubelet comes back")
		if err := s.cluster.ClearNodeFault(ctx, s.node); err != nil {
			return fmt.Errorf("reboot the node: %w", err)
		}
	}
	return nil
}
