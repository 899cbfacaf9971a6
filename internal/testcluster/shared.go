package testcluster

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// EnvState names the state file of a running cluster, for [Shared].
const EnvState = "ALERTMEDIC_TESTCLUSTER"

// state is all that another process needs to use a cluster. The key of its
// certificate authority lies in dir, so that it can make users of its own.
type state struct {
	Server string `json:"server"`
	Dir    string `json:"dir"`
	PID    int    `json:"pid"`
}

// Save writes the state file that [Attach] reads.
func (c *Cluster) Save(path string) error {
	data, err := json.MarshalIndent(state{Server: c.server, Dir: c.dir, PID: os.Getpid()}, "", "  ")
	if err != nil {
		return err
	}
	tmp := path + ".tmp"
	if err := os.WriteFile(tmp, append(data, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

// Attach returns a cluster that another process runs, from its state file. It
// checks that the API server answers.
func Attach(ctx context.Context, path string) (*Cluster, error) {
	s, err := readState(path)
	if err != nil {
		return nil, err
	}
	c := &Cluster{dir: s.Dir, server: s.Server}
	if c.ca, err = loadAuthority(s.Dir); err != nil {
		return nil, fmt.Errorf("attach to the cluster of %s: %w", path, err)
	}
	if err := c.connect(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	if err := c.waitHealthy(ctx, c.server+"/readyz"); err != nil {
		return nil, fmt.Errorf("attach to the cluster of %s: %w", path, err)
	}
	return c, nil
}

func readState(path string) (state, error) {
	var s state
	data, err := os.ReadFile(path)
	if err != nil {
		return s, err
	}
	if err := json.Unmarshal(data, &s); err != nil {
		return s, fmt.Errorf("%s: %w", path, err)
	}
	if !filepath.IsAbs(s.Dir) || s.Server == "" {
		return s, fmt.Errorf("%s is not the state of a cluster", path)
	}
	return s, nil
}

// SharedOptions are those of the cluster that tests share.
var SharedOptions = Options{Nodes: 3}

// sharedUsed says that a test has asked for the shared cluster.
var sharedUsed atomic.Bool

var shared = sync.OnceValues(func() (*Cluster, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Minute) // a first build included
	defer cancel()
	if path := os.Getenv(EnvState); path != "" {
		return Attach(ctx, path)
	}
	return Start(ctx, SharedOptions)
})

// Shared returns the control plane of this test run: the one that
// ALERTMEDIC_TESTCLUSTER names, else one that the first call starts and that
// ends with this process, or with the tests of a package that uses [Main]. It has three nodes open to every pod. A test must
// leave it as it was: work in a namespace of its own ([Cluster.Namespace]), break
// only nodes of its own ([Cluster.Node]), and kill nothing.
func Shared(t testing.TB) *Cluster {
	t.Helper()
	sharedUsed.Store(true)
	c, err := shared()
	if err != nil {
		t.Fatal(err)
	}
	return c
}
