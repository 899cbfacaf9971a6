package testcluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// MonitoringOptions say what watches a cluster. The zero value is one
// Prometheus that scrapes one kube-state-metrics each second, and one
// Alertmanager that sends nothing anywhere.
type MonitoringOptions struct {
	// Prometheuses and Alertmanagers are how many of each; 1 by default. More
	// than one Prometheus: each has the external label prometheus_replica, dropped
	// from alerts, as the operator does, and evaluates Rules at a moment of its own.
	// More than one Alertmanager: they gossip.
	Prometheuses, Alertmanagers int
	// NoGossip keeps several Alertmanagers apart: each is told and sends all.
	NoGossip bool
	// Split is a split network: as NoGossip, and each Prometheus reaches only the
	// Alertmanager of its number, the last one beyond that.
	Split bool
	// ScrapeInterval and EvaluationInterval are 1 s by default.
	ScrapeInterval, EvaluationInterval time.Duration
	// ResendDelay is how often Prometheus tells Alertmanager of an alert that
	// is still firing; 4 s by default (1 min in a real one).
	ResendDelay time.Duration
	// RuleFiles are paths (globs) of rule files; Rules is the text of one more.
	RuleFiles []string
	Rules     string
	// AlertmanagerConfig is its whole configuration, YAML. WebhookURL makes one
	// when AlertmanagerConfig is empty: every alert goes to that URL, grouped
	// by namespace, after 0.5 s and again each 1 s on a change.
	AlertmanagerConfig string
	WebhookURL         string
	// WebhookToken is sent as a bearer token with WebhookURL.
	WebhookToken string
	// NoHonorLabels turns honor_labels off for kube-state-metrics: the object's
	// labels then become exported_namespace and so on.
	NoHonorLabels bool
	// Namespaces narrows kube-state-metrics to the objects of these; all by
	// default. On a shared cluster a test should name its own. Nodes and other
	// objects without a namespace are always there.
	Namespaces []string
	// ExternalLabels are added to every alert; cluster: test by default.
	ExternalLabels map[string]string
	// ScrapeConfigs is YAML of more scrape configurations, a list.
	ScrapeConfigs string
	// Binaries finds the programs.
	Binaries Binaries
	// Dir is where the temporary folder is made; os.TempDir() by default.
	Dir string
	// PrometheusArgs and AlertmanagerArgs are appended to the programs' own.
	PrometheusArgs, AlertmanagerArgs []string
}

// Monitoring is a running set of Prometheus, Alertmanager and
// kube-state-metrics that belongs to this process.
type Monitoring struct {
	opts          MonitoringOptions
	supervisor    *supervisor
	prometheuses  []int // ports
	alertmanagers []int
	gossip        []int
	metrics       int
}

// StartMonitoring runs what opts ask for against the cluster and returns when
// all of it is ready and every scrape target has been up once. ctx bounds the
// start alone. Nothing survives this process; Stop ends it earlier.
func (c *Cluster) StartMonitoring(ctx context.Context, opts MonitoringOptions) (*Monitoring, error) {
	opts.setDefaults()
	if opts.Binaries == (Binaries{}) {
		opts.Binaries = c.binaries
	}
	paths, err := opts.Binaries.Ensure(ctx, monitoringPrograms...)
	if err != nil {
		return nil, err
	}
	const attempts = 3
	for attempt := 1; ; attempt++ {
		m, err := c.startMonitoring(ctx, opts, paths)
		if err == nil {
			return m, nil
		}
		if attempt == attempts || ctx.Err() != nil || !errors.Is(err, errEndedEarly) {
			return nil, fmt.Errorf("start the monitoring: %w", err)
		}
	}
}

func (o *MonitoringOptions) setDefaults() {
	if o.Prometheuses == 0 {
		o.Prometheuses = 1
	}
	if o.Alertmanagers == 0 {
		o.Alertmanagers = 1
	}
	if o.ScrapeInterval == 0 {
		o.ScrapeInterval = time.Second
	}
	if o.EvaluationInterval == 0 {
		o.EvaluationInterval = time.Second
	}
	if o.ResendDelay == 0 {
		o.ResendDelay = 4 * time.Second
	}
	if o.ExternalLabels == nil {
		o.ExternalLabels = map[string]string{"cluster": "test"}
	}
}

func (c *Cluster) startMonitoring(ctx context.Context, opts MonitoringOptions, paths map[string]string) (_ *Monitoring, err error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	sup, err := newSupervisor(opts.Dir)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, sup.stop())
		}
	}()
	ports, err := freePorts(opts.Prometheuses + 2*opts.Alertmanagers + 2)
	if err != nil {
		return nil, err
	}
	take := func(n int) []int {
		taken := ports[:n]
		ports = ports[n:]
		return taken
	}
	m := &Monitoring{opts: opts, supervisor: sup}
	m.prometheuses, m.alertmanagers, m.gossip = take(opts.Prometheuses), take(opts.Alertmanagers), take(opts.Alertmanagers)
	m.metrics = take(1)[0]

	kubeconfig := filepath.Join(sup.dir, "monitoring.kubeconfig")
	as := componentUsers["monitoring"]
	pair, err := c.ca.client(as.user, as.groups...)
	if err != nil {
		return nil, err
	}
	if err := writeKubeconfig(kubeconfig, c.server, c.ca.pem, pair); err != nil {
		return nil, err
	}
	args := []string{
		"--kubeconfig=" + kubeconfig,
		"--host=127.0.0.1", "--port=" + strconv.Itoa(m.metrics),
		"--telemetry-host=127.0.0.1", "--telemetry-port=" + strconv.Itoa(take(1)[0]),
		"--metric-labels-allowlist=nodes=[*],pods=[*],deployments=[*]",
	}
	if len(opts.Namespaces) > 0 {
		args = append(args, "--namespaces="+strings.Join(opts.Namespaces, ","))
	}
	if _, err := sup.start("kube-state-metrics", paths["kube-state-metrics"], args); err != nil {
		return nil, err
	}
	for i := range m.alertmanagers {
		if err := m.startAlertmanager(i, paths["alertmanager"]); err != nil {
			return nil, err
		}
	}
	for i := range m.prometheuses {
		if err := m.startPrometheus(i, paths["prometheus"]); err != nil {
			return nil, err
		}
	}
	return m, m.Ready(ctx)
}

