package playbooks

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"unicode/utf8"

	goyaml "github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// A document is what stands between two "---" lines of a file.
type document struct {
	line int // of its first line, from 1
	text []byte
}

// splitDocuments cuts a file at its document markers. The parser is given one
// document at a time: a syntax error in one does not hide the others, and it
// cannot drop one (it does, after an empty one).
func splitDocuments(data []byte, report *reporter) []document {
	var docs []document
	current := document{line: 1}
	ended := false // after "...", until the next "---"
	for i, line := range bytes.SplitAfter(data, []byte("\n")) {
		bare := strings.TrimSuffix(string(line), "\n")
		rest, marker := strings.CutPrefix(bare, "---")
		switch {
		case marker && (rest == "" || rest[0] == ' ' || rest[0] == '\t'):
			if text := strings.TrimSpace(rest); text != "" && text[0] != '#' {
				report.errorAt(position{i + 1, 5}, "", "text after the document marker: start on the next line")
			}
			docs = append(docs, current)
			current, ended = document{line: i + 2}, false
		case bare == "..." || strings.HasPrefix(bare, "... "):
			ended = true
			current.text = append(current.text, '\n')
		case ended && blank(bare):
			current.text = append(current.text, '\n')
		case ended:
			report.errorAt(position{i + 1, 1}, "", `text after the end of the document ("..."): start a new one with "---"`)
			ended = false
			current.text = append(current.text, line...)
		default:
			current.text = append(current.text, line...)
		}
	}
	docs = append(docs, current)
	// What holds nothing but comments is no document.
	kept := docs[:0]
	for _, d := range docs {
		for line := range strings.Lines(string(d.text)) {
			if !blank(line) {
				kept = append(kept, d)
				break
			}
		}
	}
	return kept
}

func blank(line string) bool {
	line = strings.TrimSpace(line)
	return line == "" || line[0] == '#'
}

// checkText refuses what the parser would misread or what could exhaust it,
// and reports whether the document may be parsed.
func checkText(d document, report *reporter) bool {
	ok := true
	fail := func(line, column int, format string, args ...any) {
		ok = false
		report.errorAt(position{d.line + line, column}, "", format, args...)
	}
	if n := bytes.Count(d.text, []byte("\n")); n > maxLines {
		fail(0, 1, "a document of %d lines; at most %d are read: split it", n, maxLines)
		return false
	}
	open := 0
	for i, line := range strings.Split(string(d.text), "\n") {
		if at := strings.IndexByte(line, '\t'); at >= 0 && !strings.HasPrefix(strings.TrimLeft(line, " "), "#") {
			fail(i, utf8.RuneCountInString(line[:at])+1, `a tab: indent and separate with spaces, and write \t inside double quotes`)
		}
		if at := strings.IndexFunc(line, isControl); at >= 0 {
			r, _ := utf8.DecodeRuneInString(line[at:])
			fail(i, utf8.RuneCountInString(line[:at])+1, "a control character (%U)", r)
		}
		if strings.HasPrefix(line, "%") {
			fail(i, 1, "YAML directives are not supported")
		}
		open += strings.Count(line, "[") + strings.Count(line, "{") - strings.Count(line, "]") - strings.Count(line, "}")
		if open > maxOpen || len(starters.FindString(line)) > maxOpen || strings.Count(line, " &")+strings.Count(line, " !") > maxOpen {
			fail(i, 1, "%s", errTooDeep)
			return false
		}
	}
	return ok
}

// maxOpen bounds what the parser recurses into before its tree can be checked
// against maxDepth. Brackets in strings count too, hence the margin.
const maxOpen = 512

// maxLines bounds the lines of one document: the parser's time grows with the
// square of the entries of a mapping or list.
const maxLines = 10_000

// starters matches the indicators that open lists and keys within one line.
var starters = regexp.MustCompile(`^(?:\s*[-?!&](?:\S*)\s)+`)

func isControl(r rune) bool {
	return r < ' ' && r != '\t' || r == 0x7f || r >= 0x80 && r < 0xa0 && r != 0x85 || r == 0xfeff
}

// parseYAML turns one document into a tree; it returns nil after reporting what
// is wrong with the document as YAML.
func parseYAML(d document, report *reporter) (root *node) {
	if !checkText(d, report) {
		return nil
	}
	// The parser is other people's code that reads what a stranger may have
	// written: a panic in it must not end the process.
	defer func() {
		if p := recover(); p != nil {
			report.errorAt(position{d.line, 1}, "", "the YAML parser failed on this document: %s", quote(fmt.Sprint(p)))
			root = nil
		}
	}()
	file, err := parser.ParseBytes(d.text, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		pos, message := syntaxError(err)
		pos.line += d.line - 1
		report.errorAt(pos, "", "%s", message)
		return nil
	}
	if len(file.Docs) != 1 || file.Docs[0].Body == nil {
		report.errorAt(position{d.line, 1}, "", "not a YAML document")
		return nil
	}
	c := &converter{report: report, offset: d.line - 1}
	before := report.errors
	root = c.convert(file.Docs[0].Body, "", 0)
	if report.errors == before {
		crossCheck(d, root, report)
	}
	if report.errors > before {
		return nil
	}
	return root
}

