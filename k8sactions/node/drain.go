package node

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/alertmedic/alertmedic/internal/action"
	"github.com/alertmedic/alertmedic/k8sactions/contract"
	"github.com/alertmedic/alertmedic/k8sactions/live"
	"github.com/alertmedic/alertmedic/k8sactions/pod"
)

// DrainParams are the parameters of node.drain.
type DrainParams struct {
	GracePeriod        *action.Duration `json:"gracePeriod,omitempty" jsonschema:"description=How long each pod may take to end. Default: what the pod itself says. At least 1s."`
	Timeout            action.Duration  `json:"timeout,omitempty" jsonschema:"description=How long to go on while budgets or slow pods hold the drain up. Keep it below the step's own timeout.,default=10m"`
	DeleteEmptyDirData bool             `json:"deleteEmptyDirData,omitempty" jsonschema:"description=Also evict pods that keep data in emptyDir volumes; the data is lost.,default=false"`
	Force              bool             `json:"force,omitempty" jsonschema:"description=Also evict pods that no controller will replace.,default=false"`
	MaxParallel        int              `json:"maxParallel,omitempty" jsonschema:"minimum=1,maximum=50,description=How many pods may be on their way out at a time.,default=5"`
	SkipStuck          bool             `json:"skipStuck" jsonschema:"description=Count a pod as done when it does not end because the node does not answer. It is reported and never removed by force.,default=true"`
}

func newDrainParams() *DrainParams {
	return &DrainParams{Timeout: action.Duration(10 * time.Minute), MaxParallel: 5, SkipStuck: true}
}

// Validate implements the checks that a schema cannot make.
func (p *DrainParams) Validate() error {
	switch {
	case p.Timeout.Std() < time.Second:
		return errors.New("timeout must be at least 1s: a drain without an end holds its node for ever")
	case p.MaxParallel < 1 || p.MaxParallel > 50:
		return fmt.Errorf("maxParallel is %d: it must be between 1 and 50", p.MaxParallel)
	}
	return contract.CheckGrace(p.GracePeriod)
}

// Drain is the action node.drain.
type Drain struct{}

// Spec implements contract.Action.
func (Drain) Spec() action.Spec {
	return action.Spec{
		Name:    "node.drain",
		Summary: "Cordon the node and evict its pods, as far as PodDisruptionBudgets let them go",
		Description: `Cordons the node if it is not cordoned and evicts, a few at a time and each by its UID, the pods that were there when the plan was made. ` +
			`Pods of DaemonSets and static pods stay. Pods without a controller (force) and with emptyDir data (deleteEmptyDirData) make the drain refuse unless allowed. ` +
			`Budgets that say not now are asked again until timeout; pods that never end because the node does not answer are reported as stuck. Nothing is removed by force. ` +
			`The log gets the outcome of each pod, what blocks which, and what appeared on the node meanwhile. ` +
			`Reverting uncordons the node if the cordon is still the run's own; evicted pods do not come back.`,
		Kinds:     []action.Kind{action.KindNode},
		NewParams: func() any { return newDrainParams() },
		RBAC: []action.Rule{
			{APIGroups: []string{""}, Resources: []string{"nodes"}, Verbs: []string{"get", "patch"}, ClusterScoped: true},
			{APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: []string{"list"}, ClusterScoped: true},
			{APIGroups: []string{""}, Resources: []string{"pods/eviction"}, Verbs: []string{"create"}, ClusterScoped: true},
		},
		// Each eviction carries a UID: a second one of the same pod finds it
		// terminating or gone.
		Disruptive: true, Mutating: true, Reversible: true, Replay: action.Idempotent,
		DefaultTimeout: 15 * time.Minute,
		Example:        "{name: drain, action: node.drain, timeout: 15m, with: {timeout: 10m, deleteEmptyDirData: true}}",
	}
}

// drainBefore is what the plan found on the node.
type drainBefore struct {
	Node before       `json:"node"`
	Pods []action.Ref `json:"pods"`
	Kept int          `json:"kept"` // pods that stay
}

