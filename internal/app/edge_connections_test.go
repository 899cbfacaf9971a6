package app

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/alertmedic/alertmedic/internal/config"
	"github.com/alertmedic/alertmedic/receiver"
)

// serveEdge runs the service with limits of a test's own and no cluster, until
// the test ends, and returns its address.
func serveEdge(t *testing.T, limits receiver.Limits, edit func(*config.Config)) string {
	t.Helper()
	cfg := bare(t, t.TempDir(), fmt.Sprintf(crashPlaybook, "Auto"))
	edit(cfg)
	url, _ := serve(t, Options{Config: cfg, Logger: slog.New(slog.DiscardHandler), Registry: prometheus.NewRegistry(), Kubernetes: away, Limits: limits})
	eventually(t, "it serves", func() bool { // short limits may hang up on us too, on a busy machine
		resp, err := http.Get(url + "/-/healthy")
		if err != nil {
			return false
		}
		return resp.Body.Close() == nil && resp.StatusCode == http.StatusOK
	})
	return strings.TrimPrefix(url, "http://")
}

// value returns a sample of /metrics, by its name with labels.
func value(t *testing.T, address, sample string) float64 {
	t.Helper()
	for line := range strings.Lines(get(t, "http://"+address+"/metrics")) {
		if text, ok := strings.CutPrefix(line, sample+" "); ok {
			v, err := strconv.ParseFloat(strings.TrimSpace(text), 64)
			require.NoError(t, err)
			return v
		}
	}
	return 0
}

// eventually looks every few milliseconds until ok, for minutes at most.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick, timeout := time.NewTicker(10*time.Millisecond), time.NewTimer(3*time.Minute)
	defer tick.Stop()
	defer timeout.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-timeout.C:
			require.FailNow(t, "it does not come about: "+what)
		}
	}
}

// dial opens a connection and sends text over it.
func dial(t *testing.T, address, text string) net.Conn {
	t.Helper()
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", address)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	_, err = io.WriteString(conn, text)
	require.NoError(t, err)
	return conn
}

// trickle sends a byte now and then until the other side has closed.
func trickle(conn net.Conn, every time.Duration, b byte) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for range tick.C {
		if _, err := conn.Write([]byte{b}); err != nil {
			return
		}
	}
}

// hungUp reads until the other side closes and returns what came before.
func hungUp(t *testing.T, conn net.Conn) string {
	t.Helper()
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(3*time.Minute)))
	text, err := io.ReadAll(conn)
	var timeout net.Error
	require.False(t, errors.As(err, &timeout) && timeout.Timeout(), "still open")
	return string(text) // closed or reset, both are an end
}

const slowHead = "POST /api/v1/webhook HTTP/1.1\r\nHost: medic\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n{"

// probe asks all that others look at. Readiness that the service could not tell
// in time is asked for again, as a kubelet does before it believes it.
func probe(t *testing.T, address string) {
	t.Helper()
	for _, path := range []string{"/-/healthy", "/-/ready", "/metrics"} {
		eventually(t, path+" is answered well", func() bool {
			resp, err := http.Get("http://" + address + path)
			require.NoError(t, err, path)
			text, err := io.ReadAll(resp.Body)
			require.NoError(t, err, path)
			require.NoError(t, resp.Body.Close())
			if resp.StatusCode == http.StatusServiceUnavailable && strings.Contains(string(text), context.DeadlineExceeded.Error()) {
				return false
			}
			require.Equal(t, http.StatusOK, resp.StatusCode, "%s: %s", path, text)
			return true
		})
	}
}

// slowSenders are that many connections that trickle bodies.
func slowSenders(t *testing.T, address string, n int) []net.Conn {
	t.Helper()
	conns := make([]net.Conn, n)
	for i := range conns {
		conns[i] = dial(t, address, slowHead)
		go trickle(conns[i], 200*time.Millisecond, ' ')
	}
	return conns
}

// A thousand senders that trickle their bodies hold up neither an Alertmanager
// nor a probe.
func TestAThousandSlowSendersHoldUpNobody(t *testing.T) {
	t.Parallel()
	// They stay for as long as the test wants, however slow the machine is.
	address := serveEdge(t, receiver.Limits{BodyTimeout: time.Hour}, func(*config.Config) {})
	conns := slowSenders(t, address, 1000)
	held := func() bool { return value(t, address, "alertmedic_webhook_inflight_bytes") >= 200*16<<10 }
	eventually(t, "slow senders are being read from", held)
	for i := range 50 {
		status, answer := post(t, "http://"+address+receiver.Path, webhook(t, firing("pod", fmt.Sprint("web-", i), "namespace", "shop")))
		require.Equal(t, http.StatusOK, status, answer)
		probe(t, address)
	}
	require.True(t, held(), "they are there to the end")
	for _, conn := range conns {
		require.NoError(t, conn.Close())
	}
	eventually(t, "nothing is held", func() bool { return value(t, address, "alertmedic_webhook_inflight_bytes") == 0 })
}

