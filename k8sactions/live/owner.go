package live

import (
	"encoding/json"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/alertmedic/alertmedic/internal/action"
	"github.com/alertmedic/alertmedic/k8sactions/contract"
)

// Owners tells who owns the field at path, or anything below it, by the
// object's managedFields: whether alertmedic does, and who else claims
// something that is also alertmedic's or, when alertmedic owns nothing there,
// who claims the field itself.
func Owners(obj *unstructured.Unstructured, path ...string) (ours bool, others []string) {
	mine := map[string]bool{}
	type claim struct {
		manager string
		fields  []string
	}
	var claims []claim
	for _, entry := range obj.GetManagedFields() {
		if entry.FieldsV1 == nil {
			continue
		}
		var fields map[string]any
		if json.Unmarshal(entry.FieldsV1.GetRawBytes(), &fields) != nil {
			continue // an entry that nobody can read claims nothing
		}
		found := below(fields, path)
		if len(found) == 0 {
			continue
		}
		if entry.Manager == contract.FieldManager {
			for _, f := range found {
				mine[f] = true
			}
			continue
		}
		claims = append(claims, claim{entry.Manager, found})
	}
	for _, c := range claims {
		for _, f := range c.fields {
			if mine[f] || f == "" {
				others = append(others, c.manager)
				break
			}
		}
	}
	slices.Sort(others)
	return len(mine) > 0, slices.Compact(others)
}

// below lists the leaves of a FieldsV1 tree under path; the field itself is "".
func below(fields map[string]any, path []string) []string {
	for _, key := range path {
		next, ok := fields["f:"+key].(map[string]any)
		if !ok {
			return nil
		}
		fields = next
	}
	if len(fields) == 0 {
		return []string{""}
	}
	var out []string
	var walk func(prefix string, m map[string]any)
	walk = func(prefix string, m map[string]any) {
		if len(m) == 0 {
			out = append(out, prefix)
			return
		}
		for k, v := range m {
			child, _ := v.(map[string]any)
			if k == "." {
				// Owning an item of a list is shared by all who set fields of it.
				continue
			}
			walk(prefix+"/"+k, child)
		}
	}
	walk("", fields)
	return out
}

// StillOurs returns a revert-conflict when another manager has taken the field
// at path of ref since alertmedic set it.
func StillOurs(ref action.Ref, obj *unstructured.Unstructured, path ...string) error {
	if _, others := Owners(obj, path...); len(others) > 0 {
		return action.Errorf(action.ReasonRevertConflict, "%s: %s belongs to %s now; it is left as it is", ref, Pointer(path...), strings.Join(others, ", "))
	}
	return nil
}
