package playbooks

import (
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// loadAsNobody loads as a user who owns nothing. Root may read everything, so
// the thread gives its rights to files up: for Linux they are a thread's own,
// and the thread ends with the goroutine that stays locked to it.
func loadAsNobody(path string) (*Set, Problems) {
	type loaded struct {
		set      *Set
		problems Problems
	}
	done := make(chan loaded)
	go func() {
		runtime.LockOSThread()
		if os.Geteuid() == 0 {
			_, _, _ = syscall.RawSyscall(syscall.SYS_SETFSUID, 65534, 0, 0)
		}
		set, problems := load(path)
		done <- loaded{set, problems}
	}()
	l := <-done
	return l.set, l.problems
}

func TestLoadWithoutPermission(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for d := dir; d != os.TempDir() && d != "/"; d = filepath.Dir(d) {
		require.NoError(t, os.Chmod(d, 0o755)) // the way there is open
	}
	write(t, dir+"/open.yaml", playbookYAML("a", "x"))
	write(t, dir+"/file/a.yaml", playbookYAML("b", "x"))
	write(t, dir+"/dir/a.yaml", playbookYAML("c", "x"))
	require.NoError(t, os.Chmod(dir+"/open.yaml", 0o644))
	require.NoError(t, os.Chmod(dir+"/file/a.yaml", 0))
	require.NoError(t, os.Chmod(dir+"/dir", 0))
	t.Cleanup(func() { require.NoError(t, os.Chmod(dir+"/dir", 0o700)) })

	_, problems := loadAsNobody(dir + "/open.yaml")
	require.Empty(t, problems, "the user can read what is readable")
	const denied = ": permission denied: the user that alertmedic runs as must be able to read it"
	for path, want := range map[string]string{
		"file": "file/a.yaml" + denied, "dir": "dir" + denied, "dir/a.yaml": "dir/a.yaml" + denied,
	} {
		set, problems := loadAsNobody(filepath.Join(dir, path))
		require.Nil(t, set)
		require.EqualError(t, problems.Err(), dir+"/"+want)
	}
}
