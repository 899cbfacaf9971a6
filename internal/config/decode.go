package config

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/prometheus/common/model"
)

// position is a place in the file, both counted from 1.
type position struct{ line, column int }

// decoder walks the syntax tree along the Go types. The library's own strict
// mode stops at the first unknown field; this one reports them all, and keeps
// where every field was written for the validation that follows.
type decoder struct {
	file     string
	where    map[string]position
	problems []Problem
}

func (d *decoder) add(at position, path, format string, args ...any) {
	d.problems = append(d.problems, Problem{File: d.file, Line: at.line, Column: at.column, Path: path, Message: fmt.Sprintf(format, args...)})
}

// addAt reports a problem of the field at path, or of its nearest ancestor that
// was written.
func (d *decoder) addAt(path, format string, args ...any) {
	at, ok := d.where[path]
	for up := path; !ok && up != ""; {
		up = parentOf(up)
		at, ok = d.where[up]
	}
	if !ok {
		at = position{1, 1}
	}
	d.add(at, path, format, args...)
}

func parentOf(path string) string {
	if i := strings.LastIndexAny(path, ".["); i >= 0 {
		return path[:i]
	}
	return ""
}

// decode fills cfg from data and collects problems; fields that are absent or
// null keep their defaults.
func (d *decoder) decode(data []byte, cfg *Config) {
	file, err := parser.ParseBytes(data, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		at, message := position{1, 1}, err.Error()
		var syntax yaml.Error
		if errors.As(err, &syntax) {
			message = syntax.GetMessage()
			if t := syntax.GetToken(); t != nil && t.Position != nil {
				at = position{t.Position.Line, t.Position.Column}
			}
		}
		d.add(at, "", "not YAML: %s", message)
		return
	}
	var bodies []ast.Node
	for _, doc := range file.Docs {
		if doc.Body != nil && doc.Body.Type() != ast.CommentType {
			bodies = append(bodies, doc.Body)
		}
	}
	switch len(bodies) {
	case 0:
		d.add(position{1, 1}, "", "the file is empty: write at least cluster and sources")
	case 1:
		d.value(bodies[0], reflect.ValueOf(cfg).Elem(), "")
	default:
		d.add(at(bodies[1]), "", "a second YAML document: the configuration is one document, remove the --- line")
	}
}

func at(n ast.Node) position {
	switch m := n.(type) {
	case *ast.MappingValueNode: // its own token is the colon
		return at(m.Key)
	case *ast.MappingNode:
		if !m.IsFlowStyle && len(m.Values) > 0 {
			return at(m.Values[0].Key)
		}
	}
	if t := n.GetToken(); t != nil && t.Position != nil {
		return position{t.Position.Line, t.Position.Column}
	}
	return position{1, 1}
}

func (d *decoder) value(n ast.Node, into reflect.Value, path string) {
	switch n.Type() {
	case ast.NullType:
		return
	case ast.AnchorType, ast.AliasType, ast.MergeKeyType, ast.TagType:
		d.add(at(n), path, "anchors, aliases, merge keys and tags are not supported: write the value out")
		return
	}
	if into.Type() == reflect.TypeFor[time.Duration]() {
		d.duration(n, into, path)
		return
	}
	switch into.Kind() {
	case reflect.Struct:
		d.object(n, into, path)
	case reflect.Slice:
		d.list(n, into, path)
	case reflect.String:
		switch s := n.(type) {
		case *ast.StringNode:
			into.SetString(s.Value)
		case *ast.LiteralNode:
			into.SetString(s.Value.Value)
		default:
			d.add(at(n), path, "must be a string, not %s", describe(n))
		}
	case reflect.Bool:
		b, ok := n.(*ast.BoolNode)
		if !ok {
			d.add(at(n), path, "must be true or false, not %s", describe(n))
			return
		}
		into.SetBool(b.Value)
	case reflect.Int, reflect.Float64:
		if n.Type() != ast.IntegerType && (into.Kind() == reflect.Int || n.Type() != ast.FloatType) {
			d.add(at(n), path, "must be a number, not %s", describe(n))
			return
		}
		if err := yaml.NodeToValue(n, into.Addr().Interface()); err != nil {
			d.add(at(n), path, "must be a smaller number than %s", n)
		}
	default:
		// A field of a new type needs a case above; the tests decode every field.
		d.add(at(n), path, "cannot be configured")
	}
}

