package playbooks

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// stepOf loads a playbook whose only step scales, with these parameters in
// YAML flow style.
func stepOf(t *testing.T, with string) Step {
	t.Helper()
	text := strings.Replace(playbookYAML("p", "x"), "{name: look, action: diagnose}", "{name: s, action: workload.scale, with: "+with+"}", 1)
	text = strings.Replace(text, "kind: Job", "kind: Deployment", 1)
	set, problems := LoadBytes("p.yaml", []byte(text), LoadOptions{Catalogue: catalogue()})
	require.NoError(t, problems.Err())
	return set.All()[0].Remedies[0].Steps[0]
}

func TestParamsTakeTheTypeOfTheirParameter(t *testing.T) {
	t.Parallel()
	step := stepOf(t, `{to: "{{ .Labels.to }}", ceiling: "{{ .Labels.ceiling }}", dry: "{{ .Labels.dry }}", ratio: "{{ .Labels.ratio }}",
      wait: "{{ .Labels.wait }}", reason: "{{ .Labels.to }}", names: ["{{ .Labels.to }}", b], labels: {a: "{{ .Labels.dry }}"}, policy: "{{ .Labels.policy }}"}`)
	require.True(t, step.With.Dynamic())
	spec := catalogue()["workload.scale"]
	data := TemplateData{Labels: map[string]string{"to": "3", "ceiling": "10", "dry": "true", "ratio": "0.5", "wait": "30s", "policy": "Hard"}}

	raw, err := step.With.RenderFor(spec, data)
	require.NoError(t, err)
	require.JSONEq(t, `{"to":3,"ceiling":10,"dry":true,"ratio":0.5,"wait":"30s","reason":"3","names":["3","b"],"labels":{"a":"true"},"policy":"Hard"}`, string(raw))
	var got scaleParams
	require.NoError(t, json.Unmarshal(raw, &got))
	require.Equal(t, 30*time.Second, got.Wait.Std())

	untyped, err := step.With.Render(data)
	require.NoError(t, err)
	require.JSONEq(t, `{"to":"3","ceiling":"10","dry":"true","ratio":"0.5","wait":"30s","reason":"3","names":["3","b"],"labels":{"a":"true"},"policy":"Hard"}`, string(untyped))

	// Rendering leaves the parameters as they were.
	again, err := step.With.RenderFor(spec, data)
	require.NoError(t, err)
	require.Equal(t, raw, again)
	require.Contains(t, step.With.String(), `{{ .Labels.to }}`)

	for label, bad := range map[string][2]string{
		"to":      {"3; rm -rf /", `with.to: must be a whole number, and its template rendered "3; rm -rf /"`},
		"ceiling": {"5000000000", `with.ceiling: 5000000000 does not fit: it is too large or too small`},
		"dry":     {"1", `with.dry: must be a boolean, and its template rendered "1"`},
		"ratio":   {"NaN", `with.ratio: must be a number, and its template rendered "NaN"`},
		"wait":    {"soon", `with.wait: "soon" is not a duration such as "30s", "5m" or "1h30m"`},
		"policy":  {"hard", `with.policy: unknown value "hard"; it is one of Gentle, Hard (did you mean "Hard"?)`},
	} {
		labels := map[string]string{}
		for k, v := range data.Labels {
			labels[k] = v
		}
		labels[label] = bad[0]
		_, err := step.With.RenderFor(spec, TemplateData{Labels: labels})
		require.EqualError(t, err, "parameters of workload.scale: "+bad[1])
		delete(labels, label)
		_, err = step.With.RenderFor(spec, TemplateData{Labels: labels})
		require.ErrorContains(t, err, fmt.Sprintf(`map has no entry for key %q`, label))
	}
}

func TestParamsAreValidatedOnceRendered(t *testing.T) {
	t.Parallel()
	step := stepOf(t, `{to: "{{ .Labels.n }}", by: "{{ .Labels.n }}", ceiling: 5}`)
	_, err := step.With.RenderFor(catalogue()["workload.scale"], TemplateData{Labels: map[string]string{"n": "1"}})
	require.EqualError(t, err, "parameters of workload.scale: exactly one of to and by must be set")
}

func TestNilParams(t *testing.T) {
	t.Parallel()
	var p *Params
	raw, err := p.RenderFor(catalogue()["node.cordon"], TemplateData{})
	require.NoError(t, err)
	require.Equal(t, "{}", string(raw))
	_, err = p.RenderFor(catalogue()["workload.scale"], TemplateData{})
	require.EqualError(t, err, "parameters of workload.scale: with.ceiling: is required")
	require.False(t, p.Dynamic())
	require.Equal(t, "{}", p.String())
}

// hostile are label values with the syntax of everything that one could reach.
var hostile = []string{
	`$(reboot); rm -rf / #`, "`reboot`", `{{ .Labels.secret }}`, `{{`, `}}`, `{{ range 1000000000 }}{{ end }}`,
	`' || true || '`, `" || alert.status == "`, `'); DROP TABLE runs; --`, `<!channel> <@U123> *bold* <http://x|y>`,
	`", "force": true, "x": "`, `"}`, "a\nforce: true", "[1, 2]", "&a *b", "%s%n%1000000d", "\x00\x1b[31m", "../../etc/passwd",
	"\u2028\u202e", strings.Repeat("a", 60_000), "null", "true", "1", "~", "!!int 3", "",
}

func TestHostileLabelsStayText(t *testing.T) {
	t.Parallel()
	step := stepOf(t, `{to: 1, ceiling: 5, reason: "<{{ .Labels.x }}>", names: ["{{ .Labels.x }}"], labels: {a: "{{ .Labels.x }}"}}`)
	spec := catalogue()["workload.scale"]
	plain, err := CompileTemplate(`{{ .Labels.x }}`)
	require.NoError(t, err)
	equal, err := CompileCondition(`label(alert, 'x') == alert.annotations.x && label(alert, 'y') == ''`)
	require.NoError(t, err)
	for _, value := range hostile {
		data := TemplateData{Labels: map[string]string{"x": value, "secret": "s3cret"}}
		text, err := plain.Render(data)
		require.NoError(t, err)
		require.Equal(t, value, text)

		raw, err := step.With.RenderFor(spec, data)
		require.NoError(t, err, quote(value))
		var got scaleParams
		require.NoError(t, json.Unmarshal(raw, &got))
		want := scaleParams{To: ptr(int32(1)), Ceiling: 5, Reason: "<" + value + ">", Names: []string{value}, Labels: map[string]string{"a": value}}
		require.Equal(t, want, got)

		ok, err := equal.Eval(t.Context(), Vars{Alert: AlertData{Labels: data.Labels, Annotations: map[string]string{"x": value}}})
		require.NoError(t, err)
		require.True(t, ok)
	}
}

// Where a number is wanted, nothing but a number passes.
func TestHostileLabelsAreNoNumbers(t *testing.T) {
	t.Parallel()
	step := stepOf(t, `{to: "{{ .Labels.x }}", ceiling: 5}`)
	for _, value := range hostile {
		raw, err := step.With.RenderFor(catalogue()["workload.scale"], TemplateData{Labels: map[string]string{"x": value}})
		if value == "1" {
			require.NoError(t, err)
			require.JSONEq(t, `{"to":1,"ceiling":5}`, string(raw))
			continue
		}
		require.ErrorContains(t, err, "with.to: must be a whole number, and its template rendered "+quote(value))
	}
}