func (m *Monitoring) startAlertmanager(i int, path string) error {
	name := "alertmanager-" + strconv.Itoa(i)
	config := filepath.Join(m.supervisor.dir, "alertmanager.yml")
	if err := os.WriteFile(config, []byte(m.opts.alertmanagerConfig()), 0o600); err != nil {
		return err
	}
	args := []string{
		"--config.file=" + config,
		"--storage.path=" + filepath.Join(m.supervisor.dir, name),
		"--web.listen-address=" + loopback(m.alertmanagers[i]),
		"--web.external-url=" + m.AlertmanagerURL(i),
		"--log.level=debug",
	}
	if len(m.alertmanagers) == 1 || m.opts.NoGossip || m.opts.Split {
		args = append(args, "--cluster.listen-address=")
	} else {
		args = append(args,
			"--cluster.listen-address="+loopback(m.gossip[i]),
			"--cluster.advertise-address="+loopback(m.gossip[i]),
			// The times of a local network; the defaults make the first
			// notification wait for a minute.
			"--cluster.settle-timeout=2s", "--cluster.peer-timeout=2s",
			"--cluster.pushpull-interval=1s", "--cluster.gossip-interval=50ms",
			"--cluster.probe-interval=500ms", "--cluster.probe-timeout=250ms", "--cluster.reconnect-interval=1s",
		)
		for j, port := range m.gossip {
			if j != i {
				args = append(args, "--cluster.peer="+loopback(port))
			}
		}
	}
	_, err := m.supervisor.start(name, path, append(args, m.opts.AlertmanagerArgs...))
	return err
}

func (m *Monitoring) startPrometheus(i int, path string) error {
	name := "prometheus-" + strconv.Itoa(i)
	config, err := m.writePrometheusConfig(i)
	if err != nil {
		return err
	}
	args := []string{
		"--config.file=" + config,
		"--storage.tsdb.path=" + filepath.Join(m.supervisor.dir, name),
		"--storage.tsdb.retention.time=6h",
		"--web.listen-address=" + loopback(m.prometheuses[i]),
		"--web.external-url=" + m.PrometheusURL(i),
		"--web.enable-lifecycle",
		"--rules.alert.resend-delay=" + m.opts.ResendDelay.String(),
		"--rules.alert.for-grace-period=1s",
		"--log.level=info",
	}
	_, err = m.supervisor.start(name, path, append(args, m.opts.PrometheusArgs...))
	return err
}

// PrometheusURL is the base URL of the i-th Prometheus, from 0.
func (m *Monitoring) PrometheusURL(i int) string { return "http://" + loopback(m.prometheuses[i]) }

// AlertmanagerURL is the base URL of the i-th Alertmanager, from 0.
func (m *Monitoring) AlertmanagerURL(i int) string { return "http://" + loopback(m.alertmanagers[i]) }

// MetricsURL is the URL of kube-state-metrics' metrics.
func (m *Monitoring) MetricsURL() string { return "http://" + loopback(m.metrics) + "/metrics" }

// Process returns a program to break: prometheus-0, alertmanager-0 and so on,
// or kube-state-metrics; nil for another name.
func (m *Monitoring) Process(name string) *Process { return m.supervisor.process(name) }

// Dir is the temporary folder; the programs' logs and configurations are in it.
func (m *Monitoring) Dir() string { return m.supervisor.dir }

// Stop ends everything and removes the folder; it may be called more than once.
func (m *Monitoring) Stop() error { return m.supervisor.stop() }

// Ready waits until every program that runs answers that it is ready, as after
// a Restart.
func (m *Monitoring) Ready(ctx context.Context) error {
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	urls := map[string]string{"kube-state-metrics": m.MetricsURL()}
	for i := range m.alertmanagers {
		urls["alertmanager-"+strconv.Itoa(i)] = m.AlertmanagerURL(i) + "/-/ready"
	}
	for i := range m.prometheuses {
		urls["prometheus-"+strconv.Itoa(i)] = m.PrometheusURL(i) + "/-/ready"
	}
	for name, url := range urls {
		p := m.Process(name)
		if p == nil || !p.Running() {
			return fmt.Errorf("%s %w", name, errEndedEarly)
		}
		if err := waitHTTP(ctx, client, url, p); err != nil {
			return err
		}
	}
	return nil
}

// Reload has Prometheus i read its configuration and rules again.
func (m *Monitoring) Reload(ctx context.Context, i int) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, m.PrometheusURL(i)+"/-/reload", nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(io.LimitReader(resp.Body, 4096))
		return fmt.Errorf("reload: %s: %s", resp.Status, body)
	}
	return nil
}