func (d *decoder) duration(n ast.Node, into reflect.Value, path string) {
	s, ok := n.(*ast.StringNode)
	if !ok {
		d.add(at(n), path, "must be a duration with a unit, such as 30s, 5m or 1h30m, not %s", describe(n))
		return
	}
	v, err := model.ParseDuration(s.Value)
	if err != nil {
		d.add(at(n), path, "must be a duration with a unit, such as 30s, 5m or 1h30m, not %q", s.Value)
		return
	}
	into.SetInt(int64(v))
}

func (d *decoder) object(n ast.Node, into reflect.Value, path string) {
	m, ok := n.(ast.MapNode)
	if !ok {
		d.add(at(n), path, "must be a mapping of %s, not %s", strings.Join(fieldNames(into.Type()), ", "), describe(n))
		return
	}
	seen := map[string]int{}
	for it := m.MapRange(); it.Next(); {
		keyNode := it.Key()
		if keyNode.Type() == ast.MergeKeyType {
			d.add(at(keyNode), path, "anchors, aliases, merge keys and tags are not supported: write the value out")
			continue
		}
		key := keyNode.String()
		if s, ok := keyNode.(*ast.StringNode); ok {
			key = s.Value
		}
		here := at(keyNode)
		if line, twice := seen[key]; twice {
			d.add(here, join(path, key), "is written twice, first in line %d: remove one", line)
			continue
		}
		seen[key] = here.line
		field, ok := fieldOf(into, key)
		if !ok {
			names := fieldNames(into.Type())
			d.add(here, join(path, key), "unknown field%s; known are %s", didYouMean(key, names), strings.Join(names, ", "))
			continue
		}
		d.where[join(path, key)] = at(it.Value())
		d.value(it.Value(), field, join(path, key))
	}
}

func (d *decoder) list(n ast.Node, into reflect.Value, path string) {
	s, ok := n.(*ast.SequenceNode)
	if !ok {
		d.add(at(n), path, "must be a list, not %s", describe(n))
		return
	}
	items := reflect.MakeSlice(into.Type(), len(s.Values), len(s.Values))
	for i, v := range s.Values {
		item := items.Index(i)
		if def, ok := item.Addr().Interface().(interface{ setDefaults() }); ok {
			def.setDefaults()
		}
		itemPath := fmt.Sprintf("%s[%d]", path, i)
		d.where[itemPath] = at(v)
		if v.Type() == ast.NullType {
			d.add(at(v), itemPath, "is empty: write the item or remove the dash")
			continue
		}
		d.value(v, item, itemPath)
	}
	into.Set(items)
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

func fieldOf(v reflect.Value, key string) (reflect.Value, bool) {
	for i := range v.NumField() {
		if tag := v.Type().Field(i).Tag.Get("yaml"); tag == key && tag != "-" {
			return v.Field(i), true
		}
	}
	return reflect.Value{}, false
}

func fieldNames(t reflect.Type) []string {
	var names []string
	for i := range t.NumField() {
		if tag := t.Field(i).Tag.Get("yaml"); tag != "-" {
			names = append(names, tag)
		}
	}
	slices.Sort(names)
	return names
}

// describe names a node's type for a person, never its text: it may be secret.
func describe(n ast.Node) string {
	switch n.Type() {
	case ast.MappingType, ast.MappingValueType:
		return "a mapping"
	case ast.SequenceType:
		return "a list"
	case ast.IntegerType, ast.FloatType:
		return "a number"
	case ast.BoolType:
		return "true or false (quote it)"
	case ast.StringType, ast.LiteralType:
		return "a string"
	}
	return "this kind of value"
}
