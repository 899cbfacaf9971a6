package playbooks

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
)

func playbookYAML(name, description string) string {
	return "apiVersion: alertmedic.io/v1alpha1\nkind: Playbook\nmetadata: {name: " + name + "}\nspec:\n" +
		"  description: " + description + "\n  matchers: [alertname = X]\n  target: {kind: Job}\n" +
		"  remedies:\n  - name: look\n    steps: [{name: look, action: diagnose}]\n"
}

func write(t *testing.T, path, text string) {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
}

type managed struct {
	*Manager
	registry *prometheus.Registry
	results  chan Result
}

func setupManager(t *testing.T, paths ...string) managed {
	t.Helper()
	out := managed{registry: prometheus.NewPedanticRegistry(), results: make(chan Result, 100)}
	m, err := NewManager(ManagerOptions{
		Paths: paths, Catalogue: catalogue(), Registerer: out.registry, Debounce: time.Millisecond, Retry: time.Millisecond,
		OnReload: func(r Result) { out.results <- r }, Now: func() time.Time { return noon },
	})
	require.NoError(t, err)
	out.Manager = m
	return out
}

func TestManagerOptionsNameWhatIsMissing(t *testing.T) {
	t.Parallel()
	for want, opts := range map[string]ManagerOptions{
		"playbook manager: Paths is missing: name a file or a directory of playbooks": {Catalogue: catalogue()},
		"playbook manager: Catalogue is missing":                                      {Paths: []string{"x"}},
		"playbook manager: Debounce is negative":                                      {Paths: []string{"x"}, Catalogue: catalogue(), Debounce: -1},
		"playbook manager: Retry is negative":                                         {Paths: []string{"x"}, Catalogue: catalogue(), Retry: -1},
	} {
		_, err := NewManager(opts)
		require.EqualError(t, err, want)
	}
}

func TestReload(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	m := setupManager(t, dir)
	require.Zero(t, m.Current().Len())

	write(t, dir+"/a.yaml", playbookYAML("a", "one"))
	write(t, dir+"/b.yaml", playbookYAML("b", "one"))
	first, err := m.Reload(context.Background())
	require.NoError(t, err)
	require.True(t, first.Changed)
	require.Equal(t, []string{"a", "b"}, first.Added)
	require.Equal(t, 2, m.Current().Len())
	require.Equal(t, first, <-m.results)

	// Nothing has changed: the same set stays, and nobody is told.
	held := m.Current()
	same, err := m.Reload(context.Background())
	require.NoError(t, err)
	require.False(t, same.Changed)
	require.Same(t, held, m.Current())
	require.Empty(t, m.results)

	// One good file and a broken one: all stays as it was.
	write(t, dir+"/a.yaml", playbookYAML("a", "two"))
	write(t, dir+"/b.yaml", "kind: Playbook\n")
	failed, err := m.Reload(context.Background())
	var loadErr *LoadError
	require.ErrorAs(t, err, &loadErr)
	require.NotEmpty(t, loadErr.Problems)
	require.False(t, failed.Changed)
	require.Equal(t, first.Hash, failed.Hash)
	require.Same(t, held, m.Current())
	require.Equal(t, err, (<-m.results).Err)
	require.Equal(t, 1.0, gaugeIs(t, m, "alertmedic_playbooks_last_reload_successful", 0))
	gaugeIs(t, m, "alertmedic_playbooks_loaded", 2)

	require.NoError(t, os.Remove(dir+"/b.yaml"))
	write(t, dir+"/c.yaml", playbookYAML("c", "one"))
	third, err := m.Reload(context.Background())
	require.NoError(t, err)
	require.Equal(t, []string{"c"}, third.Added)
	require.Equal(t, []string{"a"}, third.Updated)
	require.Equal(t, []string{"b"}, third.Removed)
	require.Equal(t, first.Hash, third.PreviousHash)
	gaugeIs(t, m, "alertmedic_playbooks_last_reload_successful", 1)
	gaugeIs(t, m, "alertmedic_playbooks_last_reload_success_timestamp_seconds", float64(noon.Unix()))
	gaugeIs(t, m, "alertmedic_playbooks_hash", hashMetric(third.Hash))

	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err = m.Reload(ctx)
	require.ErrorIs(t, err, context.Canceled)
}

func gaugeIs(t *testing.T, m managed, name string, want float64) float64 {
	t.Helper()
	families, err := m.registry.Gather()
	require.NoError(t, err)
	for _, f := range families {
		if f.GetName() == name {
			require.Equal(t, want, f.GetMetric()[0].GetGauge().GetValue(), name)
			return 1
		}
	}
	require.Fail(t, "no metric "+name)
	return 0
}

