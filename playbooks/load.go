package playbooks

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"
)

// DefaultMaxFileSize is how large a playbook file may be, in bytes.
const DefaultMaxFileSize = 1 << 20

// LoadOptions are the options of Load.
type LoadOptions struct {
	// Catalogue knows the actions; it is required.
	Catalogue Catalogue
	// MaxFileSize is in bytes; 0 means DefaultMaxFileSize.
	MaxFileSize int64
}

// Load reads playbooks from files and directories. Of a directory it reads the
// *.yaml and *.yml files that are directly in it, and passes over names that
// begin with a dot, such as the ..data of a mounted ConfigMap.
//
// It goes on after a problem and returns all of them, sorted. The set is nil
// when one of them is an error: part of what was meant is never in force.
func Load(paths []string, opts LoadOptions) (*Set, Problems) {
	l := &loader{opts: opts, names: map[string]*Playbook{}}
	if opts.Catalogue == nil {
		return nil, Problems{{Message: "no catalogue of actions was given"}}
	}
	if len(paths) == 0 {
		return nil, Problems{{Message: "no file or directory of playbooks is configured"}}
	}
	seen := map[string]bool{}
	for _, path := range paths {
		for _, file := range l.files(path) {
			if !seen[file] {
				seen[file] = true
				l.file(file)
			}
		}
	}
	return l.finish()
}

// LoadBytes reads the documents of one file that the caller has in memory;
// file is its name in problems.
func LoadBytes(file string, data []byte, opts LoadOptions) (*Set, Problems) {
	l := &loader{opts: opts, names: map[string]*Playbook{}}
	if opts.Catalogue == nil {
		return nil, Problems{{Message: "no catalogue of actions was given"}}
	}
	if max := l.maxFileSize(); int64(len(data)) > max {
		l.problem(file, "is larger than %d bytes: split it", max)
	} else {
		l.documents(file, data)
	}
	return l.finish()
}

// Compile makes a playbook of its canonical JSON, Playbook.Doc. A snapshot that
// was loaded once can fail to compile with another catalogue.
func Compile(doc json.RawMessage, cat Catalogue) (*Playbook, error) {
	if cat == nil {
		return nil, errors.New("compile playbook: no catalogue of actions was given")
	}
	root, err := parseJSON(doc)
	if err != nil {
		return nil, fmt.Errorf("compile playbook: %w", err)
	}
	report := newReporter("")
	p := build(root, cat, report)
	report.problems.sort()
	if err := report.problems.Err(); err != nil {
		return nil, fmt.Errorf("compile playbook: %w", err)
	}
	return p, nil
}

type loader struct {
	opts      LoadOptions
	playbooks []*Playbook
	names     map[string]*Playbook
	problems  Problems
}

func (l *loader) finish() (*Set, Problems) {
	l.problems.sort()
	if l.problems.Err() != nil {
		return nil, l.problems
	}
	return newSet(l.playbooks), l.problems
}

func (l *loader) problem(file, format string, args ...any) {
	l.problems = append(l.problems, Problem{File: file, Message: fmt.Sprintf(format, args...)})
}

func (l *loader) maxFileSize() int64 {
	if l.opts.MaxFileSize > 0 {
		return l.opts.MaxFileSize
	}
	return DefaultMaxFileSize
}

// files lists what is to be read at path.
func (l *loader) files(path string) []string {
	path = filepath.Clean(path)
	info, err := os.Stat(path)
	if err != nil {
		l.problem(path, "%s", reason(err))
		return nil
	}
	if !info.IsDir() {
		return []string{path}
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		l.problem(path, "%s", reason(err))
		return nil
	}
	var files []string
	for _, e := range entries {
		name := filepath.Join(path, e.Name())
		ext := filepath.Ext(name)
		switch {
		case strings.HasPrefix(e.Name(), "."):
		case ext == ".yaml" || ext == ".yml":
			files = append(files, name)
		case e.IsDir():
			l.problems = append(l.problems, Problem{File: name, Warning: true,
				Message: "is a directory in a directory and is not read: name it as a path of its own"})
		}
	}
	if len(files) == 0 {
		// A mount that is missing for a moment must not unload everything.
		l.problem(path, "no *.yaml or *.yml file in this directory")
	}
	return files
}

// reason says what is wrong with a file and what to do, without repeating its
// name, which the problem has.
func reason(err error) string {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "no such file or directory"
	case errors.Is(err, fs.ErrPermission):
		return "permission denied: the user that alertmedic runs as must be able to read it"
	}
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) {
		return pathErr.Err.Error()
	}
	return err.Error()
}

func (l *loader) file(file string) {
	data, err := l.read(file)
	if err != nil {
		l.problem(file, "%s", reason(err))
		return
	}
	l.documents(file, data)
}

func (l *loader) read(file string) ([]byte, error) {
	info, err := os.Stat(file)
	if err != nil {
		return nil, fmt.Errorf("look at file: %w", err)
	}
	// Reading a named pipe would wait for ever.
	if !info.Mode().IsRegular() {
		return nil, errors.New("is not a regular file")
	}
	limit := l.maxFileSize()
	if info.Size() > limit {
		return nil, fmt.Errorf("is %d bytes large; at most %d are read: split it", info.Size(), limit)
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("open file: %w", err)
	}
	defer func() { _ = f.Close() }() // it was only read
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, fmt.Errorf("read file: %w", err)
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("is larger than %d bytes: split it", limit)
	}
	return data, nil
}

func (l *loader) documents(file string, data []byte) {
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))
	// The same text has the same hash, whichever editor wrote it.
	data = bytes.ReplaceAll(data, []byte("\r\n"), []byte("\n"))
	report := newReporter(file)
	defer func() {
		report.finish()
		l.problems = append(l.problems, report.problems...)
	}()
	if !utf8.Valid(data) {
		report.errorAt(invalidAt(data), "", "not UTF-8 text")
		return
	}
	if len(bytes.TrimSpace(data)) == 0 {
		report.errorAt(position{1, 1}, "", "the file is empty: write a playbook into it, or remove it")
		return
	}
	docs := splitDocuments(data, report)
	if len(docs) == 0 && !report.failed() {
		report.errorAt(position{1, 1}, "", "the file holds no document: write a playbook into it, or remove it")
	}
	for _, d := range docs {
		report.begin()
		root := parseYAML(d, report)
		if root == nil {
			continue
		}
		if p := build(root, l.opts.Catalogue, report); p != nil {
			l.register(p, report)
		}
	}
}

// register takes a playbook in, errors and all: the name of a broken one is
// taken too.
func (l *loader) register(p *Playbook, report *reporter) {
	if p.Name == "" {
		return
	}
	if first, dup := l.names[p.Name]; dup {
		report.errorf("metadata.name", "duplicate playbook name %s: %s:%d has it already: rename one of the two", quote(p.Name), first.File, first.Line)
		return
	}
	l.names[p.Name] = p
	l.playbooks = append(l.playbooks, p)
}

// invalidAt finds the first byte that is not UTF-8.
func invalidAt(data []byte) position {
	pos := position{1, 1}
	for len(data) > 0 {
		r, size := utf8.DecodeRune(data)
		if r == utf8.RuneError && size == 1 {
			break
		}
		if pos.column++; r == '\n' {
			pos = position{pos.line + 1, 1}
		}
		data = data[size:]
	}
	return pos
}

// sortedNames returns the names of a set of playbooks, sorted.
func sortedNames(ps map[string]*Playbook) []string {
	out := make([]string, 0, len(ps))
	for name := range ps {
		out = append(out, name)
	}
	slices.Sort(out)
	return out
}
