package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/alertmedic/alertmedic/internal/action"
	"github.com/alertmedic/alertmedic/k8sactions/contract"
	"github.com/alertmedic/alertmedic/k8sactions/live"
	"github.com/alertmedic/alertmedic/k8sactions/pod"
)

const (
	tickEvery    = 2 * time.Second
	blockedRetry = 10 * time.Second
	// overdue is how long after the end of its grace period a pod may still be
	// there before it counts as hanging.
	overdue = 30 * time.Second
	// lastWord is kept free before the step's deadline for the final report.
	lastWord = 10 * time.Second
)

// podState is where a planned pod stands.
type podState string

const (
	waiting     podState = "waiting"
	terminating podState = "terminating"
	blocked     podState = "blocked"  // a budget, or the API server, says not now
	rejected    podState = "rejected" // it will never be evicted
	stuck       podState = "stuck"    // does not end because the node does not answer
	ended       podState = "gone"
)

// outcome is a planned pod's row in the report.
type outcome struct {
	Pod    string        `json:"pod"`
	UID    string        `json:"uid"`
	State  podState      `json:"state"`
	Detail string        `json:"detail,omitempty"`
	Reason action.Reason `json:"reason,omitempty"`
	// Sent says that the drain has asked for the eviction.
	Sent      bool      `json:"sent,omitempty"`
	NotBefore time.Time `json:"notBefore,omitzero"`
	inFlight  bool
}

// drainState is what one tick hands to the next.
type drainState struct {
	Started time.Time  `json:"started"`
	Pods    []*outcome `json:"pods"`
	// Failed ends the drain at the next tick; the one before has reported.
	Failed string        `json:"failed,omitempty"`
	Reason action.Reason `json:"reason,omitempty"`
}

// report is the evidence of a drain.
type report struct {
	Node     string     `json:"node"`
	Ready    bool       `json:"ready"`
	Pods     []*outcome `json:"pods"`
	Kept     int        `json:"kept,omitempty"`
	Blockers []string   `json:"blockers,omitempty"`
	// Appeared are pods that were not on the node when the plan was made. They
	// are left alone: nobody has approved their eviction.
	Appeared []string `json:"appeared,omitempty"`
}

// drain is one tick.
type drain struct {
	s      contract.Session
	c      contract.Call
	params *DrainParams
	before drainBefore
	state  drainState
	node   *unstructured.Unstructured
	rep    report
}

// Apply implements contract.Action.
func (Drain) Apply(ctx context.Context, s contract.Session, c contract.Call) (action.Result, error) {
	params, err := contract.Params(c.Plan.Request.Params, newDrainParams())
	if err != nil {
		return action.Result{}, err
	}
	d := &drain{s: s, c: c, params: params}
	if err := contract.Decode(c.Plan.Before, &d.before); err != nil {
		return action.Result{}, err
	}
	if err := contract.Decode(c.State, &d.state); err != nil {
		return action.Result{}, err
	}
	if d.state.Failed != "" {
		return action.Result{State: c.State}, &action.Error{Reason: d.state.Reason, Message: d.state.Failed}
	}
	if d.node, err = get(ctx, s, c.Plan.Request.Target); err != nil {
		return action.Result{}, err
	}
	return d.tick(ctx)
}

func (d *drain) tick(ctx context.Context) (action.Result, error) {
	first := d.state.Started.IsZero()
	if first {
		d.state.Started = d.c.Now
	}
	if len(d.state.Pods) == 0 {
		for _, ref := range d.before.Pods {
			d.state.Pods = append(d.state.Pods, &outcome{Pod: ref.Namespace + "/" + ref.Name, UID: ref.UID, State: waiting})
		}
	}
	// Without the cordon the replacements could come to the same node.
	if !unschedulable(d.node) {
		if !first {
			return action.Result{}, action.Errorf(action.ReasonDrift, "somebody uncordoned %s during the drain: it stops here", d.c.Plan.Request.Target.Ref)
		}
		if err := cordon(ctx, d.s, d.c, d.node); err != nil {
			return action.Result{}, err
		}
	}
	pods, err := podsOn(ctx, d.s, d.c.Plan.Request.Target.Name)
	if err != nil {
		return action.Result{State: contract.Encode(d.state)}, err // it tells that the node is cordoned
	}
	d.rep = report{Node: d.c.Plan.Request.Target.Name, Ready: ready(d.node), Pods: d.state.Pods, Kept: d.before.Kept}
	d.look(pods)
	again := tickEvery
	if d.c.Now.Before(d.end()) {
		again = d.send(ctx)
	}
	return d.conclude(again)
}