func TestMetricNames(t *testing.T) {
	t.Parallel()
	problems, err := testutil.GatherAndLint(setupManager(t, "x").registry)
	require.NoError(t, err)
	require.Empty(t, problems)
}

func TestHashMetricIsExact(t *testing.T) {
	t.Parallel()
	require.Equal(t, float64(0xffffffffffff), hashMetric(strings.Repeat("f", 64)))
	require.Equal(t, float64(0x010203040506), hashMetric(strings.Repeat("0", 52)+"010203040506"))
	require.Zero(t, hashMetric(""))
}

// startWatch runs Watch and returns once it watches. The returned channel gets
// what is watched after each reload.
func startWatch(t *testing.T, m managed) <-chan []string {
	t.Helper()
	watched := make(chan []string, 100)
	m.watching = func(dirs []string) { watched <- dirs }
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { m.Watch(ctx); close(done) }()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	<-watched
	return watched
}

// await waits for a reload for which ok holds. Reloads in the middle of a
// change may come before it; a watcher that misses the change runs into the
// test's own time-out.
func (m managed) await(ok func(Result) bool) Result {
	for r := range m.results {
		if ok(r) {
			return r
		}
	}
	return Result{}
}

func loadedOK(name string) func(Result) bool {
	return func(r Result) bool {
		for _, n := range append(r.Added, r.Updated...) {
			if n == name {
				return r.Err == nil
			}
		}
		return false
	}
}

func TestWatchDirectory(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, dir+"/a.yaml", playbookYAML("a", "one"))
	m := setupManager(t, dir)
	startWatch(t, m)
	m.await(loadedOK("a")) // a change before Watch is seen as well

	write(t, dir+"/b.yaml", playbookYAML("b", "one"))
	m.await(loadedOK("b"))
	write(t, dir+"/b.yaml", "nonsense: [")
	m.await(func(r Result) bool { return r.Err != nil && strings.Contains(r.Err.Error(), "b.yaml:1") })
	require.Equal(t, 2, m.Current().Len())
	write(t, dir+"/b.yaml", playbookYAML("b", "two"))
	m.await(loadedOK("b"))
	require.NoError(t, os.Remove(dir+"/a.yaml"))
	m.await(func(r Result) bool { return len(r.Removed) == 1 })
}

// configMap does what a kubelet does when a ConfigMap changes: a new directory,
// a link to it under a temporary name, and a rename over ..data.
func configMap(t *testing.T, dir, version string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		write(t, filepath.Join(dir, version, name), text)
		err := os.Symlink(filepath.Join("..data", name), filepath.Join(dir, name))
		if !errors.Is(err, os.ErrExist) {
			require.NoError(t, err)
		}
	}
	require.NoError(t, os.Symlink(version, filepath.Join(dir, "..data_tmp")))
	require.NoError(t, os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")))
}

func TestWatchConfigMapSwap(t *testing.T) {
	t.Parallel()
	for name, path := range map[string]string{"directory": "", "file": "a.yaml"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(t.TempDir(), "mount")
			configMap(t, dir, "..v1", map[string]string{"a.yaml": playbookYAML("a", "one")})
			m := setupManager(t, filepath.Join(dir, path))
			startWatch(t, m)
			m.await(loadedOK("a"))
			for i, text := range []string{"two", "three", "four"} {
				before := m.Current()
				configMap(t, dir, "..v"+string(rune('2'+i)), map[string]string{"a.yaml": playbookYAML("a", text)})
				m.await(loadedOK("a"))
				p, ok := m.Current().Get("a")
				require.True(t, ok)
				require.Equal(t, text, p.Description)
				old, _ := before.Get("a")
				require.NotEqual(t, text, old.Description, "a set is immutable")
			}
		})
	}
}

// A checkout behind a link, as git-sync makes it: the path goes through a link
// that is none of its last two names.
func TestWatchLinkOnTheWay(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	write(t, root+"/rev1/ops/playbooks/a.yaml", playbookYAML("a", "one"))
	write(t, root+"/rev2/ops/playbooks/a.yaml", playbookYAML("a", "two"))
	require.NoError(t, os.Symlink("rev1", root+"/current"))
	m := setupManager(t, root+"/current/ops/playbooks")
	watched := startWatch(t, m)
	m.await(loadedOK("a"))

	require.NoError(t, os.Symlink("rev2", root+"/next"))
	require.NoError(t, os.Rename(root+"/next", root+"/current"))
	m.await(loadedOK("a"))
	for dirs := range watched {
		joined := strings.Join(dirs, " ")
		if strings.Contains(joined, "rev2/ops/playbooks") {
			require.NotContains(t, joined, "rev1")
			break
		}
	}
	// The new directory is watched now.
	write(t, root+"/rev2/ops/playbooks/a.yaml", playbookYAML("a", "three"))
	m.await(loadedOK("a"))
}

