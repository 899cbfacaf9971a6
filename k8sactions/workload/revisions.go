package workload

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"slices"
	"strconv"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/alertmedic/alertmedic/internal/action"
	"github.com/alertmedic/alertmedic/internal/kube"
	"github.com/alertmedic/alertmedic/k8sactions/contract"
	"github.com/alertmedic/alertmedic/k8sactions/live"
)

var (
	replicaSets         = schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "replicasets"}
	controllerRevisions = schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "controllerrevisions"}
)

// templateHashLabel is what a Deployment's controller adds to the template of
// each of its ReplicaSets.
const templateHashLabel = "pod-template-hash"

// Revision is one pod template that a workload has had.
type Revision struct {
	Number   int64
	Name     string // of the ReplicaSet or ControllerRevision that keeps it
	Created  metav1.Time
	Images   []string
	template map[string]any // as it would stand in the workload
	hash     string
}

// Revisions lists the pod templates that the cluster has kept of the workload,
// newest first: ReplicaSets of a Deployment, ControllerRevisions of the others.
func Revisions(ctx context.Context, s contract.Session, ref action.Ref, obj *unstructured.Unstructured) ([]Revision, error) {
	gvr, read := controllerRevisions, fromControllerRevision
	switch ref.Kind {
	case action.KindDeployment:
		gvr, read = replicaSets, fromReplicaSet
	case action.KindStatefulSet, action.KindDaemonSet:
	default:
		return nil, action.Errorf(action.ReasonRefused, "%s keeps no history of its pod template", ref)
	}
	selector, err := selectorOf(ref, obj)
	if err != nil {
		return nil, err
	}
	list, err := s.Dynamic().Resource(gvr).Namespace(ref.Namespace).List(ctx, metav1.ListOptions{LabelSelector: selector})
	if err != nil {
		return nil, kube.Classify(err, false)
	}
	var out []Revision
	for i := range list.Items {
		item := &list.Items[i]
		if o := metav1.GetControllerOf(item); o == nil || string(o.UID) != ref.UID {
			continue
		}
		number, template := read(item)
		if number == 0 || template == nil {
			continue
		}
		template = normal(template)
		out = append(out, Revision{Number: number, Name: item.GetName(), Created: item.GetCreationTimestamp(),
			Images: images(template), template: template, hash: hashOf(template)})
	}
	slices.SortFunc(out, func(a, b Revision) int { return cmp.Compare(b.Number, a.Number) })
	return out, nil
}

func selectorOf(ref action.Ref, obj *unstructured.Unstructured) (string, error) {
	raw, _ := live.Value(obj.Object, "spec", "selector").(map[string]any)
	var sel metav1.LabelSelector
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(raw, &sel); err != nil {
		return "", action.Errorf(action.ReasonUnsupported, "selector of %s: %w", ref, err)
	}
	parsed, err := metav1.LabelSelectorAsSelector(&sel)
	if err != nil {
		return "", action.Errorf(action.ReasonUnsupported, "selector of %s: %w", ref, err)
	}
	if parsed.Empty() {
		return "", action.Errorf(action.ReasonRefused, "%s has an empty selector", ref)
	}
	return parsed.String(), nil
}

func fromReplicaSet(rs *unstructured.Unstructured) (int64, map[string]any) {
	n, err := strconv.ParseInt(rs.GetAnnotations()["deployment.kubernetes.io/revision"], 10, 64)
	if err != nil {
		return 0, nil
	}
	template, _ := live.Value(rs.Object, "spec", "template").(map[string]any)
	return n, template
}

func fromControllerRevision(cr *unstructured.Unstructured) (int64, map[string]any) {
	n, _ := live.Int(cr.Object, "revision")
	template, _ := live.Value(cr.Object, "data", "spec", "template").(map[string]any)
	return n, template
}

// normal is a copy of a template without what its keeper has added: the hash
// label of a ReplicaSet, the patch directive of a ControllerRevision, and the
// empty timestamp that some API servers write. Nor has it the marks of restarts:
// a restart makes a revision of its own, of the same release.
func normal(template map[string]any) map[string]any {
	out := runtime.DeepCopyJSON(template)
	delete(out, "$patch")
	if meta, ok := out["metadata"].(map[string]any); ok {
		if meta["creationTimestamp"] == nil {
			delete(meta, "creationTimestamp")
		}
		if labels, ok := meta["labels"].(map[string]any); ok {
			delete(labels, templateHashLabel)
		}
		if annotations, ok := meta["annotations"].(map[string]any); ok {
			for _, mark := range kube.RestartAnnotations() {
				delete(annotations, mark)
			}
			if len(annotations) == 0 {
				delete(meta, "annotations")
			}
		}
	}
	return out
}

// templateOf is the live template of the workload, normalised, with its hash.
func templateOf(ref action.Ref, obj *unstructured.Unstructured) (map[string]any, string, error) {
	template, ok := live.Value(obj.Object, "spec", "template").(map[string]any)
	if !ok {
		return nil, "", action.Errorf(action.ReasonUnsupported, "%s has no pod template", ref)
	}
	template = normal(template)
	return template, hashOf(template), nil
}

// hashOf identifies a template. encoding/json sorts keys.
func hashOf(template map[string]any) string {
	data, err := json.Marshal(template)
	if err != nil {
		return "" // JSON that was just decoded; "" equals no hash in a plan
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

func images(template map[string]any) []string {
	containers, _ := live.Value(template, "spec", "containers").([]any)
	var out []string
	for _, c := range containers {
		if m, ok := c.(map[string]any); ok {
			out = append(out, live.String(m, "image"))
		}
	}
	return out
}