// end is when the drain gives up.
func (d *drain) end() time.Time {
	end := d.state.Started.Add(d.params.Timeout.Std())
	if at := d.c.Plan.Request.Deadline; !at.IsZero() && at.Add(-lastWord).Before(end) {
		return at.Add(-lastWord)
	}
	return end
}

// look sorts the planned pods by what is seen of them, and notes what is new.
func (d *drain) look(pods []corev1.Pod) {
	byUID := map[string]*corev1.Pod{}
	for i := range pods {
		byUID[string(pods[i].UID)] = &pods[i]
	}
	for _, o := range d.state.Pods {
		p := byUID[o.UID]
		delete(byUID, o.UID)
		switch {
		case p == nil:
			o.State, o.Reason, o.Detail = ended, "", ""
			if !o.Sent {
				o.Detail = "went before its turn"
			}
		case p.DeletionTimestamp != nil && d.c.Now.After(p.DeletionTimestamp.Add(overdue)) && !d.rep.Ready:
			o.State, o.Reason, o.Detail = stuck, "", "its grace period is over and its node does not answer: it may still run; it ends when the node comes back or its power is known to be off"
		case p.DeletionTimestamp != nil:
			o.State, o.Reason, o.Detail = terminating, "", ""
			o.inFlight = true
			if d.c.Now.After(p.DeletionTimestamp.Add(overdue)) {
				// It no longer takes a place from those that can go.
				o.inFlight = false
				o.Detail = "its grace period is over and it is still there"
				if len(p.Finalizers) > 0 {
					o.Detail += "; finalizers: " + shorten(p.Finalizers, ", ")
				}
			}
		case o.State == terminating || o.State == stuck:
			o.State, o.Detail = waiting, "" // an eviction whose answer was lost
		}
	}
	for i := range pods {
		p := &pods[i]
		if byUID[string(p.UID)] == nil || p.DeletionTimestamp != nil {
			continue
		}
		if f, _ := fateOf(p, d.params); f == evict || f == refused {
			d.rep.Appeared = append(d.rep.Appeared, p.Namespace+"/"+p.Name)
		}
	}
}

// send asks for as many evictions as may be on their way and returns when to
// come back.
func (d *drain) send(ctx context.Context) time.Duration {
	again, inFlight := tickEvery, 0
	for _, o := range d.state.Pods {
		if o.inFlight {
			inFlight++
		}
	}
	byUID := map[string]action.Ref{}
	for _, ref := range d.before.Pods {
		byUID[ref.UID] = ref
	}
	for _, o := range d.state.Pods {
		if inFlight >= d.params.MaxParallel && !d.c.Plan.Request.DryRun {
			break
		}
		if o.State != waiting && o.State != blocked || d.c.Now.Before(o.NotBefore) {
			continue
		}
		if ctx.Err() != nil {
			break // the rest is for the next tick
		}
		e := pod.Eviction{Pod: byUID[o.UID], Grace: contract.GraceSeconds(d.params.GracePeriod), DryRun: d.c.Plan.Request.DryRun}
		err := e.Send(ctx, d.s)
		var ae *action.Error
		if err == nil || !errors.As(err, &ae) {
			o.State, o.Reason, o.Detail, o.Sent = terminating, "", "", true
			inFlight++
			continue
		}
		switch ae.Reason {
		case action.ReasonGone:
			o.State, o.Reason, o.Detail = ended, "", "went before its turn"
		case action.ReasonBlocked:
			o.State, o.Reason, o.Detail = blocked, ae.Reason, ae.Message
			o.NotBefore = d.c.Now.Add(max(ae.RetryAfter, blockedRetry))
		case action.ReasonTerminating:
			o.State, o.Reason, o.Detail = blocked, ae.Reason, "its namespace is being deleted, and it with it"
			o.NotBefore = d.c.Now.Add(blockedRetry)
		case action.ReasonThrottled, action.ReasonUnavailable, action.ReasonUnclear, action.ReasonTimeout:
			// Not this pod's fault, and no use in asking for the next.
			o.Reason, o.Detail, o.Sent = ae.Reason, ae.Message, o.Sent || ae.Reason == action.ReasonUnclear
			return max(ae.RetryAfter, tickEvery)
		default:
			o.State, o.Reason, o.Detail = rejected, ae.Reason, ae.Message
		}
	}
	return again
}

