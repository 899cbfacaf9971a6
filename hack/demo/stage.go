package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"k8s.io/client-go/kubernetes"

	"github.com/alertmedic/alertmedic/internal/testcluster"
)

// The identities and names of the demo.
const (
	medicNamespace = "alertmedic"
	medicAccount   = "alertmedic"
	clusterName    = "demo"
)

// stage is everything that the demo runs.
type stage struct {
	o          options
	view       *view
	dir        string // temporary files: configuration, tokens, database
	root       string // of the module
	cluster    *testcluster.Cluster
	monitoring *testcluster.Monitoring
	client     kubernetes.Interface
	node       string // the node that will fail

	address    string // of alertmedic
	viewToken  string
	since      time.Time
	medic      *exec.Cmd
	medicEnded chan error
}

// openStage builds and starts everything. On an error it returns what it
// started so far, to be closed.
func openStage(ctx context.Context, o options, v *view) (*stage, error) {
	s := &stage{o: o, view: v}
	var err error
	if s.root, err = moduleRoot(ctx); err != nil {
		return s, err
	}
	if s.dir, err = os.MkdirTemp("", "alertmedic-demo-"); err != nil {
		return s, err
	}
	v.step("building alertmedic")
	binary := filepath.Join(s.dir, "alertmedic")
	if err := s.build(ctx, binary); err != nil {
		return s, err
	}
	v.step("starting etcd, kube-apiserver, kube-controller-manager, kube-scheduler and kwok (the first build of these takes about 15 minutes)")
	// The machine of this demo reboots in a few seconds: evictions by the
	// controller manager stay out of the way.
	if s.cluster, err = testcluster.Start(ctx, testcluster.Options{Nodes: 5}); err != nil {
		return s, err
	}
	s.client = s.cluster.Client()
	if s.address, err = freeAddress(ctx); err != nil {
		return s, err
	}
	tokens, err := s.writeTokens()
	if err != nil {
		return s, err
	}
	rules, err := s.writeRules()
	if err != nil {
		return s, err
	}
	v.step("starting kube-state-metrics, Prometheus and Alertmanager")
	s.monitoring, err = s.cluster.StartMonitoring(ctx, testcluster.MonitoringOptions{
		RuleFiles: []string{rules}, WebhookURL: "http://" + s.address + "/api/v1/webhook", WebhookToken: tokens["ingest"],
		ExternalLabels: map[string]string{"cluster": clusterName},
		ScrapeConfigs:  fmt.Sprintf("- {job_name: alertmedic, scrape_interval: 1s, static_configs: [{targets: [%q]}]}\n", s.address),
	})
	if err != nil {
		return s, err
	}
	v.step("creating alertmedic's ServiceAccounts and RBAC from deploy/manifests")
	if err := s.applyManifests(ctx); err != nil {
		return s, fmt.Errorf("apply deploy/manifests: %w", err)
	}
	if s.node, err = s.pickNode(ctx); err != nil {
		return s, err
	}
	v.step("starting alertmedic on http://%s", s.address)
	return s, s.startMedic(ctx, binary)
}

func moduleRoot(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("find the module: %w", err)
	}
	return filepath.Dir(strings.TrimSpace(string(out))), nil
}

func (s *stage) build(ctx context.Context, out string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", out, "./cmd/alertmedic")
	cmd.Dir, cmd.Stderr = s.root, os.Stderr
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("build alertmedic: %w", err)
	}
	return nil
}

