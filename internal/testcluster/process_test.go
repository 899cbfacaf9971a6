package testcluster

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestNothingOutlivesItsParent(t *testing.T) {
	for _, tc := range []struct {
		name string
		end  func(t *testing.T, v *victimProcess)
	}{
		{"kill -9", func(t *testing.T, v *victimProcess) { require.NoError(t, v.cmd.Process.Kill()) }},
		{"SIGTERM", func(t *testing.T, v *victimProcess) { require.NoError(t, v.cmd.Process.Signal(syscall.SIGTERM)) }},
		{"Ctrl-C", func(t *testing.T, v *victimProcess) {
			require.NoError(t, syscall.Kill(-v.cmd.Process.Pid, syscall.SIGINT))
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			v := startVictim(t, t.TempDir())
			require.DirExists(t, v.dir)
			tc.end(t, v)
			_ = v.cmd.Wait()
			requireGone(t, v.pid)
			requireGone(t, v.child)
			requireGone(t, v.reaper)
			require.NoDirExists(t, v.dir)
		})
	}
}

func TestParentDeathIsEnoughWithoutTheReaper(t *testing.T) {
	parent := t.TempDir()
	v := startVictim(t, parent)
	require.NoError(t, syscall.Kill(v.reaper, syscall.SIGKILL))
	require.NoError(t, v.cmd.Process.Kill())
	_ = v.cmd.Wait()
	requireGone(t, v.pid)
	require.DirExists(t, v.dir)

	// The next to start removes what is left.
	s, err := newSupervisor(parent)
	require.NoError(t, err)
	require.NoDirExists(t, v.dir)
	require.NoError(t, s.stop())
	require.NoDirExists(t, s.dir)

	// The child of the killed process has no one left; end it by its id.
	_ = syscall.Kill(v.child, syscall.SIGKILL)
}

func TestSweepLeavesTheLivingAlone(t *testing.T) {
	parent := t.TempDir()
	first, err := newSupervisor(parent)
	require.NoError(t, err)
	second, err := newSupervisor(parent)
	require.NoError(t, err)
	require.DirExists(t, first.dir)
	require.NoError(t, first.stop())
	require.NoError(t, second.stop())
}

func TestProcessCanBeKilledPausedAndRestarted(t *testing.T) {
	s, err := newSupervisor(t.TempDir())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.stop()) })
	p, err := s.start("sleeper", "/bin/sh", []string{"-c", "echo started; sleep 600 & wait"})
	require.NoError(t, err)
	first := p.PID()
	require.True(t, p.Running())
	require.Same(t, p, s.process("sleeper"))
	require.Nil(t, s.process("other"))

	require.NoError(t, p.Pause())
	waitState(t, first, "T")
	require.NoError(t, p.Resume())
	waitState(t, first, "S")

	require.NoError(t, p.Restart())
	require.True(t, p.Running())
	require.NotEqual(t, first, p.PID())
	requireGone(t, first)

	require.NoError(t, p.Kill())
	require.False(t, p.Running())
	require.NoError(t, p.Kill())
	require.Error(t, p.Pause())
	require.NoError(t, p.Restart())
	require.NoError(t, p.Terminate(t.Context()))
	require.False(t, p.Running())
}

func TestReaperRemovesOnlyItsOwnFolders(t *testing.T) {
	precious := t.TempDir()
	require.False(t, removable(precious))
	require.False(t, removable("/"))
	require.False(t, removable(dirPrefix+"relative"))
	require.True(t, removable("/tmp/"+dirPrefix+"1"))
	require.Equal(t, 0, reap(strings.NewReader(fmt.Sprintf("dir %q\nprocess 1 0\nprocess 0 0\nprocess -5 1\nnonsense\n", precious))))
	require.DirExists(t, precious)
}

func TestReaperSparesAReusedPid(t *testing.T) {
	cmd := exec.Command("/bin/sleep", "600")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	require.NoError(t, startFromLastingThread(cmd))
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	require.Equal(t, 0, reap(strings.NewReader(fmt.Sprintf("process %d 12345\n", cmd.Process.Pid))))
	_, err := startTime(cmd.Process.Pid)
	require.NoError(t, err)
}

type victimProcess struct {
	cmd                *exec.Cmd
	pid, child, reaper int
	dir                string
}

func startVictim(t *testing.T, parent string) *victimProcess {
	t.Helper()
	exe, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), envRole+"=victim", "ALERTMEDIC_TESTCLUSTER_PARENT="+parent)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	v := &victimProcess{cmd: cmd}
	_, err = fmt.Sscanf(line, "ready %d %d %s", &v.pid, &v.reaper, &v.dir)
	require.NoError(t, err, line)
	require.NoError(t, Poll(patient(t), func(context.Context) (bool, error) {
		data, _ := os.ReadFile(filepath.Join(v.dir, "child"))
		v.child, _ = strconv.Atoi(strings.TrimSpace(string(data)))
		return v.child > 0, nil
	}))
	return v
}

func requireGone(t *testing.T, pid int) {
	t.Helper()
	err := Poll(patient(t), func(context.Context) (bool, error) {
		_, err := startTime(pid)
		return err != nil, nil
	})
	require.NoError(t, err, "process %d is still there", pid)
}

func waitState(t *testing.T, pid int, state string) {
	t.Helper()
	err := Poll(patient(t), func(context.Context) (bool, error) {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return false, err
		}
		return strings.Contains(string(data), ") "+state+" "), nil
	})
	require.NoError(t, err)
}

// patient is a context for what must happen, however slow the machine is.
func patient(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	t.Cleanup(cancel)
	return ctx
}
