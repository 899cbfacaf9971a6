// Package client is the Go client of the API, as the command line uses it.
package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/alertmedic/alertmedic/internal/api"
	"github.com/alertmedic/alertmedic/internal/guard"
	"github.com/alertmedic/alertmedic/internal/journal"
	"github.com/alertmedic/alertmedic/internal/simulate"
	"github.com/alertmedic/alertmedic/internal/store"
)

// maxAnswer bounds an answer that is read into memory.
const maxAnswer = 64 << 20

// Error is an answer of the service that is not a success.
type Error struct {
	Status int    `json:"status"`
	Title  string `json:"title"`
	Detail string `json:"detail"` // what to do
	// Errors are about single parameters.
	Errors []struct {
		Message  string `json:"message"`
		Location string `json:"location"`
	} `json:"errors"`
}

// Error returns the detail, with what is wrong with single parameters.
func (e *Error) Error() string {
	text := e.Detail
	if text == "" {
		text = e.Title
	}
	for _, p := range e.Errors {
		text += fmt.Sprintf("; %s: %s", p.Location, p.Message)
	}
	return fmt.Sprintf("%s (HTTP %d)", text, e.Status)
}

// Options say how to reach the service.
type Options struct {
	// Server is the base URL, such as http://127.0.0.1:9095.
	Server string
	// TokenFile holds the bearer token; "" sends none.
	TokenFile string
	// HTTP sends the requests; nil makes one. It must not have a time-out of its
	// own when the log is followed.
	HTTP *http.Client
	// Silence is after how long without entry or heartbeat a followed log counts
	// as broken; default 45s, three heartbeats.
	Silence time.Duration
}

// Client talks to one service. It is safe for concurrent use.
type Client struct {
	base    *url.URL
	token   string
	http    *http.Client
	silence time.Duration
}

