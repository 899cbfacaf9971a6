package app

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// serve runs the service on a port of its own until stop is called or the test
// ends, and returns its URL. The listener is open already: the first request
// waits for the server. A commit may take as long as a busy machine makes it,
// unless the test sets a limit.
func serve(t *testing.T, o Options) (url string, stop func()) {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	o.Listener = listener
	if o.Limits.AcceptTimeout == 0 {
		o.Limits.AcceptTimeout = time.Minute
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- Run(ctx, o) }()
	stop = sync.OnceFunc(func() {
		cancel()
		require.NoError(t, <-ended)
	})
	t.Cleanup(stop)
	return "http://" + listener.Addr().String(), stop
}
