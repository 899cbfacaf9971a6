package notify_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const (
	botToken    = "xoxb-SECRETBOT-1"
	webhookPath = "/services/T0/B0/SECRETHOOK"
)

// call is one request that the server got.
type call struct {
	Method string          `json:"method"`
	Text   string          `json:"text"`
	TS     string          `json:"ts,omitempty"`
	Thread string          `json:"thread,omitempty"`
	To     string          `json:"channel,omitempty"`
	Blocks json.RawMessage `json:"blocks"`
}

// slackServer speaks the part of Slack's API that is used: it keeps messages,
// refuses what Slack refuses, and answers as scripted first.
type slackServer struct {
	*httptest.Server
	t        *testing.T
	mu       sync.Mutex
	calls    []call
	messages map[string]bool               // "channel/ts"
	script   []func(w http.ResponseWriter) // answers to give before the usual ones
	next     int
}

func newSlack(t *testing.T) *slackServer {
	t.Helper()
	s := &slackServer{t: t, messages: map[string]bool{}}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /api/chat.postMessage", s.post)
	mux.HandleFunc("POST /api/chat.update", s.update)
	mux.HandleFunc("POST "+webhookPath, s.webhook)
	s.Server = httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return s
}

func (s *slackServer) answerFirst(answers ...func(http.ResponseWriter)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.script = append(s.script, answers...)
}

func (s *slackServer) scripted(w http.ResponseWriter) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.script) == 0 {
		return false
	}
	answer := s.script[0]
	s.script = s.script[1:]
	answer(w)
	return true
}

func (s *slackServer) record(c call) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls = append(s.calls, c)
}

func (s *slackServer) got() []call {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]call(nil), s.calls...)
}

func (s *slackServer) forget(channel, ts string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.messages, channel+"/"+ts)
}

func (s *slackServer) post(w http.ResponseWriter, r *http.Request) {
	if s.scripted(w) || !s.authorised(w, r) {
		return
	}
	c := call{Method: "chat.postMessage", Text: r.FormValue("text"), Thread: r.FormValue("thread_ts"),
		To: r.FormValue("channel"), Blocks: json.RawMessage(r.FormValue("blocks"))}
	s.record(c)
	channel := c.To
	if channel[0] == '#' {
		channel = "C" + channel[1:] // names become ids, as Slack does
	}
	s.mu.Lock()
	s.next++
	ts := fmt.Sprintf("1700000000.%06d", s.next)
	s.messages[channel+"/"+ts] = true
	s.mu.Unlock()
	reply(w, map[string]any{"ok": true, "channel": channel, "ts": ts})
}

func (s *slackServer) update(w http.ResponseWriter, r *http.Request) {
	if s.scripted(w) || !s.authorised(w, r) {
		return
	}
	c := call{Method: "chat.update", Text: r.FormValue("text"), TS: r.FormValue("ts"), To: r.FormValue("channel"), Blocks: json.RawMessage(r.FormValue("blocks"))}
	s.mu.Lock()
	known := s.messages[c.To+"/"+c.TS]
	s.mu.Unlock()
	if !known {
		reply(w, map[string]any{"ok": false, "error": "message_not_found"})
		return
	}
	s.record(c)
	reply(w, map[string]any{"ok": true, "channel": c.To, "ts": c.TS, "text": c.Text})
}

func (s *slackServer) webhook(w http.ResponseWriter, r *http.Request) {
	if s.scripted(w) {
		return
	}
	var body struct {
		Text   string          `json:"text"`
		Blocks json.RawMessage `json:"blocks"`
		Parse  string          `json:"parse"`
	}
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil || body.Parse != "none" {
		http.Error(w, "invalid_payload", http.StatusBadRequest)
		return
	}
	s.record(call{Method: "webhook", Text: body.Text, Blocks: body.Blocks})
	_, _ = io.WriteString(w, "ok")
}

func (s *slackServer) authorised(w http.ResponseWriter, r *http.Request) bool {
	if r.FormValue("token") == botToken || r.Header.Get("Authorization") == "Bearer "+botToken {
		return true
	}
	reply(w, map[string]any{"ok": false, "error": "invalid_auth"})
	return false
}

func reply(w http.ResponseWriter, body any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(body)
}

func status(code int, retryAfter time.Duration) func(http.ResponseWriter) {
	return func(w http.ResponseWriter) {
		if retryAfter > 0 {
			w.Header().Set("Retry-After", strconv.Itoa(int(retryAfter.Seconds())))
		}
		w.WriteHeader(code)
	}
}

func refuse(code string) func(http.ResponseWriter) {
	return func(w http.ResponseWriter) { reply(w, map[string]any{"ok": false, "error": code}) }
}

func requireMethods(t *testing.T, calls []call, want ...string) {
	t.Helper()
	var got []string
	for _, c := range calls {
		name := c.Method
		if c.Thread != "" {
			name += " in thread"
		}
		got = append(got, name)
	}
	require.Equal(t, want, got)
}
