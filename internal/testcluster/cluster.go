package testcluster

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// Options configure a cluster; the zero value is a sound one.
type Options struct {
	// Nodes is how many nodes are there from the start, open to every pod and
	// spread over the zones a, b and c; none by default.
	Nodes int
	// NodeMonitorGracePeriod is after how long without a heartbeat a node
	// becomes Unknown; 15 s by default (40 s in a real cluster). Nodes send a
	// heartbeat every 2 s; a busy machine can be late with several.
	NodeMonitorGracePeriod time.Duration
	// TolerationSeconds is after how long a pod is evicted from a node that is
	// not ready or unreachable; 300 by default, as in a real cluster. Applies
	// to pods that do not say themselves.
	TolerationSeconds int
	// APIServerArgs, ControllerManagerArgs, SchedulerArgs and KwokArgs are
	// appended to the programs' own, so that they override them.
	APIServerArgs         []string
	ControllerManagerArgs []string
	SchedulerArgs         []string
	KwokArgs              []string
	// Dir is where the temporary folder is made; os.TempDir() by default.
	Dir string
	// Progress receives what is being built; os.Stderr by default.
	Progress io.Writer
	// Binaries finds the programs.
	Binaries Binaries
}

// Cluster is a running control plane, started by this process or attached to.
// Its methods are safe for concurrent use.
type Cluster struct {
	dir        string // holds ca.crt, ca.key, audit.log, logs of the programs
	server     string // https URL of the API server
	ca         *authority
	config     *rest.Config
	client     kubernetes.Interface
	supervisor *supervisor // nil when attached
	binaries   Binaries
	stopAgent  func()
	stopOnce   sync.Once
	stopErr    error
}

// Start runs a control plane and returns when the API server, the controllers
// and the scheduler are ready; about 4 seconds once the programs are built.
// Call Stop, though nothing survives this process
// without it. ctx bounds the start alone.
func Start(ctx context.Context, opts Options) (*Cluster, error) {
	if opts.NodeMonitorGracePeriod == 0 {
		opts.NodeMonitorGracePeriod = 15 * time.Second
	}
	if opts.TolerationSeconds == 0 {
		opts.TolerationSeconds = 300
	}
	if opts.Binaries.Progress == nil {
		opts.Binaries.Progress = opts.Progress
	}
	paths, err := opts.Binaries.Ensure(ctx, controlPlane...)
	if err != nil {
		return nil, err
	}
	// A port may be lost between being found and being used: begin again.
	const attempts = 3
	for attempt := 1; ; attempt++ {
		c, err := start(ctx, opts, paths)
		if err == nil {
			return c, nil
		}
		if attempt == attempts || ctx.Err() != nil || !errors.Is(err, errEndedEarly) {
			return nil, fmt.Errorf("start the control plane: %w", err)
		}
	}
}

