package app

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alertmedic/alertmedic/internal/alert"
	"github.com/alertmedic/alertmedic/internal/config"
	"github.com/alertmedic/alertmedic/internal/store"
)

// damaged makes a large database in which an alert waits, with a page that is
// none.
func damaged(t *testing.T, cfg *config.Config) {
	t.Helper()
	s, err := store.Open(t.Context(), store.Options{DSN: cfg.Store.DSN})
	require.NoError(t, err)
	labels := map[string]string{"alertname": "KubePodCrashLooping", "namespace": "shop", "pod": "web-1"}
	res, err := s.Accept(t.Context(), store.Batch{Observations: []store.Observation{{Source: "am", Cluster: "test",
		Playbooks: []store.MatchedPlaybook{{Name: "crash", Hash: "h", ExpireAfter: time.Hour}},
		Alert:     alert.Alert{Status: alert.Firing, Labels: labels, Fingerprint: alert.Fingerprint(labels), StartsAt: time.Now()}}}})
	require.NoError(t, err)
	require.Equal(t, 1, res.Opened)
	for i := range 64 {
		require.NoError(t, s.SetValue(t.Context(), fmt.Sprintf("k%d", i), strings.Repeat("x", 1<<20)))
	}
	require.NoError(t, s.Close())
	f, err := os.OpenFile(cfg.Store.DSN, os.O_RDWR, 0)
	require.NoError(t, err)
	_, err = f.WriteAt(bytes.Repeat([]byte{0xee}, 4096), 8000*4096)
	require.NoError(t, err)
	require.NoError(t, f.Close())
}

// A large database that turns out to be damaged, after the service has begun to
// listen: nothing that waits in it was begun, readiness says why, and it stays
// there to say it. The next start refuses.
func TestNothingIsBegunInADamagedDatabase(t *testing.T) {
	t.Parallel()
	cfg := bare(t, t.TempDir(), fmt.Sprintf(crashPlaybook, "Auto"))
	damaged(t, cfg)
	log := &lines{}
	url, stop := serveBare(t, cfg, away, slog.NewTextHandler(log, nil))
	const says = "the database file is damaged"
	require.Eventually(t, func() bool {
		resp, err := http.Get(url + "/-/ready")
		require.NoError(t, err)
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		return resp.StatusCode == http.StatusServiceUnavailable && strings.Contains(string(body), says)
	}, time.Minute, time.Millisecond)
	status, answer := post(t, url+"/api/v1/webhook", webhook(t, firing("namespace", "shop", "pod", "web-2")))
	require.Equal(t, http.StatusServiceUnavailable, status, answer)
	stop()
	require.Contains(t, log.String(), "no run goes on")

	db, err := sql.Open("sqlite", cfg.Store.DSN)
	require.NoError(t, err)
	var claims int
	require.NoError(t, db.QueryRowContext(t.Context(), "SELECT SUM(lease_epoch) FROM candidates").Scan(&claims))
	require.NoError(t, db.Close())
	require.Zero(t, claims, "nobody took what waits")

	err = Run(t.Context(), Options{Config: cfg, Logger: slog.New(slog.DiscardHandler), Kubernetes: away})
	require.ErrorIs(t, err, store.ErrCorrupt)
	require.ErrorContains(t, err, "alertmedic restore --force")
}

// The check may be quicker than the start: that ends as when it is slower.
func TestADamageThatIsFoundAtOnceEndsNoStart(t *testing.T) {
	t.Parallel()
	cfg := bare(t, t.TempDir(), fmt.Sprintf(crashPlaybook, "Auto"))
	damaged(t, cfg)
	a := openParts(t, cfg)
	require.ErrorIs(t, a.store.Sound(t.Context()), store.ErrCorrupt)
	require.NoError(t, a.start(t.Context(), Pace{}))
	require.NoError(t, a.whenSound(t.Context(), func(context.Context) error { return errors.New("begun") }))
}