// conclude writes the report and decides whether the drain is over.
func (d *drain) conclude(again time.Duration) (action.Result, error) {
	n := map[podState]int{}
	seen := map[string]bool{}
	for _, o := range d.state.Pods {
		n[o.State]++
		if o.State != ended && o.Detail != "" && !seen[o.Detail] {
			seen[o.Detail] = true
			d.rep.Blockers = append(d.rep.Blockers, o.Detail)
		}
	}
	total := len(d.state.Pods)
	text := fmt.Sprintf("node %s: %d of %d pods are gone", d.rep.Node, n[ended], total)
	for _, st := range []podState{terminating, waiting, blocked, rejected, stuck} {
		if n[st] > 0 {
			text += fmt.Sprintf(", %d %s", n[st], st)
		}
	}
	if len(d.rep.Appeared) > 0 {
		text += fmt.Sprintf(", %d appeared since", len(d.rep.Appeared))
	}
	why := ""
	if len(d.rep.Blockers) > 0 {
		why = ": " + shorten(d.rep.Blockers, "; ")
	}
	result := action.Result{Evidence: contract.Encode(d.rep)}
	open := n[waiting] + n[terminating] + n[blocked]
	if !d.params.SkipStuck {
		open += n[stuck]
	}
	if d.c.Plan.Request.DryRun {
		return d.concludeDryRun(result, n, why)
	}
	fail := func(reason action.Reason, message string) (action.Result, error) {
		// The report goes out with this tick, as an error cannot carry it.
		d.state.Failed, d.state.Reason = message, reason
		result.State, result.Again, result.Message = contract.Encode(d.state), time.Second, message
		return result, nil
	}
	switch {
	case open == 0 && n[rejected] > 0:
		return fail(d.firstReason(rejected), text+why)
	case open == 0:
		result.Done, result.Message, result.State = true, text+why, contract.Encode(d.state)
		return result, nil
	case !d.c.Now.Before(d.end()):
		reason := action.ReasonTimeout
		if n[blocked] > 0 {
			// Retrying a blocked drain is for a person to decide: its time is over.
			text += " when the time was over"
		}
		return fail(reason, text+why)
	}
	result.Again, result.Message, result.State = again, text+why, contract.Encode(d.state)
	return result, nil
}

func (d *drain) concludeDryRun(result action.Result, n map[podState]int, why string) (action.Result, error) {
	if n[rejected] > 0 {
		return result, action.Errorf(d.firstReason(rejected), "node %s cannot be drained%s", d.rep.Node, why)
	}
	result.Done = true
	result.Message = fmt.Sprintf("the API server would cordon node %s and evict %d of %d pods now%s", d.rep.Node, n[terminating], len(d.state.Pods), why)
	return result, nil
}

func (d *drain) firstReason(st podState) action.Reason {
	for _, o := range d.state.Pods {
		if o.State == st {
			return o.Reason
		}
	}
	return action.ReasonRefused
}

// ready reports whether the node's kubelet is known to answer.
func ready(obj *unstructured.Unstructured) bool {
	conditions, _ := live.Value(obj.Object, "status", "conditions").([]any)
	for _, c := range conditions {
		if m, ok := c.(map[string]any); ok && live.String(m, "type") == string(corev1.NodeReady) {
			return live.String(m, "status") == string(corev1.ConditionTrue)
		}
	}
	return false
}
