package receiver_test

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alertmedic/alertmedic/internal/store"
	"github.com/alertmedic/alertmedic/receiver"
)

// gated is a store whose commits wait until the gate is open, and that notes how
// many waited at most and how much the requests held then.
type gated struct {
	*store.Store
	gate    chan struct{}
	entered chan struct{}
	held    func() int64
	now     atomic.Int64
	most    atomic.Int64 // webhooks
	bytes   atomic.Int64 // held by requests, at most
}

func raise(to *atomic.Int64, n int64) {
	for most := to.Load(); n > most && !to.CompareAndSwap(most, n); most = to.Load() {
	}
}

func (g *gated) Accept(ctx context.Context, b store.Batch) (store.AcceptResult, error) {
	raise(&g.most, g.now.Add(1))
	raise(&g.bytes, g.held())
	defer g.now.Add(-1)
	select {
	case g.entered <- struct{}{}:
	default:
	}
	select {
	case <-g.gate:
	case <-ctx.Done():
		return store.AcceptResult{}, ctx.Err()
	}
	return g.Store.Accept(ctx, b)
}

// flooded is a receiver on a real store behind a gate, with room for few.
func flooded(t *testing.T, limits receiver.Limits) (*fixture, *gated, *httptest.Server) {
	t.Helper()
	_, s := withStore(t)
	g := &gated{Store: s, gate: make(chan struct{}), entered: make(chan struct{}, 1000)}
	f := setup(t, func(o *receiver.Options) { o.Accepter, o.Limits = g, limits })
	g.held = func() int64 { return int64(gauge(t, f.registry, "alertmedic_webhook_inflight_bytes")) }
	server := httptest.NewServer(f.handler)
	t.Cleanup(server.Close)
	return f, g, server
}

type answered struct {
	status int
	header http.Header
	err    error
}

func try(ctx context.Context, client *http.Client, url string, raw []byte) answered {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url+receiver.Path, bytes.NewReader(raw))
	if err != nil {
		return answered{err: err}
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return answered{err: err}
	}
	return answered{status: resp.StatusCode, header: resp.Header, err: resp.Body.Close()}
}

// pods returns the label pod of every open episode.
func pods(t *testing.T, s *store.Store) map[string]bool {
	t.Helper()
	open, err := s.OpenEpisodes(t.Context(), "main")
	require.NoError(t, err)
	out := map[string]bool{}
	for _, ep := range open {
		out[ep.Alert.Labels["pod"]] = true
	}
	return out
}

// While the store stands still, as many webhooks wait as may; the rest are sent
// away at once and told when to come back. When it goes on, all that waited are
// answered, and nobody has to help.
func TestABacklogIsBoundedAndDrains(t *testing.T) {
	t.Parallel()
	const room = 8
	f, g, server := flooded(t, receiver.Limits{MaxWaiting: room, AcceptTimeout: time.Minute})
	client := server.Client()
	t.Cleanup(client.CloseIdleConnections)
	alertOf := func(i int) []byte {
		return body(t, map[string]string{"alertname": "Flood", "pod": fmt.Sprint("web-", i)})
	}
	waiting := make(chan answered, room)
	for i := range room {
		raw := alertOf(i)
		go func() { waiting <- try(t.Context(), client, server.URL, raw) }()
	}
	for range room {
		<-g.entered
	}
	for i := range 2 * room {
		got := try(t.Context(), client, server.URL, alertOf(room+i))
		require.NoError(t, got.err)
		require.Equal(t, http.StatusServiceUnavailable, got.status)
		require.Equal(t, "5", got.header.Get("Retry-After"))
	}
	require.Empty(t, waiting, "nobody is answered before the commit")
	require.Empty(t, pods(t, g.Store))
	close(g.gate)
	for range room {
		got := <-waiting
		require.NoError(t, got.err)
		require.Equal(t, http.StatusOK, got.status)
	}
	require.EqualValues(t, room, g.most.Load())
	got := try(t.Context(), client, server.URL, alertOf(room))
	require.NoError(t, got.err)
	require.Equal(t, http.StatusOK, got.status)
	want := map[string]bool{}
	for i := range room + 1 {
		want[fmt.Sprint("web-", i)] = true
	}
	require.Equal(t, want, pods(t, g.Store), "all that was answered 200, and nothing else")
	require.Equal(t, 0.0, gauge(t, f.registry, "alertmedic_webhook_inflight_bytes"))
}

// A flood of many senders, each of which repeats what was refused as
// Alertmanager does: in the end everything is in the store, once, whatever was
// refused on the way, and what requests held never passed its limit.
func TestAFloodLosesNothing(t *testing.T) {
	t.Parallel()
	const senders, each, room, held = 48, 10, 4, 256 << 10
	f, g, server := flooded(t, receiver.Limits{MaxWaiting: room, MaxInFlight: held, AcceptTimeout: time.Minute})
	client := server.Client()
	client.Transport.(*http.Transport).MaxIdleConnsPerHost = senders
	t.Cleanup(client.CloseIdleConnections)
	var refused atomic.Int64
	opened := sync.OnceFunc(func() { close(g.gate) }) // with the first refusal: so there is one
	errs := make(chan error, senders)
	for s := range senders {
		var raws [each][]byte
		for i := range raws {
			raws[i] = body(t, map[string]string{"alertname": "Flood", "pod": fmt.Sprintf("web-%d-%d", s, i)})
		}
		go func() {
			errs <- func() error {
				for _, raw := range raws {
					for {
						got := try(t.Context(), client, server.URL, raw)
						if got.err != nil {
							return got.err
						}
						if got.status == http.StatusOK {
							break
						}
						if got.status != http.StatusServiceUnavailable {
							return fmt.Errorf("answered %d", got.status)
						}
						refused.Add(1)
						opened()
					}
				}
				return nil
			}()
		}()
	}
	for range senders {
		require.NoError(t, <-errs)
	}
	require.Positive(t, refused.Load())
	require.LessOrEqual(t, g.most.Load(), int64(room))
	require.LessOrEqual(t, g.bytes.Load(), int64(held))
	require.Len(t, pods(t, g.Store), senders*each)
	require.Equal(t, 0.0, gauge(t, f.registry, "alertmedic_webhook_inflight_bytes"))
}
