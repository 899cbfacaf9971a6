package testcluster

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// The reaper is this same executable, started again as a small watchdog that
// outlives its parent: it reads a pipe whose only writer is the parent, and
// when that pipe closes, however the parent ended, it kills what the parent
// registered and removes its folders. Parent-death signals alone would not
// remove a folder, and do not reach grandchildren.

// envReaper marks the executable's second role. The environment is used, not
// an argument, because a test binary parses its own arguments.
const envReaper = "ALERTMEDIC_TESTCLUSTER_REAPER"

// An init is the one place that every executable which can start a cluster
// passes before anything else, a test binary's TestMain included.
func init() {
	if os.Getenv(envReaper) == "1" {
		os.Exit(reap(os.Stdin))
	}
}

// reaper is the parent's end.
type reaper struct {
	mu   sync.Mutex
	pipe *os.File
	cmd  *exec.Cmd
}

func startReaper() (*reaper, error) {
	r, w, err := os.Pipe() // close-on-exec: no child holds the write end
	if err != nil {
		return nil, err
	}
	defer r.Close()
	// Not os.Executable: `go run` removes the file while a daemon still runs.
	cmd := exec.Command("/proc/self/exe") //nolint:noctx // outlives the call: it is stopped in order
	cmd.Env = append(os.Environ(), envReaper+"=1", "GOMAXPROCS=1")
	cmd.Stdin = r
	// Discarded on purpose: an inherited stderr would keep `go test` waiting.
	// A session of its own keeps Ctrl-C from reaching it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Dir = "/"
	if err := cmd.Start(); err != nil {
		w.Close()
		return nil, fmt.Errorf("start the reaper: %w", err)
	}
	return &reaper{pipe: w, cmd: cmd}, nil
}

func (r *reaper) tell(format string, args ...any) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.pipe == nil {
		return errors.New("the reaper is closed")
	}
	_, err := fmt.Fprintf(r.pipe, format+"\n", args...)
	return err
}

// addProcess has the process group of pid killed at the end. The start time
// guards against a pid that was given to someone else meanwhile.
func (r *reaper) addProcess(pid int) error {
	start, err := startTime(pid)
	if err != nil {
		return err
	}
	return r.tell("process %d %s", pid, start)
}

func (r *reaper) dropProcess(pid int) error { return r.tell("gone %d", pid) }

// addDir has the folder removed at the end, after the processes are dead.
func (r *reaper) addDir(dir string) error { return r.tell("dir %s", strconv.Quote(dir)) }

// close has everything registered killed and removed, and waits for it.
func (r *reaper) close() error {
	r.mu.Lock()
	pipe := r.pipe
	r.pipe = nil
	r.mu.Unlock()
	if pipe == nil {
		return nil
	}
	pipe.Close()
	return r.cmd.Wait()
}

// reap is the watchdog's whole life; it returns the exit code.
func reap(in io.Reader) int {
	signal.Ignore(os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGPIPE)
	processes := map[int]string{}
	var dirs []string
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		verb, rest, _ := strings.Cut(lines.Text(), " ")
		switch verb {
		case "process":
			pid, start, _ := strings.Cut(rest, " ")
			if n, err := strconv.Atoi(pid); err == nil && n > 1 {
				processes[n] = start
			}
		case "gone":
			if n, err := strconv.Atoi(rest); err == nil {
				delete(processes, n)
			}
		case "dir":
			if dir, err := strconv.Unquote(rest); err == nil && removable(dir) {
				dirs = append(dirs, dir)
			}
		}
	}
	for pid, start := range processes {
		// The leader is usually dead already, of its parent-death signal, but
		// its children are not; as long as one lives, the group's id is not
		// given to another process.
		if now, err := startTime(pid); err != nil || now == start {
			_ = syscall.Kill(-pid, syscall.SIGKILL)
		}
	}
	deadline := time.Now().Add(time.Minute)
	for pid, start := range processes {
		for time.Now().Before(deadline) {
			now, err := startTime(pid)
			if err == nil && now != start {
				break
			}
			if err != nil && errors.Is(syscall.Kill(-pid, 0), syscall.ESRCH) {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	code := 0
	for _, dir := range dirs {
		// A dying grandchild may still write: try until it is gone.
		for {
			err := os.RemoveAll(dir)
			if err == nil {
				break
			}
			if time.Now().After(deadline) {
				code = 1
				break
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	return code
}

// dirPrefix begins the name of each temporary folder, so that the reaper can
// refuse to remove anything else.
const dirPrefix = "alertmedic-cluster-"

func removable(dir string) bool {
	return filepath.IsAbs(dir) && strings.HasPrefix(filepath.Base(dir), dirPrefix)
}

// startTime is the process's start in clock ticks since boot; an error means
// that there is no such process, or that it is a zombie and so already dead.
func startTime(pid int) (string, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", err
	}
	// The command in parentheses may itself hold spaces and parentheses.
	end := strings.LastIndexByte(string(data), ')')
	if end < 0 {
		return "", fmt.Errorf("/proc/%d/stat cannot be read", pid)
	}
	fields := strings.Fields(string(data[end+1:]))
	if len(fields) < 20 {
		return "", fmt.Errorf("/proc/%d/stat is short", pid)
	}
	if fields[0] == "Z" || fields[0] == "X" {
		return "", os.ErrProcessDone
	}
	return fields[19], nil
}
