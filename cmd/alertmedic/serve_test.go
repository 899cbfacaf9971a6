package main

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/alertmedic/alertmedic/internal/config"
)

// serve hands over the configuration, a logger and SIGHUP, and ends with the
// context; not parallel, because it replaces runApp and sends a signal.
func TestServe(t *testing.T) {
	original := runApp
	t.Cleanup(func() { runApp = original })
	f := setup(t, "")
	var got *config.Config
	runApp = func(ctx context.Context, cfg *config.Config, logger *slog.Logger, reload <-chan struct{}) error {
		got = cfg
		logger.Info("hello", "n", 1)
		require.NoError(t, syscall.Kill(syscall.Getpid(), syscall.SIGHUP))
		<-reload
		return nil
	}
	f.env[envConfig] = "testdata/good.yaml"
	r := f.run(t, "serve")
	require.Equal(t, exitOK, r.code, r.err)
	require.Equal(t, "prod-eu1", got.Cluster)
	require.Contains(t, r.err, "level=INFO msg=hello n=1")

	runApp = func(context.Context, *config.Config, *slog.Logger, <-chan struct{}) error { return errStub }
	r = f.run(t, "serve")
	require.Equal(t, exitError, r.code)
	require.Contains(t, r.err, "alertmedic: stub")

	r = f.run(t, "serve", "--pprof-address", "127.0.0.1:nonsense")
	require.Equal(t, exitError, r.code)
	require.Contains(t, r.err, "give --pprof-address a free HOST:PORT")

	// Stopped in order by SIGTERM is a success; by ^C it is what a shell expects.
	for s, code := range map[syscall.Signal]int{syscall.SIGTERM: 0, syscall.SIGINT: 130} {
		ctx, cancel := context.WithCancelCause(t.Context())
		runApp = func(ctx context.Context, _ *config.Config, _ *slog.Logger, _ <-chan struct{}) error {
			cancel(signalled{s})
			<-ctx.Done()
			return nil
		}
		require.Equal(t, code, f.runContext(ctx, "serve").code)
	}
}

func TestNewLogger(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	l := newLogger(&b, config.Log{Level: "warn", Format: "json"})
	l.Info("no")
	l.Warn("yes")
	var line map[string]any
	require.NoError(t, json.Unmarshal(b.Bytes(), &line))
	require.Equal(t, "yes", line["msg"])
}

func TestServeProfiles(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	end, err := serveProfiles(t.Context(), "127.0.0.1:0", slog.New(slog.NewJSONHandler(&b, nil)))
	require.NoError(t, err)
	var line struct{ URL string }
	require.NoError(t, json.Unmarshal(b.Bytes(), &line))
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get(line.URL + "heap")
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, http.StatusOK, resp.StatusCode)
	require.NoError(t, end())
	_, err = client.Get(line.URL)
	require.Error(t, err, "nobody answers afterwards")
}
