package playbooks

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"

	"github.com/alertmedic/alertmedic/internal/action"
)

// Parameters of an action are described by the struct that Spec.NewParams
// returns. The conventions:
//
//   - the json tag names a parameter;
//   - `jsonschema:"required"` makes it mandatory, and nothing else does: what
//     NewParams sets is the default of one that is left out;
//   - `jsonschema:"enum=a,enum=b"` lists the values of a string;
//   - a duration is an action.Duration;
//   - Validate() error, on the pointer, checks the rest: the other keywords of
//     the jsonschema tag only inform.
//
// A template may stand for any scalar. What it renders must then parse as the
// parameter's type; it can never become a list, a mapping or another key, so
// the label of an alert cannot change what a step does.

// Params are the parameters of a step with their templates compiled. They are
// immutable and safe for concurrent use; nil are no parameters.
type Params struct {
	root    *node
	dynamic bool
}

// newParams compiles the templates of root and checks it against the
// parameters of spec.
func newParams(root *node, spec action.Spec, path string, report *reporter) *Params {
	before := report.errors
	if root == nil {
		root = &node{kind: mapNode, pos: report.at(path)}
	}
	dynamic := compileTemplates(root, path, report)
	target := paramsOf(spec)
	dec := &strict{report: report, templates: true}
	dec.decode(root, target.Elem(), path, nil)
	p := &Params{root: root, dynamic: dynamic}
	// A half-decoded struct, or one whose templates are still to come, would
	// only make Validate complain about what is already known.
	if report.errors == before && !dynamic {
		if err := validateParams(target); err != nil {
			report.errorf(path, "%s", err)
		}
	}
	return p
}

// paramsOf returns a pointer to a fresh parameter struct, an empty one for an
// action that takes none.
func paramsOf(spec action.Spec) reflect.Value {
	if spec.NewParams != nil {
		if v := reflect.ValueOf(spec.NewParams()); v.Kind() == reflect.Pointer && !v.IsNil() {
			return v
		}
	}
	return reflect.ValueOf(&struct{}{})
}

func validateParams(target reflect.Value) error {
	if v, ok := target.Interface().(interface{ Validate() error }); ok {
		return v.Validate()
	}
	return nil
}

// compileTemplates compiles every string under n that holds a template, and
// reports whether there is one.
func compileTemplates(n *node, path string, report *reporter) bool {
	report.places[path] = n.pos
	found := false
	switch n.kind {
	case stringNode:
		if !strings.Contains(n.string, "{{") {
			return false
		}
		t, err := CompileTemplate(n.string)
		if err != nil {
			report.errorf(path, "template: %s", err)
			t = &Template{source: n.string} // it is meant as one: say no more about it
		}
		n.template = t
		return true
	case seqNode:
		for i, item := range n.items {
			found = compileTemplates(item, fmt.Sprintf("%s[%d]", path, i), report) || found
		}
	case mapNode:
		for _, f := range n.fields {
			fieldPath := join(path, clip(f.key))
			if strings.Contains(f.key, "{{") {
				report.errorAt(f.keyPos, fieldPath, "a key cannot be a template")
			}
			found = compileTemplates(f.value, fieldPath, report) || found
		}
	}
	return found
}

// Dynamic reports whether a template has to be rendered to know the parameters.
func (p *Params) Dynamic() bool { return p != nil && p.dynamic }

// String returns the parameters as written, as JSON.
func (p *Params) String() string {
	if p == nil {
		return "{}"
	}
	raw, err := p.root.canonical()
	if err != nil {
		return "{}"
	}
	return string(raw)
}

// Render renders the templates. Whatever they yield is a JSON string in the
// result; RenderFor gives it the type of its parameter.
func (p *Params) Render(data TemplateData) (json.RawMessage, error) {
	if p == nil {
		return json.RawMessage(`{}`), nil
	}
	root, err := renderNode(p.root, "with", data)
	if err != nil {
		return nil, err
	}
	return root.canonical()
}

// RenderFor renders the templates, gives what they yield the type of its
// parameter, and checks the whole as the action will read it. The error names
// the parameter.
func (p *Params) RenderFor(spec action.Spec, data TemplateData) (json.RawMessage, error) {
	root := &node{kind: mapNode}
	if p != nil {
		var err error
		if root, err = renderNode(p.root, "with", data); err != nil {
			return nil, err
		}
	}
	report := newReporter("")
	target := paramsOf(spec)
	dec := &strict{report: report, templates: true}
	dec.decode(root, target.Elem(), "with", nil)
	if report.failed() {
		return nil, fmt.Errorf("parameters of %s: %w", spec.Name, report.problems.Err())
	}
	raw, err := root.canonical()
	if err != nil {
		return nil, err
	}
	// The action decodes with encoding/json: what that would not take must not
	// pass here.
	final := paramsOf(spec)
	jd := json.NewDecoder(bytes.NewReader(raw))
	jd.DisallowUnknownFields()
	if err := jd.Decode(final.Interface()); err != nil {
		return nil, fmt.Errorf("parameters of %s: %w", spec.Name, err)
	}
	if err := validateParams(final); err != nil {
		return nil, fmt.Errorf("parameters of %s: %w", spec.Name, err)
	}
	return raw, nil
}

// renderNode copies n with its templates rendered, and without places: what is
// wrong with a rendered value is not the file's fault.
func renderNode(n *node, path string, data TemplateData) (*node, error) {
	out := *n
	out.pos = position{}
	switch {
	case n.template != nil:
		text, err := n.template.Render(data)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		out = node{kind: stringNode, string: text, rendered: true}
	case n.kind == seqNode:
		out.items = make([]*node, len(n.items))
		for i, item := range n.items {
			r, err := renderNode(item, fmt.Sprintf("%s[%d]", path, i), data)
			if err != nil {
				return nil, err
			}
			out.items[i] = r
		}
	case n.kind == mapNode:
		out.fields = make([]*field, len(n.fields))
		for i, f := range n.fields {
			r, err := renderNode(f.value, join(path, clip(f.key)), data)
			if err != nil {
				return nil, err
			}
			out.fields[i] = &field{key: f.key, value: r}
		}
	}
	return &out, nil
}
