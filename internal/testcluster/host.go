package testcluster

import "errors"

// Host runs programs of a test's own, such as the service under test, with the
// promise that this package gives for its own programs: none outlives this
// process, whatever ends it. Safe for concurrent use.
type Host struct{ supervisor *supervisor }

// NewHost makes a host with a temporary folder under dir (os.TempDir() when
// empty), which is the working directory of its programs and holds their logs.
func NewHost(dir string) (*Host, error) {
	s, err := newSupervisor(dir)
	if err != nil {
		return nil, err
	}
	return &Host{supervisor: s}, nil
}

// Start runs a program; its output is appended to <name>.log. Environment
// variables are those given, "NAME=value", on top of a minimal set.
func (h *Host) Start(name, path string, args, env []string) (*Process, error) {
	if h.supervisor.process(name) != nil {
		return nil, errors.New(name + " is started already: use Restart")
	}
	return h.supervisor.start(name, path, args, func(p *Process) { p.env = env })
}

// Dir is the temporary folder.
func (h *Host) Dir() string { return h.supervisor.dir }

// Stop kills every program and removes the folder; it may be called more than
// once.
func (h *Host) Stop() error { return h.supervisor.stop() }

// Exited returns a channel that is closed when the latest start of the program
// has ended.
func (p *Process) Exited() <-chan struct{} { return p.exited() }

// Tail is the end of the program's log, for an error message.
func (p *Process) Tail() string { return p.logTail() }

// FreePort returns a loopback port that was free a moment ago.
func FreePort() (int, error) {
	ports, err := freePorts(1)
	if err != nil {
		return 0, err
	}
	return ports[0], nil
}