func syntaxError(err error) (position, string) {
	var ye goyaml.Error
	if errors.As(err, &ye) && ye.GetToken() != nil {
		p := ye.GetToken().Position
		return position{p.Line, p.Column}, ye.GetMessage()
	}
	message, _, _ := strings.Cut(err.Error(), "\n")
	return position{1, 1}, message
}

// converter turns the parser's tree into nodes, and refuses the parts of YAML
// that JSON does not have or that make a file say something else than it seems.
type converter struct {
	report *reporter
	offset int // lines before the document
}

func (c *converter) place(tk *token.Token) position {
	if tk == nil || tk.Position == nil {
		return position{}
	}
	return position{tk.Position.Line + c.offset, tk.Position.Column}
}

func (c *converter) convert(n ast.Node, path string, depth int) *node {
	pos := c.place(n.GetToken())
	if depth > maxDepth {
		c.report.errorAt(pos, "", "%s", errTooDeep)
		return &node{pos: pos}
	}
	switch v := n.(type) {
	case *ast.NullNode:
		return &node{kind: nullNode, pos: pos}
	case *ast.BoolNode:
		return &node{kind: boolNode, pos: pos, bool: v.Value}
	case *ast.IntegerNode:
		return c.integer(v, pos, path)
	case *ast.FloatNode:
		return &node{kind: floatNode, pos: pos, float: v.Value}
	case *ast.StringNode:
		return &node{kind: stringNode, pos: pos, string: v.Value}
	case *ast.LiteralNode:
		return &node{kind: stringNode, pos: pos, string: v.Value.Value}
	case *ast.SequenceNode:
		out := &node{kind: seqNode, pos: pos}
		for i, item := range v.Values {
			out.items = append(out.items, c.convert(item, fmt.Sprintf("%s[%d]", path, i), depth+1))
		}
		return out
	case *ast.MappingNode:
		return c.mapping(v, pos, path, depth)
	case *ast.MappingValueNode:
		return c.mapping(&ast.MappingNode{Values: []*ast.MappingValueNode{v}}, pos, path, depth)
	case *ast.AnchorNode:
		c.report.errorAt(pos, path, "anchors are not supported: write the value out where it is used")
	case *ast.AliasNode:
		c.report.errorAt(pos, path, "aliases are not supported: write the value out")
	case *ast.TagNode:
		c.report.errorAt(pos, path, "tags are not supported: put a string in quotes instead")
	case *ast.InfinityNode, *ast.NanNode:
		c.report.errorAt(pos, path, "not a finite number")
	default:
		c.report.errorAt(pos, path, "%s is not supported here", n.Type().YAMLName())
	}
	return &node{pos: pos}
}

func (c *converter) integer(n *ast.IntegerNode, pos position, path string) *node {
	switch v := n.Value.(type) {
	case int64:
		return &node{kind: intNode, pos: pos, int: v}
	case uint64:
		if int64(v) >= 0 {
			return &node{kind: intNode, pos: pos, int: int64(v)}
		}
	}
	c.report.errorAt(pos, path, "a number that does not fit into 64 bits")
	return &node{pos: pos}
}

func (c *converter) mapping(m *ast.MappingNode, pos position, path string, depth int) *node {
	out := &node{kind: mapNode, pos: pos}
	seen := map[string]position{}
	for i, pair := range m.Values {
		keyPos := c.place(pair.Key.GetToken())
		if i == 0 && !m.IsFlowStyle {
			out.pos = keyPos // the parser points at the first colon
		}
		key, ok := c.key(pair.Key, keyPos, path)
		if !ok {
			continue
		}
		fieldPath := join(path, clip(key))
		if first, dup := seen[key]; dup {
			c.report.errorAt(keyPos, fieldPath, "duplicate key: it is already set in line %d", first.line)
			continue
		}
		seen[key] = keyPos
		value := c.convert(pair.Value, fieldPath, depth+1)
		if value.kind == nullNode || value.kind == mapNode {
			// Nothing is written there, or it begins on a later line: the key is
			// what people look for.
			value.pos = keyPos
		}
		out.fields = append(out.fields, &field{key: key, keyPos: keyPos, value: value})
	}
	return out
}

func (c *converter) key(k ast.MapKeyNode, pos position, path string) (string, bool) {
	switch k := k.(type) {
	case *ast.StringNode:
		return k.Value, true
	case *ast.MergeKeyNode:
		c.report.errorAt(pos, path, "merge keys are not supported: write the fields out")
	case *ast.AnchorNode:
		c.report.errorAt(pos, path, "anchors are not supported: write the value out where it is used")
	case *ast.AliasNode:
		c.report.errorAt(pos, path, "aliases are not supported: write the value out")
	default:
		c.report.errorAt(pos, path, "a key must be a string: put it in quotes")
	}
	return "", false
}
