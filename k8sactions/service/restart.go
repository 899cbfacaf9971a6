// Package service holds the actions on Services.
package service

import (
	"context"
	"fmt"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/alertmedic/alertmedic/internal/action"
	"github.com/alertmedic/alertmedic/k8sactions/contract"
	"github.com/alertmedic/alertmedic/k8sactions/live"
	"github.com/alertmedic/alertmedic/k8sactions/workload"
)

const pollEvery = 3 * time.Second

// RestartParams are the parameters of service.restart.
type RestartParams struct {
	MaxWorkloads     int  `json:"maxWorkloads,omitempty" jsonschema:"minimum=1,maximum=20,description=Refuse when more workloads than this are behind the Service.,default=3"`
	WaitForEndpoints bool `json:"waitForEndpoints" jsonschema:"description=After each workload wait until the Service has a ready endpoint.,default=true"`
}

func newRestartParams() *RestartParams {
	return &RestartParams{MaxWorkloads: 3, WaitForEndpoints: true}
}

// Validate implements the check that a schema cannot make.
func (p *RestartParams) Validate() error {
	if p.MaxWorkloads < 1 || p.MaxWorkloads > 20 {
		return fmt.Errorf("maxWorkloads is %d: it must be between 1 and 20", p.MaxWorkloads)
	}
	return nil
}

// Restart is the action service.restart.
type Restart struct{}

// Spec implements contract.Action.
func (Restart) Spec() action.Spec {
	return action.Spec{
		Name:    "service.restart",
		Summary: "Restart the workloads behind the Service, one after another",
		Description: `Finds the Deployments, StatefulSets and DaemonSets whose pod template carries the Service's selector and restarts them one after another: ` +
			`each must be rolled out whole, and the Service have a ready endpoint again (waitForEndpoints), before the next begins. ` +
			`Refuses a Service without a selector, one with nothing behind it, one with more than maxWorkloads behind it, paused Deployments and the OnDelete strategy. Cannot be reverted.`,
		Kinds:     []action.Kind{action.KindService},
		NewParams: func() any { return newRestartParams() },
		RBAC: []action.Rule{
			{APIGroups: []string{""}, Resources: []string{"services"}, Verbs: []string{"get"}},
			{APIGroups: []string{"apps"}, Resources: []string{"deployments", "statefulsets", "daemonsets"}, Verbs: []string{"get", "list", "patch"}},
			{APIGroups: []string{"discovery.k8s.io"}, Resources: []string{"endpointslices"}, Verbs: []string{"list"}},
		},
		// A workload that carries the step's signature is not restarted again.
		Disruptive: true, Mutating: true, Replay: action.Idempotent,
		DefaultTimeout: 20 * time.Minute,
		Example:        "{name: restart, action: service.restart, timeout: 20m, with: {maxWorkloads: 2}}",
	}
}

// planned is one workload of the plan, in the order of restarting.
type planned struct {
	Ref    action.Ref             `json:"ref"`
	Before workload.RestartBefore `json:"before"`
}

type restartBefore struct {
	Workloads []planned `json:"workloads"`
}

// Plan implements contract.Action.
func (Restart) Plan(ctx context.Context, s contract.Session, r action.Request) (action.Plan, error) {
	params, err := contract.Params(r.Params, newRestartParams())
	if err != nil {
		return action.Plan{}, err
	}
	ref := r.Target.Ref
	if ref.Kind != action.KindService {
		return action.Plan{}, action.Errorf(action.ReasonRefused, "%s is not a Service", ref)
	}
	obj, err := live.GetAlive(ctx, s, ref)
	if err != nil {
		return action.Plan{}, err
	}
	selector, err := selectorOf(ref, obj)
	if err != nil {
		return action.Plan{}, err
	}
	found, idle, err := behind(ctx, s, ref, selector)
	if err != nil {
		return action.Plan{}, err
	}
	switch {
	case len(found) == 0 && len(idle) > 0:
		return action.Plan{}, action.Errorf(action.ReasonRefused, "everything behind %s is scaled to zero (%s): a restart would start nothing", ref, strings.Join(idle, ", "))
	case len(found) == 0:
		return action.Plan{}, action.Errorf(action.ReasonRefused, "no Deployment, StatefulSet or DaemonSet is behind %s (selector %s)", ref, selector)
	case len(found) > params.MaxWorkloads:
		return action.Plan{}, action.Errorf(action.ReasonRefused, "%d workloads are behind %s and maxWorkloads is %d: %s", len(found), ref, params.MaxWorkloads, names(found))
	}
	out := action.Plan{}
	var before restartBefore
	for _, w := range found {
		if err := workload.RefuseRollout(w.ref, w.obj); err != nil {
			return action.Plan{}, err
		}
		if at := w.obj.GetDeletionTimestamp(); at != nil {
			return action.Plan{}, action.Errorf(action.ReasonTerminating, "%s, behind %s, is being deleted", w.ref, ref)
		}
		before.Workloads = append(before.Workloads, planned{Ref: w.ref, Before: workload.BeforeRestart(w.obj)})
		change, diff := workload.RestartChange(w.ref, w.obj, r)
		out.Changes = append(out.Changes, change)
		out.Diff += diff
		out.Displaces += workload.Pods(w.ref, w.obj)
		out.Locks = append(out.Locks, locks(r.Target.Cluster, w)...)
	}
	out.Summary = fmt.Sprintf("restart what is behind service %s/%s, one after another: %s", ref.Namespace, ref.Name, names(found))
	out.Before = contract.Encode(before)
	return out, nil
}

