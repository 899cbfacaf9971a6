package app

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// slackAPI speaks as much of Slack's API as the service uses, and records what
// is said.
type slackAPI struct {
	*httptest.Server
	mu    sync.Mutex
	calls []slackCall
	said  chan struct{} // one at most waits in it: something was said
}

// slackCall is one request; message is the one that it made or changed.
type slackCall struct{ method, text, thread, message string }

// isMessage tells a message in the channel from one in a thread and from a change.
func (c slackCall) isMessage() bool { return c.method == "chat.postMessage" && c.thread == "" }

// isStorm tells the message of a storm.
func (c slackCall) isStorm() bool { return strings.Contains(c.text, "torm in ") }

func newSlackAPI(t *testing.T) *slackAPI {
	t.Helper()
	s := &slackAPI{said: make(chan struct{}, 1)}
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
		message := s.record(slackCall{strings.TrimPrefix(r.URL.Path, "/api/"), r.Form.Get("text") + r.Form.Get("blocks") + r.Form.Get("attachments"),
			r.Form.Get("thread_ts"), r.Form.Get("ts")})
		_ = json.NewEncoder(w).Encode(map[string]any{"ok": true, "channel": "C1", "ts": message}) // a lost answer shows as a missing call
	}))
	t.Cleanup(s.Close)
	return s
}

// record keeps a call and returns the message that it is about.
func (s *slackAPI) record(c slackCall) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.message == "" {
		c.message = fmt.Sprintf("1700000000.%06d", len(s.calls)+1)
	}
	s.calls = append(s.calls, c)
	select {
	case s.said <- struct{}{}:
	default:
	}
	return c.message
}

// all is what was said so far.
func (s *slackAPI) all() []slackCall {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.calls)
}

// until waits until what was said is enough, and returns it. One goroutine at a
// time may wait.
func (s *slackAPI) until(t *testing.T, what string, enough func([]slackCall) bool) []slackCall {
	t.Helper()
	timeout := time.NewTimer(3 * time.Minute)
	defer timeout.Stop()
	for {
		if calls := s.all(); enough(calls) {
			return calls
		}
		select {
		case <-s.said:
		case <-timeout.C:
			t.Fatalf("Slack was not told %s: %v", what, s.all())
		}
	}
}

// messages are those in the channel.
func messages(calls []slackCall) []slackCall {
	return slices.DeleteFunc(slices.Clone(calls), func(c slackCall) bool { return !c.isMessage() })
}

// requireOneMessage waits until the run's message tells the end, and checks that
// the channel got one message that was updated, and details in its thread only.
func (s *slackAPI) requireOneMessage(t *testing.T, end string) {
	t.Helper()
	calls := s.until(t, "that the run ended "+end, func(calls []slackCall) bool {
		return slices.ContainsFunc(calls, func(c slackCall) bool {
			return c.method == "chat.update" && strings.Contains(strings.ToLower(c.text), end)
		})
	})
	require.Len(t, messages(calls), 1, "one message a run")
}
