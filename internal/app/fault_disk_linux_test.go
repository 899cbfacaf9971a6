package app

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alertmedic/alertmedic/internal/journal"
	"github.com/alertmedic/alertmedic/internal/store"
)

// smallDiskEnv makes TestADiskThatFillsUp run what it is about, in a process of
// its own: by a small file system, or by a limit on the size of files.
const smallDiskEnv = "ALERTMEDIC_TEST_SMALL_DISK"

// The disk fills up under the running service, and gets room again: webhooks are
// refused with 503 and a reason, readiness says it too, everything that was
// acknowledged is there, and it goes on by itself.
func TestADiskThatFillsUp(t *testing.T) {
	switch os.Getenv(smallDiskEnv) {
	case "tmpfs":
		smallFileSystem(t)
		return
	case "limit":
		smallFiles(t)
		return
	}
	t.Parallel()
	t.Run("a file system", func(t *testing.T) {
		t.Parallel()
		// A mount of its own, which nobody else sees and which ends with the process,
		// without being root where the kernel lets everybody do that.
		ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		groups := []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
		out, err := again(t, "tmpfs", &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS, UidMappings: ids, GidMappings: groups})
		if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.ENOSPC) || strings.Contains(out, cannotMount) {
			t.Log("THE KERNEL LETS NOBODY MOUNT HERE: the limit on the size of files alone is tested")
			return
		}
		require.NoError(t, err, out)
	})
	t.Run("a limit", func(t *testing.T) {
		t.Parallel()
		out, err := again(t, "limit", nil)
		require.NoError(t, err, out)
	})
}

// again runs this test in another process.
func again(t *testing.T, how string, attr *syscall.SysProcAttr) (string, error) {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.CommandContext(t.Context(), self, "-test.run=^TestADiskThatFillsUp$", "-test.v", "-test.timeout=10m")
	cmd.Env = append(os.Environ(), smallDiskEnv+"="+how, "TMPDIR="+t.TempDir())
	cmd.SysProcAttr = attr
	out, err := cmd.CombinedOutput()
	return string(out), err
}

const cannotMount = "no file system can be mounted"

func smallFileSystem(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=8m"); err != nil {
		t.Fatal(cannotMount, err)
	}
	t.Cleanup(func() { require.NoError(t, syscall.Unmount(dir, 0)) })
	filler := filepath.Join(dir, "filler")
	fillUp(t, dir, "is full, free some space", func() {
		f, err := os.Create(filler)
		require.NoError(t, err)
		defer f.Close()
		for size := 1 << 20; size > 0; size /= 2 { // to the last byte
			for chunk := make([]byte, size); ; {
				if _, err := f.Write(chunk); err != nil {
					require.ErrorIs(t, err, syscall.ENOSPC)
					break
				}
			}
		}
	}, func() { require.NoError(t, os.Remove(filler)) })
}

func smallFiles(t *testing.T) {
	signal.Ignore(syscall.SIGXFSZ) // the write fails, as on a disk that does
	var before syscall.Rlimit
	require.NoError(t, syscall.Getrlimit(syscall.RLIMIT_FSIZE, &before))
	fillUp(t, t.TempDir(), "for a limit on the size of files", func() {
		require.NoError(t, syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: 8192, Max: before.Max}))
	}, func() { require.NoError(t, syscall.Setrlimit(syscall.RLIMIT_FSIZE, &before)) })
}

// lines is a log to look into.
type lines struct {
	mu  sync.Mutex
	all strings.Builder
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all.Write(b)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all.String()
}

func fillUp(t *testing.T, dir, says string, fill, free func()) {
	cfg := bare(t, t.TempDir(), fmt.Sprintf(crashPlaybook, "Auto"))
	cfg.Store.DSN = filepath.Join(dir, "medic.db")
	log := &lines{}
	url, stop := serveBare(t, cfg, away, slog.NewTextHandler(log, nil))
	sent, acknowledged := 0, map[string]bool{}
	send := func() int {
		sent++
		a := firing("namespace", "shop", "pod", fmt.Sprintf("web-%d", sent))
		a["annotations"] = map[string]string{"description": strings.Repeat("x", 3000)}
		status, answer := post(t, url+"/api/v1/webhook", webhook(t, a))
		switch status {
		case http.StatusOK:
			acknowledged[a["fingerprint"].(string)] = true
		default:
			require.Equal(t, http.StatusServiceUnavailable, status, answer)
			require.Contains(t, answer, "nothing was acknowledged, and Alertmanager sends it again")
		}
		return status
	}
	ready := func() (int, string) {
		resp, err := http.Get(url + "/-/ready")
		require.NoError(t, err)
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		return resp.StatusCode, string(body)
	}
	for range 5 {
		require.Equal(t, http.StatusOK, send())
	}
	for range 2 {
		fill()
		require.Eventually(t, func() bool {
			if send() == http.StatusOK {
				return false // into what the log of SQLite had left
			}
			status, body := ready()
			return status == http.StatusServiceUnavailable && strings.Contains(body, says)
		}, 2*time.Minute, time.Millisecond, "it is not refused, or not ready for another reason: %s", log)
		require.Contains(t, log.String(), says)
		free()
		require.Eventually(t, func() bool { status, _ := ready(); return status == http.StatusOK }, 2*time.Minute, time.Millisecond, "ready again by itself")
		require.Equal(t, http.StatusOK, send())
	}
	seen := map[string]int{}
	for _, en := range follow(t, url, store.LogFilter{Kind: string(journal.EpisodeOpened)}, len(acknowledged)) {
		seen[en.Fingerprint]++
	}
	for fp := range acknowledged {
		require.Equal(t, 1, seen[fp], "%s was acknowledged", fp)
	}
	stop()
}