// New checks the options and reads the token.
func New(o Options) (*Client, error) {
	base, err := url.Parse(o.Server)
	if err != nil || (base.Scheme != "http" && base.Scheme != "https") || base.Host == "" {
		return nil, fmt.Errorf("the server must be an http or https URL with a host, such as http://127.0.0.1:9095, not %q", o.Server)
	}
	base.Path = strings.TrimSuffix(base.Path, "/")
	c := &Client{base: base, http: o.HTTP, silence: o.Silence}
	if c.silence == 0 {
		c.silence = 45 * time.Second
	}
	if c.http == nil {
		c.http = &http.Client{
			// A redirect would carry the token to wherever the answer says.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}
	}
	if o.TokenFile != "" {
		token, err := os.ReadFile(o.TokenFile)
		if err != nil {
			return nil, fmt.Errorf("read the token: %w", err)
		}
		if c.token = strings.TrimSpace(string(token)); c.token == "" {
			return nil, fmt.Errorf("read the token: %s is empty", o.TokenFile)
		}
	}
	return c, nil
}

// Page asks for a page of a listing.
type Page struct {
	Limit  int
	Cursor string
	Order  string // asc, desc, or "" for the listing's own
}

func (p Page) values(q url.Values) {
	if p.Limit > 0 {
		q.Set("limit", fmt.Sprint(p.Limit))
	}
	set(q, "cursor", p.Cursor)
	set(q, "order", p.Order)
}

func set(q url.Values, key, value string) {
	if value != "" {
		q.Set(key, value)
	}
}

func setTime(q url.Values, key string, t time.Time) {
	if !t.IsZero() {
		q.Set(key, t.UTC().Format(time.RFC3339Nano))
	}
}

// Runs lists one page of runs.
func (c *Client) Runs(ctx context.Context, f store.RunFilter, p Page) (api.RunList, error) {
	q := url.Values{}
	p.values(q)
	for key, value := range map[string]string{"phase": f.Phase, "wait": f.Wait, "outcome": f.Outcome, "reason": f.Reason, "playbook": f.Playbook,
		"alertname": f.AlertName, "namespace": f.Namespace, "kind": f.Kind, "target": f.TargetName} {
		set(q, key, value)
	}
	setTime(q, "since", f.Since)
	setTime(q, "until", f.Until)
	var out api.RunList
	err := c.do(ctx, http.MethodGet, "/api/v1/runs", q, nil, &out)
	return out, err
}

// Run reads the run whose id begins with id.
func (c *Client) Run(ctx context.Context, id string) (api.RunDetail, error) {
	var out api.RunDetail
	err := c.do(ctx, http.MethodGet, "/api/v1/runs/"+url.PathEscape(id), nil, nil, &out)
	return out, err
}

// Decide approves or rejects the plan that a run waits with.
func (c *Client) Decide(ctx context.Context, id string, approve bool, body api.DecisionBody) (store.Approval, error) {
	verb := "/reject"
	if approve {
		verb = "/approve"
	}
	var out store.Approval
	err := c.do(ctx, http.MethodPost, "/api/v1/runs/"+url.PathEscape(id)+verb, nil, body, &out)
	return out, err
}

// Playbooks lists the playbooks in force.
func (c *Client) Playbooks(ctx context.Context) (api.PlaybookList, error) {
	var out api.PlaybookList
	err := c.do(ctx, http.MethodGet, "/api/v1/playbooks", nil, nil, &out)
	return out, err
}

// Pauses lists the pauses in force.
func (c *Client) Pauses(ctx context.Context) ([]guard.Pause, error) {
	var out api.PauseList
	err := c.do(ctx, http.MethodGet, "/api/v1/pauses", nil, nil, &out)
	return out.Items, err
}

// Explain asks what would become of an alert.
func (c *Client) Explain(ctx context.Context, r simulate.ExplainRequest) (*simulate.Explanation, error) {
	var out simulate.Explanation
	if err := c.do(ctx, http.MethodPost, "/api/v1/explain", nil, r, &out); err != nil {
		return nil, err
	}
	return &out, nil
}

// Log lists one page of the remediation log.
func (c *Client) Log(ctx context.Context, f store.LogFilter, p Page) (api.EntryList, error) {
	q := logValues(f)
	p.values(q)
	var out api.EntryList
	err := c.do(ctx, http.MethodGet, "/api/v1/log", q, nil, &out)
	return out, err
}

func logValues(f store.LogFilter) url.Values {
	q := url.Values{}
	for key, value := range map[string]string{"kind": f.Kind, "playbook": f.Playbook, "namespace": f.Namespace, "run": f.RunID, "episode": f.EpisodeID,
		"fingerprint": f.Fingerprint, "alertname": f.AlertName, "action": f.Action, "outcome": f.Outcome, "reason": f.Reason,
		"targetKind": f.TargetKind, "target": f.TargetName} {
		set(q, key, value)
	}
	setTime(q, "since", f.Since)
	setTime(q, "until", f.Until)
	if f.AfterSeq > 0 {
		q.Set("afterSeq", fmt.Sprint(f.AfterSeq))
	}
	return q
}

// ErrSilent means that a followed log sent neither entry nor heartbeat for so
// long that the connection must be dead.
var ErrSilent = errors.New("the server sent nothing, not even a heartbeat")

// Follow hands the entries after f.AfterSeq to yield, and goes on with new ones
// until ctx ends (it then returns nil), yield fails, or the connection breaks.
func (c *Client) Follow(ctx context.Context, f store.LogFilter, yield func(journal.Entry) error) error {
	parent := ctx
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watchdog := time.AfterFunc(c.silence, func() { cancel(ErrSilent) })
	defer watchdog.Stop()
	q := logValues(f)
	q.Set("follow", "true")
	resp, err := c.send(ctx, http.MethodGet, "/api/v1/log", q, nil, "application/x-ndjson") //nolint:bodyclose // closed below; the reader wraps it
	if err != nil {
		return followError(parent, ctx, err)
	}
	defer resp.Body.Close()
	dec := json.NewDecoder(readerFunc(func(p []byte) (int, error) {
		n, err := resp.Body.Read(p)
		watchdog.Reset(c.silence) // a heartbeat counts
		return n, err
	}))
	for {
		var en journal.Entry
		if err := dec.Decode(&en); err != nil {
			if errors.Is(err, io.EOF) {
				err = fmt.Errorf("the server ended the stream: %w", io.ErrUnexpectedEOF)
			}
			return followError(parent, ctx, err)
		}
		if err := yield(en); err != nil {
			return err
		}
	}
}

func followError(parent, ctx context.Context, err error) error {
	if parent.Err() != nil {
		return nil //nolint:nilerr // the caller ended it: that is how following ends
	}
	if cause := context.Cause(ctx); errors.Is(cause, ErrSilent) {
		return cause
	}
	return fmt.Errorf("follow the log: %w", err)
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// Pause sets a pause and returns those in force.
func (c *Client) Pause(ctx context.Context, body api.PauseBody) (api.PauseList, error) {
	var out api.PauseList
	err := c.do(ctx, http.MethodPost, "/api/v1/pauses", nil, body, &out)
	return out, err
}

// Resume clears a pause and returns those that stay in force.
func (c *Client) Resume(ctx context.Context, scope guard.PauseScope, value, why string) (api.PauseList, error) {
	q := url.Values{"scope": {string(scope)}}
	set(q, "value", value)
	set(q, "why", why)
	var out api.PauseList
	err := c.do(ctx, http.MethodDelete, "/api/v1/pauses", q, nil, &out)
	return out, err
}

// do sends a request and decodes a successful answer into out.
func (c *Client) do(ctx context.Context, method, path string, q url.Values, in, out any) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	var body []byte
	if in != nil {
		var err error
		if body, err = json.Marshal(in); err != nil {
			return fmt.Errorf("encode the request: %w", err)
		}
	}
	resp, err := c.send(ctx, method, path, q, body, "application/json")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(out); err != nil {
		return fmt.Errorf("decode the answer of %s%s: %w", c.base.Redacted(), path, err)
	}
	return nil
}

// send returns a successful answer, whose body the caller closes.
func (c *Client) send(ctx context.Context, method, path string, q url.Values, body []byte, accept string) (*http.Response, error) {
	target := c.base.String() + path // path is escaped already
	if len(q) > 0 {
		target += "?" + q.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, target, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("make the request: %w", err)
	}
	req.Header.Set("Accept", accept)
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		var transport *url.Error // says the address again, with the query
		if errors.As(err, &transport) {
			err = transport.Err
		}
		return nil, fmt.Errorf("reach the server %s: %w; is alertmedic serving there? --server names another address", c.base.Redacted(), err)
	}
	if resp.StatusCode/100 == 2 {
		return resp, nil
	}
	defer resp.Body.Close()
	return nil, answerError(resp)
}

func answerError(resp *http.Response) error {
	data, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	answer := &Error{}
	media, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if err != nil || !strings.HasSuffix(media, "json") || json.Unmarshal(data, answer) != nil {
		answer.Detail = "this does not look like alertmedic's API: is the address right?"
	}
	answer.Status, answer.Title = resp.StatusCode, http.StatusText(resp.StatusCode)
	return answer
}
