package testcluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// supervisor starts processes that cannot outlive this one. Three things see
// to it: stop, for an orderly end; a parent-death signal, for a kill -9; and
// the reaper, for what these two leave behind. Safe for concurrent use.
type supervisor struct {
	dir    string
	reaper *reaper
	lock   func()

	mu        sync.Mutex
	processes []*Process // in order of their start
	stopped   bool
}

func newSupervisor(parent string) (*supervisor, error) {
	if parent == "" {
		parent = os.TempDir()
	}
	sweep(parent)
	r, err := startReaper()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(parent, dirPrefix)
	if err == nil {
		dir, err = filepath.Abs(dir)
	}
	if err != nil {
		return nil, errors.Join(err, r.close())
	}
	if err := r.addDir(dir); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir), r.close())
	}
	// The lock gets its name once it is held: a sweep that found it in between
	// would take the folder for a dead one's.
	lock := filepath.Join(dir, "owner.lock")
	unlock, err := tryLock(lock + ".new")
	if err == nil {
		err = os.Rename(lock+".new", lock)
	}
	if err != nil {
		return nil, errors.Join(err, r.close())
	}
	return &supervisor{dir: dir, reaper: r, lock: unlock}, nil
}

// sweep removes folders whose owner is dead; only a killed reaper leaves one.
// A folder that has no lock yet may be another process's newest, so it is
// left alone until it is an hour old.
func sweep(parent string) {
	dirs, _ := filepath.Glob(filepath.Join(parent, dirPrefix+"*"))
	for _, dir := range dirs {
		lock := filepath.Join(dir, "owner.lock")
		info, err := os.Stat(dir)
		if err != nil {
			continue
		}
		if _, err := os.Stat(lock); err != nil {
			if time.Since(info.ModTime()) > time.Hour {
				_ = os.RemoveAll(dir)
			}
			continue
		}
		if unlock, err := tryLock(lock); err == nil {
			_ = os.RemoveAll(dir)
			unlock()
		}
	}
}

func tryLock(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		return nil, err
	}
	return func() { f.Close() }, nil
}

// start runs a program in a process group of its own, its output in a file
// under the supervisor's folder.
func (s *supervisor) start(name, path string, args []string, options ...func(*Process)) (*Process, error) {
	p := &Process{name: name, path: path, args: args, supervisor: s, logPath: filepath.Join(s.dir, name+".log")}
	for _, option := range options {
		option(p)
	}
	s.mu.Lock()
	if s.stopped {
		s.mu.Unlock()
		return nil, errors.New("the cluster is stopped")
	}
	s.processes = append(s.processes, p)
	s.mu.Unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	return p, p.launch()
}

func (s *supervisor) process(name string) *Process {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.processes {
		if p.name == name {
			return p
		}
	}
	return nil
}

// stop ends the processes, the last started first, and removes the folder.
func (s *supervisor) stop() error {
	s.mu.Lock()
	if s.stopped {
		s.mu.Unlock()
		return nil
	}
	s.stopped = true
	processes := s.processes
	s.mu.Unlock()
	// A grace period would only buy what nobody reads: the data is thrown away.
	for i := len(processes) - 1; i >= 0; i-- {
		_ = processes[i].Kill()
	}
	s.lock()
	return s.reaper.close()
}

// Process is one running program of a cluster. Its methods are safe for
// concurrent use.
type Process struct {
	name       string
	path       string
	args       []string
	env        []string
	credential *syscall.Credential
	logPath    string
	supervisor *supervisor

	mu   sync.Mutex
	cmd  *exec.Cmd
	done chan struct{} // closed when cmd has ended
	err  error         // how it ended; read it after done is closed
}

// Name is the process's name within its cluster, as "prometheus-0".
func (p *Process) Name() string { return p.name }

// LogPath is the file that holds its standard output and error.
func (p *Process) LogPath() string { return p.logPath }

// PID is the operating system's id of the latest start.
func (p *Process) PID() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cmd.Process.Pid
}

// Running reports whether the program is alive; a paused one is.
func (p *Process) Running() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.running()
}

func (p *Process) running() bool {
	if p.done == nil {
		return false
	}
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// Kill ends the program with SIGKILL and waits until it is gone. Killing one
// that is not running is no error.
func (p *Process) Kill() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.kill()
}

