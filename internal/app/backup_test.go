package app

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/alertmedic/alertmedic/internal/api/client"
	"github.com/alertmedic/alertmedic/internal/config"
	"github.com/alertmedic/alertmedic/internal/guard"
	"github.com/alertmedic/alertmedic/internal/journal"
	"github.com/alertmedic/alertmedic/internal/store"
)

// A backup asked of the running service, while webhooks come in, holds every
// alert that was acknowledged before; it brings up a service on either kind of
// database, which does nothing until a person says so. Meanwhile nobody can
// restore anything under a running service.
func TestABackupOfTheRunningServiceBringsUpAnother(t *testing.T) {
	t.Parallel()
	for _, kinds := range [][2]string{{"sqlite", "postgres"}, {"postgres", "sqlite"}} {
		t.Run(kinds[0]+" to "+kinds[1], func(t *testing.T) {
			t.Parallel()
			dsn := map[string]string{"sqlite": filepath.Join(t.TempDir(), "medic.db"), "postgres": database(t)}
			from := bare(t, t.TempDir(), fmt.Sprintf(crashPlaybook, "Auto"))
			from.Store.DSN = dsn[kinds[0]]
			url, stop := serveBare(t, from, away, slog.DiscardHandler)

			var mu sync.Mutex
			var acked []string
			done := make(chan struct{})
			var posting sync.WaitGroup
			for poster := range 4 {
				posting.Go(func() {
					for n := 0; ; n++ {
						select {
						case <-done:
							return
						default:
						}
						pod := fmt.Sprintf("web-%d-%d", poster, n)
						alert := firing("namespace", "shop", "pod", pod)
						resp, err := http.Post(url+"/api/v1/webhook", "application/json", strings.NewReader(webhook(t, alert)))
						if err != nil {
							t.Error(err)
							return
						}
						_, _ = io.Copy(io.Discard, resp.Body)
						_ = resp.Body.Close()
						if resp.StatusCode == http.StatusOK {
							mu.Lock()
							acked = append(acked, alert["fingerprint"].(string))
							mu.Unlock()
						}
					}
				})
			}
			count := func() int {
				mu.Lock()
				defer mu.Unlock()
				return len(acked)
			}
			require.Eventually(t, func() bool { return count() >= 200 }, 3*time.Minute, time.Millisecond)
			mu.Lock()
			want := append([]string{}, acked...)
			mu.Unlock()
			c, err := client.New(client.Options{Server: url})
			require.NoError(t, err)
			var backup bytes.Buffer
			require.NoError(t, c.Backup(t.Context(), &backup))
			require.Eventually(t, func() bool { return count() >= len(want)+50 }, 3*time.Minute, time.Millisecond, "it goes on")
			close(done)
			posting.Wait()

			_, err = store.Restore(t.Context(), bytes.NewReader(backup.Bytes()), store.RestoreOptions{DSN: dsn[kinds[0]], Force: true})
			require.ErrorIs(t, err, store.ErrBusy, "the service runs")
			stop()
			_, stopped, err := openForBackup(t, dsn[kinds[0]])
			require.NoError(t, err)
			require.True(t, stopped, "an orderly stop is seen at once")

			restored, err := store.Restore(t.Context(), bytes.NewReader(backup.Bytes()), store.RestoreOptions{DSN: dsn[kinds[1]], Actor: "test"})
			require.NoError(t, err)
			to := bare(t, t.TempDir(), fmt.Sprintf(crashPlaybook, "Auto"))
			to.Store.DSN = dsn[kinds[1]]
			url, stop = serveBare(t, to, away, slog.DiscardHandler)
			defer stop()
			c, err = client.New(client.Options{Server: url})
			require.NoError(t, err)
			follow(t, url, store.LogFilter{Kind: string(journal.ServiceStarted)}, 2) // the first service's and ours: all before is sealed
			pauses, err := c.Pauses(t.Context())
			require.NoError(t, err)
			require.Len(t, pauses, 1)
			require.Equal(t, guard.PauseGlobal, pauses[0].Scope)
			require.Contains(t, pauses[0].Why, "restored from the backup of")

			have := map[string]bool{}
			var v journal.Verifier
			var seen bool
			require.NoError(t, c.Entries(t.Context(), store.LogFilter{}, func(e journal.Entry) error {
				if e.Kind == journal.EpisodeOpened {
					have[e.Fingerprint] = true
				}
				seen = seen || e.Kind == journal.ServiceRestored
				return v.Add(e)
			}))
			require.NoError(t, v.End())
			require.True(t, seen)
			require.GreaterOrEqual(t, v.Head().Seq, restored.Backup.Journal.Seq)
			for _, fp := range want {
				require.True(t, have[fp], "%s was acknowledged before the backup began", fp)
			}
		})
	}
}

func openForBackup(t *testing.T, dsn string) (*store.Store, bool, error) {
	t.Helper()
	s, stopped, err := store.OpenForBackup(t.Context(), dsn)
	if err == nil {
		require.NoError(t, s.Close())
	}
	return s, stopped, err
}

// The retention is applied by the process, with what cooldowns of its playbooks
// need.
func TestRetentionLooksAsFarBackAsThePlaybooks(t *testing.T) {
	t.Parallel()
	cfg := bare(t, t.TempDir(), fmt.Sprintf(crashPlaybook, "Auto"))
	cfg.Store.Retention.Runs = 24 * time.Hour
	cfg.Safety.Attempts.Window = 48 * time.Hour
	a := openParts(t, cfg)
	require.Equal(t, store.Retention{Runs: 48 * time.Hour}, a.retentionOf())
	a.cfg.Safety.Velocity.Window = 72 * time.Hour // what was taken away is counted from the reservations of ended runs
	require.Equal(t, store.Retention{Runs: 72 * time.Hour}, a.retentionOf())
	a.cfg.Safety.Rate.PerNamespace.Burst, a.cfg.Safety.Rate.PerNamespace.Every = 100, time.Hour
	require.Equal(t, store.Retention{Runs: 100 * time.Hour}, a.retentionOf(), "until then the bucket is not full")
	long := strings.Replace(fmt.Sprintf(crashPlaybook, "Auto"), "  mode: ", "  limits: {cooldown: {afterFailure: 30d}}\n  mode: ", 1)
	a = openParts(t, bare(t, t.TempDir(), long))
	a.cfg.Store.Retention.Runs = 24 * time.Hour
	require.Equal(t, store.Retention{Runs: 30 * 24 * time.Hour}, a.retentionOf())

	m, err := newRetentionMetrics(a.registry)
	require.NoError(t, err)
	require.NoError(t, a.snapshotPlaybooks(t.Context(), a.playbooks.Current()))
	require.NoError(t, a.prune(t.Context(), m))
	a.cfg.Store.Retention.Runs = 0
	require.Equal(t, store.Retention{}, a.retentionOf(), "for ever")
}

// openParts opens what a process is made of, without serving.
func openParts(t *testing.T, cfg *config.Config) *app {
	t.Helper()
	a := &app{cfg: cfg, log: slog.New(slog.DiscardHandler), registry: prometheus.NewRegistry(), owner: ownerName()}
	var cleanups []func() error
	require.NoError(t, a.open(t.Context(), Options{Kubernetes: away}, &cleanups))
	t.Cleanup(func() {
		for i := len(cleanups) - 1; i >= 0; i-- {
			require.NoError(t, cleanups[i]())
		}
	})
	return a
}
