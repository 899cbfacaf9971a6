package playbooks

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/prometheus/alertmanager/pkg/labels"
	"github.com/prometheus/common/model"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func named(name string, priority int, matchers ...string) *Playbook {
	p := &Playbook{Name: name, Priority: priority, Hash: fmt.Sprint(name, priority, matchers)}
	for _, m := range matchers {
		parsed, err := parseMatcher(m)
		if err != nil {
			panic(err)
		}
		p.Matchers = append(p.Matchers, parsed)
	}
	return p
}

func namesOf(ps []*Playbook) []string {
	out := []string{}
	for _, p := range ps {
		out = append(out, p.Name)
	}
	return out
}

func TestMatchOrder(t *testing.T) {
	t.Parallel()
	set := newSet([]*Playbook{
		named("z", 5, "a=1"), named("b", 0, "a=1"), named("a", 0, `a=~"1|2"`), named("c", 0, `a=~"1.*"`),
		named("other", 9, "a=2"), named("gone", 9, "a=1", `b!=""`), named("low", -1, "a=1"),
	})
	require.Equal(t, []string{"z", "a", "b", "c", "low"}, namesOf(set.Match(map[string]string{"a": "1"})))
	require.Equal(t, []string{"other", "a"}, namesOf(set.Match(map[string]string{"a": "2"})))
	require.Empty(t, set.Match(map[string]string{"a": ""}))
	require.Empty(t, set.Match(nil))
}

func TestEmptySet(t *testing.T) {
	t.Parallel()
	for _, s := range []*Set{nil, {}, newSet(nil)} {
		require.Zero(t, s.Len())
		require.Empty(t, s.All())
		require.Empty(t, s.Match(map[string]string{"a": "b"}))
		_, ok := s.Get("x")
		require.False(t, ok)
	}
}

func TestSetHash(t *testing.T) {
	t.Parallel()
	a, b := named("a", 0, "x=1"), named("b", 0, "x=1")
	require.Equal(t, newSet([]*Playbook{a, b}).Hash(), newSet([]*Playbook{b, a}).Hash())
	require.NotEqual(t, newSet([]*Playbook{a}).Hash(), newSet([]*Playbook{a, b}).Hash())
	require.NotEqual(t, newSet([]*Playbook{a}).Hash(), newSet([]*Playbook{named("a", 1, "x=1")}).Hash())
}

func TestSetIsImmutable(t *testing.T) {
	t.Parallel()
	set := newSet([]*Playbook{named("a", 0, "x=1"), named("b", 0, "x=1")})
	set.All()[0] = nil
	set.Match(map[string]string{"x": "1"})[0] = nil
	require.Equal(t, []string{"a", "b"}, namesOf(set.All()))
	require.Equal(t, []string{"a", "b"}, namesOf(set.Match(map[string]string{"x": "1"})))
}

// oracle is Alertmanager's own matching, one playbook after another.
func oracle(set *Set, alert map[string]string) []string {
	lset := model.LabelSet{}
	for k, v := range alert {
		lset[model.LabelName(k)] = model.LabelValue(v)
	}
	out := []string{}
	for _, p := range set.ordered {
		if p.Matchers.Matches(lset) {
			out = append(out, p.Name)
		}
	}
	return out
}

func TestMatchAgreesWithAlertmanager(t *testing.T) {
	t.Parallel()
	// Few names and values, so that much matches.
	labelNames := rapid.SampledFrom([]string{"alertname", "namespace", "severity", "ü b"})
	values := rapid.SampledFrom([]string{"", "a", "b", "ab", "a-b", "a|b", "A", "a.c", ".*", "é"})
	patterns := rapid.SampledFrom([]string{"", "a", "a|b", "a|b|", "|a", "a-b|ab", "a.*", ".*", ".+", "(a|b)", "[ab]", "a|a", "(?i)a", "^a$", `a\.c`, "a?b", "a||b"})
	matcher := rapid.Custom(func(t *rapid.T) *labels.Matcher {
		kind := rapid.SampledFrom([]labels.MatchType{labels.MatchEqual, labels.MatchNotEqual, labels.MatchRegexp, labels.MatchNotRegexp}).Draw(t, "kind")
		value := values
		if kind == labels.MatchRegexp || kind == labels.MatchNotRegexp {
			value = patterns
		}
		m, err := labels.NewMatcher(kind, labelNames.Draw(t, "name"), value.Draw(t, "value"))
		require.NoError(t, err)
		return m
	})
	rapid.Check(t, func(t *rapid.T) {
		var ps []*Playbook
		for i, ms := range rapid.SliceOfN(rapid.SliceOfN(matcher, 0, 4), 0, 12).Draw(t, "playbooks") {
			ps = append(ps, &Playbook{Name: fmt.Sprintf("p%02d", i), Priority: i % 3, Matchers: ms})
		}
		set := newSet(ps)
		for _, alert := range rapid.SliceOfN(rapid.MapOf(labelNames, values), 1, 8).Draw(t, "alerts") {
			require.Equal(t, oracle(set, alert), namesOf(set.Match(alert)))
		}
	})
}

