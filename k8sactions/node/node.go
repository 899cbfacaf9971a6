// Package node holds the actions on nodes.
package node

import (
	"context"
	"fmt"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/alertmedic/alertmedic/internal/action"
	"github.com/alertmedic/alertmedic/k8sactions/contract"
	"github.com/alertmedic/alertmedic/k8sactions/live"
)

var (
	unschedulablePath = []string{"spec", "unschedulable"}
	cordonedByPath    = []string{"metadata", "annotations", contract.AnnotationCordonedBy}
)

// before is what the actions on a node rely on.
type before struct {
	Unschedulable bool   `json:"unschedulable"`
	CordonedBy    string `json:"cordonedBy,omitempty"`
}

func beforeOf(obj *unstructured.Unstructured) before {
	return before{Unschedulable: unschedulable(obj), CordonedBy: obj.GetAnnotations()[contract.AnnotationCordonedBy]}
}

func unschedulable(obj *unstructured.Unstructured) bool {
	return live.Bool(obj.Object, unschedulablePath...)
}

func get(ctx context.Context, s contract.Session, t action.Target) (*unstructured.Unstructured, error) {
	if t.Kind != action.KindNode {
		return nil, action.Errorf(action.ReasonRefused, "%s is not a node", t.Ref)
	}
	return live.GetAlive(ctx, s, t.Ref)
}

// cordon marks the node, which was just read, unschedulable in the name of the run.
func cordon(ctx context.Context, s contract.Session, c contract.Call, obj *unstructured.Unstructured) error {
	_, err := live.Patch(ctx, s, c, c.Plan.Request.Target.Ref, obj,
		live.Set(true, unschedulablePath...), live.Set(c.Plan.Request.RunID, cordonedByPath...))
	return err
}

// uncordonBack takes back a cordon of the step if the cordon is still ours: an
// administrator's cordon stays.
func uncordonBack(ctx context.Context, s contract.Session, c contract.Call, was before) (action.Result, error) {
	ref := c.Plan.Request.Target.Ref
	obj, err := get(ctx, s, c.Plan.Request.Target)
	if err != nil {
		return action.Result{}, err
	}
	if !unschedulable(obj) {
		return action.Result{Done: true, Message: fmt.Sprintf("node %s is schedulable already", ref.Name)}, nil
	}
	if by := obj.GetAnnotations()[contract.AnnotationCordonedBy]; by != c.Plan.Request.RunID {
		return action.Result{}, action.Errorf(action.ReasonRevertConflict, "the cordon of %s is not the run's own any more (%s); it stays",
			ref, whose(by))
	}
	if err := live.StillOurs(ref, obj, unschedulablePath...); err != nil {
		return action.Result{}, err
	}
	var prior any
	if was.CordonedBy != "" {
		prior = was.CordonedBy
	}
	_, err = live.PatchBack(ctx, s, c, ref, obj, live.Set(nil, unschedulablePath...), live.Set(prior, cordonedByPath...))
	if err != nil {
		return action.Result{}, err
	}
	return action.Result{Done: true, Message: fmt.Sprintf("node %s is schedulable again", ref.Name)}, nil
}

func whose(run string) string {
	if run == "" {
		return "somebody else's"
	}
	return "run " + run + "'s"
}
