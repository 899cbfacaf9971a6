package app

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// slackAPI speaks as much of Slack's API as the service uses, and records what
// is said.
type slackAPI struct {
	*httptest.Server
	said chan slackCall
}

type slackCall struct{ method, text, thread string }

func newSlackAPI(t *testing.T) *slackAPI {
	t.Helper()
	s := &slackAPI{said: make(chan slackCall, 100)}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := r.ParseForm(); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		if r.Form.Get("token") != "xoxb-test-token" && r.Header.Get("Authorization") != "Bearer xoxb-test-token" {
			_ = json.NewEncoder(w).Encode(map[string]any{"ok": false, "error": "invalid_auth"}) // shows as a missing call
			return
		}
		s.said <- slackCall{strings.TrimPrefix(r.URL.Path, "/api/"), r.Form.Get("text") + r.Form.Get("blocks") + r.Form.Get("attachments"), r.Form.Get("thread_ts")}
		_ = json.NewEncoder(w).Encode(map[string]any{"ok": true, "channel": "C1", "ts": "1700000000.000100"}) // a lost answer shows as a missing call
	}))
	t.Cleanup(s.Close)
	return s
}

// requireOneMessage waits until the run's message tells the end, and checks that
// the channel got one message that was updated, and details in its thread only.
func (s *slackAPI) requireOneMessage(t *testing.T, end string) {
	t.Helper()
	posts := 0
	timeout := time.NewTimer(3 * time.Minute)
	defer timeout.Stop()
	for {
		select {
		case call := <-s.said:
			if call.method == "chat.postMessage" && call.thread == "" {
				posts++
			}
			require.LessOrEqual(t, posts, 1, "one message a run")
			if call.method == "chat.update" && strings.Contains(strings.ToLower(call.text), end) {
				require.Equal(t, 1, posts)
				return
			}
		case <-timeout.C:
			t.Fatalf("Slack was not told that the run ended %s", end)
		}
	}
}
