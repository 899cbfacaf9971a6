package store_test

import (
	"bytes"
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/alertmedic/alertmedic/internal/store"
)

// large returns a closed database of a size that is not checked before use, with
// an alert in it.
func large(t *testing.T) *fixture {
	t.Helper()
	f := openSQLite(t, t)
	require.NoError(t, f.acceptable("before"))
	for i := range 40 {
		require.NoError(t, f.SetValue(tctx, fmt.Sprintf("k%d", i), strings.Repeat("x", 1<<20)))
	}
	require.NoError(t, f.Close())
	return f
}

// spoil damages the middle of the file, where only a check looks.
func (f *fixture) spoil(t *testing.T) (undo func()) {
	t.Helper()
	sound, err := os.ReadFile(f.dsn)
	require.NoError(t, err)
	require.Greater(t, len(sound), 32<<20)
	damage(t, f.dsn, int64(len(sound)/2/4096*4096), bytes.Repeat([]byte{0xee}, 4096))
	return func() { require.NoError(t, os.WriteFile(f.dsn, sound, 0o600)) }
}

// A large file takes webhooks while it is checked; that it is sound is said when
// the check is over, and not before.
func TestALargeFileTakesWebhooksWhileItIsChecked(t *testing.T) {
	t.Parallel()
	f := large(t)
	c := newHeldChecks()
	s := c.beside(t, f)
	_, err := s.Accept(tctx, store.Batch{Observations: []store.Observation{firing("meanwhile", playbook("a", 0))}})
	require.NoError(t, err)
	require.NoError(t, s.Ping(tctx))
	ended, cancel := context.WithCancel(tctx)
	cancel()
	require.ErrorIs(t, s.Sound(ended), context.Canceled, "nobody knows yet")
	c.release <- nil
	require.NoError(t, s.Sound(tctx))
	require.NoError(t, s.Close())
}

// A check that cannot be made is made again; until then nothing is called sound.
func TestACheckThatFailsIsMadeAgain(t *testing.T) {
	t.Parallel()
	f := large(t)
	c := newHeldChecks()
	s := c.beside(t, f)
	c.release <- errors.New("the disk did not answer")
	<-c.begun
	ended, cancel := context.WithCancel(tctx)
	cancel()
	require.ErrorIs(t, s.Sound(ended), context.Canceled)
	c.release <- nil
	require.NoError(t, s.Sound(tctx))
	require.NoError(t, s.Close())
}

// A store that is closed during the check does not wait for it, and keeps nobody
// waiting.
func TestCloseEndsTheCheck(t *testing.T) {
	t.Parallel()
	f := large(t)
	c := newHeldChecks()
	s := c.beside(t, f)
	sound := make(chan error, 1)
	go func() { sound <- s.Sound(tctx) }()
	require.NoError(t, s.Close())
	require.ErrorIs(t, <-sound, store.ErrClosed)
}

// A damage that the check finds ends all writing, with the way out. The next
// start looks before it takes anything, and refuses, until the file is a sound one.
func TestADamageOfALargeFile(t *testing.T) {
	t.Parallel()
	f := large(t)
	undo := f.spoil(t)
	s, err := store.Open(tctx, f.options())
	require.NoError(t, err, "this file is checked beside")
	err = s.Sound(tctx)
	require.ErrorIs(t, err, store.ErrCorrupt)
	require.ErrorContains(t, err, "alertmedic restore --force")
	_, err = s.Accept(tctx, store.Batch{Observations: []store.Observation{firing("refused", playbook("a", 0))}})
	require.ErrorIs(t, err, store.ErrCorrupt)
	require.ErrorIs(t, s.Ping(tctx), store.ErrCorrupt, "readiness says so")
	require.NoError(t, s.Close())

	for range 2 {
		_, err = store.Open(tctx, f.options())
		require.ErrorIs(t, err, store.ErrCorrupt)
		require.ErrorContains(t, err, "alertmedic restore --force")
	}

	undo()
	c := newHeldChecks()
	opened := c.open(t, f)
	require.False(t, <-c.begun, "a file that was damaged is checked before it is used")
	c.release <- nil
	s = <-opened
	require.NoError(t, s.Sound(tctx))
	require.NoError(t, s.Close())

	c = newHeldChecks()
	s = c.beside(t, f) // it is trusted again
	c.release <- nil
	require.NoError(t, s.Sound(tctx))
	open, err := s.OpenEpisodes(tctx, "am")
	require.NoError(t, err)
	require.Len(t, open, 1, "what was refused was never written")
	require.NoError(t, s.Close())
}

// What was read from a file that turns out to be damaged is no backup, although
// nothing was in the way of reading it.
func TestNoBackupIsTakenOfADamagedFile(t *testing.T) {
	t.Parallel()
	f := large(t)
	damage(t, f.dsn, 36, []byte{0, 0, 0, 9}) // how many pages are free
	f.Store = f.open(t, t)
	_, err := f.Backup(tctx, io.Discard, store.BackupOptions{})
	require.ErrorIs(t, err, store.ErrCorrupt)
	require.ErrorContains(t, err, "alertmedic restore --force")
}

// Before a migration writes all over a file, all of it is checked.
func TestALargeFileIsCheckedBeforeItsUpgrade(t *testing.T) {
	t.Parallel()
	f := large(t)
	f.Store = f.open(t, t)
	require.NoError(t, f.Sound(tctx))
	require.NoError(t, f.ExecRaw(tctx, "DELETE FROM goose_db_version WHERE version_id = (SELECT MAX(version_id) FROM goose_db_version)"))
	require.NoError(t, f.Close())
	f.spoil(t)
	_, err := store.Open(tctx, f.options())
	require.ErrorIs(t, err, store.ErrCorrupt)
}

// heldChecks makes connections on which a check of the file waits for leave.
type heldChecks struct {
	used    atomic.Bool // something was written before the check
	begun   chan bool   // used
	release chan error  // nil: make the check
}

func newHeldChecks() *heldChecks {
	return &heldChecks{begun: make(chan bool), release: make(chan error)}
}

// open opens a database in the background: it may wait for a check.
func (h *heldChecks) open(t *testing.T, f *fixture) <-chan *store.Store {
	o := f.options()
	o.Wrap = func(to driver.Connector) driver.Connector { return heldConnector{to, h} }
	opened := make(chan *store.Store, 1)
	go func() {
		s, err := store.Open(t.Context(), o)
		if err != nil {
			t.Error(err)
		}
		opened <- s
	}()
	return opened
}

// beside opens a database that is in use when its check begins.
func (h *heldChecks) beside(t *testing.T, f *fixture) *store.Store {
	t.Helper()
	opened := h.open(t, f)
	require.True(t, <-h.begun, "it is checked before it is used")
	return <-opened
}

type heldConnector struct {
	driver.Connector
	h *heldChecks
}

func (k heldConnector) Connect(ctx context.Context) (driver.Conn, error) {
	conn, err := k.Connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	return &heldConn{countedConn{fullConn: conn.(fullConn), c: &counter{}}, k.h}, nil
}

type heldConn struct {
	countedConn
	h *heldChecks
}

func (k *heldConn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	if strings.Contains(query, "quick_check") {
		select {
		case k.h.begun <- k.h.used.Load():
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		select {
		case err := <-k.h.release:
			if err != nil {
				return nil, err
			}
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return k.countedConn.QueryContext(ctx, query, args)
}

func (k *heldConn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	if strings.HasPrefix(query, "UPDATE runs") {
		k.h.used.Store(true)
	}
	return k.countedConn.ExecContext(ctx, query, args)
}
