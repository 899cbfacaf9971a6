package promapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	promconfig "github.com/prometheus/common/config"
)

// Endpoint is one HTTP API to read.
type Endpoint struct {
	// URL is http or https, with the path prefix if there is one.
	URL string
	// BearerTokenFile is read again at every request.
	BearerTokenFile string
	// CAFile holds the certificates to trust instead of the system's; it is read
	// again when it changes.
	CAFile             string
	InsecureSkipVerify bool
}

// maxResponse bounds an answer, in bytes: 32 MiB are some 40,000 alerts.
const maxResponse = 32 << 20

// idleTimeout is how long a connection is kept for the next look.
const idleTimeout = time.Minute

var errTooLarge = fmt.Errorf("the answer is larger than %d bytes", maxResponse)

// client returns an HTTP client for the endpoint. It follows no redirect: only
// the configured addresses are ever called.
func (e Endpoint) client(name string) (*http.Client, error) {
	u, err := url.Parse(e.URL)
	switch {
	case err != nil:
		return nil, errors.New("the URL cannot be parsed") // the cause quotes it, credentials and all
	case u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
		return nil, fmt.Errorf("URL %q: want http:// or https:// and a host", u.Redacted())
	case u.User != nil:
		return nil, fmt.Errorf("URL %q holds credentials: use a bearer token file", u.Redacted())
	case u.RawQuery != "" || u.Fragment != "":
		return nil, fmt.Errorf("URL %q: leave out what follows the path", u.Redacted())
	}
	cfg := promconfig.HTTPClientConfig{
		EnableHTTP2: true,
		TLSConfig:   promconfig.TLSConfig{CAFile: e.CAFile, InsecureSkipVerify: e.InsecureSkipVerify},
	}
	if e.BearerTokenFile != "" {
		cfg.Authorization = &promconfig.Authorization{Type: "Bearer", CredentialsFile: e.BearerTokenFile}
	}
	client, err := promconfig.NewClientFromConfig(cfg, name, promconfig.WithIdleConnTimeout(idleTimeout))
	if err != nil {
		return nil, fmt.Errorf("URL %q: %w", u.Redacted(), err)
	}
	client.Transport = &transport{next: client.Transport}
	return client, nil
}

// transport bounds answers and notes the clock of the other side.
type transport struct{ next http.RoundTripper }

func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	if name, ok := req.Context().Value(ruleName{}).(string); ok {
		// client_golang knows no filter by rule name. Where a server does not
		// either, it answers with all rules, and they are filtered here.
		req = req.Clone(req.Context())
		q := req.URL.Query()
		q.Set("type", "alert")
		q.Set("rule_name[]", name)
		req.URL.RawQuery = q.Encode()
	}
	resp, err := t.next.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	if seen, ok := req.Context().Value(dateHeader{}).(*time.Time); ok {
		if date, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
			*seen = date
		}
	}
	resp.Body = &boundedBody{ReadCloser: resp.Body, left: maxResponse}
	return resp, nil
}

// CloseIdleConnections is what http.Client looks for.
func (t *transport) CloseIdleConnections() {
	(&http.Client{Transport: t.next}).CloseIdleConnections()
}

type (
	ruleName   struct{} // context key: the name of the rules asked for
	dateHeader struct{} // context key: where to put the answer's date
)

type boundedBody struct {
	io.ReadCloser
	left int64
}

func (b *boundedBody) Read(p []byte) (int, error) {
	if b.left < 0 {
		return 0, errTooLarge
	}
	if int64(len(p)) > b.left+1 {
		p = p[:b.left+1]
	}
	n, err := b.ReadCloser.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return 0, errTooLarge
	}
	return n, err
}

// open asks an endpoint for a document, which the caller reads and closes.
func open(ctx context.Context, client *http.Client, base, path string, query url.Values) (io.ReadCloser, error) {
	target := strings.TrimRight(base, "/") + path
	if len(query) > 0 {
		target += "?" + query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		resp.Body.Close() //nolint:errcheck // nothing of it is used
		return nil, fmt.Errorf("%s answered %s", path, resp.Status)
	}
	return resp.Body, nil
}

// outcome classes an error for a metric.
func outcome(err error) string {
	switch {
	case err == nil:
		return "ok"
	case errors.Is(err, context.DeadlineExceeded):
		return "timeout"
	}
	return "error"
}
