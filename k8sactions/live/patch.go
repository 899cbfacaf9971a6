package live

import (
	"context"
	"encoding/json"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"github.com/alertmedic/alertmedic/internal/action"
	"github.com/alertmedic/alertmedic/internal/kube"
	"github.com/alertmedic/alertmedic/k8sactions/contract"
)

// Edit sets the field at Path to Value, or removes it when Value is nil.
type Edit struct {
	Path  []string
	Value any
}

// Set is an Edit of the field at path.
func Set(value any, path ...string) Edit { return Edit{Path: path, Value: value} }

// revertSuffix marks the annotation of a step that was taken back.
const revertSuffix = "/revert"

// Signed reports whether the step of the call was the last of alertmedic's
// changes to obj. A patch and its signature arrive together or not at all, so
// this is how a lost outcome is found again.
func Signed(obj *unstructured.Unstructured, call contract.Call) bool {
	a := obj.GetAnnotations()
	r := call.Plan.Request
	return r.RunID != "" && a[contract.AnnotationRun] == r.RunID && a[contract.AnnotationStep] == r.StepID
}

// SignedRevert is Signed for the revert of the step.
func SignedRevert(obj *unstructured.Unstructured, call contract.Call) bool {
	a := obj.GetAnnotations()
	r := call.Plan.Request
	return r.RunID != "" && a[contract.AnnotationRun] == r.RunID && a[contract.AnnotationStep] == r.StepID+revertSuffix
}

// Patch makes the edits to obj, which was read a moment ago, and signs them.
// The patch tests the UID and the prior value of each field that it touches and
// leaves resourceVersion alone: the status of a crash-looping object changes
// too often for that.
func Patch(ctx context.Context, s contract.Session, call contract.Call, ref action.Ref, obj *unstructured.Unstructured, edits ...Edit) (*unstructured.Unstructured, error) {
	return patch(ctx, s, call, ref, obj, call.Plan.Request.StepID, edits)
}

// PatchBack is Patch for the revert of the step.
func PatchBack(ctx context.Context, s contract.Session, call contract.Call, ref action.Ref, obj *unstructured.Unstructured, edits ...Edit) (*unstructured.Unstructured, error) {
	return patch(ctx, s, call, ref, obj, call.Plan.Request.StepID+revertSuffix, edits)
}

func patch(ctx context.Context, s contract.Session, call contract.Call, ref action.Ref, obj *unstructured.Unstructured, step string, edits []Edit) (*unstructured.Unstructured, error) {
	edits = append(edits,
		Set(call.Plan.Request.RunID, "metadata", "annotations", contract.AnnotationRun),
		Set(step, "metadata", "annotations", contract.AnnotationStep))
	ops, err := operations(obj.Object, ref.UID, edits)
	if err != nil {
		return nil, err
	}
	data, err := json.Marshal(ops)
	if err != nil {
		return nil, action.Errorf(action.ReasonInternal, "encode the patch of %s: %w", ref, err)
	}
	client, err := Client(s, ref.Kind, ref.Namespace)
	if err != nil {
		return nil, err
	}
	out, err := client.Patch(ctx, ref.Name, types.JSONPatchType, data,
		metav1.PatchOptions{FieldManager: contract.FieldManager, DryRun: call.DryRun()})
	if err != nil {
		return nil, kube.Classify(err, !call.Plan.Request.DryRun)
	}
	return out, nil
}

// operation is one of RFC 6902. Value is always written: the API server's
// implementation takes a test for null as "absent".
type operation struct {
	Op    string `json:"op"`
	Path  string `json:"path"`
	Value any    `json:"value"`
}

// operations makes a JSON Patch of edits, each with a test on what is there
// now. Missing parents are created, under a test that they are still missing.
func operations(obj map[string]any, uid string, edits []Edit) ([]operation, error) {
	ops := []operation{{"test", "/metadata/uid", uid}}
	work := runtime.DeepCopyJSON(obj)
	for _, e := range edits {
		parent, last := work, len(e.Path)-1
		for i, key := range e.Path[:last] {
			child, present := parent[key]
			if !present || child == nil {
				if e.Value == nil {
					parent = nil
					break
				}
				made := map[string]any{}
				at := pointer(e.Path[:i+1])
				ops = append(ops, operation{"test", at, nil}, operation{"add", at, map[string]any{}})
				parent[key], parent = made, made
				continue
			}
			m, ok := child.(map[string]any)
			if !ok {
				return nil, action.Errorf(action.ReasonInternal, "%s of the live object is a %T, not an object", pointer(e.Path[:i+1]), child)
			}
			parent = m
		}
		if parent == nil {
			continue // what should go is not there
		}
		key, at := e.Path[last], pointer(e.Path)
		before, present := parent[key]
		if e.Value == nil && !present {
			ops = append(ops, operation{"test", at, nil})
			continue
		}
		ops = append(ops, operation{"test", at, before})
		if e.Value == nil {
			ops = append(ops, operation{Op: "remove", Path: at})
			delete(parent, key)
			continue
		}
		ops = append(ops, operation{"add", at, e.Value})
		parent[key] = e.Value
	}
	return ops, nil
}

// pointer writes a JSON pointer (RFC 6901).
func pointer(path []string) string {
	var b strings.Builder
	for _, key := range path {
		b.WriteByte('/')
		b.WriteString(strings.NewReplacer("~", "~0", "/", "~1").Replace(key))
	}
	return b.String()
}

// Pointer writes path as a JSON pointer, for a plan's FieldChange.
func Pointer(path ...string) string { return pointer(path) }

// Observe tells from the target's signature whether the change of the call is
// there, for actions whose change is one patch of their target.
func Observe(ctx context.Context, s contract.Session, c contract.Call) (action.Observation, error) {
	obj, err := Get(ctx, s, c.Plan.Request.Target.Ref)
	if err != nil {
		return action.Undetermined, err
	}
	if Signed(obj, c) {
		return action.Applied, nil
	}
	return action.NotApplied, nil
}