// Hundreds of senders that trickle their bodies are let go when their time is
// over.
func TestSlowSendersAreLetGo(t *testing.T) {
	t.Parallel()
	address := serveEdge(t, receiver.Limits{BodyTimeout: time.Second}, func(*config.Config) {})
	for _, conn := range slowSenders(t, address, 300) {
		if text := hungUp(t, conn); text != "" { // a reset may have overtaken the answer
			require.Contains(t, text, "HTTP/1.1 503 ")
		}
	}
	eventually(t, "nothing is held", func() bool { return value(t, address, "alertmedic_webhook_inflight_bytes") == 0 })
	eventually(t, "only our own connections are open", func() bool { return value(t, address, "alertmedic_http_connections") < 20 })
}

// Whoever does not get on with a request is hung up on, wherever it dallies.
func TestDalliersAreHungUpOn(t *testing.T) {
	t.Parallel()
	limits := receiver.Limits{ReadHeaderTimeout: 500 * time.Millisecond, BodyTimeout: 500 * time.Millisecond, IdleTimeout: 500 * time.Millisecond}
	address := serveEdge(t, limits, func(*config.Config) {})
	body := "Host: medic\r\nContent-Length: 1000\r\n\r\n{"
	for name, tc := range map[string]struct {
		head, more, want string
	}{
		"says nothing":                 {},
		"a header byte by byte":        {head: "POST /api/v1/webhook HTTP/1.1\r\nHost: me", more: "x"},
		"idle after an answer":         {head: "GET /-/healthy HTTP/1.1\r\nHost: medic\r\n\r\n", want: "HTTP/1.1 200 OK"},
		"a webhook's body":             {head: slowHead, more: " ", want: "HTTP/1.1 503 "},
		"a body that a probe ignores":  {head: "GET /-/healthy HTTP/1.1\r\n" + body, more: " ", want: "HTTP/1.1 200 OK"},
		"a body that metrics ignore":   {head: "POST /metrics HTTP/1.1\r\n" + body, more: " "},
		"a body to no address":         {head: "POST /nowhere HTTP/1.1\r\n" + body, more: " ", want: "HTTP/1.1 404 "},
		"a body that the API waits on": {head: "POST /api/v1/pauses HTTP/1.1\r\nContent-Type: application/json\r\n" + body, more: " ", want: "HTTP/1.1 4"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn := dial(t, address, tc.head)
			if tc.more != "" {
				go trickle(conn, 20*time.Millisecond, tc.more[0])
			}
			if got := hungUp(t, conn); got != "" {
				require.Contains(t, got, tc.want)
			}
		})
	}
}

// At the limit of connections the slowest makes room for the newest: an open
// connection that owes nothing, as a log that is followed, is left alone.
func TestTheSlowestConnectionMakesRoom(t *testing.T) {
	t.Parallel()
	const most = 10
	// Times that no test waits for: only the limit closes anything.
	long := receiver.Limits{ReadHeaderTimeout: time.Hour, BodyTimeout: time.Hour, IdleTimeout: time.Hour}
	address := serveEdge(t, long, func(c *config.Config) { c.Listen.MaxConnections = most })
	http.DefaultTransport.(*http.Transport).CloseIdleConnections() // what asked whether it serves

	follower := dial(t, address, "GET /api/v1/log?follow=true HTTP/1.1\r\nHost: medic\r\nAccept: application/x-ndjson\r\n\r\n")
	in := bufio.NewReader(follower)
	resp, err := http.ReadResponse(in, nil)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, resp.StatusCode)
	lines := bufio.NewReader(resp.Body)
	_, err = lines.ReadString('\n')
	require.NoError(t, err)

	var slow []net.Conn
	for range 3 * most {
		slow = append(slow, dial(t, address, slowHead))
	}
	for _, conn := range slow[:2*most] {
		hungUp(t, conn)
	}
	probe(t, address)
	status, answer := post(t, "http://"+address+receiver.Path, webhook(t, firing("pod", "web-0", "namespace", "shop")))
	require.Equal(t, http.StatusOK, status, answer)
	for {
		line, err := lines.ReadString('\n')
		require.NoError(t, err, "the follower is cut off")
		if strings.Contains(line, "episode.opened") {
			break
		}
	}
	require.LessOrEqual(t, value(t, address, "alertmedic_http_connections"), float64(most))
	require.GreaterOrEqual(t, value(t, address, "alertmedic_http_connections_closed_total"), float64(2*most))
}
