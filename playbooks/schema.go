package playbooks

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"

	"github.com/invopop/jsonschema"

	"github.com/alertmedic/alertmedic/internal/action"
)

// JSONSchema returns the JSON Schema (draft 2020-12) of the format, with the
// parameters of every action of the catalogue, indented and with a final
// newline. Editors use it; Load checks more than a schema can say. Equal
// catalogues give equal bytes.
func JSONSchema(cat Catalogue) ([]byte, error) {
	r := &jsonschema.Reflector{
		Anonymous: true, RequiredFromJSONSchemaTags: true, ExpandedStruct: true,
		Namer: func(t reflect.Type) string { return strings.TrimPrefix(t.Name(), "v1") },
	}
	root := r.ReflectFromType(reflect.TypeFor[v1Document]())
	root.Title = "alertmedic playbook, " + APIVersion
	target, step := root.Definitions["Target"], root.Definitions["Step"]
	if target == nil || step == nil {
		return nil, fmt.Errorf("schema of the format: no definition of Target or Step")
	}
	if kind, ok := target.Properties.Get("kind"); ok {
		for _, k := range action.Kinds() {
			kind.Enum = append(kind.Enum, k)
		}
	}
	actionName, ok := step.Properties.Get("action")
	if !ok {
		return nil, fmt.Errorf("schema of the format: no property action")
	}
	for _, name := range cat.Names() {
		spec, ok := cat.Lookup(name)
		if !ok {
			return nil, fmt.Errorf("schema of the format: the catalogue names %s and does not know it", name)
		}
		actionName.Enum = append(actionName.Enum, name)
		branch, err := stepBranch(spec)
		if err != nil {
			return nil, err
		}
		step.AllOf = append(step.AllOf, branch)
	}
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(root); err != nil {
		return nil, fmt.Errorf("encode schema of the format: %w", err)
	}
	return out.Bytes(), nil
}

// stepBranch says: if the action of a step is this one, then `with` holds its
// parameters.
func stepBranch(spec action.Spec) (*jsonschema.Schema, error) {
	params, err := ParamsSchema(spec)
	if err != nil {
		return nil, err
	}
	params.Version = ""
	then := &jsonschema.Schema{Properties: jsonschema.NewProperties()}
	then.Properties.Set("with", params)
	if len(params.Required) > 0 {
		then.Required = []string{"with"}
	}
	cond := &jsonschema.Schema{Properties: jsonschema.NewProperties(), Required: []string{"action"}}
	cond.Properties.Set("action", &jsonschema.Schema{Const: spec.Name})
	return &jsonschema.Schema{If: cond, Then: then}, nil
}

// ParamsSchema returns the JSON Schema of an action's parameters as a playbook
// writes them: a template may stand for any scalar, and defaults are shown.
func ParamsSchema(spec action.Spec) (*jsonschema.Schema, error) {
	value := paramsOf(spec)
	r := &jsonschema.Reflector{Anonymous: true, RequiredFromJSONSchemaTags: true, DoNotReference: true}
	schema := r.ReflectFromType(value.Elem().Type())
	schema.Description = spec.Summary
	if schema.Properties == nil {
		return schema, nil
	}
	raw, err := json.Marshal(value.Interface())
	if err != nil {
		return nil, fmt.Errorf("defaults of %s: %w", spec.Name, err)
	}
	var defaults map[string]any
	if err := json.Unmarshal(raw, &defaults); err != nil {
		return nil, fmt.Errorf("defaults of %s: %w", spec.Name, err)
	}
	for p := schema.Properties.Oldest(); p != nil; p = p.Next() {
		if d := defaults[p.Key]; d != nil && !reflect.ValueOf(d).IsZero() && p.Value.Default == nil {
			switch d.(type) {
			case map[string]any, []any: // an empty one is no default worth showing
			default:
				p.Value.Default = d
			}
		}
	}
	allowTemplates(schema)
	return schema, nil
}

// allowTemplates lets a template stand for every scalar under s.
func allowTemplates(s *jsonschema.Schema) {
	if s == nil {
		return
	}
	if s.Properties != nil {
		for p := s.Properties.Oldest(); p != nil; p = p.Next() {
			p.Value = orTemplate(p.Value)
		}
	}
	if s.Items != nil {
		s.Items = orTemplate(s.Items)
	}
	if s.AdditionalProperties != nil && s.AdditionalProperties.Type != "" {
		s.AdditionalProperties = orTemplate(s.AdditionalProperties)
	}
}

func orTemplate(s *jsonschema.Schema) *jsonschema.Schema {
	switch s.Type {
	case "string":
		if len(s.Enum) == 0 && s.Pattern == "" && s.Format == "" {
			return s // takes a template as it is
		}
	case "boolean", "integer", "number":
	default:
		allowTemplates(s)
		return s
	}
	outer := &jsonschema.Schema{
		Description: s.Description, Title: s.Title, Default: s.Default, Examples: s.Examples,
		AnyOf: []*jsonschema.Schema{s, {Type: "string", Pattern: `\{\{`}},
	}
	s.Description, s.Title, s.Default, s.Examples = "", "", nil, nil
	return outer
}
