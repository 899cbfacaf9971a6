package playbooks

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	yamlv3 "go.yaml.in/yaml/v3"
	"pgregory.net/rapid"
)

// The parser must not lose or join text. Another parser is the oracle, on
// documents made of the notations that playbooks use.
func TestYAMLReadsWhatIsWritten(t *testing.T) {
	t.Parallel()
	word := rapid.SampledFrom([]string{
		"a", "b c", "a  b", "x#y", "x: y", "- x", "#", " lead", "trail ", "it's", `say "x"`, `back\slash`, "é ü", "日本", "{{ .Labels.x }}",
		"a,b", "[x]", "{x}", "&a", "*a", "!a", "|", ">", "%", "@", "`", "~", "null", "true", "no", "1", "1.5", "0x1f", "-", "?", ":", "--- ", "...",
		"label(alert, 'x') != 'y'", `facts.rolledOutWithin("1h")`, `namespace !~ "kube-.*"`, "a\nb", "a\n\nb", "a\n  b\nc", "\n", "", "end\n", "x\n\n", "  x\ny",
	})
	scalar := rapid.Custom(func(t *rapid.T) func(string) string {
		text := word.Draw(t, "word")
		switch rapid.IntRange(0, 4).Draw(t, "style") {
		case 0:
			return func(string) string {
				return "'" + strings.ReplaceAll(strings.ReplaceAll(text, "'", "''"), "\n", "") + "'"
			}
		case 1:
			return func(string) string {
				return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(text) + `"`
			}
		case 2, 3:
			header := rapid.SampledFrom([]string{"|", "|-", "|+", ">", ">-", ">+"}).Draw(t, "header")
			return func(indent string) string {
				if strings.TrimSpace(text) == "" || text[0] == ' ' {
					text = "x" + text
				}
				return header + "\n" + indent + strings.ReplaceAll(text, "\n", "\n"+indent)
			}
		default:
			return func(string) string { return strings.NewReplacer("\n", " ").Replace(text) } // plain: often no YAML at all
		}
	})
	rapid.Check(t, func(t *rapid.T) {
		var b strings.Builder
		for i := range rapid.IntRange(1, 5).Draw(t, "fields") {
			switch rapid.IntRange(0, 3).Draw(t, "shape") {
			case 0:
				fmt.Fprintf(&b, "k%d: %s\n", i, scalar.Draw(t, "v")("  "))
			case 1:
				fmt.Fprintf(&b, "k%d:\n- %s\n- %s\n", i, scalar.Draw(t, "v")("  "), scalar.Draw(t, "v")("  "))
			case 2:
				fmt.Fprintf(&b, "k%d:\n  n: %s # comment\n  m: %s\n", i, strings.ReplaceAll(word.Draw(t, "w"), "\n", " "), scalar.Draw(t, "v")("    "))
			case 3:
				fmt.Fprintf(&b, "k%d: {a: '%s', b: [%s, \"x\"]}\n", i, strings.NewReplacer("'", "", "\n", "").Replace(word.Draw(t, "w")), strings.ReplaceAll(word.Draw(t, "w"), "\n", " "))
			}
			if rapid.Bool().Draw(t, "blank") {
				b.WriteString("\n# a comment: with 'quotes\n")
			}
		}
		// Most of these documents are good, and are read as they say; what the
		// parsers disagree on is refused, never guessed.
		report := newReporter("f")
		root := parseYAML(document{line: 1, text: []byte(b.String())}, report)
		require.Equal(t, root == nil, report.failed())
		if root != nil {
			var other yamlv3.Node
			require.NoError(t, yamlv3.Unmarshal([]byte(b.String()), &other))
			requireSameText(t, root, other.Content[0])
		}
	})
}

// Each of these is read one way by one parser and another way by the other.
func TestYAMLThatParsersDisagreeOnIsRefused(t *testing.T) {
	t.Parallel()
	const differently = "YAML parsers read this differently: put it in double quotes, and leave no blanks at the end of a line"
	for text, want := range map[string]string{
		"k: |-\n  trail \n":                 "f:1:4: " + differently,
		"k: >-\n  a: \n\nz: 1\n":            "f:1:4: " + differently,
		"k: foo\n  \n  \n  bar\n":           "f:1:4: " + differently,
		"k:\n- a: \n  b: |\n    \n- c: 1\n": "f:1:1: " + differently,
		"k: [- x, b]\n":                     "f:1:1: not valid YAML: in this document, did not find expected node content",
		"k: ?\nz: 1\n":                      "f:1:1: not valid YAML: in this document, mapping keys are not allowed in this context",
		"k: {a: x: y}\n":                    "f:1:1: not valid YAML: in this document, did not find expected ',' or '}'",
	} {
		report := newReporter("f")
		require.Nil(t, parseYAML(document{line: 1, text: []byte(text)}, report), text)
		require.Equal(t, want, report.problems.String(), text)
	}
}

func requireSameText(t require.TestingT, got *node, want *yamlv3.Node) {
	switch got.kind {
	case mapNode:
		require.Equal(t, yamlv3.MappingNode, want.Kind)
		require.Len(t, want.Content, 2*len(got.fields))
		for i, f := range got.fields {
			require.Equal(t, want.Content[2*i].Value, f.key)
			requireSameText(t, f.value, want.Content[2*i+1])
		}
	case seqNode:
		require.Equal(t, yamlv3.SequenceNode, want.Kind)
		require.Len(t, want.Content, len(got.items))
		for i, item := range got.items {
			requireSameText(t, item, want.Content[i])
		}
	case stringNode:
		require.Equal(t, want.Value, got.string)
	default:
		require.Equal(t, yamlv3.ScalarNode, want.Kind)
	}
}
