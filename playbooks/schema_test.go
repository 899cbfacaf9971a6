package playbooks

import (
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// The schema of the real catalogue is kept current where it is wired; this one
// pins the form with a catalogue of our own.
func TestJSONSchema(t *testing.T) {
	t.Parallel()
	const golden = "../testdata/playbooks/schema.golden.json"
	got, err := JSONSchema(catalogue())
	require.NoError(t, err)
	if os.Getenv("UPDATE") == "1" {
		require.NoError(t, os.WriteFile(golden, got, 0o600))
	}
	want, err := os.ReadFile(golden)
	require.NoError(t, err)
	require.Equal(t, string(want), string(got), "run with UPDATE=1 if the change is meant")
	again, err := JSONSchema(catalogue())
	require.NoError(t, err)
	require.Equal(t, got, again)
}

// A tag with a bad escape is no tag at all: its enum would not be enforced.
func TestEveryTagOfTheFormatCanBeRead(t *testing.T) {
	t.Parallel()
	seen := map[reflect.Type]bool{}
	var walk func(reflect.Type)
	walk = func(typ reflect.Type) {
		switch typ.Kind() {
		case reflect.Pointer, reflect.Slice:
			walk(typ.Elem())
		case reflect.Struct:
			if seen[typ] || !strings.HasPrefix(typ.Name(), "v1") {
				return
			}
			seen[typ] = true
			for i := range typ.NumField() {
				f := typ.Field(i)
				require.Equal(t, strings.Contains(string(f.Tag), "jsonschema:"), f.Tag.Get("jsonschema") != "", "%s.%s", typ, f.Name)
				walk(f.Type)
			}
		}
	}
	walk(reflect.TypeFor[v1Document]())
	require.Greater(t, len(seen), 10)
}
