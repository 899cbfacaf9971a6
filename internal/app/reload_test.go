package app

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alertmedic/alertmedic/internal/api"
	"github.com/alertmedic/alertmedic/internal/api/client"
	"github.com/alertmedic/alertmedic/internal/engine"
	"github.com/alertmedic/alertmedic/internal/journal"
	"github.com/alertmedic/alertmedic/internal/store"
)

func post(t *testing.T, url, body string) (int, string) {
	t.Helper()
	resp, err := http.Post(url, "application/json", strings.NewReader(body))
	require.NoError(t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp.StatusCode, string(text)
}

func get(t *testing.T, url string) string {
	t.Helper()
	resp, err := http.Get(url)
	require.NoError(t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return string(text)
}

// logged follows the log until an entry of the kind appears.
func logged(t *testing.T, url string, kind journal.Kind) journal.Entry {
	t.Helper()
	c, err := client.New(client.Options{Server: url})
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	var found journal.Entry
	err = c.Follow(ctx, store.LogFilter{}, func(en journal.Entry) error {
		if en.Kind == kind {
			found = en
			return errFound
		}
		return nil
	})
	require.ErrorIs(t, err, errFound, "no %s in the log", kind)
	return found
}

// A reload that fails changes nothing, and everybody can see why: the answer,
// the journal and the metric.
func TestFailedReloadLeavesEverythingAsItWas(t *testing.T) {
	t.Parallel()
	url, dir := serveAlone(t)
	before := get(t, url+"/api/v1/playbooks")
	require.Contains(t, before, `"crash"`)
	require.Contains(t, get(t, url+"/metrics"), "alertmedic_playbooks_last_reload_successful 1")
	good, err := os.ReadFile(filepath.Join(dir, "playbook.yaml"))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "playbook.yaml"), []byte("apiVersion: alertmedic.io/v1alpha1\nkind: Playbook\nmetadata: {name: crash}\nspec: {matchres: []}\n"), 0o600))
	status, answer := post(t, url+"/-/reload", "")
	require.GreaterOrEqual(t, status, 400)
	require.Contains(t, answer, "playbook.yaml:4:")
	require.Contains(t, answer, "matchers")
	en := logged(t, url, journal.ConfigRejected)
	require.Contains(t, en.Message, "playbook.yaml:4:")
	require.Contains(t, get(t, url+"/metrics"), "alertmedic_playbooks_last_reload_successful 0")
	require.Contains(t, get(t, url+"/-/ready"), "playbook.yaml:4:")

	var now, then api.PlaybookList
	require.NoError(t, json.Unmarshal([]byte(before), &then))
	require.NoError(t, json.Unmarshal([]byte(get(t, url+"/api/v1/playbooks")), &now))
	require.NotEmpty(t, now.Refused)
	require.Contains(t, now.Refused[0], "playbook.yaml:4:")
	status, answer = post(t, url+"/api/v1/explain", `{"labels": {"alertname": "Other"}}`)
	require.Equal(t, http.StatusOK, status, answer)
	require.Contains(t, answer, `"refused":["`, "whoever asks why a new playbook does nothing is told")
	now.Refused = nil
	require.Equal(t, then, now)

	require.NoError(t, os.WriteFile(filepath.Join(dir, "playbook.yaml"), good, 0o600))
	status, answer = post(t, url+"/-/reload", "")
	require.Less(t, status, 300, answer)
	require.Equal(t, before, get(t, url+"/api/v1/playbooks"))
	require.NotContains(t, get(t, url+"/-/ready"), "playbook.yaml:4:")
}

// A playbook that was changed is in force only once its snapshot is stored: a
// run of it that another replica carries on needs that.
func TestPlaybooksAreStoredBeforeTheyAreInForce(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	a := openParts(t, bare(t, dir, fmt.Sprintf(crashPlaybook, "Auto")))
	var err error
	a.rights, err = newRights(a.registry)
	require.NoError(t, err)
	a.engine = &engine.Engine{} // as when it serves
	before := a.playbooks.Current()
	write := func(mode string) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, "playbook.yaml"), []byte(fmt.Sprintf(crashPlaybook, mode)), 0o600))
	}

	write("Observe")
	_, err = a.playbooks.Reload(t.Context())
	require.NoError(t, err)
	now := a.playbooks.Current()
	require.NotEqual(t, before.Hash(), now.Hash())
	doc, err := a.store.GetPlaybook(t.Context(), now.All()[0].Hash)
	require.NoError(t, err)
	require.JSONEq(t, string(now.All()[0].Doc), string(doc))

	require.NoError(t, a.store.Close())
	write("Auto")
	_, err = a.playbooks.Reload(t.Context())
	require.ErrorContains(t, err, "store the snapshot of playbook crash")
	require.Equal(t, now, a.playbooks.Current())
}

// With the cluster, Alertmanager and Prometheus away, a webhook is accepted and
// kept: what it asks for waits.
func TestAcceptsWhileEverythingElseIsAway(t *testing.T) {
	t.Parallel()
	url, _ := serveAlone(t)
	body, err := os.ReadFile("../../testdata/webhooks/firing.json")
	require.NoError(t, err)
	status, answer := post(t, url+"/api/v1/webhook", string(body))
	require.Equal(t, http.StatusOK, status, answer)
	require.NotEmpty(t, logged(t, url, journal.EpisodeOpened).Fingerprint)
	require.Contains(t, get(t, url+"/-/ready"), "store")
	status, _ = post(t, url+"/api/v1/webhook", string(body[:len(body)/2]))
	require.Equal(t, http.StatusBadRequest, status, "half a body is no webhook")
}
