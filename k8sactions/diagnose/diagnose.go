// Package diagnose gathers what a person would look at first. It changes
// nothing.
package diagnose

import (
	"context"
	"fmt"
	"time"

	"github.com/alertmedic/alertmedic/internal/action"
	"github.com/alertmedic/alertmedic/k8sactions/contract"
	"github.com/alertmedic/alertmedic/k8sactions/live"
)

const hardLimit = 64 << 10

// Params are the parameters of diagnose.
type Params struct {
	LogLines int64 `json:"logLines,omitempty" jsonschema:"minimum=0,maximum=500,description=How many of the last lines of each container's log to keep.,default=50"`
	MaxBytes int   `json:"maxBytes,omitempty" jsonschema:"minimum=1024,maximum=65536,description=How large the evidence may become; logs are cut first.,default=32768"`
}

func newParams() *Params { return &Params{LogLines: 50, MaxBytes: 32 << 10} }

// Validate implements the checks that a schema cannot make.
func (p *Params) Validate() error {
	switch {
	case p.LogLines < 0 || p.LogLines > 500:
		return fmt.Errorf("logLines is %d: it must be between 0 and 500", p.LogLines)
	case p.MaxBytes < 1024 || p.MaxBytes > hardLimit:
		return fmt.Errorf("maxBytes is %d: it must be between 1024 and %d", p.MaxBytes, hardLimit)
	}
	return nil
}

// withPods are the kinds whose pods are looked at.
var withPods = []action.Kind{action.KindPod, action.KindWorkload, action.KindService, action.KindJob}

// Diagnose is the action diagnose.
type Diagnose struct{}

// Spec implements contract.Action.
func (Diagnose) Spec() action.Spec {
	return action.Spec{
		Name:    "diagnose",
		Summary: "Put events, logs, conditions and rollout history into the log, without secrets",
		Description: `Reads the target, its pods, their events and the last lines of current and previous containers, and the rollout history, and records them as evidence. ` +
			`What looks like a secret is hidden: passwords and tokens by name, bearer tokens, JWTs, cloud keys, user information in URLs, PEM blocks. ` +
			`Bounded in size. What cannot be read is noted and fails nothing. Changes nothing.`,
		Kinds: []action.Kind{action.KindPod, action.KindWorkload, action.KindNode, action.KindService,
			action.KindJob, action.KindPersistentVolumeClaim, action.KindHPA},
		NewParams: func() any { return newParams() },
		RBAC: []action.Rule{
			{APIGroups: []string{""}, Resources: []string{"events"}, Verbs: []string{"list"}},
			{APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: []string{"get", "list"}, Kinds: withPods},
			{APIGroups: []string{""}, Resources: []string{"pods/log"}, Verbs: []string{"get"}, Kinds: withPods},
			{APIGroups: []string{"apps"}, Resources: []string{"deployments", "statefulsets", "daemonsets"}, Verbs: []string{"get"}, Kinds: []action.Kind{action.KindWorkload}},
			{APIGroups: []string{"apps"}, Resources: []string{"replicasets"}, Verbs: []string{"get", "list"}, Kinds: []action.Kind{action.KindWorkload}},
			{APIGroups: []string{"apps"}, Resources: []string{"controllerrevisions"}, Verbs: []string{"list"}, Kinds: []action.Kind{action.KindStatefulSet, action.KindDaemonSet}},
			{APIGroups: []string{""}, Resources: []string{"services"}, Verbs: []string{"get"}, Kinds: []action.Kind{action.KindService}},
			{APIGroups: []string{"discovery.k8s.io"}, Resources: []string{"endpointslices"}, Verbs: []string{"list"}, Kinds: []action.Kind{action.KindService}},
			{APIGroups: []string{"batch"}, Resources: []string{"jobs"}, Verbs: []string{"get"}, Kinds: []action.Kind{action.KindJob}},
			{APIGroups: []string{""}, Resources: []string{"persistentvolumeclaims"}, Verbs: []string{"get"}, Kinds: []action.Kind{action.KindPersistentVolumeClaim}},
			{APIGroups: []string{"autoscaling"}, Resources: []string{"horizontalpodautoscalers"}, Verbs: []string{"get"}, Kinds: []action.Kind{action.KindHPA}},
			{APIGroups: []string{""}, Resources: []string{"nodes"}, Verbs: []string{"get"}, ClusterScoped: true, Kinds: []action.Kind{action.KindNode}},
		},
		Replay:         action.Idempotent,
		DefaultTimeout: time.Minute,
		Example:        "{name: look, action: diagnose, with: {logLines: 100}}",
	}
}

// Plan implements contract.Action.
func (Diagnose) Plan(ctx context.Context, s contract.Session, r action.Request) (action.Plan, error) {
	p, err := contract.Params(r.Params, newParams())
	if err != nil {
		return action.Plan{}, err
	}
	if _, err := live.Get(ctx, s, r.Target.Ref); err != nil {
		return action.Plan{}, err
	}
	return action.Plan{Summary: fmt.Sprintf("look at %s: conditions, events, last %d log lines, rollout history", r.Target.Ref, p.LogLines)}, nil
}

// Apply implements contract.Action.
func (Diagnose) Apply(ctx context.Context, s contract.Session, c contract.Call) (action.Result, error) {
	p, err := contract.Params(c.Plan.Request.Params, newParams())
	if err != nil {
		return action.Result{}, err
	}
	g := &gatherer{session: s, target: c.Plan.Request.Target, params: p, now: c.Now}
	ev := g.gather(ctx)
	raw := ev.encode(p.MaxBytes)
	message := fmt.Sprintf("looked at %s: %d pods, %d events, %d logs", c.Plan.Request.Target.Ref, len(ev.Pods), len(ev.Events), len(ev.Logs))
	if len(ev.Missing) > 0 {
		message += fmt.Sprintf("; %d things could not be read", len(ev.Missing))
	}
	return action.Result{Done: true, Message: message, Evidence: raw}, nil
}

// Observe implements contract.Action. There is no change to find.
func (Diagnose) Observe(context.Context, contract.Session, contract.Call) (action.Observation, error) {
	return action.NotApplied, nil
}