func freeAddress(ctx context.Context) (string, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// writeTokens makes one token a role.
func (s *stage) writeTokens() (map[string]string, error) {
	out := map[string]string{}
	for _, role := range []string{"ingest", "oncall"} {
		raw := make([]byte, 24)
		if _, err := rand.Read(raw); err != nil {
			return nil, err
		}
		out[role] = hex.EncodeToString(raw)
		if err := os.WriteFile(filepath.Join(s.dir, role+".token"), []byte(out[role]+"\n"), 0o600); err != nil {
			return nil, err
		}
	}
	s.viewToken = out["oncall"]
	return out, nil
}

// configuration of the demo's alertmedic. The caps are the defaults but for the
// namespace's: four faults at once in one namespace are the point of the demo.
func (s *stage) configuration(kubeconfig, library string) string {
	mode := "Auto"
	if s.o.observe {
		mode = "Observe"
	}
	return fmt.Sprintf(`cluster: %s
listen: {address: %q}
sources:
- name: demo
  tokenFile: ingest.token
  alertmanagers: [{url: %q}]
  prometheuses: [{url: %q}]
  receivers: [webhook]
auth:
  tokens: [{name: demo-oncall, roles: [view, approve, admin], tokenFile: oncall.token}]
store: {dsn: %q}
playbooks: {paths: [%q]}
kubernetes: {kubeconfig: %q, serviceAccountNamespace: %s}
safety:
  mode: %s
  maxConcurrentRunsPerNamespace: 4
  nodes: {settle: 5s}
  humanActivity: {ignoreManagers: ["demo"]} # the shop's pipeline
engine: {resyncInterval: 10s}
log: {level: info}
`, clusterName, s.address, s.monitoring.AlertmanagerURL(0), s.monitoring.PrometheusURL(0), filepath.Join(s.dir, "alertmedic.db"),
		library, kubeconfig, medicNamespace, mode)
}

// startMedic runs alertmedic as its own ServiceAccount, with the rights that
// deploy/manifests give it, and waits until it is ready.
func (s *stage) startMedic(ctx context.Context, binary string) error {
	kubeconfig := filepath.Join(s.dir, "alertmedic.kubeconfig")
	if err := s.cluster.KubeconfigFor(ctx, kubeconfig, medicNamespace, medicAccount); err != nil {
		return err
	}
	library, err := s.writeLibrary()
	if err != nil {
		return err
	}
	config := filepath.Join(s.dir, "alertmedic.yaml")
	if err := os.WriteFile(config, []byte(s.configuration(kubeconfig, library)), 0o600); err != nil {
		return err
	}
	logFile, err := os.Create(s.logPath())
	if err != nil {
		return err
	}
	defer logFile.Close()
	s.medic = exec.Command(binary, "serve", "--config", config) //nolint:noctx // stopped by close, in order
	s.medic.Stdout, s.medic.Stderr = logFile, logFile
	s.medic.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	s.since = time.Now()
	if err := s.medic.Start(); err != nil {
		return fmt.Errorf("start alertmedic: %w", err)
	}
	s.medicEnded = make(chan error, 1)
	go func() { s.medicEnded <- s.medic.Wait() }()
	return s.waitReady(ctx)
}

func (s *stage) logPath() string { return filepath.Join(s.dir, "alertmedic.log") }

func (s *stage) waitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case err := <-s.medicEnded:
			s.medicEnded <- err
			out, rerr := os.ReadFile(s.logPath())
			return errors.Join(fmt.Errorf("alertmedic ended: %w\n%s", err, out), rerr)
		case <-ctx.Done():
			out, rerr := os.ReadFile(s.logPath())
			return errors.Join(fmt.Errorf("alertmedic is not ready: %w\n%s", ctx.Err(), out), rerr)
		case <-tick.C:
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.address+"/-/ready", nil)
		if err != nil {
			return err
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			continue // not listening yet
		}
		resp.Body.Close()
		if resp.StatusCode == http.StatusOK {
			return nil
		}
	}
}

// close stops everything in the reverse order and removes what was written.
func (s *stage) close() error {
	var errs []error
	if s.medic != nil && s.medic.Process != nil {
		if err := s.medic.Process.Signal(syscall.SIGTERM); err == nil {
			select {
			case err := <-s.medicEnded:
				errs = append(errs, err)
			case <-time.After(15 * time.Second):
				errs = append(errs, errors.New("alertmedic did not stop within 15s"), s.medic.Process.Kill())
			}
		}
	}
	if s.monitoring != nil {
		errs = append(errs, s.monitoring.Stop())
	}
	if s.cluster != nil {
		errs = append(errs, s.cluster.Stop())
	}
	if s.dir != "" {
		errs = append(errs, os.RemoveAll(s.dir))
	}
	return errors.Join(errs...)
}

func (s *stage) printAddresses() {
	kubeconfig := filepath.Join(s.dir, "admin.kubeconfig")
	if err := s.cluster.Kubeconfig(kubeconfig); err != nil {
		s.view.note("kubeconfig: %v", err)
	}
	s.view.note("Prometheus    %s", s.monitoring.PrometheusURL(0))
	s.view.note("Alertmanager  %s", s.monitoring.AlertmanagerURL(0))
	s.view.note("alertmedic    http://%s  (log: %s)", s.address, s.logPath())
	s.view.note("API server    %s", s.cluster.Server())
	s.view.note("kubeconfig    %s", kubeconfig)
}

func (s *stage) hint() string {
	return fmt.Sprintf("%s runs --server http://%s --token-file %s", filepath.Join(s.dir, "alertmedic"), s.address, filepath.Join(s.dir, "oncall.token"))
}
