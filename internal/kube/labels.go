package kube

import (
	"net"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/alertmedic/alertmedic/internal/action"
)

// labelSet reads an alert's labels, with the labels of the exporter told apart
// from those of the object.
type labelSet struct {
	labels map[string]string
	// exported: scraped without honorLabels, so that Prometheus renamed the
	// object's labels to exported_* and the plain ones are the exporter's.
	exported bool
	// exporterPod: pod and container name the exporter, although nothing was
	// renamed: the series has no pod of its own to clash with.
	exporterPod bool
}

// scrapeLabels are the labels that Prometheus adds to every series of a pod or
// service target, and renames in the series when they clash.
var scrapeLabels = map[string]bool{"namespace": true, "pod": true, "container": true, "service": true, "endpoint": true}

// exporters are names that exporters of cluster state go by.
var exporters = []string{"kube-state-metrics", "node-exporter"}

func readLabels(labels map[string]string) labelSet {
	l := labelSet{labels: labels}
	for name := range scrapeLabels {
		if labels["exported_"+name] != "" {
			l.exported = true
		}
	}
	if !l.exported {
		l.exporterPod = namesExporter(labels)
	}
	return l
}

// namesExporter reports whether the pod label is that of an exporter: it says
// the exporter's name, and so does another label of the scrape.
func namesExporter(labels map[string]string) bool {
	for _, exporter := range exporters {
		if !strings.Contains(labels["pod"], exporter) {
			continue
		}
		for _, witness := range []string{"container", "job", "service"} {
			if strings.Contains(labels[witness], exporter) {
				return true
			}
		}
	}
	return false
}

// value returns what the label says of the object, "" when it says nothing.
func (l labelSet) value(name string) string {
	if v := l.labels["exported_"+name]; v != "" {
		return v
	}
	if l.exported && scrapeLabels[name] {
		return ""
	}
	return l.labels[name]
}

// namespace and pod are of the object; pod is "" when it is the exporter's and
// another label names the object.
func (l labelSet) namespace() string { return l.value("namespace") }

func (l labelSet) pod() string {
	if l.exporterPod && l.namesOther() {
		return ""
	}
	return l.value("pod")
}

func (l labelSet) container() string {
	if l.pod() == "" {
		return ""
	}
	return l.value("container")
}

// namesOther reports whether a label names an object that is no pod.
func (l labelSet) namesOther() bool {
	for _, name := range []string{"deployment", "statefulset", "daemonset", "replicaset", "job_name", "cronjob",
		"persistentvolumeclaim", "horizontalpodautoscaler", "hpa", "node", "workload"} {
		if l.value(name) != "" {
			return true
		}
	}
	return false
}

// kubelet reports whether the series was scraped from a kubelet, whose instance
// and node are the node.
func (l labelSet) kubelet() bool {
	return strings.Contains(l.labels["job"], "kubelet") || l.labels["service"] == "kubelet" ||
		strings.HasPrefix(l.labels["metrics_path"], "/metrics/")
}

// hint is a controller that a label names.
type hint struct {
	label string
	kind  action.Kind
	name  string
}

var controllerLabels = []struct {
	label string
	kind  action.Kind
}{
	{"deployment", action.KindDeployment},
	{"statefulset", action.KindStatefulSet},
	{"daemonset", action.KindDaemonSet},
	{"replicaset", action.KindReplicaSet},
	{"job_name", action.KindJob},
}

// hints lists the controllers that labels name. The pairs workload and
// workload_type, owner_name and owner_kind come from recording rules and from
// kube-state-metrics.
func (l labelSet) hints() []hint {
	var out []hint
	add := func(label string, kind action.Kind, name string) {
		for _, h := range out {
			if h.kind == kind && h.name == name {
				return
			}
		}
		out = append(out, hint{label, kind, name})
	}
	for _, c := range controllerLabels {
		if name := l.value(c.label); name != "" {
			add(c.label, c.kind, name)
		}
	}
	for _, pair := range [][2]string{{"workload", "workload_type"}, {"owner_name", "owner_kind"}} {
		name, kind := l.value(pair[0]), l.value(pair[1])
		for _, c := range controllerLabels {
			if name != "" && strings.EqualFold(kind, string(c.kind)) {
				add(pair[0], c.kind, name)
			}
		}
	}
	return out
}

// service returns the Service that the labels name, and the label it stands in.
// The service label is on every scraped series; what names the scrape of a
// kubelet or an exporter is not the object.
func (l labelSet) service() (name, label string) {
	name = l.value("service")
	scraped := l.kubelet() || l.labels["job"] != "" && strings.Contains(l.labels["job"], "kube-state-metrics")
	if name != "" && (l.exported || !scraped || !l.ofScrape(name)) {
		return name, "service"
	}
	// kube_endpoint_address names its object by endpoint alone.
	if name = l.value("endpoint"); name != "" && (l.exported || scraped) {
		return name, "endpoint"
	}
	return "", ""
}

func (l labelSet) ofScrape(service string) bool {
	if service == "kubelet" || service == l.labels["job"] {
		return true
	}
	for _, exporter := range exporters {
		if strings.Contains(service, exporter) {
			return true
		}
	}
	return false
}

// nodeName returns what the labels say of the node: a node's name, or an
// address when byAddress is true.
func (l labelSet) nodeName() (value, label string, byAddress bool) {
	for _, name := range []string{"node", "kubernetes_node", "nodename"} {
		if v := l.value(name); v != "" {
			return v, name, false
		}
	}
	// The instance is the node only where a node itself was scraped; on
	// anything else it is the address of some pod.
	job := l.labels["job"]
	scraped := l.kubelet() || job == "node" || strings.Contains(job, "node-exporter") ||
		job == "" && l.labels["pod"] == "" && l.labels["service"] == ""
	if !scraped || l.exported {
		return "", "", false
	}
	instance := l.labels["instance"]
	if host, _, err := net.SplitHostPort(instance); err == nil {
		instance = host
	}
	return strings.Trim(instance, "[]"), "instance", instance != ""
}

// validName checks a label value before it becomes part of a request's path.
func validName(kind action.Kind, value string) string {
	var problems []string
	switch kind {
	case "Namespace", action.KindService:
		problems = validation.IsDNS1123Label(value)
	default:
		problems = validation.IsDNS1123Subdomain(value)
	}
	if len(problems) > 0 {
		return problems[0]
	}
	return ""
}
