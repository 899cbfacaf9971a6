package app

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// change is one change of the cluster as the API server recorded it, and the run
// that made it.
type change struct {
	at   time.Time
	run  string
	what string
}

// span is what is known of a run that changed something: what its caps count by,
// and when it ended; zero: it goes on.
type span struct {
	playbook, namespace, zone string
	ended                     time.Time
}

// bucket bounds how many runs begin: so many at once, and one more every so often.
type bucket struct {
	burst int
	every time.Duration
}

// caps are the promises that changes are checked against. A cap of zero is not
// checked. It shares no code with the guards.
type caps struct {
	global, playbook, namespace bucket
	// concurrent, and by playbook, namespace and zone, is how many runs may be at
	// work at any instant.
	concurrent, perPlaybook, perNamespace, perZone int
	// late is by how much a request may reach the API server later than it was
	// admitted. Two requests can be that much closer to each other than their
	// admissions, and no more.
	late time.Duration
}

// broken returns each promise that the changes break, in words with the moment.
// A run is at work from its first change, as the API server saw it, until it
// ended: a little less than what the guards count, so that a cap which is
// exceeded here was exceeded there.
func (c caps) broken(changes []change, runs map[string]span) []string {
	var out []string
	begun := firsts(changes)
	for _, r := range begun {
		if _, known := runs[r.run]; !known {
			return []string{fmt.Sprintf("%s was changed by no known run (%q)", r.what, r.run)}
		}
	}
	for _, by := range []struct {
		what  string
		rate  bucket
		count int
		of    func(span) string
	}{
		{"in all", c.global, c.concurrent, func(span) string { return "all" }},
		{"playbook", c.playbook, c.perPlaybook, func(s span) string { return s.playbook }},
		{"namespace", c.namespace, c.perNamespace, func(s span) string { return s.namespace }},
		{"zone", bucket{}, c.perZone, func(s span) string { return s.zone }},
	} {
		groups := map[string][]change{}
		for _, r := range begun {
			groups[by.of(runs[r.run])] = append(groups[by.of(runs[r.run])], r)
		}
		for _, name := range slices.Sorted(maps.Keys(groups)) {
			label := strings.TrimSpace(by.what + " " + name)
			out = append(out, by.rate.broken(label, groups[name], c.late)...)
			if by.count > 0 {
				out = append(out, crowded(label, groups[name], runs, by.count)...)
			}
		}
	}
	return out
}

// firsts are the first change of each run, in the order of time.
func firsts(changes []change) []change {
	sorted := slices.SortedStableFunc(slices.Values(changes), func(a, b change) int { return a.at.Compare(b.at) })
	seen := map[string]bool{}
	return slices.DeleteFunc(sorted, func(c change) bool {
		was := seen[c.run]
		seen[c.run] = true
		return was
	})
}

// broken looks at every window that begins and ends with a run: no more runs begin
// in it than the bucket held when full and got since.
func (b bucket) broken(label string, begun []change, late time.Duration) []string {
	if b.burst < 1 {
		return nil
	}
	var out []string
	for i := range begun {
		for j := i + b.burst; j < len(begun); j++ {
			window := begun[j].at.Sub(begun[i].at)
			if n, most := j-i+1, b.burst+int((window+late)/b.every); n > most {
				out = append(out, fmt.Sprintf("rate, %s: %d runs began in the %s until %s, %d may", label, n, window.Round(time.Millisecond),
					begun[j].at.UTC().Format(time.RFC3339Nano), most))
				break // one window says it for all that begin here
			}
		}
	}
	return out
}

// crowded looks at each instant at which a run begins: the number at work is
// greatest at one of them.
func crowded(label string, begun []change, runs map[string]span, most int) []string {
	var out []string
	for i, at := range begun {
		n := 0
		for _, r := range begun[:i+1] {
			if end := runs[r.run].ended; end.IsZero() || end.After(at.at) {
				n++
			}
		}
		if n > most {
			out = append(out, fmt.Sprintf("concurrency, %s: %d runs were at work at %s, %d may be", label, n, at.at.UTC().Format(time.RFC3339Nano), most))
		}
	}
	return out
}

// seconds is what happened second by second, for the log of a test.
func seconds(changes []change, runs map[string]span) string {
	begun := firsts(changes)
	if len(begun) == 0 {
		return "nothing was changed"
	}
	last := slices.MaxFunc(changes, func(a, b change) int { return cmp.Compare(a.at.UnixNano(), b.at.UnixNano()) }).at
	var out strings.Builder
	for from := begun[0].at.Truncate(time.Second); !from.After(last); from = from.Add(time.Second) {
		until := from.Add(time.Second)
		began, working := 0, 0
		for _, r := range begun {
			if !r.at.Before(from) && r.at.Before(until) {
				began++
			}
			if end := runs[r.run].ended; r.at.Before(until) && (end.IsZero() || end.After(from)) {
				working++
			}
		}
		fmt.Fprintf(&out, "%s began %d, at work %d\n", from.UTC().Format(time.TimeOnly), began, working)
	}
	return out.String()
}

