package promapi_test

import (
	"encoding/pem"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alertmedic/alertmedic/internal/alert"
	"github.com/alertmedic/alertmedic/internal/guard"
	"github.com/alertmedic/alertmedic/internal/promapi"
)

func named(name string) alert.Alert {
	labels := map[string]string{"alertname": name}
	return alert.Alert{Status: alert.Firing, Labels: labels, StartsAt: start, Fingerprint: alert.Fingerprint(labels)}
}

func TestSnapshot(t *testing.T) {
	t.Parallel()
	bad := held(named("Bad"), with("fingerprint", "0123456789abcdef"))
	elsewhere := held(named("Elsewhere"), with("receivers", []doc{{"name": "pager"}}))
	moved := named("Both")
	moved.StartsAt = start.Add(time.Minute)
	a := serve(t, amPath, []doc{held(named("OnlyA")), held(named("Both")), bad, elsewhere})
	b := serve(t, amPath, []doc{held(moved, with("updatedAt", start.Add(time.Second)))})
	down := serve(t, amPath, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) }))

	w := reader(t, []*server{a, b, down}, nil, func(c *promapi.Config) { c.Receivers = []string{"alertmedic"} })
	got, err := w.Snapshot(t.Context())
	require.NoError(t, err)
	seen := map[string]time.Time{}
	for _, al := range got {
		require.Equal(t, alert.Firing, al.Status)
		require.Equal(t, alert.Fingerprint(al.Labels), al.Fingerprint)
		seen[al.Name()] = al.StartsAt
	}
	require.Equal(t, map[string]time.Time{"OnlyA": start, "Both": start.Add(time.Minute)}, seen, "each once, as last reported")
	require.Equal(t, []string{"false"}, a.asked()[0]["silenced"])
	require.Equal(t, []string{"false"}, a.asked()[0]["inhibited"])

	all, err := reader(t, []*server{a}, nil).Snapshot(t.Context())
	require.NoError(t, err)
	require.Len(t, all, 3)

	_, err = reader(t, []*server{down}, nil).Snapshot(t.Context())
	require.EqualError(t, err, `no Alertmanager of source "main" answers: alertmanager `+down.URL+`: /api/v2/alerts answered 502 Bad Gateway`)
}

// Listing all alerts may take longer than a decision waits for the state of one.
func TestASnapshotHasMoreTimeThanADecision(t *testing.T) {
	t.Parallel()
	asked, release := make(chan struct{}, 2), make(chan struct{})
	slow := serve(t, amPath, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- struct{}{}
		select {
		case <-release:
			writeJSON(w, []doc{held(named("Slow"))})
		case <-r.Context().Done():
		}
	}))
	w := reader(t, []*server{slow}, nil, func(c *promapi.Config) { c.Timeout, c.ListTimeout = 50*time.Millisecond, time.Minute })
	var all []alert.Alert
	done := make(chan error, 1)
	go func() {
		var err error
		all, err = w.Snapshot(t.Context())
		done <- err
	}()
	<-asked
	require.Equal(t, guard.AlertUnknown, w.State(t.Context(), named("Slow"), start).State, "begun later, given up")
	close(release)
	require.NoError(t, <-done)
	require.Len(t, all, 1)
}

// When one has answered, a silent one is not waited for as long as it could be.
func TestASnapshotDoesNotWaitForASilentReplica(t *testing.T) {
	t.Parallel()
	quick := serve(t, amPath, []doc{held(named("Quick"))})
	silent := serve(t, amPath, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	w := reader(t, []*server{silent, quick}, nil, func(c *promapi.Config) { c.Timeout, c.ListTimeout = 50*time.Millisecond, time.Hour })
	all, err := w.Snapshot(t.Context())
	require.NoError(t, err)
	require.Len(t, all, 1)
}

func TestWatchdog(t *testing.T) {
	t.Parallel()
	am := serve(t, amPath, []doc{held(named("Watchdog"), with("updatedAt", start.Add(3*time.Second)))})
	peer := serve(t, amPath, []doc{held(named("Watchdog"))})
	got, err := reader(t, []*server{am, peer}, nil).Watchdog(t.Context())
	require.NoError(t, err)
	require.Equal(t, start.Add(3*time.Second), got.UTC())

	none, err := reader(t, []*server{serve(t, amPath, []doc{})}, nil).Watchdog(t.Context())
	require.NoError(t, err)
	require.Zero(t, none)

	am.Close()
	_, err = reader(t, []*server{am}, nil).Watchdog(t.Context())
	require.ErrorContains(t, err, `no Alertmanager of source "main" answers`)
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	_, err := promapi.New(promapi.Config{
		Source:        "main",
		Alertmanagers: []promapi.Endpoint{{URL: "ftp://am"}, {URL: "http://joe:hunter2@am"}},
		Prometheuses:  []promapi.Endpoint{{URL: "http://prom?x=1"}, {URL: "http://[::1"}, {URL: "https://prom", CAFile: "/does/not/exist"}},
	})
	require.Error(t, err)
	require.NotContains(t, err.Error(), "hunter2")
	for _, want := range []string{
		`reader of source "main": alertmanagers[0]: URL "ftp://am": want http:// or https:// and a host`,
		`alertmanagers[1]: URL "http://joe:xxxxx@am" holds credentials: use a bearer token file`,
		`prometheuses[0]: URL "http://prom?x=1": leave out what follows the path`,
		`prometheuses[1]: the URL cannot be parsed`,
		`prometheuses[2]: URL "https://prom": `,
	} {
		require.ErrorContains(t, err, want)
	}
	_, err = promapi.New(promapi.Config{})
	require.EqualError(t, err, "reader of source \"\": no source is named\nno Alertmanager is configured")
}

// Only the configured addresses are called, whatever they answer.
func TestRedirectsAreNotFollowed(t *testing.T) {
	t.Parallel()
	var reached atomic.Bool
	elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		reached.Store(true)
		writeJSON(w, []doc{})
	}))
	t.Cleanup(elsewhere.Close)
	away := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, elsewhere.URL, http.StatusFound) })
	am, prom := serve(t, amPath, away), serve(t, promPath, away)
	got := reader(t, []*server{am}, []*server{prom}).State(t.Context(), theAlert(), time.Time{})
	require.Equal(t, guard.AlertUnknown, got.State)
	am.set([]doc{})
	got = reader(t, []*server{am}, []*server{prom}).State(t.Context(), theAlert(), time.Time{})
	require.Equal(t, guard.AlertUnknown, got.State)
	require.False(t, reached.Load())
}

