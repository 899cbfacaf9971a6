package app

import (
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// A directory that may not be entered keeps the service from starting, with the
// directory's name. Root may enter every one, so the thread that starts gives up
// its rights to files, which for Linux are a thread's own; it ends with the
// goroutine that stays locked to it.
func TestRunWithoutPermissionOnTheDirectory(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for d := dir; d != os.TempDir() && d != "/"; d = filepath.Dir(d) {
		require.NoError(t, os.Chmod(d, 0o755)) // the way there is open
	}
	cfg := bare(t, dir, fmt.Sprintf(crashPlaybook, "Auto"))
	closed, db := filepath.Join(dir, "closed"), filepath.Join(dir, "db")
	require.NoError(t, os.Mkdir(closed, 0))
	t.Cleanup(func() { require.NoError(t, os.Chmod(closed, 0o700)) })
	require.NoError(t, os.Mkdir(db, 0o700))
	require.NoError(t, os.Chmod(db, 0o777))

	start := func() error {
		ended := make(chan error)
		go func() {
			runtime.LockOSThread()
			if os.Geteuid() == 0 {
				_, _, _ = syscall.RawSyscall(syscall.SYS_SETFSUID, 65534, 0, 0)
			}
			ended <- Run(t.Context(), Options{Config: cfg, Logger: slog.New(slog.DiscardHandler), Kubernetes: away,
				Ready: func(net.Addr) { t.Error("it serves") }})
		}()
		return <-ended
	}
	cfg.Playbooks.Paths, cfg.Store.DSN = []string{closed}, filepath.Join(db, "medic.db")
	require.EqualError(t, start(), "load the playbooks:\n"+closed+": permission denied: the user that alertmedic runs as must be able to read it")
	cfg.Store.DSN = filepath.Join(closed, "medic.db")
	require.ErrorContains(t, start(), cfg.Store.DSN+" cannot be written, check the owner and mode of the file and its directory")
}
