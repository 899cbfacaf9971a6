package api_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/alertmedic/alertmedic/internal/api"
	"github.com/alertmedic/alertmedic/internal/api/apitest"
	"github.com/alertmedic/alertmedic/internal/api/client"
	"github.com/alertmedic/alertmedic/internal/journal"
	"github.com/alertmedic/alertmedic/internal/store"
)

const getBackup = "GET /api/v1/backup"

// Whoever may take a backup reads everything: it is for admins.
func TestBackup_roles(t *testing.T) {
	t.Parallel()
	srv := apitest.Server(t, sample(), func(o *api.Options) {
		o.Backup = func(_ context.Context, w io.Writer) error {
			_, err := io.WriteString(w, "the backup")
			return err
		}
	})
	require.Equal(t, http.StatusUnauthorized, ask(t, srv.URL, "", getBackup, "").status)
	require.Equal(t, http.StatusForbidden, ask(t, srv.URL, apitest.Viewer, getBackup, "").status)
	got := ask(t, srv.URL, apitest.Admin, getBackup, "")
	require.Equal(t, http.StatusOK, got.status)
	require.Equal(t, "the backup", got.body)
	require.Equal(t, "application/gzip", got.header.Get("Content-Type"))
	require.Contains(t, got.header.Get("Content-Disposition"), ".backup.gz")
	require.Equal(t, "no-store", got.header.Get("Cache-Control"))

	none := apitest.Server(t, sample(), nil)
	require.Equal(t, http.StatusNotImplemented, ask(t, none.URL, apitest.Admin, getBackup, "").status)
}

// One at a time; and the next one may begin when the one before has ended.
func TestBackup_oneAtATime(t *testing.T) {
	t.Parallel()
	begun, release := make(chan struct{}), make(chan struct{})
	srv := apitest.Server(t, sample(), func(o *api.Options) {
		o.Backup = func(context.Context, io.Writer) error {
			begun <- struct{}{}
			<-release
			return nil
		}
	})
	first := make(chan answer)
	go func() { first <- ask(t, srv.URL, apitest.Admin, getBackup, "") }()
	<-begun
	got := ask(t, srv.URL, apitest.Admin, getBackup, "")
	require.Equal(t, http.StatusConflict, got.status)
	require.Contains(t, got.problem(t), "another backup is being taken")
	close(release)
	require.Equal(t, http.StatusOK, (<-first).status)
	go func() { <-begun }()
	require.Equal(t, http.StatusOK, ask(t, srv.URL, apitest.Admin, getBackup, "").status)
}

// A backup that fails half-way must not look like one, and a reader that leaves
// ends it.
func TestBackup_broken(t *testing.T) {
	t.Parallel()
	srv := apitest.Server(t, sample(), func(o *api.Options) {
		o.Backup = func(_ context.Context, w io.Writer) error {
			_, err := w.Write(make([]byte, 1<<20))
			return errors.Join(err, errors.New("the disk is gone"))
		}
	})
	c := adminClient(t, srv.URL)
	require.ErrorIs(t, c.Backup(t.Context(), io.Discard), io.ErrUnexpectedEOF)

	ended := make(chan error, 1)
	srv = apitest.Server(t, sample(), func(o *api.Options) {
		o.Backup = func(ctx context.Context, w io.Writer) error {
			var err error
			for err == nil {
				_, err = w.Write(make([]byte, 64<<10))
			}
			ended <- err
			return err
		}
	})
	ctx, cancel := context.WithCancel(t.Context())
	err := adminClient(t, srv.URL).Backup(ctx, writerFunc(func(p []byte) (int, error) {
		cancel()
		return len(p), nil
	}))
	require.ErrorIs(t, err, context.Canceled)
	require.Error(t, <-ended)
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func adminClient(t *testing.T, url string) *client.Client {
	t.Helper()
	file := filepath.Join(t.TempDir(), "token")
	require.NoError(t, os.WriteFile(file, []byte(apitest.Admin), 0o600))
	c, err := client.New(client.Options{Server: url, TokenFile: file})
	require.NoError(t, err)
	return c
}

// Backup and log come over the API as they are in the store.
func TestBackup_ofAStore(t *testing.T) {
	t.Parallel()
	s, err := store.Open(t.Context(), store.Options{DSN: filepath.Join(t.TempDir(), "medic.db")})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	for range 1500 {
		require.NoError(t, s.Append(t.Context(), journal.Entry{Kind: journal.StepDone, Message: "<done> & ü", Data: []byte(`{"b":1,"a":1.50}`)}))
	}
	for n := -1; n != 0; {
		n, err = s.Seal(t.Context(), "sealer")
		require.NoError(t, err)
	}
	srv := apitest.Server(t, sample(), func(o *api.Options) {
		o.Store = s
		o.Backup = func(ctx context.Context, w io.Writer) error {
			_, err := s.Backup(ctx, w, store.BackupOptions{})
			return err
		}
	})
	c := adminClient(t, srv.URL)
	var buf bytes.Buffer
	require.NoError(t, c.Backup(t.Context(), &buf))
	info, err := store.VerifyBackup(&buf)
	require.NoError(t, err)
	require.EqualValues(t, 1500, info.Journal.Seq)
	var v journal.Verifier
	require.NoError(t, c.Entries(t.Context(), store.LogFilter{}, v.Add))
	require.NoError(t, v.End())
	require.Equal(t, info.Journal, v.Head())
}
