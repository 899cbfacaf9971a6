package playbooks

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func someData() TemplateData {
	v := someVars()
	return TemplateData{Labels: v.Alert.Labels, Annotations: v.Alert.Annotations, Status: v.Alert.Status,
		Fingerprint: v.Alert.Fingerprint, StartsAt: v.Alert.StartsAt, Run: v.Run}
}

func TestTemplateRender(t *testing.T) {
	t.Parallel()
	for source, want := range map[string]string{
		`plain`:                                `plain`,
		`}} stays`:                             `}} stays`,
		`{{ .Labels.pod }}`:                    `web-1`,
		`{{ $.Labels.pod }}`:                   `web-1`,
		`{{ .Annotations.summary | toUpper }}`: `IT CRASHES`,
		`{{ .StartsAt.Format "15:04" }} {{ .Status }}`:            `11:50 firing`,
		`{{ .Run.ID }}/{{ .Run.Target.Name }}/{{ .Run.Attempt }}`: `r1/web/2`,
		`{{ range .Labels.SortedPairs }}{{ .Name }},{{ end }}`:    `alertname,namespace,pod,`,
		`{{ with .Labels }}{{ .pod }}{{ end }}`:                   `web-1`,
		`{{ if .Labels.pod }}a{{ else }}b{{ end }}`:               `a`,
		`{{ index .Labels "absent" }}`:                            ``,
		`{{ reReplaceAll "-[0-9]+$" "" .Labels.pod }}`:            `web`,
		`{{ printf "%s!" .Labels.pod }}`:                          `web-1!`,
		`{{/* nothing */}}`:                                       ``,
	} {
		tmpl, err := CompileTemplate(source)
		require.NoError(t, err, source)
		require.Equal(t, source, tmpl.String())
		got, err := tmpl.Render(someData())
		require.NoError(t, err, source)
		require.Equal(t, want, got, source)
	}
}

func TestTemplateDoesNotCompile(t *testing.T) {
	t.Parallel()
	for source, want := range map[string]string{
		`{{ now }}`:                  `1: function "now" not defined`,
		`{{ .StartsAt | since }}`:    `1: function "since" not defined`,
		`{{ tz "UTC" .StartsAt }}`:   `1: function "tz" not defined`,
		`{{ .Labels.pod`:             `1: unclosed action`,
		`{{ .Label.pod }}`:           `there is no .Label (did you mean ".Labels"?); known are: Labels, Annotations, Status, Fingerprint, StartsAt, Run`,
		`{{ $.Labesl.pod }}`:         `there is no .Labesl (did you mean ".Labels"?); known are: Labels, Annotations, Status, Fingerprint, StartsAt, Run`,
		`{{ if .Foo }}{{ end }}`:     `there is no .Foo; known are: Labels, Annotations, Status, Fingerprint, StartsAt, Run`,
		`{{ .Run.Id }}`:              `there is no .Run.Id (did you mean ".Run.ID"?); known are: ID, Playbook, Remedy, Attempt, Target`,
		`{{ .Status.x }}`:            `.Status has no fields`,
		`{{ define "a" }}{{ end }}`:  `define and block are not available`,
		`{{ template "a" }}`:         `template, define and block are not available`,
		`{{ printf .Labels.pod 1 }}`: `the format of printf must be a literal string`,
		`{{ .Labels.pod | printf }}`: `printf needs a literal format`,
	} {
		_, err := CompileTemplate(source)
		require.EqualError(t, err, want, source)
	}
}

func TestTemplateFailsToRender(t *testing.T) {
	t.Parallel()
	for source, want := range map[string]string{
		`{{ .Labels.absent }}`:                  `map has no entry for key "absent"`,
		`{{ .Annotations.absent }}`:             `map has no entry for key "absent"`,
		`{{ .Run.Target.Pod.Name }}`:            `nil pointer evaluating`,
		`{{ range 1000000000 }}{{ end }}`:       `renders to more than 64 KiB, or loops too often`,
		`{{ range 70000 }}x{{ end }}`:           `renders to more than 64 KiB, or loops too often`,
		`{{ printf "%70000d" 1 }}`:              `renders to more than 64 KiB, or loops too often`,
		`{{ reReplaceAll "(" "" .Labels.pod }}`: `missing closing )`,
	} {
		tmpl, err := CompileTemplate(source)
		require.NoError(t, err, source)
		_, err = tmpl.Render(someData())
		require.ErrorContains(t, err, want, source)
	}
	tmpl, err := CompileTemplate(`{{ .Labels.pod }}`)
	require.NoError(t, err)
	_, err = tmpl.Render(TemplateData{})
	require.ErrorContains(t, err, `map has no entry for key "pod"`)
	_, err = tmpl.Render(TemplateData{Labels: map[string]string{"pod": strings.Repeat("x", 70_000)}})
	require.ErrorIs(t, err, errTemplateTooLong)
}
