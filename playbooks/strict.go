package playbooks

import (
	"encoding"
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// strict copies a document into Go values. The Go types are the schema: the
// json tag names a field, `jsonschema:"required"` makes it mandatory, and
// `jsonschema:"enum=a,enum=b"` lists its values. Unlike encoding/json it goes
// on after a problem, knows where everything was written, compares names
// exactly and never converts one type into another, with one exception: a
// string that is or was a template stands for any scalar.
type strict struct {
	report *reporter
	// templates is true inside parameters, where a string may hold a template.
	templates bool
}

var (
	withType        = reflect.TypeFor[withParams]()
	unmarshalerType = reflect.TypeFor[json.Unmarshaler]()
	textType        = reflect.TypeFor[encoding.TextUnmarshaler]()
)

// decode copies n into v, which must be settable.
func (s *strict) decode(n *node, v reflect.Value, path string, enum []string) {
	s.report.places[path] = n.pos
	t := v.Type()
	if t == withType {
		if s.is(n, mapNode, path) {
			v.Set(reflect.ValueOf(withParams{root: n}))
		}
		return
	}
	if t.Kind() == reflect.Pointer && n.kind != nullNode {
		v.Set(reflect.New(t.Elem()))
		s.decode(n, v.Elem(), path, enum)
		return
	}
	if n.kind == nullNode {
		s.report.errorf(path, "is empty: give it a value or leave it out")
		return
	}
	if s.pending(n, t) {
		return
	}
	if pt := reflect.PointerTo(t); pt.Implements(unmarshalerType) || pt.Implements(textType) {
		s.custom(n, v, path)
		return
	}
	switch t.Kind() {
	case reflect.Struct:
		s.structure(n, v, path)
	case reflect.Map:
		s.mapping(n, v, path)
	case reflect.Slice:
		s.list(n, v, path, enum)
	case reflect.Interface:
		v.Set(reflect.ValueOf(n.plain()))
	case reflect.String:
		if s.is(n, stringNode, path) && s.allowed(n.string, enum, path) {
			v.SetString(n.string)
		}
	default:
		s.scalar(n, v, path)
	}
}

// pending reports whether n is a template that is still to be rendered and may
// stand where a scalar is wanted.
func (s *strict) pending(n *node, t reflect.Type) bool {
	if !s.templates || n.template == nil || n.rendered {
		return false
	}
	switch t.Kind() {
	case reflect.Map, reflect.Slice:
		return false // a list or a mapping is structure, which no label decides
	}
	return true
}

// custom decodes a type that knows its own notation, such as a duration.
func (s *strict) custom(n *node, v reflect.Value, path string) {
	raw, err := n.canonical()
	if err == nil {
		err = json.Unmarshal(raw, v.Addr().Interface())
	}
	if err != nil {
		s.report.errorf(path, "%s", err)
	}
}

func (s *strict) is(n *node, kind nodeKind, path string) bool {
	if n.kind == kind {
		return true
	}
	hint := ""
	if kind == stringNode && (n.kind == boolNode || n.kind == intNode || n.kind == floatNode) {
		hint = ": put it in quotes"
	}
	s.report.errorf(path, "must be %s, not %s%s", kind.describe(), n.kind.describe(), hint)
	return false
}

func (s *strict) allowed(got string, enum []string, path string) bool {
	if len(enum) == 0 || slices.Contains(enum, got) {
		return true
	}
	s.report.add(Problem{Path: path, Message: fmt.Sprintf("unknown value %s; it is one of %s", quote(got), strings.Join(enum, ", ")),
		Suggestion: suggest(got, enum)})
	return false
}

func (s *strict) scalar(n *node, v reflect.Value, path string) {
	if n.rendered && n.kind == stringNode {
		parsed, ok := parseScalar(n.string, v.Kind())
		if !ok {
			s.report.errorf(path, "must be %s, and its template rendered %s", wanted(v.Kind()), quote(n.string))
			return
		}
		// The node takes the type along, so that its JSON has it too.
		*n = *parsed
	}
	switch v.Kind() {
	case reflect.Bool:
		if s.is(n, boolNode, path) {
			v.SetBool(n.bool)
		}
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		if !s.is(n, intNode, path) {
			return
		}
		if v.OverflowInt(n.int) {
			s.report.errorf(path, "%d does not fit: it is too large or too small", n.int)
			return
		}
		v.SetInt(n.int)
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		if !s.is(n, intNode, path) {
			return
		}
		if n.int < 0 || v.OverflowUint(uint64(n.int)) {
			s.report.errorf(path, "%d does not fit: it is negative or too large", n.int)
			return
		}
		v.SetUint(uint64(n.int))
	case reflect.Float32, reflect.Float64:
		if n.kind == intNode {
			v.SetFloat(float64(n.int))
		} else if s.is(n, floatNode, path) {
			v.SetFloat(n.float)
		}
	default:
		s.report.errorf(path, "the format has no way to write a %s", v.Type())
	}
}

func wanted(k reflect.Kind) string {
	switch k {
	case reflect.Bool:
		return boolNode.describe()
	case reflect.Float32, reflect.Float64:
		return floatNode.describe()
	}
	return intNode.describe()
}

// parseScalar reads what a template rendered as the kind that is wanted.
func parseScalar(text string, k reflect.Kind) (*node, bool) {
	switch k {
	case reflect.Bool:
		// Not strconv.ParseBool: "1" and "T" are no booleans in YAML either.
		if text == "true" || text == "false" {
			return &node{kind: boolNode, bool: text == "true"}, true
		}
	case reflect.Float32, reflect.Float64:
		f, err := strconv.ParseFloat(text, 64)
		if err == nil && !math.IsInf(f, 0) && !math.IsNaN(f) {
			return &node{kind: floatNode, float: f}, true
		}
	default:
		if i, err := strconv.ParseInt(text, 10, 64); err == nil {
			return &node{kind: intNode, int: i}, true
		}
	}
	return nil, false
}

func (s *strict) list(n *node, v reflect.Value, path string, enum []string) {
	if !s.is(n, seqNode, path) {
		return
	}
	out := reflect.MakeSlice(v.Type(), len(n.items), len(n.items))
	for i, item := range n.items {
		s.decode(item, out.Index(i), fmt.Sprintf("%s[%d]", path, i), enum)
	}
	v.Set(out)
}

func (s *strict) mapping(n *node, v reflect.Value, path string) {
	if !s.is(n, mapNode, path) {
		return
	}
	out := reflect.MakeMapWithSize(v.Type(), len(n.fields))
	for _, f := range n.fields {
		value := reflect.New(v.Type().Elem()).Elem()
		s.decode(f.value, value, join(path, clip(f.key)), nil)
		out.SetMapIndex(reflect.ValueOf(f.key).Convert(v.Type().Key()), value)
	}
	v.Set(out)
}

func (s *strict) structure(n *node, v reflect.Value, path string) {
	if !s.is(n, mapNode, path) {
		return
	}
	known := structFields(v.Type())
	for _, f := range n.fields {
		i := slices.IndexFunc(known, func(k structField) bool { return k.name == f.key })
		if i < 0 {
			s.unknown(f, known, path)
			continue
		}
		fieldPath := join(path, f.key)
		s.decode(f.value, v.FieldByIndex(known[i].index), fieldPath, known[i].enum)
	}
	for _, k := range known {
		if k.required && n.get(k.name) == nil {
			s.report.errorf(join(path, k.name), "is required")
		}
	}
}

func (s *strict) unknown(f *field, known []structField, path string) {
	names := make([]string, len(known))
	for i, k := range known {
		names[i] = k.name
	}
	message := "unknown field"
	if len(names) == 0 {
		message = "unknown field: there are none here"
	}
	s.report.add(Problem{Line: f.keyPos.line, Column: f.keyPos.column, Path: join(path, clip(f.key)), Message: message,
		Suggestion: suggest(f.key, names)})
}

// clip keeps a key in a path readable; the keys of a broken file can be long
// and hold anything.
func clip(key string) string {
	for _, r := range key {
		if r < ' ' || r == '.' || r == '[' || len(key) > 80 {
			return quote(key)
		}
	}
	return key
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

type structField struct {
	name     string
	index    []int
	required bool
	enum     []string
}

// structFields lists the fields of a struct as JSON knows them, those of
// embedded structs included.
func structFields(t reflect.Type) []structField {
	var out []structField
	for _, f := range reflect.VisibleFields(t) {
		tag, tagged := f.Tag.Lookup("json")
		name, _, _ := strings.Cut(tag, ",")
		if !f.IsExported() || name == "-" || f.Anonymous && name == "" || throughPointer(t, f.Index) {
			continue
		}
		if !tagged || name == "" {
			name = f.Name
		}
		sf := structField{name: name, index: f.Index}
		for _, part := range strings.Split(f.Tag.Get("jsonschema"), ",") {
			if part == "required" {
				sf.required = true
			} else if value, ok := strings.CutPrefix(part, "enum="); ok {
				sf.enum = append(sf.enum, value)
			}
		}
		out = append(out, sf)
	}
	return out
}

// throughPointer reports whether a field is promoted through an embedded
// pointer, which would be nil here.
func throughPointer(t reflect.Type, index []int) bool {
	for _, i := range index[:len(index)-1] {
		f := t.Field(i)
		if f.Type.Kind() == reflect.Pointer {
			return true
		}
		t = f.Type
	}
	return false
}
