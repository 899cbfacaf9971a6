package engine

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/alertmedic/alertmedic/internal/guard"
	"github.com/alertmedic/alertmedic/playbooks"
)

// What bounds a run is merged for the remedy that it is about to begin, and not
// for another one of the playbook.
func TestARemedyHasLimitsOfItsOwn(t *testing.T) {
	t.Parallel()
	const two = `  matchers: [alertname = Broken]
  target: {kind: Workload}
  remedies:
  - name: plain
    when: "alert.labels['target'] == 'web'"
    steps: [{name: restart, action: workload.restart}]
  - name: alone
    limits: {maxConcurrentRuns: 1}
    steps: [{name: restart, action: workload.restart}]
`
	w := setup(t, doc("restart", two))
	limits := w.engine.Limits // two at a time
	merged := func(pb *playbooks.Playbook, r *playbooks.Remedy) guard.Limits {
		l := limits(pb, r)
		if r != nil && r.Limits.MaxConcurrentRuns > 0 {
			l.MaxConcurrentRuns = min(l.MaxConcurrentRuns, r.Limits.MaxConcurrentRuns)
		}
		return l
	}
	w.engine.Limits = merged
	w.fire("db")
	w.work()
	require.Equal(t, []string{"workload.restart Deployment/shop/db"}, w.calls, "alone, it may")
	w.fire("web")
	w.work()
	require.Len(t, w.calls, 2, "the other remedy may be the second")

	w = setup(t, doc("restart", two))
	w.engine.Limits = merged
	w.fire("web")
	w.work()
	w.fire("db")
	w.work()
	require.Equal(t, []string{"workload.restart Deployment/shop/web"}, w.calls, "this one may not be the second")
	require.Contains(t, w.log(), "guard.decided delay concurrency")
}
