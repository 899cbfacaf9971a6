package playbooks

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"text/template"
	"text/template/parse"
	"time"

	amtemplate "github.com/prometheus/alertmanager/template"
)

// Limits of one rendered template. Every piece of text written, and every turn
// of a loop, counts as a write.
const (
	maxTemplateOutput = 64 << 10
	maxTemplateWrites = 100_000
)

// Template is a compiled text template over TemplateData. It is immutable and
// safe for concurrent use.
type Template struct {
	source string
	text   *template.Template // nil when source holds no template syntax
}

// templateView is TemplateData as templates see it: labels and annotations with
// the methods that Alertmanager's have (SortedPairs, Names, Values, Remove).
type templateView struct {
	Labels, Annotations amtemplate.KV
	Status, Fingerprint string
	StartsAt            time.Time
	Run                 RunData
}

// templateFuncs are Alertmanager's without those that make a plan depend on
// when it is rendered (now, since) or on files of the machine (tz), and without
// those that mean nothing outside its notifications.
var templateFuncs = func() template.FuncMap {
	left := map[string]bool{"now": true, "since": true, "tz": true, "safeHtml": true, "safeUrl": true, "routeLabels": true}
	out := template.FuncMap{}
	for name, f := range amtemplate.DefaultFuncs {
		if !left[name] {
			out[name] = f
		}
	}
	return out
}()

// CompileTemplate compiles a template and checks the fields that it names.
func CompileTemplate(source string) (*Template, error) {
	if !strings.Contains(source, "{{") {
		return &Template{source: source}, nil
	}
	text, err := template.New("").Option("missingkey=error").Funcs(templateFuncs).Parse(source)
	if err != nil {
		return nil, errors.New(trimTemplateError(err))
	}
	// define and block would allow recursion; a parameter needs neither.
	if len(text.Templates()) > 1 {
		return nil, errors.New("define and block are not available")
	}
	if text.Tree == nil { // nothing but comments
		return &Template{source: source, text: text}, nil
	}
	check := templateCheck{}
	check.list(text.Root, true)
	if check.err != nil {
		return nil, check.err
	}
	return &Template{source: source, text: text}, nil
}

// String returns the source.
func (t *Template) String() string {
	if t == nil {
		return ""
	}
	return t.source
}

// Static reports whether the template renders to its source whatever the alert.
func (t *Template) Static() bool { return t == nil || t.text == nil }

// Render executes the template. A missing label or annotation is an error, and
// so is output of more than 64 KiB.
func (t *Template) Render(data TemplateData) (string, error) {
	if t.Static() {
		return t.String(), nil
	}
	w := &boundedWriter{}
	view := templateView{
		Labels: amtemplate.KV(data.Labels), Annotations: amtemplate.KV(data.Annotations),
		Status: data.Status, Fingerprint: data.Fingerprint, StartsAt: data.StartsAt, Run: data.Run,
	}
	// A nil map would print as "<no value>" past missingkey=error.
	if view.Labels == nil {
		view.Labels = amtemplate.KV{}
	}
	if view.Annotations == nil {
		view.Annotations = amtemplate.KV{}
	}
	if err := t.text.Execute(w, view); err != nil {
		return "", fmt.Errorf("template %s: %w", quote(t.source), tidyTemplateError{err})
	}
	return w.out.String(), nil
}

// errTemplateTooLong ends a template that writes or loops too much.
var errTemplateTooLong = fmt.Errorf("renders to more than %d KiB, or loops too often", maxTemplateOutput>>10)

type boundedWriter struct {
	out    strings.Builder
	writes int
}

func (w *boundedWriter) Write(p []byte) (int, error) {
	w.writes++
	if w.writes > maxTemplateWrites || w.out.Len()+len(p) > maxTemplateOutput {
		return 0, errTemplateTooLong
	}
	return w.out.Write(p)
}

// tidyTemplateError leaves out the engine's own position, which repeats a name
// that the template does not have.
type tidyTemplateError struct{ err error }

func (e tidyTemplateError) Error() string { return trimTemplateError(e.err) }
func (e tidyTemplateError) Unwrap() error { return e.err }

