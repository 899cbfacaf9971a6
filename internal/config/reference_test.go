package config

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/stretchr/testify/require"
)

const referenceHead = `# Configuration

<!-- Generated from internal/config by make generate. -->

One YAML file, given with ` + "`alertmedic serve --config FILE`" + `. It is decoded strictly: unknown fields are refused, and all problems are reported at once with line and column; ` + "`alertmedic check --config FILE`" + ` does so without starting anything. Durations are written as in Prometheus (` + "`90s`, `1h30m`, `2d`" + `). File names are relative to the directory of the configuration, and secrets are always in files of their own, never in this one. Only ` + "`cluster`" + ` and one source are required.

`

// TestGeneratedReference keeps docs/configuration.md in step with the types.
func TestGeneratedReference(t *testing.T) {
	t.Parallel()
	r := reference{structs: map[string]*ast.StructType{}, docs: map[string]string{}}
	r.parse(t)
	r.out.WriteString(referenceHead)
	r.section(t, reflect.ValueOf(*Default()), "")
	require.Empty(t, r.undocumented, "fields without a comment")
	const file = "../../docs/configuration.md"
	if os.Getenv("UPDATE") != "" {
		require.NoError(t, os.WriteFile(file, r.out.Bytes(), 0o600))
	}
	got, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, r.out.String(), string(got), "run make generate")
}

type reference struct {
	structs      map[string]*ast.StructType
	docs         map[string]string
	out          bytes.Buffer
	undocumented []string
}

func (r *reference) parse(t *testing.T) {
	t.Helper()
	files, err := filepath.Glob("*.go")
	require.NoError(t, err)
	for _, name := range files {
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments)
		require.NoError(t, err)
		for _, d := range f.Decls {
			gen, ok := d.(*ast.GenDecl)
			if !ok {
				continue
			}
			for _, s := range gen.Specs {
				if ts, ok := s.(*ast.TypeSpec); ok {
					if st, ok := ts.Type.(*ast.StructType); ok {
						r.structs[ts.Name.Name], r.docs[ts.Name.Name] = st, oneLine(gen.Doc.Text())
					}
				}
			}
		}
	}
}

// section writes the fields of a struct as a table, then the structs in it.
func (r *reference) section(t *testing.T, v reflect.Value, path string) {
	t.Helper()
	st := r.structs[v.Type().Name()]
	require.NotNil(t, st, "no struct %s", v.Type())
	type nested struct {
		path string
		v    reflect.Value
	}
	var below []nested
	var rows strings.Builder
	doc := ""
	for _, f := range st.Fields.List {
		if text := oneLine(f.Doc.Text() + f.Comment.Text()); text != "" {
			doc = text // a comment over several fields is for all of them
		}
		for _, name := range f.Names {
			sf, ok := v.Type().FieldByName(name.Name)
			require.True(t, ok)
			key, _, _ := strings.Cut(sf.Tag.Get("yaml"), ",")
			if key == "-" {
				doc = ""
				continue
			}
			value, list := v.FieldByIndex(sf.Index), ""
			if sf.Type.Kind() == reflect.Slice && sf.Type.Elem().Kind() == reflect.Struct {
				value, list = reflect.New(sf.Type.Elem()).Elem(), "[]"
				if d, ok := value.Addr().Interface().(interface{ setDefaults() }); ok {
					d.setDefaults()
				}
			}
			if value.Kind() == reflect.Struct {
				below = append(below, nested{path + key + list, value})
				continue
			}
			if doc == "" {
				r.undocumented = append(r.undocumented, path+key)
			}
			fmt.Fprintf(&rows, "| `%s` | %s | %s |\n", path+key, shown(value), strings.ReplaceAll(doc, "|", `\|`))
		}
	}
	if rows.Len() > 0 {
		if path != "" {
			fmt.Fprintf(&r.out, "## %s\n\n%s\n\n", strings.TrimSuffix(path, "."), r.docs[v.Type().Name()])
		}
		fmt.Fprintf(&r.out, "| setting | default | meaning |\n|---|---|---|\n%s\n", rows.String())
	}
	for _, n := range below {
		r.section(t, n.v, n.path+".")
	}
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

// shown is a default as one writes it in YAML.
func shown(v reflect.Value) string {
	switch x := v.Interface().(type) {
	case time.Duration:
		if x == 0 {
			return ""
		}
		return "`" + model.Duration(x).String() + "`"
	case []string:
		if len(x) == 0 {
			return ""
		}
		return "`[" + strings.Join(x, ", ") + "]`"
	case string:
		if x == "" {
			return ""
		}
	}
	if v.IsZero() && v.Kind() != reflect.Bool {
		return ""
	}
	return fmt.Sprintf("`%v`", v.Interface())
}
