package playbooks

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alertmedic/alertmedic/internal/action"
	"github.com/alertmedic/alertmedic/internal/guard"
)

func load(paths ...string) (*Set, Problems) {
	return Load(paths, LoadOptions{Catalogue: catalogue()})
}

func TestLoadGood(t *testing.T) {
	t.Parallel()
	set, problems := load("../testdata/playbooks/good")
	require.Empty(t, problems)
	require.Equal(t, []string{"pod-crash-looping", "just-look", "scale-up"}, namesOf(set.All()))

	p, ok := set.Get("pod-crash-looping")
	require.True(t, ok)
	require.Equal(t, "../testdata/playbooks/good/pod-crash-looping.yaml", p.File)
	require.Equal(t, 4, p.Line)
	require.Equal(t, map[string]string{"team": "shop"}, p.Labels)
	require.Equal(t, `{alertname="KubePodCrashLooping",namespace!~"kube-.*",namespace!=""}`, p.Matchers.String())
	require.True(t, p.When.AlertOnly())
	require.Equal(t, 10, p.Priority)
	require.True(t, p.Exclusive)
	require.Equal(t, "medic-shop", p.ServiceAccountName)
	require.Equal(t, TargetSpec{Kind: action.KindWorkload}, p.Target)
	require.Equal(t, guard.Auto, p.Mode)
	require.Equal(t, Limits{MaxConcurrentRuns: 1, CooldownAfterSuccess: 30 * time.Minute, CooldownAfterFailure: 2 * time.Hour,
		MaxAttempts: 3, AttemptsWindow: 24 * time.Hour, ExpireAfter: time.Hour}, p.Limits)
	require.Equal(t, "#shop-oncall", p.Notify.SlackChannel.String())
	require.Len(t, p.Remedies, 2)

	restart, rollBack := p.Remedies[0], p.Remedies[1]
	require.Equal(t, Verify{Timeout: 15 * time.Minute, StableFor: 3 * time.Minute, Alert: AlertResolved}, restart.Verify)
	require.Equal(t, Keep, restart.OnFailure)
	require.Nil(t, restart.When)
	require.Equal(t, 2*time.Minute, restart.Steps[0].Timeout)
	require.JSONEq(t, `{"gracePeriod":"30s"}`, restart.Steps[0].With.String())
	require.Equal(t, Revert, rollBack.OnFailure)
	require.Equal(t, guard.Approve, rollBack.Mode)
	require.False(t, rollBack.When.AlertOnly())
	require.Equal(t, time.Minute, rollBack.Verify.StableFor)
	require.Equal(t, "the old revision is fully rolled out", rollBack.Verify.Conditions[0].Message)

	defaults, _ := set.Get("just-look")
	require.False(t, defaults.Exclusive)
	require.Equal(t, guard.Observe, defaults.Mode)
	require.Equal(t, Limits{}, defaults.Limits)
	require.Nil(t, defaults.Notify.SlackChannel)
	require.Equal(t, Verify{Timeout: 15 * time.Minute, StableFor: time.Minute, Alert: AlertResolved}, defaults.Remedies[0].Verify)
	require.Equal(t, "{}", defaults.Remedies[0].Steps[0].With.String())

	scale, _ := set.Get("scale-up")
	require.Equal(t, guard.Mode(""), scale.Mode)
	require.Equal(t, AlertIgnore, scale.Remedies[0].Verify.Alert)
	require.Equal(t, "{{ .Labels.deployment }}", scale.Target.Name.String())
}

func TestLoadFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	good := playbookYAML("a", "x")
	write(t, dir+"/ok/a.yml", good)
	write(t, dir+"/ok/.hidden.yaml", "broken: [")
	write(t, dir+"/ok/..data/b.yaml", "broken: [")
	write(t, dir+"/ok/README.md", "broken: [")
	write(t, dir+"/big.yaml", strings.Repeat("# ten mebibytes\n", 10<<16))
	write(t, dir+"/few.yaml", good+"# "+strings.Repeat("x", 1000))
	require.NoError(t, os.Mkdir(dir+"/none", 0o700))
	require.NoError(t, os.Mkdir(dir+"/dir.yaml", 0o700))
	require.NoError(t, os.Symlink("nowhere", dir+"/dangling.yaml"))
	require.NoError(t, os.Symlink("loop.yaml", dir+"/loop.yaml"))

	set, problems := load(dir+"/ok", dir+"/ok/", dir+"/ok/a.yml") // named thrice, read once
	require.Empty(t, problems)
	require.Equal(t, 1, set.Len())

	for path, want := range map[string]string{
		"absent":        "absent: no such file or directory",
		"absent/a.yaml": "absent/a.yaml: no such file or directory",
		"dangling.yaml": "dangling.yaml: no such file or directory",
		"loop.yaml":     "loop.yaml: too many levels of symbolic links",
		"none":          "none: no *.yaml or *.yml file in this directory",
		"dir.yaml":      "dir.yaml: no *.yaml or *.yml file in this directory",
		"big.yaml":      "big.yaml: is 10485760 bytes large; at most 1048576 are read: split it",
		"big.yaml/x":    "big.yaml/x: not a directory",
	} {
		set, problems := load(filepath.Join(dir, path))
		require.Nil(t, set)
		require.EqualError(t, problems.Err(), dir+"/"+want)
	}
	_, problems = Load([]string{dir + "/few.yaml"}, LoadOptions{Catalogue: catalogue(), MaxFileSize: 1000})
	require.ErrorContains(t, problems.Err(), "bytes large; at most 1000 are read: split it")
	_, problems = LoadBytes("f", make([]byte, 2<<20), LoadOptions{Catalogue: catalogue()})
	require.EqualError(t, problems.Err(), "f: is larger than 1048576 bytes: split it")
	_, problems = load()
	require.EqualError(t, problems.Err(), "no file or directory of playbooks is configured")
	_, problems = Load([]string{"x"}, LoadOptions{})
	require.EqualError(t, problems.Err(), "no catalogue of actions was given")
	_, problems = LoadBytes("x", nil, LoadOptions{})
	require.EqualError(t, problems.Err(), "no catalogue of actions was given")
	_, problems = load("/dev/null")
	require.EqualError(t, problems.Err(), "/dev/null: is not a regular file")

	// Good and bad together: everything is reported, nothing is loaded.
	set, problems = load(dir+"/ok", dir+"/none", dir+"/absent")
	require.Nil(t, set)
	require.Len(t, problems, 2)
}

// Text in forms that files really have must all say the same.
func TestLoadEncodings(t *testing.T) {
	t.Parallel()
	plain := playbookYAML("a", "x")
	want, problems := LoadBytes("a.yaml", []byte(plain), LoadOptions{Catalogue: catalogue()})
	require.NoError(t, problems.Err())
	for name, text := range map[string]string{
		"CRLF":              strings.ReplaceAll(plain, "\n", "\r\n"),
		"byte order mark":   "\xef\xbb\xbf" + plain,
		"no final newline":  strings.TrimSuffix(plain, "\n"),
		"markers":           "---\n" + plain + "---\n",
		"empty documents":   "# c\n---\n---\n\n---\n" + plain + "...\n# end\n",
		"marker + comment":  "--- # first\n" + plain,
		"CRLF with markers": "---\r\n" + strings.ReplaceAll(plain, "\n", "\r\n") + "...\r\n",
		"tab in a comment":  "  # a\ttab\n" + plain,
	} {
		set, problems := LoadBytes("a.yaml", []byte(text), LoadOptions{Catalogue: catalogue()})
		require.NoError(t, problems.Err(), name)
		require.Equal(t, want.Hash(), set.Hash(), name)
	}
}

// Within the size of a file a stranger can write much that is small to say and
// large to read; every one of these once took long or would end the process.
func TestLoadIsBounded(t *testing.T) {
	t.Parallel()
	fill := func(s string) string { return strings.Repeat(s, (1<<20-10)/len(s)) }
	var keys strings.Builder
	for i := range 100_000 {
		fmt.Fprintf(&keys, "k%d: v\n", i)
	}
	const deep = "f:1:1: nested more than 32 levels deep"
	for text, want := range map[string]string{
		fill("["): deep, "a: " + fill("{"): deep, fill("- "): deep, fill("? "): deep, fill("&a "): deep, fill("!a "): deep,
		fill("- \n"):  "f:1:1: a document of 349522 lines; at most 10000 are read: split it",
		keys.String(): "f:1:1: a document of 100000 lines; at most 10000 are read: split it",
		strings.Replace(playbookYAML("a", "x"), "  target", "  when: \""+strings.Repeat("(", 8000)+"\"\n  target", 1): "f:7:9: spec.when: CEL: does not compile: expression recursion limit exceeded: 250",
	} {
		set, problems := LoadBytes("f", []byte(text), LoadOptions{Catalogue: catalogue()})
		require.Nil(t, set)
		require.EqualError(t, problems.Err(), want)
	}

	_, problems := LoadBytes("f", []byte("{"+strings.Repeat("a: 1, ", 5000)+"}"), LoadOptions{Catalogue: catalogue()})
	require.Len(t, problems, maxProblems+1)
	require.Equal(t, "f: 3999 more problems are not shown", problems[0].String())
}

