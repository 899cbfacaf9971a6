package receiver_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alertmedic/alertmedic/internal/store"
	"github.com/alertmedic/alertmedic/receiver"
)

// half sends the head of a webhook that announces length bytes, and the first of
// them, and returns the answer: the connection stays open for more.
func half(t *testing.T, server *httptest.Server, bearer string, length int) *http.Response {
	t.Helper()
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", server.Listener.Addr().String())
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(time.Minute)))
	_, err = fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: medic\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n{", receiver.Path, bearer, length)
	require.NoError(t, err)
	in := bufio.NewReader(conn)
	resp, err := http.ReadResponse(in, nil)
	require.NoError(t, err)
	_, err = io.Copy(io.Discard, resp.Body)
	require.NoError(t, err)
	_, err = in.ReadByte()
	require.ErrorIs(t, err, io.EOF, "what was not read must not be taken for a request")
	return resp
}

// A sender that announces a body and stops is answered and let go, whether or not
// it may send: net/http reads what is left of a body before it answers, and does
// so for ever unless somebody sets it a time.
func TestABodyThatStopsIsAnsweredAndLetGo(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		bearer string
		limits receiver.Limits
		length int
		status int
	}{
		"a source":     {token, receiver.Limits{}, 1000, http.StatusServiceUnavailable},
		"a stranger":   {strings.Repeat("x", 30), receiver.Limits{}, 1000, http.StatusUnauthorized},
		"no room left": {token, receiver.Limits{MaxInFlight: 1}, 1000, http.StatusServiceUnavailable},
		"too large":    {token, receiver.Limits{MaxBody: 100}, 1000, http.StatusRequestEntityTooLarge},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := setup(t, func(o *receiver.Options) { o.Limits = tc.limits; o.Limits.BodyTimeout = 50 * time.Millisecond })
			server := httptest.NewServer(f.handler)
			t.Cleanup(server.Close)
			require.Equal(t, tc.status, half(t, server, tc.bearer, tc.length).StatusCode)
			require.Empty(t, f.accepter.all())
			require.Equal(t, 0.0, gauge(t, f.registry, "alertmedic_webhook_inflight_bytes"))
		})
	}
}

// deadlines is an answer whose connection notes the read deadlines it is given.
type deadlines struct {
	*httptest.ResponseRecorder
	set []bool
}

func (d *deadlines) SetReadDeadline(at time.Time) error {
	d.set = append(d.set, !at.IsZero())
	return nil
}

// A body has a deadline and a commit has none: it is lifted while the store works,
// for one that passed then would cancel all that comes later on the connection,
// and set again for what may be left of the body.
func TestTheBodysDeadlineIsNotTheCommits(t *testing.T) {
	t.Parallel()
	w := &deadlines{ResponseRecorder: httptest.NewRecorder()}
	var atCommit []bool
	f := setup(t, func(o *receiver.Options) {
		o.Accepter = &accepts{accept: func(context.Context, store.Batch) (store.AcceptResult, error) {
			atCommit = w.set
			return store.AcceptResult{}, nil
		}}
	})
	f.handler.ServeHTTP(w, request(bytes.NewReader(payload(t, "firing"))))
	require.Equal(t, http.StatusOK, w.Code)
	require.Equal(t, []bool{true, false}, atCommit)
	require.Equal(t, []bool{true, false, true}, w.set)
}
