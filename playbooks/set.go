package playbooks

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/prometheus/alertmanager/pkg/labels"
)

// Set is an immutable set of playbooks with an index for matching. The zero
// value and nil are empty sets. It is safe for concurrent use.
type Set struct {
	// ordered is by precedence: the highest priority first, then the name.
	ordered []*Playbook
	byName  map[string]*Playbook
	hash    string
	index   matchIndex
}

// newSet takes playbooks whose names are unique.
func newSet(playbooks []*Playbook) *Set {
	s := &Set{ordered: slices.Clone(playbooks), byName: make(map[string]*Playbook, len(playbooks))}
	slices.SortFunc(s.ordered, func(a, b *Playbook) int {
		return cmp.Or(cmp.Compare(b.Priority, a.Priority), cmp.Compare(a.Name, b.Name))
	})
	for _, p := range playbooks {
		s.byName[p.Name] = p
	}
	sum := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(s.byName)) {
		_, _ = io.WriteString(sum, name+" "+s.byName[name].Hash+"\n") // a hash takes everything
	}
	s.hash = hex.EncodeToString(sum.Sum(nil))
	s.index = newMatchIndex(s.ordered)
	return s
}

// Get returns the playbook of that name.
func (s *Set) Get(name string) (*Playbook, bool) {
	if s == nil {
		return nil, false
	}
	p, ok := s.byName[name]
	return p, ok
}

// All returns the playbooks in their order of precedence. The slice is the
// caller's.
func (s *Set) All() []*Playbook {
	if s == nil {
		return nil
	}
	return slices.Clone(s.ordered)
}

// Len returns the number of playbooks.
func (s *Set) Len() int {
	if s == nil {
		return 0
	}
	return len(s.ordered)
}

// Hash is the SHA-256 (hex) over all documents: two sets that say the same have
// the same hash, wherever their files are.
func (s *Set) Hash() string {
	if s == nil {
		return ""
	}
	return s.hash
}

// Match returns the playbooks whose matchers all hold for an alert with these
// labels, in order of precedence. `when` is not evaluated: it may need the
// live target.
func (s *Set) Match(alert map[string]string) []*Playbook {
	if s == nil {
		return nil
	}
	var out []*Playbook
	for _, rank := range s.index.candidates(alert) {
		if p := s.ordered[rank]; matches(p.Matchers, alert) {
			out = append(out, p)
		}
	}
	return out
}

// matches is labels.Matchers.Matches without converting the alert's labels.
func matches(ms labels.Matchers, alert map[string]string) bool {
	for _, m := range ms {
		if !m.Matches(alert[m.Name]) {
			return false
		}
	}
	return true
}

// matchIndex finds the few playbooks that can match an alert. Each one is filed
// under the values that one label must have, so the cost of a match is that of
// the labels of the alert and not that of the number of playbooks.
type matchIndex struct {
	byLabel map[string]map[string][]int
	// always are those that no label value is necessary for.
	always []int
}

func newMatchIndex(ordered []*Playbook) matchIndex {
	ix := matchIndex{byLabel: map[string]map[string][]int{}}
	// A value that few playbooks ask for tells them apart best.
	asked := map[[2]string]int{}
	for _, p := range ordered {
		for _, m := range p.Matchers {
			for _, v := range valuesOf(m) {
				asked[[2]string{m.Name, v}]++
			}
		}
	}
	for rank, p := range ordered {
		var best *labels.Matcher
		bestCost := 0
		for _, m := range p.Matchers {
			cost := 0
			for _, v := range valuesOf(m) {
				cost += asked[[2]string{m.Name, v}]
			}
			if cost > 0 && (best == nil || cost < bestCost) {
				best, bestCost = m, cost
			}
		}
		if best == nil {
			ix.always = append(ix.always, rank)
			continue
		}
		values := ix.byLabel[best.Name]
		if values == nil {
			values = map[string][]int{}
			ix.byLabel[best.Name] = values
		}
		for _, v := range valuesOf(best) {
			values[v] = append(values[v], rank)
		}
	}
	return ix
}

// candidates returns the ranks of all playbooks that may match, sorted, each
// once: a playbook is filed under one label, and an alert has one value of it.
func (ix *matchIndex) candidates(alert map[string]string) []int {
	out := slices.Clone(ix.always)
	for label, values := range ix.byLabel {
		if v, ok := alert[label]; ok {
			out = append(out, values[v]...)
		}
	}
	slices.Sort(out)
	return out
}

// maxIndexedValues bounds the alternatives of a pattern that are worth filing.
const maxIndexedValues = 64

// valuesOf returns the non-empty values of which a label must have one for m to
// hold, none when that cannot be said: the value of an equality, and the
// alternatives of a pattern that is nothing but plain words.
func valuesOf(m *labels.Matcher) []string {
	switch {
	case m.Value == "":
		return nil // holds for an alert without the label
	case m.Type == labels.MatchEqual:
		return []string{m.Value}
	case m.Type == labels.MatchRegexp && strings.IndexFunc(m.Value, notPlain) < 0:
		values := strings.Split(m.Value, "|")
		if len(values) > maxIndexedValues || slices.Contains(values, "") {
			return nil
		}
		slices.Sort(values)
		return slices.Compact(values)
	}
	return nil
}

// notPlain reports whether r could be anything but itself, or the separator of
// alternatives, in a regular expression.
func notPlain(r rune) bool {
	return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '_' || r == '-' || r == '|')
}
