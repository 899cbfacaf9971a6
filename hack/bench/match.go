package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/alertmedic/alertmedic/k8sactions"
	"github.com/alertmedic/alertmedic/playbooks"
)

// match matches a group of 1,000 alerts against 1,000 playbooks.
func match(_ context.Context, b *bench) error {
	catalogue, err := k8sactions.New(nil, k8sactions.Options{})
	if err != nil {
		return err
	}
	var docs strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&docs, `---
apiVersion: alertmedic.io/v1alpha1
kind: Playbook
metadata: {name: playbook-%d}
spec:
  matchers: [alertname = Alert%d, 'namespace !~ "kube-.*"', 'cluster =~ "eu-.*|us-.*"']
  priority: %d
  target: {kind: Workload}
  remedies:
  - name: restart
    steps: [{name: restart, action: workload.restart}]
    verify: {timeout: 15m, stableFor: 3m}
`, i, i%400, i%5)
	}
	set, problems := playbooks.LoadBytes("bench.yaml", []byte(docs.String()), playbooks.LoadOptions{Catalogue: catalogue, MaxFileSize: 64 << 20})
	if err := problems.Err(); err != nil {
		return err
	}
	var alerts []map[string]string
	for i := range 1000 {
		alerts = append(alerts, map[string]string{"alertname": fmt.Sprintf("Alert%d", i*7%500), "namespace": "shop", "cluster": "eu-1",
			"pod": fmt.Sprintf("web-%d", i), "severity": "critical", "job": "kube-state-metrics"})
	}
	var took []float64
	matched := 0
	for range 20 * b.rounds {
		began := time.Now()
		for _, a := range alerts {
			matched += len(set.Match(a))
		}
		took = append(took, ms(time.Since(began)))
	}
	if matched == 0 {
		return fmt.Errorf("nothing matched")
	}
	b.figure("1,000 alerts against 1,000 playbooks", "ms", took, 20, false, "")
	return nil
}
