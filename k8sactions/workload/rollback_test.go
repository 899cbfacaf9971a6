package workload

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/alertmedic/alertmedic/internal/action"
)

func TestChoose(t *testing.T) {
	t.Parallel()
	ref := action.Ref{Kind: action.KindDeployment, Namespace: "shop", Name: "web"}
	revisions := []Revision{{Number: 4, hash: "d"}, {Number: 3, hash: "c"}, {Number: 1, hash: "a"}}
	for name, row := range map[string]struct {
		revisions []Revision
		current   string
		from      string
		wanted    int64
		want      int64
		err       string
	}{
		"the one before":                           {revisions, "d", "", 0, 3, ""},
		"not the one that was rolled back from":    {revisions, "d", "c", 0, 1, ""},
		"a new template that is not yet kept":      {revisions, "e", "", 0, 4, ""},
		"an older one runs after a roll-back":      {[]Revision{{Number: 5, hash: "a"}, {Number: 4, hash: "d"}, {Number: 3, hash: "c"}}, "a", "d", 0, 3, ""},
		"a named one":                              {revisions, "d", "", 1, 1, ""},
		"a named one that was rolled back from":    {revisions, "d", "c", 3, 3, ""},
		"the current one by name":                  {revisions, "d", "", 4, 0, "refused: revision 4 is what Deployment/shop/web runs already"},
		"one that is not kept":                     {revisions, "d", "", 2, 0, "refused: Deployment/shop/web has no revision 2; it has 4, 3, 1"},
		"none":                                     {nil, "d", "", 0, 0, "refused: Deployment/shop/web has no earlier revision that differs from what it runs"},
		"all that were rolled back from":           {revisions, "a", "d@4,c@3", 0, 0, "refused: alertmedic has rolled back from every other revision of Deployment/shop/web: somebody must fix it"},
		"one that was deployed again since":        {[]Revision{{Number: 7, hash: "d"}, {Number: 6, hash: "c"}, {Number: 1, hash: "a"}}, "d", "c@3", 0, 6, ""},
		"none of those of more than one roll-back": {[]Revision{{Number: 5, hash: "a"}, {Number: 4, hash: "d"}, {Number: 3, hash: "c"}, {Number: 2, hash: "b"}}, "a", "c@3,d@4", 0, 2, ""},
		"only the current":                         {revisions[:1], "d", "", 0, 0, "refused: Deployment/shop/web has no earlier revision that differs from what it runs"},
		"the same template under another number":   {[]Revision{{Number: 2, hash: "d"}, {Number: 1, hash: "d"}}, "d", "", 0, 0, "refused: Deployment/shop/web has no earlier revision that differs from what it runs"},
	} {
		got, err := choose(ref, row.revisions, row.current, row.from, row.wanted)
		if row.err != "" {
			require.EqualError(t, err, row.err, name)
			continue
		}
		require.NoError(t, err, name)
		require.Equal(t, row.want, got.Number, name)
	}
}

func TestNormalTemplatesOfAllKeepersAreEqual(t *testing.T) {
	t.Parallel()
	template := func(change func(map[string]any)) map[string]any {
		out := map[string]any{
			"metadata": map[string]any{"labels": map[string]any{"app": "web"}},
			"spec":     map[string]any{"containers": []any{map[string]any{"image": "shop/web:1", "name": "app"}}},
		}
		change(out)
		return out
	}
	want := hashOf(normal(template(func(map[string]any) {})))
	for name, change := range map[string]func(map[string]any){
		"ReplicaSet": func(m map[string]any) {
			m["metadata"].(map[string]any)["labels"].(map[string]any)["pod-template-hash"] = "abc"
		},
		"ControllerRevision": func(m map[string]any) { m["$patch"] = "replace" },
		"restarted by kubectl": func(m map[string]any) {
			m["metadata"].(map[string]any)["annotations"] = map[string]any{"kubectl.kubernetes.io/restartedAt": "2026-03-01T12:00:00Z"}
		},
		"restarted by alertmedic": func(m map[string]any) {
			m["metadata"].(map[string]any)["annotations"] = map[string]any{"alertmedic.io/restart": "run/step"}
		},
		"empty timestamp": func(m map[string]any) { m["metadata"].(map[string]any)["creationTimestamp"] = nil },
	} {
		in := template(change)
		require.Equal(t, want, hashOf(normal(in)), name)
		require.NotEqual(t, want, hashOf(in), "the input of %s is left alone", name)
	}
	kept := template(func(m map[string]any) {
		m["metadata"].(map[string]any)["annotations"] = map[string]any{"kubectl.kubernetes.io/restartedAt": "x", "checksum/config": "y"}
	})
	require.Equal(t, map[string]any{"checksum/config": "y"}, normal(kept)["metadata"].(map[string]any)["annotations"])
	other := template(func(m map[string]any) { m["spec"].(map[string]any)["hostNetwork"] = true })
	require.NotEqual(t, want, hashOf(normal(other)))
	require.Equal(t, []string{"shop/web:1"}, images(other))
}

// The annotation does not grow for ever.
func TestMarksAreBounded(t *testing.T) {
	t.Parallel()
	marks := ""
	for i := range int64(20) {
		marks = mark(marks, "h", i+1)
	}
	require.Equal(t, "h@11,h@12,h@13,h@14,h@15,h@16,h@17,h@18,h@19,h@20", marks)
	require.True(t, fledFrom(mark("", "new", 0), Revision{Number: 9, hash: "new"}), "its number was not known")
}
