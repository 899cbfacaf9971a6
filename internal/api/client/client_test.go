package client_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alertmedic/alertmedic/internal/api/client"
	"github.com/alertmedic/alertmedic/internal/journal"
	"github.com/alertmedic/alertmedic/internal/store"
)

// hung answers at once and then says nothing.
func hung(t *testing.T) *httptest.Server {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}))
	t.Cleanup(srv.Close)
	return srv
}

func never(journal.Entry) error { return errors.New("an entry out of nowhere") }

// A connection that is dead without being closed is noticed.
func TestFollow_silence(t *testing.T) {
	t.Parallel()
	c, err := client.New(client.Options{Server: hung(t).URL, Silence: 20 * time.Millisecond})
	require.NoError(t, err)
	require.ErrorIs(t, c.Follow(t.Context(), store.LogFilter{}, never), client.ErrSilent)
}

// Who asked for the end gets it without an error.
func TestFollow_cancelled(t *testing.T) {
	t.Parallel()
	c, err := client.New(client.Options{Server: hung(t).URL})
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	require.NoError(t, c.Follow(ctx, store.LogFilter{}, never))
}

// A redirect is an error: the token is for the address that was given.
func TestClient_redirect(t *testing.T) {
	t.Parallel()
	srv := httptest.NewServer(http.RedirectHandler("http://127.0.0.1:1/", http.StatusFound))
	t.Cleanup(srv.Close)
	c, err := client.New(client.Options{Server: srv.URL})
	require.NoError(t, err)
	_, err = c.Playbooks(t.Context())
	var answer *client.Error
	require.ErrorAs(t, err, &answer)
	require.Equal(t, http.StatusFound, answer.Status)
}

func TestNew_bad(t *testing.T) {
	t.Parallel()
	empty := filepath.Join(t.TempDir(), "token")
	require.NoError(t, os.WriteFile(empty, []byte(" \n"), 0o600))
	for _, o := range []client.Options{{}, {Server: "localhost:9095"}, {Server: "ftp://x"}, {Server: "http://x", TokenFile: empty}, {Server: "http://x", TokenFile: empty + "none"}} {
		_, err := client.New(o)
		require.Error(t, err)
	}
}