// maxNamed bounds how many pods a message names.
const maxNamed = 10

// Plan implements contract.Action.
func (Drain) Plan(ctx context.Context, s contract.Session, r action.Request) (action.Plan, error) {
	params, err := contract.Params(r.Params, newDrainParams())
	if err != nil {
		return action.Plan{}, err
	}
	obj, err := get(ctx, s, r.Target)
	if err != nil {
		return action.Plan{}, err
	}
	pods, err := podsOn(ctx, s, r.Target.Name)
	if err != nil {
		return action.Plan{}, err
	}
	ref := r.Target.Ref
	out := action.Plan{}
	before := drainBefore{Node: beforeOf(obj)}
	if !before.Node.Unschedulable {
		out.Changes = append(out.Changes, live.Change(ref, nil, true, unschedulablePath...))
		out.Diff = live.Diff(ref, nil, true, unschedulablePath...)
	}
	var no, going []string
	for i := range pods {
		p := &pods[i]
		f, why := fateOf(p, params)
		switch f {
		case refused:
			no = append(no, p.Namespace+"/"+p.Name+" "+why)
		case evict:
			before.Pods = append(before.Pods, refOf(p))
			out.Changes = append(out.Changes, live.Change(refOf(p), string(p.Status.Phase), nil))
			going = append(going, p.Namespace+"/"+p.Name)
			if !pod.Finished(p) {
				out.Displaces++
			}
		default:
			before.Kept++
		}
	}
	if len(no) > 0 {
		return action.Plan{}, action.Errorf(action.ReasonRefused, "%s cannot be drained: %s", ref, shorten(no, "; "))
	}
	out.Summary = fmt.Sprintf("drain node %s: evict %d pods (%d at a time), leave %d", ref.Name, len(before.Pods), params.MaxParallel, before.Kept)
	if !before.Node.Unschedulable {
		out.Summary += "; cordon it first"
	}
	if len(going) > 0 {
		out.Diff += "pods to evict:\n- " + strings.Join(going, "\n- ") + "\n"
	}
	out.Noop = before.Node.Unschedulable && len(before.Pods) == 0
	out.Before = contract.Encode(before)
	return out, nil
}

func shorten(items []string, sep string) string {
	if len(items) <= maxNamed {
		return strings.Join(items, sep)
	}
	return strings.Join(items[:maxNamed], sep) + sep + fmt.Sprintf("and %d more", len(items)-maxNamed)
}

// Observe implements contract.Action: the change is there when every planned
// pod is gone or on its way.
func (Drain) Observe(ctx context.Context, s contract.Session, c contract.Call) (action.Observation, error) {
	var b drainBefore
	if err := contract.Decode(c.Plan.Before, &b); err != nil {
		return action.Undetermined, err
	}
	obj, err := live.Get(ctx, s, c.Plan.Request.Target.Ref)
	if err != nil {
		return action.Undetermined, err
	}
	pods, err := podsOn(ctx, s, c.Plan.Request.Target.Name)
	if err != nil {
		return action.Undetermined, err
	}
	there := map[string]bool{}
	for _, p := range pods {
		there[string(p.UID)] = p.DeletionTimestamp == nil
	}
	for _, planned := range b.Pods {
		if there[planned.UID] {
			return action.NotApplied, nil
		}
	}
	if !unschedulable(obj) {
		return action.NotApplied, nil
	}
	return action.Applied, nil
}

// Revert implements contract.Reverter.
func (Drain) Revert(ctx context.Context, s contract.Session, c contract.Call) (action.Result, error) {
	var b drainBefore
	if err := contract.Decode(c.Plan.Before, &b); err != nil {
		return action.Result{}, err
	}
	if b.Node.Unschedulable {
		return action.Result{Done: true, Message: fmt.Sprintf("node %s was cordoned before the drain and stays so", c.Plan.Request.Target.Name)}, nil
	}
	return uncordonBack(ctx, s, c, b.Node)
}
