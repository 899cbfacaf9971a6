package app

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/prometheus/common/model"
	"github.com/stretchr/testify/require"

	"github.com/alertmedic/alertmedic/internal/config"
	"github.com/alertmedic/alertmedic/internal/journal"
)

// What keeps the service from starting ends it with an error that says where and
// what to do.
func TestRunRefusesToStart(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		prepare func(t *testing.T, dir string, cfg *config.Config)
		says    []string
	}{
		"a taken port": {func(t *testing.T, _ string, cfg *config.Config) {
			l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
			require.NoError(t, err)
			t.Cleanup(func() { _ = l.Close() })
			cfg.Listen.Address = l.Addr().String()
		}, []string{"address already in use; set listen.address to a free one, or stop what listens there"}},
		"a wrong DSN": {func(_ *testing.T, _ string, cfg *config.Config) { cfg.Store.DSN = "mysql://root:hunter2@127.0.0.1/x" },
			[]string{`open the store of store.dsn or store.dsnFile: the DSN has the scheme "mysql", which is not known: give a path or file:PATH for SQLite, or postgres://user@host/database`}},
		"a broken playbook": {func(t *testing.T, dir string, _ *config.Config) {
			require.NoError(t, os.WriteFile(filepath.Join(dir, "playbook.yaml"), []byte("kind: Playbook\nspec: 5\n"), 0o600))
		}, []string{"load the playbooks:\n", "playbook.yaml:1:1: apiVersion: is required\n", "playbook.yaml:2:7: spec: must be a mapping, not a whole number"}},
		"no playbooks there": {func(_ *testing.T, dir string, cfg *config.Config) {
			cfg.Playbooks.Paths = []string{filepath.Join(dir, "none")}
		},
			[]string{"load the playbooks:\n", "none: no such file or directory"}},
		"a missing token": {func(_ *testing.T, dir string, cfg *config.Config) {
			cfg.Sources[0].TokenFile = filepath.Join(dir, "none.token")
		},
			[]string{"none.token"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			cfg := bare(t, dir, fmt.Sprintf(crashPlaybook, "Auto"))
			tt.prepare(t, dir, cfg)
			err := Run(t.Context(), Options{Config: cfg, Logger: slog.New(slog.DiscardHandler), Kubernetes: away,
				Ready: func(net.Addr) { t.Error("it serves") }})
			require.Error(t, err)
			for _, part := range tt.says {
				require.ErrorContains(t, err, part)
			}
			require.NotContains(t, err.Error(), "hunter2")
		})
	}
}

// Nobody told it of a cluster: not a reason to guess one. Not parallel, because
// it changes the environment.
func TestRunNeedsToKnowTheCluster(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	t.Setenv("KUBECONFIG", filepath.Join(t.TempDir(), "none"))
	const remedy = "set kubernetes.kubeconfig in the configuration or $KUBECONFIG, or run in a cluster"
	_, err := restConfigOf(config.Kubernetes{})
	require.EqualError(t, err, "no Kubernetes cluster is configured: "+remedy)
	_, err = restConfigOf(config.Kubernetes{Kubeconfig: "/nonexistent/kubeconfig"})
	require.EqualError(t, err, "read how to reach the Kubernetes cluster: stat /nonexistent/kubeconfig: no such file or directory; "+remedy)
}

// Label values are data: whatever syntax they speak, they come back as they were
// sent and do nothing on the way.
func TestHostileLabelsComeBackLiterally(t *testing.T) {
	t.Parallel()
	url, _ := serveAlone(t)
	hostile := map[string]string{
		"alertname": "KubePodCrashLooping", "shell": "$(touch /tmp/owned); `id` | sh", "template": "{{ .Run.ID }}{{ template \"x\" }}",
		"cel": "') || true || ('", "slack": "<!channel> <https://evil.example|click>", "sql": "'; DROP TABLE journal; --",
	}
	set, pairs := model.LabelSet{}, []string{}
	for k, v := range hostile {
		set[model.LabelName(k)] = model.LabelValue(v)
		pairs = append(pairs, fmt.Sprintf("%q:%q", k, v))
	}
	body := fmt.Sprintf(`{"version":"4","groupKey":"g","status":"firing","receiver":"alertmedic","alerts":[{"status":"firing","labels":{%s},`+
		`"startsAt":"2026-03-01T12:00:00Z","fingerprint":%q}]}`, strings.Join(pairs, ","), set.Fingerprint())
	status, answer := post(t, url+"/api/v1/webhook", body)
	require.Equal(t, 200, status, answer)
	en := logged(t, url, journal.EpisodeOpened)
	var seen struct {
		Labels map[string]string `json:"labels"`
	}
	require.NoError(t, json.Unmarshal(en.Data, &seen))
	require.Equal(t, hostile, seen.Labels)
}