func TestHugeAnswersAreCut(t *testing.T) {
	t.Parallel()
	huge := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		block := []byte(strings.Repeat(" ", 1<<20))
		for range 40 {
			if _, err := w.Write(block); err != nil {
				return // the reader has had enough
			}
		}
	})
	patient := func(c *promapi.Config) { c.Timeout = 2 * time.Minute } // 32 MiB, on a machine that is busy
	am, prom := serve(t, amPath, huge), serve(t, promPath, huge)
	got := reader(t, []*server{am}, []*server{prom}, patient).State(t.Context(), theAlert(), time.Time{})
	require.Equal(t, guard.AlertUnknown, got.State)
	require.Contains(t, got.By, "the answer is larger than 33554432 bytes")
	am.set([]doc{})
	got = reader(t, []*server{am}, []*server{prom}, patient).State(t.Context(), theAlert(), time.Time{})
	require.Equal(t, guard.AlertUnknown, got.State)
	require.Contains(t, got.By, "the answer is larger than 33554432 bytes")
}

func TestSilentServerTimesOut(t *testing.T) {
	t.Parallel()
	leave := make(chan struct{})
	am := serve(t, amPath, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-leave }))
	defer close(leave)
	w := reader(t, []*server{am}, nil, func(c *promapi.Config) { c.Timeout = 20 * time.Millisecond })
	got := w.State(t.Context(), theAlert(), time.Time{})
	require.Equal(t, guard.AlertUnknown, got.State)
	require.Contains(t, got.By, "context deadline exceeded")
}

// The token file is read at every request, and the certificate is checked.
func TestCredentialsAndCertificates(t *testing.T) {
	t.Parallel()
	var got atomic.Value
	tls := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got.Store(r.Header.Get("Authorization"))
		writeJSON(w, []doc{})
	}))
	tls.Config.ErrorLog = log.New(io.Discard, "", 0) // one handshake is meant to fail
	tls.StartTLS()
	t.Cleanup(tls.Close)
	dir := t.TempDir()
	token, ca := filepath.Join(dir, "token"), filepath.Join(dir, "ca.pem")
	require.NoError(t, os.WriteFile(token, []byte("first\n"), 0o600))
	require.NoError(t, os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: tls.Certificate().Raw}), 0o600))
	watch := func(e promapi.Endpoint) error {
		r, err := promapi.New(promapi.Config{Source: "main", Alertmanagers: []promapi.Endpoint{e}})
		require.NoError(t, err)
		defer r.Close()
		_, err = r.Snapshot(t.Context())
		return err
	}
	require.ErrorContains(t, watch(promapi.Endpoint{URL: tls.URL, BearerTokenFile: token}), "certificate")
	require.Nil(t, got.Load(), "no token goes to a server that nobody vouches for")
	require.NoError(t, watch(promapi.Endpoint{URL: tls.URL, BearerTokenFile: token, CAFile: ca}))
	require.Equal(t, "Bearer first", got.Load())
	require.NoError(t, os.WriteFile(token, []byte("second\n"), 0o600))
	require.NoError(t, watch(promapi.Endpoint{URL: tls.URL, BearerTokenFile: token, InsecureSkipVerify: true}))
	require.Equal(t, "Bearer second", got.Load())

	require.NoError(t, os.Remove(token))
	err := watch(promapi.Endpoint{URL: tls.URL, BearerTokenFile: token, CAFile: ca})
	require.ErrorContains(t, err, "unable to read authorization credentials")
}