func trimTemplateError(err error) string {
	s := strings.TrimPrefix(err.Error(), "template: ")
	s = strings.TrimPrefix(s, ":")
	return s
}

// templateCheck walks a parsed template once: it finds fields that do not
// exist, refuses what could not be bounded, and makes every turn of a loop
// visible to the bounded writer.
type templateCheck struct{ err error }

func (c *templateCheck) fail(format string, args ...any) {
	if c.err == nil {
		c.err = fmt.Errorf(format, args...)
	}
}

// list checks the nodes of a list; root says that the dot is still the data.
func (c *templateCheck) list(l *parse.ListNode, root bool) {
	if l == nil {
		return
	}
	for _, n := range l.Nodes {
		switch n := n.(type) {
		case *parse.ActionNode:
			c.pipe(n.Pipe, root)
		case *parse.IfNode:
			c.branch(&n.BranchNode, root, root)
		case *parse.WithNode:
			c.branch(&n.BranchNode, root, false)
		case *parse.RangeNode:
			c.branch(&n.BranchNode, root, false)
			// An empty text is still a write, which is what bounds a loop over
			// {{range 1000000000}} that would print nothing.
			n.List.Nodes = append([]parse.Node{&parse.TextNode{NodeType: parse.NodeText}}, n.List.Nodes...)
		case *parse.TemplateNode:
			c.fail("template, define and block are not available")
		}
	}
}

func (c *templateCheck) branch(b *parse.BranchNode, root, inside bool) {
	c.pipe(b.Pipe, root)
	c.list(b.List, inside)
	c.list(b.ElseList, root)
}

func (c *templateCheck) pipe(p *parse.PipeNode, root bool) {
	if p == nil {
		return
	}
	for _, cmd := range p.Cmds {
		c.format(cmd)
		for _, arg := range cmd.Args {
			c.arg(arg, root)
		}
	}
}

func (c *templateCheck) arg(n parse.Node, root bool) {
	switch n := n.(type) {
	case *parse.FieldNode:
		if root {
			c.fields(n.Ident)
		}
	case *parse.VariableNode:
		if n.Ident[0] == "$" && len(n.Ident) > 1 {
			c.fields(n.Ident[1:])
		}
	case *parse.PipeNode:
		c.pipe(n, root)
	case *parse.ChainNode:
		c.arg(n.Node, root)
	}
}

// format refuses printf with a format that is not a literal: a label such as
// "%1000000d%1000000d..." must not decide how much is printed.
func (c *templateCheck) format(cmd *parse.CommandNode) {
	id, ok := cmd.Args[0].(*parse.IdentifierNode)
	if !ok || id.Ident != "printf" {
		return
	}
	if len(cmd.Args) < 2 {
		c.fail("printf needs a literal format")
		return
	}
	if _, ok := cmd.Args[1].(*parse.StringNode); !ok {
		c.fail("the format of printf must be a literal string")
	}
}

// fields follows a chain such as .Run.Target.Name through the types.
func (c *templateCheck) fields(idents []string) {
	t := reflect.TypeFor[templateView]()
	for i, name := range idents {
		for t.Kind() == reflect.Pointer {
			t = t.Elem()
		}
		if _, ok := reflect.PointerTo(t).MethodByName(name); ok || t.Kind() == reflect.Map {
			return
		}
		if t.Kind() != reflect.Struct {
			c.fail(".%s has no fields", strings.Join(idents[:i], "."))
			return
		}
		f, ok := t.FieldByName(name)
		if !ok || !f.IsExported() {
			c.unknownField(t, idents[:i+1])
			return
		}
		t = f.Type
	}
}

func (c *templateCheck) unknownField(t reflect.Type, idents []string) {
	var known []string
	for _, f := range reflect.VisibleFields(t) {
		if f.IsExported() && !f.Anonymous {
			known = append(known, f.Name)
		}
	}
	prefix := strings.Join(append([]string{""}, idents[:len(idents)-1]...), ".")
	hint := ""
	if s := suggest(idents[len(idents)-1], known); s != "" {
		hint = fmt.Sprintf(" (did you mean %q?)", prefix+"."+s)
	}
	c.fail("there is no .%s%s; known are: %s", strings.Join(idents, "."), hint, strings.Join(known, ", "))
}
