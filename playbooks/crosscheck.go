package playbooks

import (
	"strings"

	yamlv3 "go.yaml.in/yaml/v3"
)

// crossCheck reads a document a second time with another parser and reports
// where the two disagree. The parser with the good positions is lenient: it
// takes some text that is no YAML, and cuts blanks and empty lines in others.
// What a playbook does must not depend on that.
func crossCheck(d document, root *node, report *reporter) {
	var doc yamlv3.Node
	if err := yamlv3.Unmarshal(d.text, &doc); err != nil {
		message := strings.TrimPrefix(err.Error(), "yaml: ")
		report.errorAt(position{d.line, 1}, "", "not valid YAML: in this document, %s", message)
		return
	}
	if len(doc.Content) != 1 {
		report.errorAt(position{d.line, 1}, "", "not a YAML document")
		return
	}
	if different := firstDifference(root, doc.Content[0]); different != nil {
		report.errorAt(different.pos, "", "YAML parsers read this differently: put it in double quotes, and leave no blanks at the end of a line")
	}
}

// firstDifference returns the first node of a that b does not say as well, nil
// when they say the same.
func firstDifference(a *node, b *yamlv3.Node) *node {
	switch a.kind {
	case mapNode:
		if b.Kind != yamlv3.MappingNode || len(b.Content) != 2*len(a.fields) {
			return a
		}
		for i, f := range a.fields {
			if f.key != b.Content[2*i].Value {
				return &node{pos: f.keyPos}
			}
			if different := firstDifference(f.value, b.Content[2*i+1]); different != nil {
				return different
			}
		}
	case seqNode:
		if b.Kind != yamlv3.SequenceNode || len(b.Content) != len(a.items) {
			return a
		}
		for i, item := range a.items {
			if different := firstDifference(item, b.Content[i]); different != nil {
				return different
			}
		}
	default:
		if b.Kind != yamlv3.ScalarNode || !sameScalar(a, b) {
			return a
		}
	}
	return nil
}

// sameScalar compares a string as text, whatever type the other parser takes
// it for: YAML 1.1 sees dates and booleans in words that are plain in 1.2.
func sameScalar(a *node, b *yamlv3.Node) bool {
	switch a.kind {
	case stringNode:
		return a.string == b.Value
	case nullNode:
		return b.Tag == "!!null"
	case boolNode:
		var v bool
		return b.Decode(&v) == nil && v == a.bool
	case intNode:
		var v int64
		return b.Decode(&v) == nil && v == a.int
	default:
		var v float64
		return b.Decode(&v) == nil && v == a.float
	}
}
