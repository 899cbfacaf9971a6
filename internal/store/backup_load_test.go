package store_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alertmedic/alertmedic/internal/journal"
	"github.com/alertmedic/alertmedic/internal/store"
)

// soak asks for the long forms of tests.
var soak = os.Getenv("ALERTMEDIC_SOAK") != ""

// load keeps a store busy until stop: alerts are accepted, become runs, and runs
// take locks, send, and end. acked lists the alerts whose acceptance has returned.
type load struct {
	f    *fixture
	stop context.CancelFunc
	wg   sync.WaitGroup

	mu     sync.Mutex
	acked  []string
	driven atomic.Int64
	ahead  chan struct{} // one for each alert whose run has not begun
}

func startLoad(t *testing.T, f *fixture) *load {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	// What is accepted goes no further ahead than this of what becomes of it: a
	// backlog that grows would have each backup take longer than the one before.
	l := &load{f: f, stop: cancel, ahead: make(chan struct{}, 200)}
	for i := range 4 {
		l.wg.Go(func() {
			for n := 0; ; n++ {
				select {
				case l.ahead <- struct{}{}:
				case <-ctx.Done():
					return
				}
				fp := fmt.Sprintf("load-%d-%d", i, n)
				f.accept(t, firing(fp, playbook(fmt.Sprint("p", i), 0)))
				l.mu.Lock()
				l.acked = append(l.acked, fp)
				l.mu.Unlock()
			}
		})
	}
	l.wg.Go(func() {
		for ctx.Err() == nil {
			for _, c := range f.candidates(t, 50) {
				f.resolve(t, c, deployment(c.Episode.Signal.Fingerprint))
			}
			l.drive(t)
		}
	})
	l.wg.Go(func() {
		for ctx.Err() == nil {
			if _, err := f.Seal(tctx, "sealer"); err != nil {
				t.Error(err)
				return
			}
		}
	})
	t.Cleanup(l.end)
	return l
}

// drive begins what is queued and ends every other run that has begun.
func (l *load) drive(t *testing.T) {
	runs, err := l.f.ClaimRuns(tctx, "w", time.Minute, 50)
	require.NoError(t, err)
	for i, r := range runs {
		tr := intent(r, l.f.time(t))
		tr.Steps = []store.Step{{RunID: r.ID, Name: "delete", Action: "pod.delete", Status: store.StepIntended}}
		tr.Outbox = []store.Message{{Channel: "slack", Payload: []byte(`{}`)}}
		r := l.f.apply(t, tr)
		if i%2 == 0 {
			l.f.apply(t, end(r, store.Healed, ""))
		}
		l.driven.Add(1)
		select {
		case <-l.ahead:
		default: // one that was claimed again, after its lease
		}
	}
}

func (l *load) end() {
	l.stop()
	l.wg.Wait()
}

func (l *load) acknowledged() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]string{}, l.acked...)
}

// A backup that is taken while everything goes on is a state that was: every
// alert that was acknowledged before it began is in it, with its candidate, its
// run, the run's locks and the log about all of it. It can be restored into
// either database.
func TestBackupsUnderLoadAreConsistent(t *testing.T) {
	rounds := 3
	if soak {
		rounds = 30
	}
	contract(t, func(t *testing.T, f *fixture) {
		l := startLoad(t, f)
		type taken struct {
			backup []byte
			acked  []string
		}
		var all []taken
		for round := range rounds {
			require.Eventually(t, func() bool { return l.driven.Load() > int64(20*(round+1)) }, time.Minute, time.Millisecond)
			acked := l.acknowledged()
			var backup bytes.Buffer
			_, err := f.Backup(tctx, &backup, store.BackupOptions{Stopped: true})
			require.NoError(t, err)
			all = append(all, taken{backup.Bytes(), acked})
		}
		l.end()
		for _, b := range all {
			for _, d := range dialects {
				if d.ok() {
					checkSnapshot(t, empty(t, d.open), b.backup, b.acked)
				}
			}
		}
	})
}

