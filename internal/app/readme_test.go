package app

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alertmedic/alertmedic/internal/config"
	"github.com/alertmedic/alertmedic/internal/journal"
	"github.com/alertmedic/alertmedic/internal/store"
	"github.com/alertmedic/alertmedic/internal/testcluster"
)

// What the README says to try works as it is written: its two files, and a
// kubeconfig in the environment. Not parallel, because it sets that.
func TestReadmeCanBeTriedLocally(t *testing.T) {
	cluster := testcluster.Shared(t)
	s := &service{cluster: cluster, ns: cluster.Namespace(t)}
	pod := s.deploy(t, "web", 1)[0].Name
	alerts := &soak{held: map[string]any{}}
	source := httptest.NewServer(http.HandlerFunc(alerts.alerting))
	t.Cleanup(source.Close)

	readme, err := os.ReadFile("../../README.md")
	require.NoError(t, err)
	_, section, found := strings.Cut(string(readme), "\n## Try it locally\n")
	require.True(t, found)
	section, _, _ = strings.Cut(section, "\n## ")
	files := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(section, -1)
	require.Len(t, files, 2)
	dir := t.TempDir()
	addressed := regexp.MustCompile(`http://127\.0\.0\.1:[A-Z]+-PORT`).ReplaceAllString(files[0][1], source.URL)
	require.Equal(t, 2, strings.Count(addressed, source.URL))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "alertmedic.yaml"), []byte(addressed), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "playbook.yaml"), []byte(files[1][1]), 0o600))
	kubeconfig := filepath.Join(dir, "kubeconfig")
	require.NoError(t, cluster.Kubeconfig(kubeconfig))
	t.Setenv("KUBECONFIG", kubeconfig)
	cfg, err := config.Load(filepath.Join(dir, "alertmedic.yaml"))
	require.NoError(t, err)
	require.Equal(t, "127.0.0.1:9095", cfg.Listen.Address, "where make cluster-up has Alertmanager send to")
	cfg.Store.DSN = filepath.Join(dir, cfg.Store.DSN) // the test's own working directory

	url, _ := serveBare(t, cfg, nil, slog.DiscardHandler)
	fired := with(firing("namespace", s.ns, "pod", pod), "startsAt", time.Now().UTC())
	alerts.hold(fired)
	status, answer := post(t, url+"/api/v1/webhook", webhook(t, fired))
	require.Equal(t, http.StatusOK, status, answer)
	end := logged(t, url, journal.RunEnded)
	require.Equal(t, string(store.Simulated), end.Outcome, end.Message)
	require.Contains(t, end.Message, "delete pod "+s.ns+"/"+pod)
}
