package app

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alertmedic/alertmedic/internal/api/client"
	"github.com/alertmedic/alertmedic/internal/guard"
	"github.com/alertmedic/alertmedic/internal/simulate"
	"github.com/alertmedic/alertmedic/internal/store"
)

// Explain reads a real pod and asks a real Prometheus, all guards answer, and
// neither the cluster nor the log has anything of it: not even a dry run.
func TestExplainOnlyReads(t *testing.T) {
	t.Parallel()
	s := start(t, fmt.Sprintf(crashPlaybook, "Auto"))
	pods := s.deploy(t, "web", 1)
	began := time.Now()
	e, err := s.client.Explain(t.Context(), simulate.ExplainRequest{
		Labels: map[string]string{"alertname": alertName, "namespace": s.ns, "pod": pods[0].Name, "container": "app"}})
	require.NoError(t, err)
	require.Len(t, e.Playbooks, 1)
	p := e.Playbooks[0]
	var text strings.Builder
	require.NoError(t, e.WriteText(&text))
	t.Log(text.String())
	require.NotNil(t, p.Target, p.Why)
	require.Equal(t, "web", p.Target.Name)
	require.Len(t, p.Guards, len(guard.List()))
	require.NotEqual(t, guard.Admit, p.Decision.Verdict, "the alert does not fire")
	require.Contains(t, p.Remedies[0].Steps[1].Summary, pods[0].Name)

	events, err := s.cluster.Mutations(began)
	require.NoError(t, err)
	for _, ev := range events {
		if strings.HasPrefix(ev.UserAgent, "alertmedic/") && ev.ObjectRef != nil && ev.ObjectRef.Namespace == s.ns {
			t.Errorf("explain sent %s %s %s", ev.Verb, ev.RequestURI, ev.ObjectRef.Name)
		}
	}
	runs, err := s.client.Runs(t.Context(), store.RunFilter{}, client.Page{})
	require.NoError(t, err)
	require.Empty(t, runs.Items)
}
