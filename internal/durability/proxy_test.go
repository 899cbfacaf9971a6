package durability

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/alertmedic/alertmedic/internal/testcluster"
)

// Each fault does what it is called, and the proxy's memory agrees with the
// cluster and with the audit log.
func TestAPIProxy(t *testing.T) {
	t.Parallel()
	cluster := testcluster.Shared(t)
	ns, since := cluster.Namespace(t), time.Now()
	p := NewAPIProxy(t, cluster, 0)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(cluster.RESTConfig().CAData)
	client := &http.Client{Timeout: 2 * time.Minute, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, ForceAttemptHTTP2: true}}
	defer client.CloseIdleConnections()
	create := func(ctx context.Context, name string) (int, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, p.URL+"/api/v1/namespaces/"+ns+"/configmaps",
			strings.NewReader(fmt.Sprintf(`{"metadata":{"name":%q,"annotations":{"alertmedic.io/run":"r"}}}`, name)))
		require.NoError(t, err)
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Authorization", "Bearer replica-7")
		resp, err := client.Do(req)
		if err != nil {
			return 0, err
		}
		defer resp.Body.Close()
		_, err = io.Copy(io.Discard, resp.Body)
		return resp.StatusCode, err
	}
	exists := func(name string) bool {
		_, err := cluster.Client().CoreV1().ConfigMaps(ns).Get(t.Context(), name, metav1.GetOptions{})
		return err == nil
	}
	for i, row := range []struct {
		fault   Fault
		answer  int // 0: none
		applied bool
	}{
		{Fault{}, 201, true},
		{Fault{Delay: 50 * time.Millisecond}, 201, true},
		{Fault{Cut: CutBefore}, 0, false},
		{Fault{Cut: CutAfter}, 0, true},
		{Fault{Status: 409}, 409, false},
		{Fault{Status: 429}, 429, false},
		{Fault{Status: 503}, 503, false},
		{Fault{Status: 500, Late: true}, 500, true},
	} {
		name := fmt.Sprint("c", i)
		p.Choose(func(Call) Fault { return row.fault })
		code, err := create(t.Context(), name)
		require.Equal(t, row.answer, code, "%v: %v", row.fault, err)
		require.Equal(t, row.answer == 0, err != nil, "%v", row.fault)
		require.Equal(t, row.applied, exists(name), "%v", row.fault)
		calls := p.Calls()
		require.Len(t, calls, i+1)
		got := calls[i]
		require.Equal(t, row.applied, got.Applied())
		require.Equal(t, row.answer, got.Answered)
		require.Equal(t, "replica-7", got.Replica)
		require.Equal(t, "r", got.Run)
	}

	// The sender goes away while its change is on the way: it arrives all the same.
	p.Choose(func(Call) Fault { return Fault{Delay: 300 * time.Millisecond} })
	ctx, cancel := context.WithCancel(t.Context())
	p.Watch(func(_ Call, m Moment) {
		if m == Arrived {
			cancel()
		}
	})
	_, err := create(ctx, "orphan")
	require.Error(t, err)
	require.Eventually(t, func() bool { return exists("orphan") }, 2*time.Minute, 20*time.Millisecond)
	require.Eventually(t, func() bool { c := p.Calls(); return c[len(c)-1].Applied() }, 2*time.Minute, 20*time.Millisecond)
	p.Watch(nil)

	// Nothing gets through while it is down.
	p.Down()
	_, err = create(t.Context(), "down")
	require.Error(t, err)
	p.Up()
	code, err := create(t.Context(), "up")
	require.NoError(t, err)
	require.Equal(t, 201, code)

	var r Record
	require.NoError(t, r.ReadAudit(cluster, p.User, since))
	audited := map[string]Mutation{}
	for _, m := range r.Audit {
		audited[m.ID] = m
	}
	forwarded := 0
	for _, c := range p.Calls() {
		m, ok := audited[c.ID]
		require.Equal(t, !c.Forwarded.IsZero(), ok, "the audit log has what was passed on, under the proxy's id: %+v", c)
		if ok {
			forwarded++
			require.Equal(t, c.Status, m.Code)
			require.Equal(t, "r", m.Run)
		}
	}
	require.Len(t, r.Audit, forwarded)
}

// The TCP proxy passes, stalls, cuts and heals.
func TestTCPProxy(t *testing.T) {
	t.Parallel()
	server, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer server.Close()
	go func() { // echoes until its listener is closed
		for {
			c, err := server.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			}()
		}
	}()
	p := NewTCPProxy(t, server.Addr().String())
	dial := func() net.Conn {
		c, err := net.Dial("tcp", p.Addr)
		require.NoError(t, err)
		t.Cleanup(func() { c.Close() })
		return c
	}
	echo := func(c net.Conn, wait time.Duration) error {
		require.NoError(t, c.SetDeadline(time.Now().Add(wait)))
		if _, err := fmt.Fprintln(c, "hello"); err != nil {
			return err
		}
		_, err := bufio.NewReader(c).ReadString('\n')
		return err
	}
	const long = 2 * time.Minute
	c := dial()
	require.NoError(t, echo(c, long))

	p.Stall()
	var timeout net.Error
	require.ErrorAs(t, echo(c, 100*time.Millisecond), &timeout)
	require.True(t, timeout.Timeout(), "the connection is there and nothing passes")
	p.Heal()
	require.NoError(t, echo(c, long), "what was on its way arrives")

	p.Cut()
	err = echo(c, long)
	require.Error(t, err)
	if c, err := net.Dial("tcp", p.Addr); err == nil { // the reset may come before or after
		require.Error(t, echo(c, long))
		c.Close()
	}
	p.Heal()
	c = dial()
	require.NoError(t, echo(c, long))

	p.DropConnections()
	require.Error(t, echo(c, long))
	require.NoError(t, echo(dial(), long))
}
