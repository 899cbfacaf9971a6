package durability

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/alertmedic/alertmedic/internal/testcluster"
)

// binary builds cmd/alertmedic once in a test run: what is killed must be what
// is shipped, signal handling and all.
var binary = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "alertmedic-binary-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "alertmedic")
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	args := []string{"build", "-o", path}
	if raceEnabled {
		args = append(args, "-race")
	}
	out, err := exec.CommandContext(ctx, "go", append(args, "github.com/alertmedic/alertmedic/cmd/alertmedic")...).CombinedOutput()
	if err != nil {
		return "", errors.Join(fmt.Errorf("build cmd/alertmedic: %w\n%s", err, out), os.RemoveAll(dir))
	}
	return path, nil
})

// built says that there is a binary to remove.
var built sync.Once

// Binary is the path of the built service.
func Binary() (string, error) {
	built.Do(func() {})
	return binary()
}

// RemoveBinary removes what Binary built, at the end of the tests.
func RemoveBinary() error {
	unused := false
	built.Do(func() { unused = true })
	if unused {
		return nil
	}
	if path, err := binary(); err == nil { // the test that asked has failed of an error
		return os.RemoveAll(filepath.Dir(path))
	}
	return nil
}

// Options are the configuration of one process. Everything that is zero has a
// default fit for a test: short leases and waits, wide caps.
type Options struct {
	Name string // of the process, for its log; "medic" when empty
	// DSN is the database. Required.
	DSN string
	// Kubeconfig is the path of how to reach the API server. Required.
	Kubeconfig string
	// Alertmanager and Prometheus are where the state of alerts is read. Required.
	Alertmanager, Prometheus string
	// Playbooks are YAML documents, one file each. Required.
	Playbooks []string
	// CallTimeout bounds a call to the API server (2s) and RequestTimeout is what
	// the API server may take beyond it (3s): see [APIProxy].
	CallTimeout, RequestTimeout time.Duration
	// Lease of a run; 3s, the product's own default.
	Lease time.Duration
	// ExpireAfter is when work on an alert is given up; 2m.
	ExpireAfter time.Duration
	// Safety replaces the safety section, YAML. ExpireAfter is ignored then.
	Safety string
	// Extra is YAML of further top-level sections.
	Extra string
	// Env are further environment variables, "NAME=value".
	Env []string
}

func (o *Options) setDefaults() {
	or := func(d *time.Duration, fallback time.Duration) {
		if *d == 0 {
			*d = fallback
		}
	}
	or(&o.CallTimeout, DefaultCallTimeout)
	or(&o.RequestTimeout, DefaultRequestTimeout)
	or(&o.Lease, 3*time.Second)
	or(&o.ExpireAfter, 2*time.Minute)
	if o.Name == "" {
		o.Name = "medic"
	}
	if o.Safety == "" {
		o.Safety = fmt.Sprintf(`
  maxConcurrentRuns: 40
  maxConcurrentRunsPerNamespace: 40
  maxConcurrentRunsPerPlaybook: 20
  cooldown: {afterSuccess: 100ms, afterFailure: 100ms}
  attempts: {max: 1000, window: 24h}
  expireAfter: %s
  nodes: {maxUnhealthy: 1000, maxUnhealthyPercent: 100, settle: 100ms, maxConcurrentPerPool: 20, maxConcurrentPerZone: 20, maxZones: 20}
  rate: {enabled: false}
  storm: {enabled: false}
  watchdog: {enabled: false}
  humanActivity: {enabled: false}
  pods: {maxUnavailable: 1000, maxUnavailablePercent: 100}
  velocity: {maxNodesPerPool: 1000}`, o.ExpireAfter)
	}
}

// The bounds of a call in these tests. A change that got no answer is not
// called absent before both are over, so they decide how long a test takes.
const (
	DefaultCallTimeout    = 2 * time.Second
	DefaultRequestTimeout = 3 * time.Second
)

