package receiver_test

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alertmedic/alertmedic/internal/journal"
	"github.com/alertmedic/alertmedic/internal/store"
	"github.com/alertmedic/alertmedic/receiver"
)

// withStore puts the real store behind a receiver.
func withStore(t *testing.T) (*fixture, *store.Store) {
	t.Helper()
	s, err := store.Open(t.Context(), store.Options{DSN: filepath.Join(t.TempDir(), "medic.db"), FlapDwell: 2 * time.Minute, Clock: func() time.Time { return now }})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	for _, hash := range []string{"h1", "h2"} {
		require.NoError(t, s.PutPlaybook(t.Context(), hash, []byte(`{}`)))
	}
	return setup(t, func(o *receiver.Options) { o.Accepter = s }), s
}

func (f *fixture) answer(t *testing.T, raw []byte) receiver.Answer {
	t.Helper()
	code, got := f.do(request(bytes.NewReader(raw)))
	require.Equal(t, http.StatusOK, code, got)
	var a receiver.Answer
	require.NoError(t, json.Unmarshal([]byte(got), &a))
	return a
}

// Two Alertmanagers send the same within milliseconds, and one sends again
// while the first request is still being handled.
func TestSameBodyAtOnceOpensOneEpisode(t *testing.T) {
	t.Parallel()
	f, s := withStore(t)
	server := httptest.NewServer(f.handler)
	defer server.Close()
	raw := payload(t, "firing")
	const senders = 16
	answers := make([]receiver.Answer, senders)
	errs := make([]error, senders)
	var wg sync.WaitGroup
	client := server.Client()
	defer client.CloseIdleConnections()
	for i := range senders {
		wg.Go(func() { answers[i], errs[i] = post(client, server.URL, raw) })
	}
	wg.Wait()
	var sum receiver.Answer
	for i := range answers {
		require.NoError(t, errs[i])
		sum.Opened += answers[i].Opened
		sum.Repeated += answers[i].Repeated
		sum.Candidates += answers[i].Candidates
	}
	require.Equal(t, receiver.Answer{Opened: 1, Repeated: senders - 1, Candidates: 2}, sum)
	open, err := s.OpenEpisodes(t.Context(), "main")
	require.NoError(t, err)
	require.Len(t, open, 1)
}

func post(client *http.Client, url string, raw []byte) (receiver.Answer, error) {
	req, err := http.NewRequest(http.MethodPost, url+receiver.Path, bytes.NewReader(raw))
	if err != nil {
		return receiver.Answer{}, err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return receiver.Answer{}, err
	}
	defer resp.Body.Close()
	var a receiver.Answer
	return a, json.NewDecoder(resp.Body).Decode(&a)
}

func TestWhatTheStoreMakesOfWebhooks(t *testing.T) {
	t.Parallel()
	f, s := withStore(t)
	require.Equal(t, receiver.Answer{Accepted: 1, Orphaned: 1}, f.answer(t, payload(t, "resolved")), "resolved before firing")
	require.Equal(t, 1, f.answer(t, payload(t, "firing")).Opened)
	require.Equal(t, receiver.Answer{Accepted: 1, Repeated: 1}, f.answer(t, payload(t, "firing")))
	require.Equal(t, receiver.Answer{Accepted: 1, Closed: 1}, f.answer(t, payload(t, "resolved")))
	open, err := s.OpenEpisodes(t.Context(), "main")
	require.NoError(t, err)
	require.Empty(t, open)

	hostile := f.answer(t, payload(t, "hostile-labels"))
	require.Equal(t, receiver.Answer{Accepted: 1, Opened: 1, Unmatched: 1}, hostile)
	open, err = s.OpenEpisodes(t.Context(), "main")
	require.NoError(t, err)
	require.Len(t, open, 1)
	require.Equal(t, "'; DROP TABLE episodes; --", open[0].Alert.Labels["sql"])
	require.Equal(t, "shop; rm -rf /", open[0].Alert.Labels["namespace"])
}

func TestRejectedAlertsReachTheLog(t *testing.T) {
	t.Parallel()
	f, s := withStore(t)
	got := f.answer(t, body(t, map[string]string{"alertname": "B", "cluster": "staging"}, map[string]string{"alertname": "\x00"}))
	require.Equal(t, receiver.Answer{Rejected: 2}, got)
	_, err := s.Seal(t.Context(), "test")
	require.NoError(t, err)
	entries, _, err := s.Log(t.Context(), store.LogFilter{Kind: string(journal.AlertRejected)}, store.Page{Limit: 10})
	require.NoError(t, err)
	require.Len(t, entries, 2)
	reasons := []string{entries[0].Reason, entries[1].Reason}
	require.ElementsMatch(t, []string{"wrong-cluster", "nul-byte"}, reasons)
}

// A store that is gone answers no 2xx: what Alertmanager holds stays there.
func TestClosedStoreIsA503(t *testing.T) {
	t.Parallel()
	s, err := store.Open(t.Context(), store.Options{DSN: filepath.Join(t.TempDir(), "medic.db")})
	require.NoError(t, err)
	f := setup(t, func(o *receiver.Options) { o.Accepter = s })
	require.NoError(t, s.Close())
	code, got := f.do(request(bytes.NewReader(payload(t, "firing"))))
	require.Equal(t, http.StatusServiceUnavailable, code, got)
}