func checkSnapshot(t *testing.T, to *fixture, backup []byte, acked []string) {
	t.Helper()
	restore(t, to, backup, store.RestoreOptions{Move: true})
	have := map[string]bool{}
	open, err := to.OpenEpisodes(tctx, "")
	require.NoError(t, err)
	for _, ep := range open {
		have[ep.Signal.Fingerprint] = true
	}
	for _, fp := range acked {
		require.True(t, have[fp], "the alert %s was acknowledged before the backup began, and is not in it (%d are)", fp, len(have))
	}
	for what, query := range map[string]string{
		"episodes without candidate":             "SELECT count(*) FROM episodes e WHERE NOT EXISTS (SELECT 1 FROM candidates c WHERE c.episode_id = e.id)",
		"episodes without signal":                "SELECT count(*) FROM episodes e WHERE NOT EXISTS (SELECT 1 FROM signals s WHERE s.episode_id = e.id)",
		"signals without episode":                "SELECT count(*) FROM signals s WHERE NOT EXISTS (SELECT 1 FROM episodes e WHERE s.episode_id = e.id)",
		"candidates that joined no run":          "SELECT count(*) FROM candidates c WHERE c.outcome = 'joined' AND NOT EXISTS (SELECT 1 FROM runs r WHERE r.id = c.run_id)",
		"runs without candidate":                 "SELECT count(*) FROM runs r WHERE NOT EXISTS (SELECT 1 FROM candidates c WHERE c.run_id = r.id)",
		"runs that sent something without lock":  "SELECT count(*) FROM runs r WHERE r.phase = 'active' AND NOT EXISTS (SELECT 1 FROM run_locks l WHERE l.run_id = r.id)",
		"locks of runs that ended":               "SELECT count(*) FROM run_locks l JOIN runs r ON r.id = l.run_id WHERE r.phase = 'done'",
		"runs that sent something without step":  "SELECT count(*) FROM runs r WHERE r.intent_at > 0 AND NOT EXISTS (SELECT 1 FROM steps s WHERE s.run_id = r.id)",
		"runs that sent something, without word": "SELECT count(*) FROM runs r WHERE r.intent_at > 0 AND NOT EXISTS (SELECT 1 FROM outbox o WHERE o.run_id = r.id)",
		"episodes without entry":                 "SELECT count(*) FROM episodes e WHERE NOT EXISTS (SELECT 1 FROM journal j WHERE j.episode_id = e.id)",
		"intents without entry":                  "SELECT count(*) FROM runs r WHERE r.intent_at > 0 AND NOT EXISTS (SELECT 1 FROM journal j WHERE j.run_id = r.id AND j.kind = 'step.intent')",
		"entries about runs that are not there":  "SELECT count(*) FROM journal j WHERE j.run_id <> '' AND NOT EXISTS (SELECT 1 FROM runs r WHERE r.id = j.run_id)",
	} {
		n, err := to.Count(tctx, query)
		require.NoError(t, err, what)
		require.Zero(t, n, what)
	}
	require.Contains(t, to.kinds(t), journal.ServiceRestored)
	require.NoError(t, to.Close()) // a server has connections for a few of them, not for each round
}

var errFull = errors.New("no space left on device")

type fullDisk struct{ left int }

func (d *fullDisk) Write(p []byte) (int, error) {
	if d.left -= len(p); d.left < 0 {
		return 0, errFull
	}
	return len(p), nil
}

// A reader that leaves ends the backup, its transaction and its connection.
func TestABackupEndsWithItsReader(t *testing.T) {
	contract(t, func(t *testing.T, f *fixture) {
		seed(t, f)
		for range 20 { // more often than there are connections
			_, err := f.Backup(tctx, &fullDisk{left: 100}, store.BackupOptions{})
			require.ErrorIs(t, err, errFull)
		}
		f.accept(t, firing("after"))
		takeBackup(t, f.Store, store.BackupOptions{})
		ctx, cancel := context.WithCancel(tctx)
		cancel()
		_, err := f.Backup(ctx, &bytes.Buffer{}, store.BackupOptions{})
		require.ErrorIs(t, err, context.Canceled)
	})
}

// slowly takes its time, by the clock of a database.
type slowly struct {
	bytes.Buffer
	f *fixture
}

func (s *slowly) Write(p []byte) (int, error) {
	if err := s.f.ExecRaw(tctx, "SELECT pg_sleep(0.05)"); err != nil {
		return 0, err
	}
	return s.Buffer.Write(p)
}

// A server that ends transactions which say nothing for long does not end a
// backup whose reader is slow.
func TestABackupWaitsForItsReader(t *testing.T) {
	t.Parallel()
	if server == "" {
		return // said once by TestMain
	}
	f := openPostgres(t, t)
	for i := range 20 {
		noise := make([]byte, 20<<10)
		_, _ = rand.Read(noise)
		require.NoError(t, f.SetValue(tctx, fmt.Sprint(i), hex.EncodeToString(noise)))
		require.NoError(t, f.PutPlaybook(tctx, fmt.Sprint("noise-", i), []byte(hex.EncodeToString(noise))))
	}
	s, _, err := openForBackup(t, f.dsn+"&idle_in_transaction_session_timeout=10")
	require.NoError(t, err)
	w := &slowly{f: f}
	_, err = s.Backup(tctx, w, store.BackupOptions{})
	require.NoError(t, err)
	_, err = store.VerifyBackup(&w.Buffer)
	require.NoError(t, err)
}
