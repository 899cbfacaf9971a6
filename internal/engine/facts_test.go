package engine

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alertmedic/alertmedic/internal/action"
)

// Facts cost requests: a playbook without a condition does not read them before
// its first change, one with a condition does.
func TestFactsAreReadWhenAConditionLooksAtThem(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		body string
		want bool
	}{
		"no condition": {restart, false},
		"a condition": {`  matchers: [alertname = Broken]
  target: {kind: Workload}
  remedies:
  - name: restart
    when: "!facts.rolledOutWithin('1h')"
    steps: [{name: restart, action: workload.restart}]
`, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := setup(t, doc("restart", row.body))
			long := w.now.Add(-24 * time.Hour)
			w.facts.RolledOutAt = &long
			before := 0
			w.apply = func(action.Plan, int) (action.Result, error) {
				before = w.looked
				return action.Result{Done: true}, nil
			}
			w.fire("web")
			w.work()
			require.Len(t, w.calls, 1)
			require.Equal(t, row.want, before > 0, "%d readings before the change", before)
		})
	}
}
