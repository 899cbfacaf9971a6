package kube

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// server answers and counts; its answers tell how often it was asked.
type server struct {
	asked  []string
	status int
	body   io.Reader
}

func (s *server) RoundTrip(req *http.Request) (*http.Response, error) {
	s.asked = append(s.asked, req.Method+" "+req.URL.RequestURI())
	body := s.body
	if body == nil {
		body = strings.NewReader(strings.Repeat("x", len(s.asked)))
	}
	return &http.Response{StatusCode: s.status, Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(body)}, nil
}

func ask(t *testing.T, rt http.RoundTripper, ctx context.Context, method, path, identity string) string {
	t.Helper()
	u, err := url.Parse("https://cluster" + path)
	require.NoError(t, err)
	req := (&http.Request{Method: method, URL: u, Header: http.Header{}}).WithContext(ctx)
	if identity != "" {
		req.Header.Set("Impersonate-User", identity)
	}
	resp, err := rt.RoundTrip(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return string(body)
}

const deployment = "/apis/apps/v1/namespaces/shop/deployments/web"

func TestAReadingReadsEachObjectOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &server{status: http.StatusOK}
		rt := readings{s}
		ctx := WithReading(t.Context(), NewReading())
		require.Equal(t, "x", ask(t, rt, ctx, "GET", deployment, ""))
		require.Equal(t, "x", ask(t, rt, ctx, "GET", deployment, ""), "kept")
		require.Equal(t, "xx", ask(t, rt, ctx, "GET", deployment, "somebody"), "another identity may see another thing")
		require.Equal(t, "xx", ask(t, rt, ctx, "GET", deployment, "somebody"))
		require.Equal(t, "xxx", ask(t, rt, t.Context(), "GET", deployment, ""), "without a reading")
		require.Equal(t, "xxxx", ask(t, rt, WithReading(t.Context(), NewReading()), "GET", deployment, ""), "another reading")

		time.Sleep(MaxReading)
		require.Equal(t, "x", ask(t, rt, ctx, "GET", deployment, ""))
		time.Sleep(time.Nanosecond)
		require.Equal(t, "xxxxx", ask(t, rt, ctx, "GET", deployment, ""), "too old")

		// A question about rights does not end it.
		ask(t, rt, ctx, "POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", "somebody")
		require.Len(t, ask(t, rt, ctx, "GET", deployment, ""), 5)

		// A change ends it, whatever became of the change.
		s.status = http.StatusConflict
		ask(t, rt, ctx, "PATCH", deployment, "somebody")
		s.status = http.StatusOK
		require.Len(t, ask(t, rt, ctx, "GET", deployment, ""), 8)
		require.Len(t, ask(t, rt, ctx, "GET", deployment, ""), 9)
	})
}

func TestWhatAReadingDoesNotKeep(t *testing.T) {
	for _, path := range []string{
		"/api/v1/nodes", "/api/v1/namespaces", "/api/v1/namespaces/shop/pods", "/api/v1/namespaces/shop/pods/web-1/log", "/readyz", "/apis/apps/v1",
		"/apis/apps/v1/namespaces/shop/deployments", "/apis/apps/v1/namespaces/shop/deployments/web/scale", deployment + "?resourceVersion=0", "/api/v1",
	} {
		s := &server{status: http.StatusOK}
		ctx := WithReading(t.Context(), NewReading())
		ask(t, readings{s}, ctx, "GET", path, "")
		ask(t, readings{s}, ctx, "GET", path, "")
		require.Len(t, s.asked, 2, path)
	}
	for _, path := range []string{"/api/v1/nodes/n1", "/api/v1/namespaces/shop", "/api/v1/namespaces/shop/pods/web-1", deployment} {
		s := &server{status: http.StatusOK}
		ctx := WithReading(t.Context(), NewReading())
		ask(t, readings{s}, ctx, "GET", path, "")
		ask(t, readings{s}, ctx, "GET", path, "")
		require.Len(t, s.asked, 1, path)

		s.status = http.StatusNotFound
		ctx = WithReading(t.Context(), NewReading())
		ask(t, readings{s}, ctx, "GET", path, "")
		ask(t, readings{s}, ctx, "GET", path, "")
		require.Len(t, s.asked, 3, "%s: only an object is kept, no error", path)
	}
}

// What is too large, or breaks off, comes through as it is.
func TestAReadingPassesOnWhatItCannotKeep(t *testing.T) {
	large := strings.Repeat("y", maxReadingBytes+7)
	ctx := WithReading(t.Context(), NewReading())
	s := &server{status: http.StatusOK, body: strings.NewReader(large)}
	require.Equal(t, large, ask(t, readings{s}, ctx, "GET", deployment, ""))
	s.body = nil
	require.Equal(t, "xx", ask(t, readings{s}, ctx, "GET", deployment, ""), "it was not kept")

	broken := errors.New("broken off")
	s = &server{status: http.StatusOK, body: io.MultiReader(strings.NewReader("beginning"), failing{broken})}
	u, err := url.Parse("https://cluster" + deployment)
	require.NoError(t, err)
	resp, err := readings{s}.RoundTrip((&http.Request{Method: http.MethodGet, URL: u, Header: http.Header{}}).WithContext(WithReading(t.Context(), NewReading())))
	require.NoError(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.ErrorIs(t, err, broken)
	require.Equal(t, "beginning", string(body))
}
