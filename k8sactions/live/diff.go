package live

import (
	"encoding/json"
	"strings"

	"github.com/pmezard/go-difflib/difflib"
	"sigs.k8s.io/yaml"

	"github.com/alertmedic/alertmedic/internal/action"
	"github.com/alertmedic/alertmedic/k8sactions/contract"
)

// Change is a field's change as a plan shows it.
func Change(ref action.Ref, before, after any, path ...string) action.FieldChange {
	return action.FieldChange{Object: ref, Path: Pointer(path...), Before: raw(before), After: raw(after)}
}

func raw(v any) json.RawMessage {
	if v == nil {
		return nil
	}
	return contract.Encode(v)
}

// maxDiff bounds a diff in bytes: it goes to the log and into a Slack thread.
const maxDiff = 16 << 10

// Diff is the unified diff of two values written as YAML under path.
func Diff(ref action.Ref, before, after any, path ...string) string {
	out, err := difflib.GetUnifiedDiffString(difflib.UnifiedDiff{
		A: lines(before, path), B: lines(after, path),
		FromFile: ref.String() + " (live)", ToFile: ref.String() + " (planned)", Context: 3,
	})
	if err != nil {
		return "" // a diff is for people; the plan's changes say the same
	}
	if len(out) > maxDiff {
		out = out[:strings.LastIndexByte(out[:maxDiff], '\n')+1] + "... the rest of the diff is left out\n"
	}
	return out
}

func lines(v any, path []string) []string {
	if v == nil {
		return nil
	}
	for i := len(path) - 1; i >= 0; i-- {
		v = map[string]any{path[i]: v}
	}
	text, err := yaml.Marshal(v)
	if err != nil {
		return nil
	}
	return difflib.SplitLines(strings.TrimSuffix(string(text), "\n"))
}
