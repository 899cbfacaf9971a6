package testcluster

import (
	"maps"
	"os"
	"path/filepath"
	"strconv"

	"sigs.k8s.io/yaml"
)

type object = map[string]any

func (o *MonitoringOptions) alertmanagerConfig() string {
	if o.AlertmanagerConfig != "" {
		return o.AlertmanagerConfig
	}
	receiver := object{"name": "webhook"}
	if o.WebhookURL != "" {
		webhook := object{"url": o.WebhookURL, "send_resolved": true}
		if o.WebhookToken != "" {
			webhook["http_config"] = object{"authorization": object{"credentials": o.WebhookToken}}
		}
		receiver["webhook_configs"] = []any{webhook}
	}
	data, err := yaml.Marshal(object{
		"global": object{"resolve_timeout": "1m"},
		"route": object{
			"receiver":        "webhook",
			"group_by":        []string{"namespace"},
			"group_wait":      "500ms",
			"group_interval":  "1s",
			"repeat_interval": "1h",
		},
		"receivers": []any{receiver},
	})
	if err != nil {
		panic(err) // maps of strings always marshal
	}
	return string(data)
}

// writePrometheusConfig writes the i-th Prometheus's configuration and rules
// and returns the former's path.
func (m *Monitoring) writePrometheusConfig(i int) (string, error) {
	o := m.opts
	dir := m.supervisor.dir
	rules := []string{}
	for _, pattern := range o.RuleFiles {
		path, err := filepath.Abs(pattern)
		if err != nil {
			return "", err
		}
		rules = append(rules, path)
	}
	if o.Rules != "" {
		// When in an interval a group is evaluated depends on its file's path. A file
		// for each lets replicas drift, as those do that are not of one age.
		name := "rules.yml"
		if i > 0 {
			name = "rules-" + strconv.Itoa(i) + ".yml"
		}
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(o.Rules), 0o644); err != nil {
			return "", err
		}
		rules = append(rules, path)
	}
	var targets []string
	for _, port := range m.alertmanagers {
		targets = append(targets, loopback(port))
	}
	told := targets
	if o.Split {
		told = targets[min(i, len(targets)-1):][:1]
	}
	labels := maps.Clone(o.ExternalLabels)
	alerting := object{"alertmanagers": []any{object{
		"static_configs": []any{object{"targets": told}},
	}}}
	if len(m.prometheuses) > 1 {
		labels["prometheus_replica"] = strconv.Itoa(i)
		// Without this, each replica's alerts would be other alerts.
		alerting["alert_relabel_configs"] = []any{object{"regex": "prometheus_replica", "action": "labeldrop"}}
	}
	scrapes := []any{
		object{
			"job_name":     "kube-state-metrics",
			"honor_labels": !o.NoHonorLabels,
			"static_configs": []any{object{
				"targets": []string{loopback(m.metrics)},
				// What the exporter's own pod adds in a real cluster.
				"labels": object{"namespace": "monitoring", "pod": "kube-state-metrics-0", "container": "kube-state-metrics", "service": "kube-state-metrics"},
			}},
		},
		object{"job_name": "prometheus", "static_configs": []any{object{"targets": []string{loopback(m.prometheuses[i])}}}},
		object{"job_name": "alertmanager", "static_configs": []any{object{"targets": targets}}},
	}
	if o.ScrapeConfigs != "" {
		var more []any
		if err := yaml.Unmarshal([]byte(o.ScrapeConfigs), &more); err != nil {
			return "", err
		}
		scrapes = append(scrapes, more...)
	}
	data, err := yaml.Marshal(object{
		"global": object{
			"scrape_interval":     o.ScrapeInterval.String(),
			"scrape_timeout":      o.ScrapeInterval.String(),
			"evaluation_interval": o.EvaluationInterval.String(),
			"external_labels":     labels,
		},
		"rule_files":     rules,
		"alerting":       alerting,
		"scrape_configs": scrapes,
	})
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "prometheus-"+strconv.Itoa(i)+".yml")
	return path, os.WriteFile(path, data, 0o644)
}