func start(ctx context.Context, opts Options, paths map[string]string) (_ *Cluster, err error) {
	sup, err := newSupervisor(opts.Dir)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, sup.stop())
		}
	}()
	c := &Cluster{dir: sup.dir, supervisor: sup, binaries: opts.Binaries}
	f, err := c.writeFiles()
	if err != nil {
		return nil, err
	}
	ports, err := freePorts(6)
	if err != nil {
		return nil, err
	}
	f.etcdPort, f.etcdPeerPort, f.apiPort = ports[0], ports[1], ports[2]
	f.controllerPort, f.schedulerPort, f.kubeletPort = ports[3], ports[4], ports[5]
	c.server = "https://" + loopback(f.apiPort)
	if err := c.writeKubeconfigs(f); err != nil {
		return nil, err
	}
	if err := c.connect(); err != nil {
		return nil, err
	}
	if err := c.startComponents(ctx, opts, paths, f); err != nil {
		return nil, err
	}
	if c.stopAgent, err = c.startNodeAgent(f.kubeconfigs["kubelet"]); err != nil {
		return nil, err
	}
	for i := range opts.Nodes {
		if _, err := c.AddNode(ctx, NodeOptions{Name: fmt.Sprintf("pool-%d", i), Zone: string(rune('a' + i%3))}); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// Stop ends the control plane and removes its folder; of an attached cluster it
// closes the connections alone. It is safe to call more than once.
func (c *Cluster) Stop() error {
	c.stopOnce.Do(func() {
		CloseIdle(c.client)
		if c.stopAgent != nil {
			c.stopAgent()
		}
		if c.supervisor != nil {
			c.stopErr = c.supervisor.stop()
		}
	})
	return c.stopErr
}

// Process returns a component to break: etcd, kube-apiserver,
// kube-controller-manager, kube-scheduler or kwok. It is nil for another name
// and on a shared cluster, whose components are not one test's to break.
func (c *Cluster) Process(name string) *Process {
	if c.supervisor == nil {
		return nil
	}
	return c.supervisor.process(name)
}

// Server is the API server's URL.
func (c *Cluster) Server() string { return c.server }

// Dir is the cluster's temporary folder; the programs' logs are in it.
func (c *Cluster) Dir() string { return c.dir }

// files are the paths and ports that the programs are told.
type files struct {
	ca, serviceAccountKey, auditPolicy, auditLog           string
	apiCert, apiKey, etcdCert, etcdKey                     string
	kubeletCert, kubeletKey, kubeletClient, kubeletClientK string
	kubeconfigs                                            map[string]string

	etcdPort, etcdPeerPort, apiPort, controllerPort, schedulerPort, kubeletPort int
}

const serviceCIDR = "10.96.0.0/16"

func (c *Cluster) writeFiles() (*files, error) {
	var err error
	if c.ca, err = newAuthority("alertmedic-test"); err != nil {
		return nil, err
	}
	if err := c.ca.save(c.dir); err != nil {
		return nil, err
	}
	f := &files{
		ca:                filepath.Join(c.dir, "ca.crt"),
		serviceAccountKey: filepath.Join(c.dir, "service-account.key"),
		auditPolicy:       filepath.Join(c.dir, "audit-policy.yaml"),
		auditLog:          c.AuditLog(),
		kubeconfigs:       map[string]string{},
	}
	server := func(name string, dns []string, ips ...net.IP) (string, string, error) {
		pair, err := c.ca.server(name, dns, ips...)
		if err != nil {
			return "", "", err
		}
		return pair.write(c.dir, name)
	}
	if f.apiCert, f.apiKey, err = server("kube-apiserver",
		[]string{"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"},
		net.IPv4(10, 96, 0, 1)); err != nil {
		return nil, err
	}
	if f.etcdCert, f.etcdKey, err = server("etcd", nil); err != nil {
		return nil, err
	}
	if f.kubeletCert, f.kubeletKey, err = server("kubelet", nil); err != nil {
		return nil, err
	}
	pair, err := c.ca.client("system:kube-apiserver")
	if err != nil {
		return nil, err
	}
	if f.kubeletClient, f.kubeletClientK, err = pair.write(c.dir, "kubelet-client"); err != nil {
		return nil, err
	}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, err
	}
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})
	if err := os.WriteFile(f.serviceAccountKey, keyPEM, 0o600); err != nil {
		return nil, err
	}
	return f, os.WriteFile(f.auditPolicy, auditPolicy, 0o644)
}

// Users of the control plane itself; the audit log leaves them out.
var componentUsers = map[string]struct {
	user   string
	groups []string
}{
	"kube-controller-manager": {"system:kube-controller-manager", nil},
	"kube-scheduler":          {"system:kube-scheduler", nil},
	"kwok":                    {"medic-test:kwok", []string{"system:masters"}},
	"kubelet":                 {"medic-test:kubelet", []string{"system:masters"}},
	"monitoring":              {"medic-test:monitoring", []string{"system:masters"}},
}

func (c *Cluster) writeKubeconfigs(f *files) error {
	for name, as := range componentUsers {
		pair, err := c.ca.client(as.user, as.groups...)
		if err != nil {
			return err
		}
		path := filepath.Join(c.dir, name+".kubeconfig")
		if err := writeKubeconfig(path, c.server, c.ca.pem, pair); err != nil {
			return err
		}
		f.kubeconfigs[name] = path
	}
	return nil
}