// Warnings that are not shown do not make a good file a bad one, and a problem
// that is not shown still does.
func TestDroppedProblemsCount(t *testing.T) {
	t.Parallel()
	for _, bad := range []bool{false, true} {
		r := newReporter("f")
		for range maxProblems + 5 {
			r.warnf("", "w")
		}
		if bad {
			r.errorf("", "e")
		}
		r.finish()
		require.Equal(t, bad, r.failed())
		require.Equal(t, bad, r.problems.Err() != nil)
	}
}

func TestProblemString(t *testing.T) {
	t.Parallel()
	require.Equal(t, `f:1:2: p: m (did you mean "x"?)`, Problem{File: "f", Line: 1, Column: 2, Path: "p", Message: "m", Suggestion: "x"}.String())
	require.Equal(t, `f: warning: m`, Problem{File: "f", Message: "m", Warning: true}.String())
	require.Equal(t, `m`, Problem{Message: "m"}.String())
	require.NoError(t, Problems{{Message: "m", Warning: true}}.Err())
}

func TestSuggest(t *testing.T) {
	t.Parallel()
	names := []string{"pod.delete", "pod.evict", "workload.restart", "name"}
	for got, want := range map[string]string{
		"pod.delte": "pod.delete", "POD.EVICT": "pod.evict", "workload.restrat": "workload.restart", "nmae": "name", //nolint:misspell // on purpose
		"reboot": "", "": "", strings.Repeat("x", 1000): "",
	} {
		require.Equal(t, want, suggest(got, names), got)
	}
}

func TestQuoteCutsLongText(t *testing.T) {
	t.Parallel()
	require.Equal(t, `"a\nb"`, quote("a\nb"))
	require.Equal(t, `"`+strings.Repeat("x", 79)+`"...`, quote(strings.Repeat("x", 79)+"éé"))
}

// A remedy has limits of its own, with the keys of the playbook's but for the one
// that is over before a remedy is chosen.
func TestRemedyLimits(t *testing.T) {
	t.Parallel()
	const head = "apiVersion: alertmedic.io/v1alpha1\nkind: Playbook\nmetadata: {name: a}\nspec:\n  matchers: [alertname = A]\n  target: {kind: Workload}\n  remedies:\n"
	load := func(remedies string) (*Playbook, Problems) {
		set, problems := LoadBytes("a.yaml", []byte(head+remedies), LoadOptions{Catalogue: catalogue()})
		pb, _ := set.Get("a")
		return pb, problems
	}
	pb, problems := load(`  - name: gentle
    limits: {gitOps: Deny, cooldown: {afterFailure: 3h}, velocity: {minReplicas: 2}}
    steps: [{name: restart, action: workload.rollback}]
  - name: plain
    steps: [{name: restart, action: workload.rollback}]
`)
	require.Empty(t, problems)
	require.Equal(t, Limits{GitOps: guard.GitOpsDeny, CooldownAfterFailure: 3 * time.Hour, MinReplicas: 2}, pb.Remedies[0].Limits)
	require.Equal(t, Limits{}, pb.Remedies[1].Limits)
	require.Equal(t, Limits{}, pb.Limits)
	line, column := pb.LimitAt("spec.remedies[0].limits.gitOps")
	require.Equal(t, []int{9, 22}, []int{line, column})

	_, problems = load(`  - name: first
    steps: [{name: restart, action: workload.rollback}]
  - name: later
    limits: {attempts: {max: 1}, maxUnhealthyNodes: 0, expireAfter: 1h}
    steps: [{name: restart, action: workload.rollback}]
`)
	require.Contains(t, problems.String(), "spec.remedies[1].limits.expireAfter: unknown field")
	require.Contains(t, problems.String(), "spec.remedies[1].limits.maxUnhealthyNodes: must be at least 1")
	require.Contains(t, problems.String(), "warning: spec.remedies[1].limits.attempts: decides whether a run begins")
}