// Links that lead to links, each in a directory of its own.
func TestWatchChainOfLinks(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	for i, text := range []string{"one", "two", "three"} {
		write(t, fmt.Sprintf("%s/data/rev%d/playbooks/a.yaml", root, i+1), playbookYAML("a", text))
	}
	swap := func(link, target string) {
		require.NoError(t, os.MkdirAll(filepath.Dir(link), 0o755))
		require.NoError(t, os.Symlink(target, link+"_tmp"))
		require.NoError(t, os.Rename(link+"_tmp", link))
	}
	swap(root+"/stage/live", "../data/rev1")
	swap(root+"/etc/current", "../stage/live")
	m := setupManager(t, root+"/etc/current/playbooks")
	startWatch(t, m)
	m.await(loadedOK("a"))
	is := func(text string) {
		t.Helper()
		m.await(loadedOK("a"))
		p, _ := m.Current().Get("a")
		require.Equal(t, text, p.Description)
	}
	swap(root+"/stage/live", "../data/rev2")
	is("two")
	swap(root+"/etc/current", "../data/rev3")
	is("three")
}

func TestWatchPathThatAppearsLater(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	m := setupManager(t, root+"/etc/playbooks")
	startWatch(t, m)
	m.await(func(r Result) bool { return r.Err != nil })
	write(t, root+"/etc/playbooks/a.yaml", playbookYAML("a", "one"))
	m.await(loadedOK("a"))
}

// Nobody meets a playbook that BeforeSwap has not had: what rests on it is there
// first. Where it fails nothing changes, everybody is told, and watching tries
// again although no file changes any more.
func TestBeforeSwap(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, dir+"/a.yaml", playbookYAML("a", "one"))
	m := setupManager(t, dir)
	away := errors.New("the database is away")
	var seen []string
	m.opts.BeforeSwap = func(_ context.Context, set *Set) error {
		seen = append(seen, set.Hash())
		require.NotEqual(t, set.Hash(), m.Current().Hash())
		return away
	}
	r, err := m.Reload(t.Context())
	require.ErrorIs(t, err, away)
	require.EqualError(t, err, "reload playbooks: put the playbooks in force: the database is away")
	require.False(t, r.Changed)
	require.Zero(t, m.Current().Len())
	require.Equal(t, "the files are good, and cannot be put in force: the database is away", m.Refused()[0].Message)
	require.Zero(t, testutil.ToFloat64(m.successful))
	require.Equal(t, r, <-m.results)

	back := make(chan struct{})
	m.opts.BeforeSwap = func(context.Context, *Set) error {
		select {
		case <-back:
			return nil
		default:
			return away
		}
	}
	startWatch(t, m)
	for range 3 {
		require.ErrorIs(t, m.await(func(Result) bool { return true }).Err, away)
	}
	close(back)
	m.await(loadedOK("a"))
	require.Equal(t, 1, m.Current().Len())
	require.Empty(t, m.Refused())
	require.EqualValues(t, 1, testutil.ToFloat64(m.successful))
	require.Len(t, seen, 1)
}

// On a node without watches left, the files are read again from time to time:
// the process does not end, and a watcher is taken when there is one.
func TestWatchWithoutWatches(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	m := setupManager(t, dir)
	free := make(chan struct{})
	m.newWatcher = func() (*fsnotify.Watcher, error) {
		select {
		case <-free:
			return fsnotify.NewWatcher()
		default:
			return nil, errors.New("too many open files")
		}
	}
	watched := make(chan []string, 1000)
	m.watching = func(dirs []string) { watched <- dirs }
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { m.Watch(ctx); close(done) }()
	write(t, dir+"/a.yaml", playbookYAML("a", "one"))
	m.await(loadedOK("a"))
	require.Empty(t, watched)
	close(free)
	require.Contains(t, <-watched, resolvedPath(t, dir))
	write(t, dir+"/b.yaml", playbookYAML("b", "two"))
	m.await(loadedOK("b"))
	cancel()
	<-done
}

func resolvedPath(t *testing.T, path string) string {
	t.Helper()
	out, err := filepath.EvalSymlinks(path)
	require.NoError(t, err)
	return out
}
