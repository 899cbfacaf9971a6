package app

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/alertmedic/alertmedic/internal/api/client"
	"github.com/alertmedic/alertmedic/internal/config"
	"github.com/alertmedic/alertmedic/internal/journal"
	"github.com/alertmedic/alertmedic/internal/store"
	"github.com/alertmedic/alertmedic/receiver"
)

// A flood past what may wait for the store: the excess is refused with 503, the
// probes are answered all the while, and when every sender has repeated what was
// refused, each alert is in the log once. Then all is as it was.
func TestAFloodPastTheBacklog(t *testing.T) {
	t.Parallel()
	const senders, each = 32, 4
	address := serveEdge(t, receiver.Limits{MaxWaiting: 8}, func(*config.Config) {})
	hook := "http://" + address + receiver.Path
	http1 := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: senders}}
	t.Cleanup(http1.CloseIdleConnections)

	var refused, sent atomic.Int64
	errs := make(chan error, senders)
	for s := range senders {
		var bodies [each]string
		for i := range bodies {
			bodies[i] = webhook(t, firing("pod", fmt.Sprintf("web-%d-%d", s, i), "namespace", "shop"))
		}
		go func() {
			errs <- func() error {
				for _, body := range bodies {
					for status := 0; status != http.StatusOK; {
						resp, err := http1.Post(hook, "application/json", strings.NewReader(body))
						if err != nil {
							return err
						}
						answer, _ := io.ReadAll(resp.Body)
						if err := resp.Body.Close(); err != nil {
							return err
						}
						switch status = resp.StatusCode; {
						case status == http.StatusOK && strings.Contains(string(answer), `"opened":1,`):
							sent.Add(1)
						case status == http.StatusServiceUnavailable && resp.Header.Get("Retry-After") != "":
							refused.Add(1)
						default:
							return fmt.Errorf("answered %s: %s", resp.Status, answer)
						}
					}
				}
				return nil
			}()
		}()
	}
	probes := 0
	for ended := 0; ended < senders; probes++ {
		probe(t, address)
		select {
		case err := <-errs:
			require.NoError(t, err)
			ended++
		default:
		}
	}
	require.EqualValues(t, senders*each, sent.Load())
	require.Positive(t, refused.Load())
	require.GreaterOrEqual(t, probes, senders)
	opened := follow(t, "http://"+address, store.LogFilter{Kind: string(journal.EpisodeOpened)}, senders*each)
	seen := map[string]bool{}
	for _, en := range opened {
		require.False(t, seen[en.Fingerprint], "twice: %s", en.Fingerprint)
		seen[en.Fingerprint] = true
	}
	status, answer := post(t, hook, webhook(t, firing("pod", "after", "namespace", "shop")))
	require.Equal(t, http.StatusOK, status, answer)
	eventually(t, "nothing is held", func() bool { return value(t, address, "alertmedic_webhook_inflight_bytes") == 0 })
	require.EqualValues(t, refused.Load(), value(t, address, `alertmedic_webhook_requests_total{code="503",source="am"}`))
	c, err := client.New(client.Options{Server: "http://" + address})
	require.NoError(t, err)
	list, err := c.Log(t.Context(), store.LogFilter{Kind: string(journal.EpisodeOpened), Fingerprint: opened[0].Fingerprint}, client.Page{})
	require.NoError(t, err)
	require.Len(t, list.Items, 1)
}