func (p *Process) kill() error {
	if !p.running() {
		return nil
	}
	pid := p.cmd.Process.Pid
	if err := syscall.Kill(-pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("kill %s: %w", p.name, err)
	}
	<-p.done
	return nil
}

// Terminate asks the program to end with SIGTERM and waits until it has, or
// until ctx ends.
func (p *Process) Terminate(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.running() {
		return nil
	}
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("terminate %s: %w", p.name, err)
	}
	select {
	case <-p.done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Restart kills the program if it runs and starts it anew with the same
// arguments, ports and data. It does not wait until it is ready.
func (p *Process) Restart() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.kill(); err != nil {
		return err
	}
	return p.launch()
}

// Pause freezes the program (SIGSTOP): its connections stay open and nothing
// answers, which is how a partition or a stuck disk looks from outside.
// It returns when every thread stands still.
func (p *Process) Pause() error {
	if err := p.signal(syscall.SIGSTOP); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	tasks := filepath.Join("/proc", strconv.Itoa(p.PID()), "task", "*", "stat")
	err := Poll(ctx, func(context.Context) (bool, error) { return standsStill(tasks), nil })
	if err != nil {
		return fmt.Errorf("pause %s: %w", p.name, err)
	}
	return nil
}

// standsStill reports whether all threads are stopped. The kernel stops them
// one by one after the signal was sent.
func standsStill(pattern string) bool {
	files, _ := filepath.Glob(pattern) // the pattern is a good one
	for _, file := range files {
		stat, err := os.ReadFile(file)
		if errors.Is(err, os.ErrNotExist) {
			continue // a thread that has just ended
		}
		// "pid (name) state ...", and the name may hold anything.
		end := bytes.LastIndexByte(stat, ')')
		if err != nil || end < 0 || len(stat) < end+3 || stat[end+2] != 'T' {
			return false
		}
	}
	return len(files) > 0
}

// Resume lets a paused program go on.
func (p *Process) Resume() error { return p.signal(syscall.SIGCONT) }

func (p *Process) signal(sig syscall.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.running() {
		return fmt.Errorf("%s is not running", p.name)
	}
	return syscall.Kill(-p.cmd.Process.Pid, sig)
}

// exited is closed when the latest start has ended.
func (p *Process) exited() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.done
}

// logTail is the end of the log, for an error message.
func (p *Process) logTail() string {
	data, err := os.ReadFile(p.logPath)
	if err != nil {
		return err.Error()
	}
	const most = 4096
	if len(data) > most {
		data = data[len(data)-most:]
	}
	return string(bytes.TrimSpace(data))
}

// launch starts the program; p.mu is held.
func (p *Process) launch() error {
	log, err := os.OpenFile(p.logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(p.path, p.args...) //nolint:noctx // outlives the call: it is stopped in order
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Dir = p.supervisor.dir
	cmd.Env = append(cleanEnv(), p.env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setpgid:    true, // Ctrl-C is for us to pass on, in our order
		Pdeathsig:  syscall.SIGKILL,
		Credential: p.credential,
	}
	if err := startFromLastingThread(cmd); err != nil {
		return fmt.Errorf("start %s: %w", p.name, err)
	}
	p.cmd = cmd
	done := make(chan struct{})
	p.done = done
	// Registering may find the process already dead, which the waiter reports.
	_ = p.supervisor.reaper.addProcess(cmd.Process.Pid)
	go func() {
		err := cmd.Wait()
		// What the program itself had started goes with it.
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = p.supervisor.reaper.dropProcess(cmd.Process.Pid)
		p.err = err
		close(done)
	}()
	return nil
}

// cleanEnv drops what would make a program behave differently on another
// machine: proxies, cluster credentials, tracing.
func cleanEnv() []string {
	env := []string{"HOME=/nonexistent", "TZ=UTC", "LC_ALL=C"}
	if path := os.Getenv("PATH"); path != "" {
		env = append(env, "PATH="+path)
	}
	return env
}

// lasting carries start requests to a goroutine that owns its operating
// system thread for ever. The kernel sends a parent-death signal when the
// *thread* that forked ends, and Go ends threads as it likes.
var lasting = sync.OnceValue(func() chan<- func() {
	work := make(chan func())
	go func() {
		runtime.LockOSThread()
		for f := range work {
			f()
		}
	}()
	return work
})

func startFromLastingThread(cmd *exec.Cmd) error {
	result := make(chan error, 1)
	lasting() <- func() { result <- cmd.Start() }
	return <-result
}
