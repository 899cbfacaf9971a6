package engine

import (
	"bytes"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alertmedic/alertmedic/internal/guard"
	"github.com/alertmedic/alertmedic/internal/simulate"
	"github.com/alertmedic/alertmedic/internal/store"
)

func (w *world) explain(r simulate.ExplainRequest) *simulate.Explanation {
	w.t.Helper()
	out, err := w.engine.Explain(w.t.Context(), r)
	require.NoError(w.t, err)
	return out
}

var aboutWeb = simulate.ExplainRequest{Labels: map[string]string{"alertname": "Broken", "namespace": "shop", "target": "web"}}

// What explain says is what the engine does, guard for guard, and nothing is
// written by it.
func TestExplainSaysWhatWouldBeDone(t *testing.T) {
	t.Parallel()
	w := setup(t, doc("restart", restart), doc("other", `  matchers: [alertname = Other, severity = page]
  target: {kind: Workload}
  remedies: [{name: restart, steps: [{name: restart, action: workload.restart}]}]
`), doc("weaker", `  matchers: [alertname = Broken]
  priority: -1
  target: {kind: Workload}
  remedies: [{name: scale, when: "false || alert.labels['target'] == 'db'", steps: [{name: scale, action: workload.scale}]}]
`))
	var before, after bytes.Buffer
	_, err := w.store.Backup(t.Context(), &before, store.BackupOptions{})
	require.NoError(t, err)
	e := w.explain(aboutWeb)
	_, err = w.store.Backup(t.Context(), &after, store.BackupOptions{})
	require.NoError(t, err)
	require.Equal(t, before.Bytes(), after.Bytes(), "explain writes nothing")
	require.Empty(t, w.calls)
	require.Empty(t, w.dryRuns)

	by := map[string]simulate.Considered{}
	for _, p := range e.Playbooks {
		by[p.Name] = p
	}
	require.Equal(t, "would act now", acts(by["restart"]))
	require.Len(t, by["restart"].Guards, len(guard.List()))
	require.Equal(t, "workload.restart Deployment/shop/web", by["restart"].Remedies[0].Steps[0].Summary)
	require.Equal(t, `does not match: alertname="Other": alertname is "Broken"`, acts(by["other"]))
	require.Equal(t, "gives way to restart", acts(by["weaker"]))
	require.False(t, by["weaker"].Remedies[0].Applies)
	require.Contains(t, by["weaker"].Remedies[0].Why, "when is false")

	// The engine does just that.
	w.fire("web")
	w.work()
	require.Equal(t, []string{"workload.restart Deployment/shop/web"}, w.calls)
	// And now another look says why it would not again.
	again := w.explain(simulate.ExplainRequest{Labels: aboutWeb.Labels, Playbook: "restart"})
	require.Len(t, again.Playbooks, 1)
}

func acts(p simulate.Considered) string { return p.Acts() }

func TestExplainSaysWhatHolds(t *testing.T) {
	t.Parallel()
	w := setup(t, doc("restart", restart))
	require.NoError(t, w.store.SetPause(t.Context(), guard.Pause{Scope: guard.PauseGlobal, By: "ada", Why: "release"}))
	w.witness = func(ev *guard.Evidence) {
		ev.Target.Touched = &guard.Touch{Object: "Deployment/shop/web", Manager: "kubectl-edit", At: w.now.Add(-time.Minute)}
	}
	e := w.explain(aboutWeb)
	require.Contains(t, acts(e.Playbooks[0]), "would wait (paused): paused (global) by ada")
	var held []string
	for _, d := range e.Playbooks[0].Guards {
		if d.Verdict != guard.Admit {
			held = append(held, d.Guard)
		}
	}
	require.Equal(t, []string{"paused", "human-activity"}, held, "every guard that objects, not the first alone")
	var text, plan bytes.Buffer
	require.NoError(t, e.WriteText(&text))
	require.Contains(t, text.String(), "Playbook restart would wait (paused)")
	require.Contains(t, text.String(), "human-activity")
	require.NoError(t, e.WritePlan(&plan))
	require.Contains(t, plan.String(), "# restart/restart on Deployment/shop/web\nrestart (workload.restart): workload.restart Deployment/shop/web")
}

func TestExplainNamesWhatIsNotThere(t *testing.T) {
	t.Parallel()
	w := setup(t, doc("restart", restart))
	_, err := w.engine.Explain(t.Context(), simulate.ExplainRequest{Labels: aboutWeb.Labels, Playbook: "restrat"})
	require.ErrorIs(t, err, store.ErrNotFound)
	require.ErrorContains(t, err, `no playbook "restrat" is loaded, only restart;`)
	_, err = w.engine.Explain(t.Context(), simulate.ExplainRequest{Labels: aboutWeb.Labels, Source: "nobody"})
	require.ErrorIs(t, err, store.ErrNotFound)
	gone := w.explain(simulate.ExplainRequest{Labels: map[string]string{"alertname": "Broken", "target": "gone"}})
	require.Contains(t, acts(gone.Playbooks[0]), "finds no target: ")
	bare := w.explain(simulate.ExplainRequest{Labels: map[string]string{"target": "web"}})
	require.Equal(t, `does not match: alertname="Broken": the alert has no label alertname`, acts(bare.Playbooks[0]))
}