func FuzzMatchIndex(f *testing.F) {
	f.Add("alertname = X\nnamespace !~ \"kube-.*\"\na=~\"x|y\"", "alertname", "X", "a", "x")
	f.Add(`a=~"(?i)x|Y"`+"\na!=\"\"", "a", "y", "b", "")
	f.Fuzz(func(t *testing.T, matchers, name1, value1, name2, value2 string) {
		var ps []*Playbook
		for i, line := range strings.Split(matchers, "\n") {
			m, err := parseMatcher(line)
			if err != nil || i > 20 {
				continue
			}
			// Each matcher alone, and all so far together.
			ps = append(ps, &Playbook{Name: fmt.Sprintf("one%d", i), Matchers: labels.Matchers{m}})
			if len(ps) > 1 {
				both := append(labels.Matchers{m}, ps[len(ps)-2].Matchers...)
				ps = append(ps, &Playbook{Name: fmt.Sprintf("both%d", i), Matchers: both})
			}
		}
		set := newSet(ps)
		for _, alert := range []map[string]string{nil, {name1: value1}, {name1: value1, name2: value2}} {
			require.Equal(t, oracle(set, alert), namesOf(set.Match(alert)))
		}
	})
}

func thousandPlaybooks() *Set {
	var ps []*Playbook
	for i := range 1000 {
		ps = append(ps, named(fmt.Sprintf("p%d", i), i%5, fmt.Sprintf("alertname = Alert%d", i%400), `namespace !~ "kube-.*"`, `cluster =~ "eu-.*|us-.*"`))
	}
	return newSet(ps)
}

func thousandAlerts() []map[string]string {
	r := rand.New(rand.NewPCG(1, 2))
	var out []map[string]string
	for i := range 1000 {
		out = append(out, map[string]string{"alertname": fmt.Sprintf("Alert%d", r.IntN(500)), "namespace": "shop", "cluster": "eu-1",
			"pod": fmt.Sprintf("web-%d", i), "severity": "critical", "job": "kube-state-metrics"})
	}
	return out
}

// A thousand playbooks must not make an alert a thousand times as expensive:
// those that could match are found by the index, not by asking each.
func TestIndexLooksAtFew(t *testing.T) {
	t.Parallel()
	set := thousandPlaybooks()
	for _, a := range thousandAlerts() {
		require.LessOrEqual(t, len(set.index.candidates(a)), 3)
		require.Equal(t, oracle(set, a), namesOf(set.Match(a)))
	}
}

// BenchmarkMatch matches 1000 alerts against 1000 playbooks.
func BenchmarkMatch(b *testing.B) {
	set, alerts := thousandPlaybooks(), thousandAlerts()
	b.ReportAllocs()
	for b.Loop() {
		for _, a := range alerts {
			set.Match(a)
		}
	}
}

func TestCompileMakesTheSamePlaybookAgain(t *testing.T) {
	t.Parallel()
	set, problems := Load([]string{"../testdata/playbooks/good"}, LoadOptions{Catalogue: catalogue()})
	require.NoError(t, problems.Err())
	for _, p := range set.All() {
		again, err := Compile(p.Doc, catalogue())
		require.NoError(t, err)
		requireSamePlaybook(t, p, again)
	}
	_, err := Compile(set.All()[0].Doc, fakeCatalogue{})
	require.ErrorContains(t, err, `compile playbook: spec.remedies[0].steps[0].action: unknown action "pod.delete"`)
	for _, bad := range []string{``, `{`, `[]`, `{"a":1,"a":2}`, `{} {}`, `null`, strings.Repeat("[", 100_000)} {
		_, err := Compile(json.RawMessage(bad), catalogue())
		require.Error(t, err, bad)
	}
}

// requireSamePlaybook compares everything but where it was read.
func requireSamePlaybook(t require.TestingT, want, got *Playbook) {
	require.Equal(t, string(want.Doc), string(got.Doc))
	require.Equal(t, want.Hash, got.Hash)
	require.Equal(t, want.Matchers.String(), got.Matchers.String())
	require.Equal(t, want.When.String(), got.When.String())
	require.Equal(t, [3]string{string(want.Target.Kind), want.Target.Name.String(), want.Target.Namespace.String()},
		[3]string{string(got.Target.Kind), got.Target.Name.String(), got.Target.Namespace.String()})
	require.Equal(t, want.Notify.SlackChannel.String(), got.Notify.SlackChannel.String())
	require.Equal(t, want.Limits, got.Limits)
	require.Equal(t, [6]any{want.Name, want.Priority, want.Exclusive, want.Mode, want.ServiceAccountName, want.Description},
		[6]any{got.Name, got.Priority, got.Exclusive, got.Mode, got.ServiceAccountName, got.Description})
	require.Equal(t, len(want.Remedies), len(got.Remedies))
	for i, r := range want.Remedies {
		g := got.Remedies[i]
		require.Equal(t, [4]any{r.Name, r.When.String(), r.Mode, r.OnFailure}, [4]any{g.Name, g.When.String(), g.Mode, g.OnFailure})
		require.Equal(t, [3]any{r.Verify.Timeout, r.Verify.StableFor, r.Verify.Alert}, [3]any{g.Verify.Timeout, g.Verify.StableFor, g.Verify.Alert})
		for j, c := range r.Verify.Conditions {
			require.Equal(t, c.Condition.String()+c.Message, g.Verify.Conditions[j].Condition.String()+g.Verify.Conditions[j].Message)
		}
		for j, s := range r.Steps {
			require.Equal(t, s.With.String(), g.Steps[j].With.String())
			require.Equal(t, [5]any{s.Name, s.Action, s.Timeout, s.When.String(), s.ContinueOnError},
				[5]any{g.Steps[j].Name, g.Steps[j].Action, g.Steps[j].Timeout, g.Steps[j].When.String(), g.Steps[j].ContinueOnError})
		}
	}
}