// locks are the keys that other runs on the workload would hold: its own and,
// when something controls it in turn, that controller's.
func locks(cluster string, w candidate) []string {
	out := []string{action.Join(cluster, string(w.ref.Kind), w.ref.Namespace, w.ref.Name)}
	for _, o := range w.obj.GetOwnerReferences() {
		if o.Controller != nil && *o.Controller {
			out = append(out, action.Join(cluster, o.Kind, w.ref.Namespace, o.Name))
		}
	}
	return out
}

// Apply implements contract.Action. Where it stands is read off the live
// objects, not remembered, so a repeated or interrupted step goes on where the
// cluster is.
func (Restart) Apply(ctx context.Context, s contract.Session, c contract.Call) (action.Result, error) {
	params, err := contract.Params(c.Plan.Request.Params, newRestartParams())
	if err != nil {
		return action.Result{}, err
	}
	var before restartBefore
	if err := contract.Decode(c.Plan.Before, &before); err != nil {
		return action.Result{}, err
	}
	if len(before.Workloads) == 0 {
		return action.Result{}, action.Errorf(action.ReasonInternal, "the plan holds no workload")
	}
	service := c.Plan.Request.Target.Ref
	if _, err := live.GetAlive(ctx, s, service); err != nil {
		return action.Result{}, err
	}
	total := len(before.Workloads)
	for i, w := range before.Workloads {
		at := fmt.Sprintf("%d of %d, %s", i+1, total, w.Ref)
		obj, err := live.GetAlive(ctx, s, w.Ref)
		if err != nil {
			return action.Result{}, err
		}
		if !workload.Restarted(obj, c) {
			sent, err := workload.SendRestart(ctx, s, c, w.Ref, obj, w.Before)
			if err != nil {
				return action.Result{}, err
			}
			if c.Plan.Request.DryRun {
				continue
			}
			return tick(sent, fmt.Sprintf("restarting %s", at)), nil
		}
		if done, missing := workload.RolledOut(w.Ref, obj); !done {
			return tick(obj, fmt.Sprintf("restarting %s: %s", at, missing)), nil
		}
		if !params.WaitForEndpoints {
			continue
		}
		n, err := readyEndpoints(ctx, s, service)
		if err != nil {
			return action.Result{}, err
		}
		if n == 0 {
			return tick(obj, fmt.Sprintf("restarted %s: waiting for a ready endpoint of the Service", at)), nil
		}
	}
	if c.Plan.Request.DryRun {
		return action.Result{Done: true, Message: fmt.Sprintf("the API server would restart the %d workloads behind %s", total, service)}, nil
	}
	return action.Result{Done: true, Message: fmt.Sprintf("restarted the %d workloads behind %s", total, service)}, nil
}

func tick(obj *unstructured.Unstructured, message string) action.Result {
	return action.Result{Again: pollEvery, Message: message, State: contract.Encode(map[string]string{"at": string(obj.GetUID())})}
}

// Observe implements contract.Action: the change is there when the last
// workload of the plan has been restarted.
func (Restart) Observe(ctx context.Context, s contract.Session, c contract.Call) (action.Observation, error) {
	var before restartBefore
	if err := contract.Decode(c.Plan.Before, &before); err != nil {
		return action.Undetermined, err
	}
	for _, w := range before.Workloads {
		obj, err := live.Get(ctx, s, w.Ref)
		if err != nil {
			return action.Undetermined, err
		}
		if !workload.Restarted(obj, c) {
			return action.NotApplied, nil
		}
	}
	return action.Applied, nil
}
