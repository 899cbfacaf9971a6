package testcluster

import (
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"
)

// envRole has the test binary play another process's part.
const envRole = "ALERTMEDIC_TESTCLUSTER_ROLE"

func TestMain(m *testing.M) {
	if os.Getenv(envRole) == "victim" {
		os.Exit(victim())
	}
	goleak.VerifyTestMain(Main(m), Ignored()...)
}

// victim starts a process, says where it is, and waits to be killed. Its
// process has a child that left the process group's reach for SIGTERM alone.
func victim() int {
	s, err := newSupervisor(os.Getenv("ALERTMEDIC_TESTCLUSTER_PARENT"))
	if err != nil {
		fmt.Println("error", err)
		return 1
	}
	p, err := s.start("sleeper", "/bin/sh", []string{"-c", "trap '' TERM INT HUP; sleep 600 & echo $! > " + s.dir + "/child; wait; wait"})
	if err != nil {
		fmt.Println("error", err)
		return 1
	}
	fmt.Println("ready", p.PID(), s.reaper.cmd.Process.Pid, s.dir)
	select {}
}
