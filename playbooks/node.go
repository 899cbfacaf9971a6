package playbooks

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
)

// nodeKind is the JSON type of a node. Playbooks are YAML in the subset that
// JSON can express, so that a snapshot says exactly what the file says.
type nodeKind int

const (
	nullNode nodeKind = iota
	boolNode
	intNode
	floatNode
	stringNode
	seqNode
	mapNode
)

// describe names the kind as a message to the author of a file does.
func (k nodeKind) describe() string {
	return [...]string{"nothing", "a boolean", "a whole number", "a number", "a string", "a list", "a mapping"}[k]
}

// position is a place in a file, counted from 1; zero means unknown, as in a
// document that was read from a snapshot.
type position struct{ line, column int }

// node is one value of a document with the place where it was written.
type node struct {
	kind   nodeKind
	pos    position
	bool   bool
	int    int64
	float  float64
	string string
	items  []*node  // of a list
	fields []*field // of a mapping, in the order of the file

	// template is the compiled form of a string that holds one, and rendered
	// says that the string is the output of a template.
	template *Template
	rendered bool
}

type field struct {
	key    string
	keyPos position
	value  *node
}

func (n *node) get(key string) *node {
	for _, f := range n.fields {
		if f.key == key {
			return f.value
		}
	}
	return nil
}

// plain returns the value as encoding/json would decode it.
func (n *node) plain() any {
	switch n.kind {
	case boolNode:
		return n.bool
	case intNode:
		return n.int
	case floatNode:
		return n.float
	case stringNode:
		return n.string
	case seqNode:
		out := make([]any, 0, len(n.items))
		for _, item := range n.items {
			out = append(out, item.plain())
		}
		return out
	case mapNode:
		out := make(map[string]any, len(n.fields))
		for _, f := range n.fields {
			out[f.key] = f.value.plain()
		}
		return out
	}
	return nil
}

// canonical returns the value as JSON with sorted keys and nothing escaped
// that JSON does not ask to escape: equal documents have equal bytes.
func (n *node) canonical() (json.RawMessage, error) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(n.plain()); err != nil {
		return nil, fmt.Errorf("encode document: %w", err)
	}
	return bytes.TrimRight(buf.Bytes(), "\n"), nil
}

// maxDepth bounds the nesting of a document: the format needs 9 levels, and
// parameters a few more.
const maxDepth = 32

var errTooDeep = fmt.Errorf("nested more than %d levels deep", maxDepth)

// parseJSON reads a snapshot back. Positions stay unknown.
func parseJSON(doc []byte) (*node, error) {
	dec := json.NewDecoder(bytes.NewReader(doc))
	dec.UseNumber()
	n, err := readJSON(dec, 0)
	if err != nil {
		return nil, err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("more than one JSON value")
	}
	return n, nil
}

func readJSON(dec *json.Decoder, depth int) (*node, error) {
	if depth > maxDepth {
		return nil, errTooDeep
	}
	tok, err := dec.Token()
	if err != nil {
		return nil, fmt.Errorf("read JSON: %w", err)
	}
	switch v := tok.(type) {
	case nil:
		return &node{kind: nullNode}, nil
	case bool:
		return &node{kind: boolNode, bool: v}, nil
	case string:
		return &node{kind: stringNode, string: v}, nil
	case json.Number:
		if i, err := strconv.ParseInt(v.String(), 10, 64); err == nil {
			return &node{kind: intNode, int: i}, nil
		}
		f, err := v.Float64()
		if err != nil {
			return nil, fmt.Errorf("read number %s: %w", v, err)
		}
		return &node{kind: floatNode, float: f}, nil
	case json.Delim:
		if v == '[' {
			return readJSONList(dec, depth)
		}
		return readJSONMapping(dec, depth)
	}
	return nil, fmt.Errorf("unexpected JSON token %v", tok)
}

func readJSONList(dec *json.Decoder, depth int) (*node, error) {
	n := &node{kind: seqNode}
	for dec.More() {
		item, err := readJSON(dec, depth+1)
		if err != nil {
			return nil, err
		}
		n.items = append(n.items, item)
	}
	_, err := dec.Token()
	return n, err
}

func readJSONMapping(dec *json.Decoder, depth int) (*node, error) {
	n := &node{kind: mapNode}
	seen := map[string]bool{}
	for dec.More() {
		tok, err := dec.Token()
		if err != nil {
			return nil, fmt.Errorf("read JSON: %w", err)
		}
		key, _ := tok.(string)
		if seen[key] {
			return nil, fmt.Errorf("duplicate key %q", key)
		}
		seen[key] = true
		value, err := readJSON(dec, depth+1)
		if err != nil {
			return nil, err
		}
		n.fields = append(n.fields, &field{key: key, value: value})
	}
	_, err := dec.Token()
	return n, err
}
