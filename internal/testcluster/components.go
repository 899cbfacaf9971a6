package testcluster

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strconv"
	"time"
)

// errEndedEarly marks a program that ended before it was ready.
var errEndedEarly = errors.New("ended before it was ready")

func (c *Cluster) startComponents(ctx context.Context, opts Options, paths map[string]string, f *files) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	etcd, err := c.supervisor.start("etcd", paths["etcd"], etcdArgs(c.dir, f))
	if err != nil {
		return err
	}
	api, err := c.supervisor.start("kube-apiserver", paths["kube-apiserver"], append(apiServerArgs(opts, f), opts.APIServerArgs...))
	if err != nil {
		return err
	}
	if err := c.waitHealthy(ctx, c.server+"/readyz", api, etcd); err != nil {
		return err
	}
	type step struct {
		name   string
		args   []string
		health string
	}
	stages, err := writeStages(c.dir)
	if err != nil {
		return err
	}
	steps := []step{
		{"kube-controller-manager", append(controllerManagerArgs(opts, f), opts.ControllerManagerArgs...), "https://" + loopback(f.controllerPort) + "/healthz"},
		{"kube-scheduler", append(schedulerArgs(f), opts.SchedulerArgs...), "https://" + loopback(f.schedulerPort) + "/healthz"},
		{"kwok", append(kwokArgs(f, stages), opts.KwokArgs...), "https://" + loopback(f.kubeletPort) + "/healthz"},
	}
	started := make([]*Process, len(steps))
	for i, s := range steps {
		if started[i], err = c.supervisor.start(s.name, paths[s.name], s.args); err != nil {
			return err
		}
	}
	for i, s := range steps {
		if err := c.waitHealthy(ctx, s.health, started[i]); err != nil {
			return err
		}
	}
	return c.waitServiceAccounts(ctx)
}

func etcdArgs(dir string, f *files) []string {
	client, peer := "https://"+loopback(f.etcdPort), "http://"+loopback(f.etcdPeerPort)
	return []string{
		"--data-dir=" + filepath.Join(dir, "etcd"),
		"--listen-client-urls=" + client, "--advertise-client-urls=" + client,
		"--listen-peer-urls=" + peer, "--initial-advertise-peer-urls=" + peer,
		"--initial-cluster=default=" + peer,
		"--cert-file=" + f.etcdCert, "--key-file=" + f.etcdKey,
		"--client-cert-auth", "--trusted-ca-file=" + f.ca,
		"--unsafe-no-fsync", // the data is thrown away; a disk must not slow a test
		"--log-level=warn",
	}
}

func apiServerArgs(opts Options, f *files) []string {
	toleration := strconv.Itoa(opts.TolerationSeconds)
	return []string{
		"--etcd-servers=https://" + loopback(f.etcdPort),
		"--etcd-cafile=" + f.ca, "--etcd-certfile=" + f.etcdCert, "--etcd-keyfile=" + f.etcdKey,
		"--bind-address=127.0.0.1", "--advertise-address=127.0.0.1",
		"--secure-port=" + strconv.Itoa(f.apiPort),
		// The endpoint of the service `kubernetes` must not be loopback, and
		// no pod will ever call it.
		"--endpoint-reconciler-type=none",
		"--tls-cert-file=" + f.apiCert, "--tls-private-key-file=" + f.apiKey,
		"--client-ca-file=" + f.ca,
		"--authorization-mode=Node,RBAC",
		"--service-account-issuer=https://kubernetes.default.svc.cluster.local",
		"--service-account-key-file=" + f.serviceAccountKey,
		"--service-account-signing-key-file=" + f.serviceAccountKey,
		"--service-cluster-ip-range=" + serviceCIDR,
		"--kubelet-client-certificate=" + f.kubeletClient, "--kubelet-client-key=" + f.kubeletClientK,
		"--kubelet-certificate-authority=" + f.ca,
		"--kubelet-preferred-address-types=InternalIP",
		"--allow-privileged=true",
		"--default-not-ready-toleration-seconds=" + toleration,
		"--default-unreachable-toleration-seconds=" + toleration,
		"--audit-policy-file=" + f.auditPolicy, "--audit-log-path=" + f.auditLog,
		"--audit-log-mode=blocking-strict", // an event is in the file before its answer is sent
		"--profiling=false",
	}
}