// The checker finds each kind of excess, and passes what is exactly at the cap.
func TestTheCheckerOfCapsFindsEachExcess(t *testing.T) {
	t.Parallel()
	zero := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	at := func(run string, s float64) change {
		return change{zero.Add(time.Duration(s * float64(time.Second))), run, "Deployment/shop/" + run}
	}
	lasts := func(changes []change, d time.Duration) map[string]span {
		runs := map[string]span{}
		for i, c := range firsts(changes) {
			runs[c.run] = span{playbook: []string{"p", "q"}[i%2], namespace: []string{"a", "a", "b", "b"}[i%4], zone: []string{"x", "y", "z"}[i%3], ended: c.at.Add(d)}
		}
		return runs
	}
	full := bucket{burst: 2, every: 10 * time.Second}
	exact := []change{at("1", 0), at("2", 0), at("3", 10), at("4", 20)}
	tests := []struct {
		name    string
		caps    caps
		changes []change
		lasting time.Duration
		want    []string // what each complaint begins with
	}{
		{"as many as the bucket gives", caps{global: full}, exact, time.Second, nil},
		{"many changes of one run", caps{global: full, concurrent: 1}, []change{at("1", 0), at("1", 1), at("1", 2), at("1", 3)}, time.Second, nil},
		{"one too early", caps{global: full}, []change{at("1", 0), at("2", 0), at("3", 9.9)}, time.Second, []string{"rate, in all all: 3 runs began in the 9.9s"}},
		{"one too early, by what it was late", caps{global: full, late: 200 * time.Millisecond}, []change{at("1", 0), at("2", 0), at("3", 9.9)}, time.Second, nil},
		{"in any order", caps{global: full}, []change{at("3", 9.9), at("2", 0), at("1", 0)}, time.Second, []string{"rate, in all"}},
		{"after a while of rest", caps{global: full}, []change{at("1", 0), at("2", 100), at("3", 100), at("4", 101)}, time.Second, []string{"rate, in all all: 3 runs began in the 1s"}},
		{"of one playbook", caps{playbook: bucket{1, 10 * time.Second}}, exact[:3], time.Second, nil},
		{"too many of one playbook", caps{playbook: bucket{1, 11 * time.Second}}, exact[:3], time.Second, []string{"rate, playbook p: 2 runs"}},
		{"too many in one namespace", caps{namespace: bucket{1, time.Second}}, exact, time.Second, []string{"rate, namespace a: 2 runs"}},
		{"as many at work as may be", caps{concurrent: 2}, exact, 10 * time.Second, nil},
		{"too many at work", caps{concurrent: 1}, exact, 10 * time.Second, []string{"concurrency, in all all: 2 runs were at work at 2026-01-02T03:04:05Z, 1 may be"}},
		{"one that never ends", caps{concurrent: 1}, exact[1:], -24 * time.Hour, []string{"concurrency", "concurrency"}},
		{"too many of a playbook at work", caps{perPlaybook: 1}, exact, 11 * time.Second, []string{"concurrency, playbook p"}},
		{"too many in a namespace at work", caps{perNamespace: 1}, exact, time.Second, []string{"concurrency, namespace a"}},
		{"too many in a zone at work", caps{perZone: 1}, exact, time.Minute, []string{"concurrency, zone x"}},
		{"of no known run", caps{global: full}, []change{at("", 0)}, 0, []string{"Deployment/shop/ was changed by no known run"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			runs := lasts(tt.changes, tt.lasting)
			if tt.lasting < 0 {
				for id, r := range runs {
					r.ended = time.Time{}
					runs[id] = r
				}
			}
			delete(runs, "")
			got := tt.caps.broken(tt.changes, runs)
			require.Len(t, got, len(tt.want), "%q", got)
			for i, want := range tt.want {
				require.True(t, strings.HasPrefix(got[i], want), "%q", got[i])
			}
		})
	}
	require.Equal(t, "03:04:05 began 1, at work 1\n03:04:06 began 0, at work 1\n03:04:07 began 1, at work 1\n",
		seconds([]change{at("1", 0), at("2", 2)}, lasts([]change{at("1", 0), at("2", 2)}, 1500*time.Millisecond)))
}
