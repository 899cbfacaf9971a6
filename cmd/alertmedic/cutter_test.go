package main

import (
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"testing"

	"github.com/stretchr/testify/require"
)

// cutter is a proxy whose connections can be cut.
type cutter struct{ *httptest.Server }

func newCutter(t *testing.T, target string) *cutter {
	t.Helper()
	u, err := url.Parse(target)
	require.NoError(t, err)
	proxy := httputil.NewSingleHostReverseProxy(u)
	proxy.FlushInterval = -1
	srv := httptest.NewServer(proxy)
	t.Cleanup(srv.Close)
	return &cutter{srv}
}

func (c *cutter) cut() { c.CloseClientConnections() }