func controllerManagerArgs(opts Options, f *files) []string {
	kubeconfig := f.kubeconfigs["kube-controller-manager"]
	return []string{
		"--kubeconfig=" + kubeconfig,
		"--authentication-kubeconfig=" + kubeconfig, "--authorization-kubeconfig=" + kubeconfig,
		"--bind-address=127.0.0.1", "--secure-port=" + strconv.Itoa(f.controllerPort),
		"--tls-cert-file=" + f.kubeletCert, "--tls-private-key-file=" + f.kubeletKey,
		"--leader-elect=false",
		"--use-service-account-credentials=true",
		"--service-account-private-key-file=" + f.serviceAccountKey, "--root-ca-file=" + f.ca,
		"--node-monitor-period=1s",
		"--node-monitor-grace-period=" + opts.NodeMonitorGracePeriod.String(),
		"--horizontal-pod-autoscaler-sync-period=2s",
		"--pvclaimbinder-sync-period=1s",
		"--kube-api-qps=200", "--kube-api-burst=400",
		"--profiling=false",
	}
}

func schedulerArgs(f *files) []string {
	kubeconfig := f.kubeconfigs["kube-scheduler"]
	return []string{
		"--kubeconfig=" + kubeconfig,
		"--authentication-kubeconfig=" + kubeconfig, "--authorization-kubeconfig=" + kubeconfig,
		"--bind-address=127.0.0.1", "--secure-port=" + strconv.Itoa(f.schedulerPort),
		"--tls-cert-file=" + f.kubeletCert, "--tls-private-key-file=" + f.kubeletKey,
		"--leader-elect=false",
		"--kube-api-qps=200", "--kube-api-burst=400",
		"--profiling=false",
	}
}

func kwokArgs(f *files, stages string) []string {
	return []string{
		"--kubeconfig=" + f.kubeconfigs["kwok"],
		"--manage-all-nodes",
		"--config=" + stages,
		"--node-ip=127.0.0.1", "--node-port=" + strconv.Itoa(f.kubeletPort),
		"--server-address=" + loopback(f.kubeletPort),
		"--tls-cert-file=" + f.kubeletCert, "--tls-private-key-file=" + f.kubeletKey,
		"--cidr=10.244.0.0/16",
		// Heartbeats are the stages' business: a lease would keep a node
		// alive whose heartbeat a fault has stopped.
		"--node-lease-duration-seconds=0",
	}
}

// waitHealthy polls url until it answers 200, one of the processes ends, or
// ctx does.
func (c *Cluster) waitHealthy(ctx context.Context, url string, processes ...*Process) error {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(c.ca.pem)
	client := &http.Client{
		Timeout:   5 * time.Second,
		Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}},
	}
	defer client.CloseIdleConnections()
	return waitHTTP(ctx, client, url, processes...)
}

func waitHTTP(ctx context.Context, client *http.Client, url string, processes ...*Process) error {
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	var last error
	for {
		for _, p := range processes {
			select {
			case <-p.exited():
				return fmt.Errorf("%s %w (%w):\n%s", p.name, errEndedEarly, p.err, p.logTail())
			default:
			}
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		resp, err := client.Do(req)
		if err == nil {
			body, _ := io.ReadAll(io.LimitReader(resp.Body, 1024))
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
			err = fmt.Errorf("%s: %s", resp.Status, body)
		}
		if ctx.Err() == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			tail := ""
			for _, p := range processes {
				tail += "\n" + p.name + ":\n" + p.logTail()
			}
			return fmt.Errorf("%s is not ready: %w (last: %v)%s", url, context.Cause(ctx), last, tail) //nolint:errorlint // last may be nil
		case <-ticker.C:
		}
	}
}
