package playbooks

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Problem is one thing that is wrong with a playbook file, or with a Warning
// one that is probably not meant.
type Problem struct {
	File       string `json:"file"`
	Line       int    `json:"line,omitempty"`   // from 1; 0 when the file as a whole is meant
	Column     int    `json:"column,omitempty"` // from 1, in characters
	Path       string `json:"path,omitempty"`   // "spec.remedies[0].steps[1].action"
	Message    string `json:"message"`
	Suggestion string `json:"suggestion,omitempty"` // what was probably meant
	Warning    bool   `json:"warning,omitempty"`
}

// String returns "file:line:col: path: message (did you mean "x"?)", with
// "warning: " before the path of a warning.
func (p Problem) String() string {
	var b strings.Builder
	if p.File != "" {
		b.WriteString(p.File + ":")
	}
	if p.Line > 0 {
		fmt.Fprintf(&b, "%d:%d:", p.Line, p.Column)
	}
	if b.Len() > 0 {
		b.WriteString(" ")
	}
	if p.Warning {
		b.WriteString("warning: ")
	}
	if p.Path != "" {
		b.WriteString(p.Path + ": ")
	}
	b.WriteString(p.Message)
	if p.Suggestion != "" {
		fmt.Fprintf(&b, " (did you mean %q?)", p.Suggestion)
	}
	return b.String()
}

// Problems are sorted by file, line, column and path.
type Problems []Problem

// Errors returns those that keep a playbook from being loaded.
func (ps Problems) Errors() Problems { return ps.filter(false) }

// Warnings returns the others.
func (ps Problems) Warnings() Problems { return ps.filter(true) }

func (ps Problems) filter(warning bool) Problems {
	var out Problems
	for _, p := range ps {
		if p.Warning == warning {
			out = append(out, p)
		}
	}
	return out
}

// Err returns nil when there are warnings at most, else a *LoadError.
func (ps Problems) Err() error {
	if errs := ps.Errors(); len(errs) > 0 {
		return &LoadError{Problems: errs}
	}
	return nil
}

// String returns one problem a line.
func (ps Problems) String() string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

func (ps Problems) sort() {
	slices.SortStableFunc(ps, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column),
			cmp.Compare(a.Path, b.Path), cmp.Compare(a.Message, b.Message))
	})
}

// LoadError is the error form of problems.
type LoadError struct{ Problems Problems }

// Error returns one problem a line.
func (e *LoadError) Error() string { return e.Problems.String() }

// reporter collects the problems of one document and knows where each of its
// paths was written.
type reporter struct {
	file     string
	places   map[string]position
	wrong    map[string]bool // paths of this document that have a problem
	problems Problems
	// errors and dropped count what add was given and what it did not keep.
	errors, dropped int
}

// maxProblems bounds what is said about one file, and with it what a broken
// megabyte can do to a log.
const maxProblems = 1000

func newReporter(file string) *reporter {
	r := &reporter{file: file}
	r.begin()
	return r
}

// begin forgets the places of the document before.
func (r *reporter) begin() {
	r.places, r.wrong = map[string]position{}, map[string]bool{}
}

// finish says how many problems were left out.
func (r *reporter) finish() {
	if r.dropped > 0 {
		r.problems = append(r.problems, Problem{File: r.file, Warning: r.errors == 0,
			Message: fmt.Sprintf("%d more problems are not shown", r.dropped)})
	}
}

// at returns the place of path, or of the nearest thing around it.
func (r *reporter) at(path string) position {
	for {
		if pos, ok := r.places[path]; ok {
			return pos
		}
		if path == "" {
			return position{}
		}
		path = path[:max(strings.LastIndexAny(path, ".["), 0)]
	}
}

func (r *reporter) add(p Problem) {
	p.File = r.file
	r.wrong[p.Path] = true
	if !p.Warning {
		r.errors++
	}
	if len(r.problems) >= maxProblems {
		r.dropped++
		return
	}
	if p.Line == 0 {
		pos := r.at(p.Path)
		p.Line, p.Column = pos.line, pos.column
	}
	r.problems = append(r.problems, p)
}

func (r *reporter) errorf(path, format string, args ...any) {
	r.add(Problem{Path: path, Message: fmt.Sprintf(format, args...)})
}

func (r *reporter) errorAt(pos position, path, format string, args ...any) {
	r.add(Problem{Line: pos.line, Column: pos.column, Path: path, Message: fmt.Sprintf(format, args...)})
}

func (r *reporter) warnf(path, format string, args ...any) {
	r.add(Problem{Path: path, Message: fmt.Sprintf(format, args...), Warning: true})
}

func (r *reporter) failed() bool { return r.errors > 0 }

// quote shows a value of a file in a message: quoted, and cut when long, so
// that a hostile or broken file cannot flood a log.
func quote(s string) string {
	const longest = 80
	if len(s) > longest {
		cut := longest
		for cut > 0 && !utf8.RuneStart(s[cut]) {
			cut--
		}
		return strconv.Quote(s[:cut]) + "..."
	}
	return strconv.Quote(s)
}

// suggest returns the candidate that got is most likely a misspelling of, ""
// when none is close.
func suggest(got string, candidates []string) string {
	if len(got) == 0 || len(got) > 64 {
		return ""
	}
	best, bestDistance := "", len(got)/3+2
	for _, c := range candidates {
		if strings.EqualFold(got, c) {
			return c
		}
		if d := distance(strings.ToLower(got), strings.ToLower(c)); d < bestDistance {
			best, bestDistance = c, d
		}
	}
	return best
}

// distance is the number of insertions, deletions, substitutions and swaps of
// neighbours that turn a into b.
func distance(a, b string) int {
	ra, rb := []rune(a), []rune(b)
	var before, last []int
	row := make([]int, len(rb)+1)
	for j := range row {
		row[j] = j
	}
	for i := range ra {
		before, last, row = last, row, make([]int, len(rb)+1)
		row[0] = i + 1
		for j := range rb {
			cost := 1
			if ra[i] == rb[j] {
				cost = 0
			}
			row[j+1] = min(last[j+1]+1, row[j]+1, last[j]+cost)
			if i > 0 && j > 0 && ra[i] == rb[j-1] && ra[i-1] == rb[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
	}
	return row[len(rb)]
}
