package live

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/alertmedic/alertmedic/internal/action"
)

func TestOperationsTestEveryFieldThatTheyTouch(t *testing.T) {
	t.Parallel()
	obj := map[string]any{
		"metadata": map[string]any{"uid": "u1", "labels": map[string]any{"app": "web"}},
		"spec":     map[string]any{"replicas": int64(2), "paused": true, "name": "x"},
	}
	ops, err := operations(obj, "u1", []Edit{
		Set(int64(3), "spec", "replicas"),
		Set(nil, "spec", "paused"),
		Set(nil, "spec", "absent"),
		Set(nil, "status", "absent"),
		Set("1", "metadata", "annotations", "a/b"),
		Set("2", "metadata", "annotations", "c"),
	})
	require.NoError(t, err)
	got, err := json.Marshal(ops)
	require.NoError(t, err)
	require.JSONEq(t, `[
		{"op":"test","path":"/metadata/uid","value":"u1"},
		{"op":"test","path":"/spec/replicas","value":2},
		{"op":"add","path":"/spec/replicas","value":3},
		{"op":"test","path":"/spec/paused","value":true},
		{"op":"remove","path":"/spec/paused","value":null},
		{"op":"test","path":"/spec/absent","value":null},
		{"op":"test","path":"/metadata/annotations","value":null},
		{"op":"add","path":"/metadata/annotations","value":{}},
		{"op":"test","path":"/metadata/annotations/a~1b","value":null},
		{"op":"add","path":"/metadata/annotations/a~1b","value":"1"},
		{"op":"test","path":"/metadata/annotations/c","value":null},
		{"op":"add","path":"/metadata/annotations/c","value":"2"}]`, string(got))
	require.Equal(t, int64(2), obj["spec"].(map[string]any)["replicas"], "the object is left alone")

	_, err = operations(obj, "u1", []Edit{Set(true, "spec", "name", "below")})
	require.Equal(t, action.ReasonInternal, action.ReasonOf(err))
}

func managed(entries ...[2]string) *unstructured.Unstructured {
	obj := &unstructured.Unstructured{Object: map[string]any{}}
	var list []metav1.ManagedFieldsEntry
	for _, e := range entries {
		list = append(list, metav1.ManagedFieldsEntry{Manager: e[0], Operation: "Update", FieldsType: "FieldsV1", FieldsV1: metav1.NewFieldsV1(e[1])})
	}
	obj.SetManagedFields(list)
	return obj
}

func TestOwners(t *testing.T) {
	t.Parallel()
	const image = `{"f:spec":{"f:template":{"f:spec":{"f:containers":{"k:{\"name\":\"app\"}":{".":{},"f:image":{}}}}}}}`
	const env = `{"f:spec":{"f:template":{"f:spec":{"f:containers":{"k:{\"name\":\"app\"}":{".":{},"f:env":{}}}}}}}`
	const replicas = `{"f:spec":{"f:replicas":{}}}`
	for name, row := range map[string]struct {
		obj    *unstructured.Unstructured
		path   []string
		ours   bool
		others []string
	}{
		"nobody":                       {managed(), []string{"spec", "replicas"}, false, nil},
		"ours":                         {managed([2]string{"alertmedic", replicas}), []string{"spec", "replicas"}, true, nil},
		"taken":                        {managed([2]string{"kubectl", replicas}), []string{"spec", "replicas"}, false, []string{"kubectl"}},
		"shared":                       {managed([2]string{"alertmedic", replicas}, [2]string{"flux", replicas}), []string{"spec", "replicas"}, true, []string{"flux"}},
		"other field":                  {managed([2]string{"kubectl", image}), []string{"spec", "replicas"}, false, nil},
		"part of it, not what is ours": {managed([2]string{"alertmedic", image}, [2]string{"kubectl", env}), []string{"spec", "template"}, true, nil},
		"part of it, what is ours":     {managed([2]string{"alertmedic", image}, [2]string{"kubectl", image}), []string{"spec", "template"}, true, []string{"kubectl"}},
	} {
		ours, others := Owners(row.obj, row.path...)
		require.Equal(t, row.ours, ours, name)
		require.Equal(t, row.others, others, name)
	}
}

func TestDiffIsBounded(t *testing.T) {
	t.Parallel()
	ref := action.Ref{Kind: action.KindDeployment, Namespace: "shop", Name: "web"}
	require.Equal(t, "--- Deployment/shop/web (live)\n+++ Deployment/shop/web (planned)\n@@ -1,2 +1,2 @@\n spec:\n-  replicas: 2\n+  replicas: 3\n",
		Diff(ref, int64(2), int64(3), "spec", "replicas"))
	require.Empty(t, Diff(ref, int64(2), int64(2), "spec", "replicas"))
	long := map[string]any{}
	for i := range 5000 {
		long[fmt.Sprintf("key-%d", i)] = int64(i)
	}
	got := Diff(ref, nil, long)
	require.LessOrEqual(t, len(got), maxDiff+64)
	require.Contains(t, got, "the rest of the diff is left out\n")
}