// yaml writes the configuration.
func (o *Options) yaml(address string) string {
	return fmt.Sprintf(`cluster: test
listen: {address: %q}
sources:
- {name: am, alertmanagers: [{url: %q}], prometheuses: [{url: %q}], groupInterval: 1s}
store: {dsn: %q, flapDwell: 500ms}
playbooks: {paths: [%q], watch: false}
kubernetes: {kubeconfig: %q, requestTimeout: %s, qps: 500, burst: 500}
engine: {workers: 16, lease: %s, poll: 200ms, resyncInterval: 5s, callTimeout: %s, unknownExtension: 5s, drainTimeout: 10s}
safety: %s
%s
`, address, o.Alertmanager, o.Prometheus, o.DSN, filepath.Join(filepath.Dir(o.Kubeconfig), o.Name+"-playbooks"), o.Kubeconfig,
		o.RequestTimeout, o.Lease, o.CallTimeout, o.Safety, o.Extra)
}

// Process is one real alertmedic. Kill, Pause (SIGSTOP), Resume and Terminate
// are those of the embedded program; it keeps its port when it is restarted.
// Safe for concurrent use.
type Process struct {
	*testcluster.Process
	// URL is the base URL of its HTTP server.
	URL string
	// ConfigFile is its configuration, to change before a Restart.
	ConfigFile string
	http       *http.Client
}

// StartProcess runs the service and waits until it is ready. It is killed at the
// test's end at the latest, and its log is shown when the test failed.
func StartProcess(t testing.TB, o Options) *Process {
	t.Helper()
	p := LaunchProcess(t, o)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	if err := p.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	return p
}

// LaunchProcess is StartProcess without the wait, for what must not get ready.
func LaunchProcess(t testing.TB, o Options) *Process {
	t.Helper()
	o.setDefaults()
	path, err := Binary()
	if err != nil {
		t.Fatal(err)
	}
	port, err := testcluster.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	address := fmt.Sprintf("127.0.0.1:%d", port)
	dir := filepath.Join(filepath.Dir(o.Kubeconfig), o.Name+"-playbooks")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for i, doc := range o.Playbooks {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%02d.yaml", i)), []byte(doc), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	config := filepath.Join(filepath.Dir(o.Kubeconfig), o.Name+".yaml")
	if err := os.WriteFile(config, []byte(o.yaml(address)), 0o600); err != nil {
		t.Fatal(err)
	}
	host, err := testcluster.NewHost("")
	if err != nil {
		t.Fatal(err)
	}
	program, err := host.Start(o.Name, path, []string{"serve", "--config", config}, o.Env)
	p := &Process{Process: program, URL: "http://" + address, ConfigFile: config,
		http: &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{}}}
	t.Cleanup(func() {
		p.http.CloseIdleConnections()
		if t.Failed() && program != nil {
			t.Logf("the end of the log of %s:\n%s", o.Name, program.Tail())
			keepLog(t, program)
		}
		if err := host.Stop(); err != nil {
			t.Error(err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// envKeep names a folder for the logs of failed tests and for records.
const envKeep = "ALERTMEDIC_KEEP_LOGS"

// keepLog copies the log of a failed test to the folder that
// ALERTMEDIC_KEEP_LOGS names, if it does.
func keepLog(t testing.TB, p *testcluster.Process) {
	dir := os.Getenv(envKeep)
	if dir == "" {
		return
	}
	data, err := os.ReadFile(p.LogPath())
	if err != nil {
		t.Log(err)
		return
	}
	name := strings.ReplaceAll(t.Name(), "/", "_") + "-" + p.Name() + ".log"
	if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
		t.Log(err)
	}
}

// WaitReady waits until the process answers that it is ready, and fails when it
// ends instead.
func (p *Process) WaitReady(ctx context.Context) error {
	err := testcluster.Poll(ctx, func(ctx context.Context) (bool, error) {
		select {
		case <-p.Exited():
			return false, fmt.Errorf("%s ended before it was ready:\n%s", p.Name(), p.Tail())
		default:
			return p.Ready(ctx), nil
		}
	})
	if err != nil {
		return fmt.Errorf("wait for %s: %w", p.Name(), err)
	}
	return nil
}

// Ready reports whether the process says that it is ready.
func (p *Process) Ready(ctx context.Context) bool {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.URL+"/-/ready", nil)
	if err != nil {
		return false
	}
	resp, err := p.http.Do(req)
	if err != nil {
		return false
	}
	resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}
