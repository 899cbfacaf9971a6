package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/alertmedic/alertmedic/internal/alert"
	"github.com/alertmedic/alertmedic/internal/testcluster"
)

// medicUser is who the service is to the API server.
const (
	medicNamespace = "bench-medic"
	medicUser      = "system:serviceaccount:bench-medic:medic"
)

// monitoring answers as an Alertmanager and a Prometheus would that hold the
// alerts given: how long those take is not what is measured.
type monitoring struct {
	url string
	mu  sync.Mutex
	am  []byte
	all []map[string]any
}

func (b *bench) monitoring() (*monitoring, error) {
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	m := &monitoring{url: "http://" + l.Addr().String(), am: []byte("[]")}
	mux := http.NewServeMux()
	mux.HandleFunc("/api/v2/alerts", func(w http.ResponseWriter, _ *http.Request) {
		m.mu.Lock()
		defer m.mu.Unlock()
		w.Header().Set("Content-Type", "application/json")
		if _, err := w.Write(m.am); err != nil {
			b.progress("answer for the Alertmanager: %v", err)
		}
	})
	mux.HandleFunc("/api/v1/rules", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"status":"success","data":{"groups":[{"name":"g","file":"f","interval":15,"rules":[{"type":"alerting","name":%q,"query":"up == 0","duration":60,"labels":{},"annotations":{},"alerts":[],"health":"ok","evaluationTime":0.001,"lastEvaluation":%q,"state":"inactive"}]}]}}`,
			benchAlert, time.Now().UTC().Format(time.RFC3339Nano))
	})
	server := &http.Server{Handler: mux, ReadHeaderTimeout: time.Minute}
	b.onEnd(serve(server, l))
	return m, nil
}

// hold makes these alerts the ones that fire.
func (m *monitoring) hold(labels ...map[string]string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, l := range labels {
		m.all = append(m.all, map[string]any{"labels": l, "annotations": map[string]string{}, "fingerprint": alert.Fingerprint(l),
			"startsAt": alertStart, "endsAt": time.Now().Add(time.Hour), "updatedAt": time.Now(), "generatorURL": "",
			"receivers": []map[string]string{{"name": "alertmedic"}},
			"status":    map[string]any{"state": "active", "silencedBy": []string{}, "inhibitedBy": []string{}, "mutedBy": []string{}}})
	}
	doc, err := json.Marshal(m.all)
	m.am = doc
	return err
}

const benchAlert = "BenchBroken"

// playbook restarts the workload of an alert.
const playbook = `apiVersion: alertmedic.io/v1alpha1
kind: Playbook
metadata: {name: restart}
spec:
  matchers: [alertname = BenchBroken]
  target: {kind: Workload}
  mode: %s
  remedies:
  - name: restart
    steps: [{name: restart, action: workload.restart}]
    verify: {timeout: 1m, stableFor: 1s}
`

// settings of a process of the service.
type settings struct {
	name, dsn, monitoring string
	mode                  string // of the playbook, "Auto" when empty; "library" loads the shipped ones instead
	qps                   int
	expireAfter           time.Duration
}

// medic is the built service as a process of its own.
type medic struct {
	*testcluster.Process
	url, address string
	launched     time.Time
	profiles     string // base URL of its profiles, "" when none are kept
}

// startMedic runs the service and waits until it is ready.
func (b *bench) startMedic(ctx context.Context, s settings) (*medic, error) {
	m, err := b.launchMedic(ctx, s)
	if err != nil {
		return nil, err
	}
	return m, m.waitReady(ctx)
}

func (m *medic) waitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		select {
		case <-m.Exited():
			return fmt.Errorf("the service ended before it was ready:\n%s", m.Tail())
		case <-ctx.Done():
			return fmt.Errorf("the service does not get ready: %w\n%s", ctx.Err(), m.Tail())
		case <-time.After(5 * time.Millisecond):
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, m.url+"/-/ready", nil)
		if err != nil {
			return err
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			continue
		}
		if err := resp.Body.Close(); err != nil {
			return err
		}
		if resp.StatusCode == http.StatusOK {
			return nil
		}
	}
}

func (b *bench) launchMedic(ctx context.Context, s settings) (*medic, error) {
	path, err := b.service(ctx)
	if err != nil {
		return nil, err
	}
	dir, err := b.folder()
	if err != nil {
		return nil, err
	}
	kubeconfig, err := b.kubeconfig(ctx, dir)
	if err != nil {
		return nil, err
	}
	port, err := testcluster.FreePort()
	if err != nil {
		return nil, err
	}
	books := filepath.Join(dir, "restart.yaml")
	if s.mode == "library" {
		if books, err = library(); err != nil {
			return nil, err
		}
	} else {
		mode := s.mode
		if mode == "" {
			mode = "Auto"
		}
		if err := os.WriteFile(books, fmt.Appendf(nil, playbook, mode), 0o600); err != nil {
			return nil, err
		}
	}
	qps := max(s.qps, 20)
	expire := max(s.expireAfter, time.Second)
	if s.expireAfter == 0 {
		expire = time.Hour
	}
	address := fmt.Sprintf("127.0.0.1:%d", port)
	config := filepath.Join(dir, "alertmedic.yaml")
	if err := os.WriteFile(config, fmt.Appendf(nil, `cluster: bench
listen: {address: %q}
sources:
- {name: am, alertmanagers: [{url: %q}], prometheuses: [{url: %q}], groupInterval: 1s}
store: {dsn: %q}
playbooks: {paths: [%q], watch: false}
kubernetes: {kubeconfig: %q, qps: %d, burst: %d}
safety:
  maxConcurrentRuns: 100
  maxConcurrentRunsPerNamespace: 100
  maxConcurrentRunsPerPlaybook: 100
  expireAfter: %s
  attempts: {max: 1000, window: 24h}
  rate: {enabled: false}
  storm: {enabled: false}
  watchdog: {enabled: false}
  humanActivity: {enabled: false}
  pods: {maxUnavailable: 1000, maxUnavailablePercent: 100}
  velocity: {maxNodesPerPool: 1000}
  nodes: {maxUnhealthy: 1000, maxUnhealthyPercent: 100}
`, address, s.monitoring, s.monitoring, s.dsn, books, kubeconfig, qps, 2*qps, expire), 0o600); err != nil {
		return nil, err
	}
	host, err := testcluster.NewHost("")
	if err != nil {
		return nil, err
	}
	b.onEnd(host.Stop)
	args := []string{"serve", "--config", config}
	m := &medic{url: "http://" + address, address: address, launched: time.Now()}
	if b.profiles != "" {
		port, err := testcluster.FreePort()
		if err != nil {
			return nil, err
		}
		args = append(args, fmt.Sprintf("--pprof-address=127.0.0.1:%d", port))
		m.profiles = fmt.Sprintf("http://127.0.0.1:%d/debug/pprof/", port)
	}
	if m.Process, err = host.Start(s.name, path, args, nil); err != nil {
		return nil, err
	}
	return m, nil
}

// profiling keeps a profile of the service, such as "profile?seconds=2" or
// "heap", that is taken from now on; done waits for it.
func (b *bench) profiling(ctx context.Context, m *medic, what, name string) (done func() error) {
	if m.profiles == "" {
		return func() error { return nil }
	}
	taken := make(chan error, 1)
	go func() {
		taken <- func() error {
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, m.profiles+what, nil)
			if err != nil {
				return err
			}
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			f, err := os.Create(filepath.Join(b.profiles, b.scenario+"-"+name+".pprof"))
			if err != nil {
				return err
			}
			_, err = io.Copy(f, resp.Body)
			return errors.Join(err, f.Close())
		}()
	}()
	return func() error { return <-taken }
}

// made is nil for what is there already, since another scenario.
func made(err error) error {
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}

// kubeconfig makes the service a ServiceAccount that may do everything, and
// writes how it reaches the API server.
func (b *bench) kubeconfig(ctx context.Context, dir string) (string, error) {
	c, err := b.controlPlane(ctx)
	if err != nil {
		return "", err
	}
	client := c.Client()
	if _, err := client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: medicNamespace}}, metav1.CreateOptions{}); made(err) != nil {
		return "", err
	}
	if _, err := client.CoreV1().ServiceAccounts(medicNamespace).Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "medic"}}, metav1.CreateOptions{}); made(err) != nil {
		return "", err
	}
	if _, err := client.RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "bench-medic"},
		RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"},
		Subjects: []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: medicNamespace, Name: "medic"}}}, metav1.CreateOptions{}); made(err) != nil {
		return "", err
	}
	path := filepath.Join(dir, "kubeconfig")
	return path, c.KubeconfigFor(ctx, path, medicNamespace, "medic")
}

// runs is what the service says of its runs, for an error message.
func (m *medic) runs(ctx context.Context) string {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, m.url+"/api/v1/log?order=desc&limit=20", nil)
	if err != nil {
		return err.Error()
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	var text strings.Builder
	if _, err := copyAll(&text, resp.Body); err != nil {
		fmt.Fprintf(&text, "... and no more: %v", err)
	}
	return text.String()
}
