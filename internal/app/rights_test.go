package app

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/alertmedic/alertmedic/internal/testcluster"
)

// An account that may do nothing is known before the first alert: the service is
// ready all the same, and says which playbook lacks rights.
func TestMissingRightsAreToldBeforeTheyAreNeeded(t *testing.T) {
	t.Parallel()
	s := start(t, strings.Replace(fmt.Sprintf(crashPlaybook, "Auto"), "spec:\n", "spec:\n  serviceAccountName: may-do-nothing\n", 1))
	get := func(path string) (int, string) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.url+path, nil)
		require.NoError(t, err)
		resp, err := http.DefaultClient.Do(req)
		require.NoError(t, err)
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		return resp.StatusCode, string(body)
	}
	var said string
	require.NoError(t, testcluster.Poll(t.Context(), func(context.Context) (bool, error) {
		status, body := get("/-/ready")
		require.Equal(t, http.StatusOK, status, "webhooks are taken all the same")
		var ready struct {
			Checks []struct {
				Name  string `json:"name"`
				OK    bool   `json:"ok"`
				Error string `json:"error"`
			} `json:"checks"`
		}
		require.NoError(t, json.Unmarshal([]byte(body), &ready))
		for _, c := range ready.Checks {
			if c.Name == "rights" && !c.OK {
				said = c.Error
			}
		}
		return said != "", nil
	}))
	require.Contains(t, said, "playbooks lack rights")
	_, metrics := get("/metrics")
	require.Regexp(t, `alertmedic_playbook_missing_rights\{playbook="[a-z-]+"\} [1-9]`, metrics)
}
