package durability

import (
	"context"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alertmedic/alertmedic/internal/testcluster"
)

const restartPlaybook = `apiVersion: alertmedic.io/v1alpha1
kind: Playbook
metadata: {name: restart}
spec:
  matchers: [alertname = MedicRestart]
  target: {kind: Deployment}
  mode: Auto
  remedies:
  - name: restart
    steps: [{name: restart, action: workload.restart}]
    verify: {timeout: 10s, stableFor: 1s}
`

// The harness itself: a process is started, paused, killed, restarted and asked
// to end, and says at each point what it should.
func TestProcess(t *testing.T) {
	t.Parallel()
	cluster := testcluster.Shared(t)
	proxy := NewAPIProxy(t, cluster, 0)
	relay := NewRelay(t, 0)
	p := StartProcess(t, Options{DSN: filepath.Join(t.TempDir(), "medic.db"), Kubeconfig: proxy.Kubeconfig(t, "medic"),
		Alertmanager: relay.URL, Prometheus: relay.URL, Playbooks: []string{restartPlaybook}})
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	first := p.PID()
	require.NoError(t, p.Pause())
	short := &http.Client{Timeout: 200 * time.Millisecond, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := short.Get(p.URL + "/-/ready")
	if err == nil {
		resp.Body.Close()
	}
	require.Error(t, err, "a paused process answers nothing")
	require.NoError(t, p.Resume())
	require.NoError(t, p.WaitReady(ctx))

	require.NoError(t, p.Kill())
	require.False(t, p.Running())
	require.NoError(t, p.Restart())
	require.NoError(t, p.WaitReady(ctx))
	require.NotEqual(t, first, p.PID())

	require.NoError(t, p.Terminate(ctx))
	require.False(t, p.Running())
	require.Contains(t, p.Tail(), "stopped", "it ends in order")
}
