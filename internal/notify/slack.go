package notify

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/slack-go/slack"
	"golang.org/x/time/rate"

	"github.com/alertmedic/alertmedic/internal/journal"
	"github.com/alertmedic/alertmedic/internal/store"
)

// KV remembers which Slack message belongs to which run.
type KV interface {
	GetKV(ctx context.Context, key string) (string, bool, error)
	SetKV(ctx context.Context, key, value string) error
}

// SlackOptions configure a SlackSender: exactly one of the two files.
type SlackOptions struct {
	// TokenFile holds a bot token; it is read at every delivery, so it can rotate.
	TokenFile string
	// WebhookURLFile holds the URL of an incoming webhook. A webhook cannot
	// update a message, so only approvals and ends are posted through it, and it
	// posts to the one channel that Slack bound it to.
	WebhookURLFile string
	// APIURL replaces Slack's API; "" is Slack's.
	APIURL string
	KV     KV // required with TokenFile
	// Client sends the requests; nil makes one with time-outs and no redirects.
	Client *http.Client
	// Limit bounds messages a second; zero is Slack's own limit of one a second
	// in a channel, with a burst of three.
	Limit rate.Limit
}

// SlackSender delivers the messages of ChannelSlack.
type SlackSender struct {
	o       SlackOptions
	limiter *rate.Limiter
}

// NewSlackSender checks the options. The files are read at delivery, so that a
// secret mounted late delays messages and nothing else.
func NewSlackSender(o SlackOptions) (*SlackSender, error) {
	if (o.TokenFile == "") == (o.WebhookURLFile == "") {
		return nil, errors.New("slack: exactly one of the token file and the webhook URL file is needed")
	}
	if o.TokenFile != "" && o.KV == nil {
		return nil, errors.New("slack: KV is missing: messages could not be updated")
	}
	if o.Client == nil {
		o.Client = newSlackClient()
	}
	if o.Limit == 0 {
		o.Limit = 1
	}
	if o.APIURL != "" && !strings.HasSuffix(o.APIURL, "/") {
		o.APIURL += "/"
	}
	return &SlackSender{o: o, limiter: rate.NewLimiter(o.Limit, 3)}, nil
}

// newSlackClient does not follow redirects: they would carry the token, or the
// secret URL, to wherever the answer says.
func newSlackClient() *http.Client {
	return &http.Client{
		Timeout:       15 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			Proxy:                 http.ProxyFromEnvironment,
			DialContext:           (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
			TLSHandshakeTimeout:   5 * time.Second,
			ResponseHeaderTimeout: 10 * time.Second,
			IdleConnTimeout:       30 * time.Second,
			MaxIdleConns:          2,
		},
	}
}

// Close drops idle connections.
func (s *SlackSender) Close() { s.o.Client.CloseIdleConnections() }

// Channel returns ChannelSlack.
func (s *SlackSender) Channel() string { return ChannelSlack }

// Send delivers one message. What it returns as an error never holds a secret.
func (s *SlackSender) Send(ctx context.Context, m store.Message) (Result, error) {
	var r RunReport
	if err := json.Unmarshal(m.Payload, &r); err != nil {
		return Result{}, &PermanentError{Err: fmt.Errorf("decode the report: %w", err)}
	}
	if r.RunID == "" {
		return Result{}, &PermanentError{Err: errors.New("the report names no run")}
	}
	file := s.o.TokenFile
	if file == "" {
		file = s.o.WebhookURLFile
		switch r.Event {
		case journal.ApprovalRequested, journal.RunEnded, journal.StormBegan, journal.StormEnded:
		default:
			return Result{Skipped: true}, nil
		}
	}
	secret, err := readSecret(file)
	if err != nil {
		return Result{}, err
	}
	if s.o.TokenFile != "" {
		err = s.bot(ctx, secret, m.ID, r)
	} else {
		err = s.webhook(ctx, secret, r)
	}
	return Result{}, classify(err, secret)
}

// posted is what is remembered of a run's message.
type posted struct {
	Channel string `json:"channel"`
	TS      string `json:"ts"`
	// Last is the outbox message whose lines are in the thread already: delivery
	// is at least once, and a line twice is noise.
	Last string `json:"last,omitempty"`
}

func (s *SlackSender) bot(ctx context.Context, token, messageID string, r RunReport) error {
	options := []slack.Option{slack.OptionHTTPClient(s.o.Client)}
	if s.o.APIURL != "" {
		options = append(options, slack.OptionAPIURL(s.o.APIURL))
	}
	api := slack.New(token, options...)
	key := "slack/" + r.RunID
	var at posted
	value, known, err := s.o.KV.GetKV(ctx, key)
	if err != nil {
		return fmt.Errorf("look up the message of the run: %w", err)
	}
	if known {
		if err := json.Unmarshal([]byte(value), &at); err != nil {
			known = false // another version's: a new message is better than none
		}
	}
	remember := func() error {
		data, err := json.Marshal(at)
		if err != nil {
			return fmt.Errorf("encode the message of the run: %w", err)
		}
		if err := s.o.KV.SetKV(ctx, key, string(data)); err != nil {
			return fmt.Errorf("remember the message of the run: %w", err)
		}
		return nil
	}
	if known && at.Last == messageID {
		return nil
	}
	body := render(r)
	if known {
		if err := s.limiter.Wait(ctx); err != nil {
			return fmt.Errorf("wait for the rate limit: %w", err)
		}
		_, _, _, err := api.UpdateMessageContext(ctx, at.Channel, at.TS, body.options()...)
		if gone(err) {
			known = false
		} else if err != nil {
			return fmt.Errorf("chat.update: %w", err)
		}
	}
	if !known {
		if err := s.limiter.Wait(ctx); err != nil {
			return fmt.Errorf("wait for the rate limit: %w", err)
		}
		channel, ts, err := api.PostMessageContext(ctx, r.Channel, body.options()...)
		if err != nil {
			return fmt.Errorf("chat.postMessage: %w", err)
		}
		// The channel's id comes back: chat.update does not take a name.
		at = posted{Channel: channel, TS: ts}
		if err := remember(); err != nil {
			return err
		}
	}
	if len(r.Thread) > 0 {
		if err := s.limiter.Wait(ctx); err != nil {
			return fmt.Errorf("wait for the rate limit: %w", err)
		}
		if _, _, err := api.PostMessageContext(ctx, at.Channel, append(thread(r).options(), slack.MsgOptionTS(at.TS))...); err != nil {
			return fmt.Errorf("chat.postMessage in the thread: %w", err)
		}
	}
	at.Last = messageID
	return remember()
}

// options never lets Slack parse names or unfurl links: both would act on
// untrusted text.
func (b rendered) options() []slack.MsgOption {
	return []slack.MsgOption{slack.MsgOptionText(b.text, false), slack.MsgOptionBlocks(b.blocks...),
		slack.MsgOptionDisableLinkUnfurl(), slack.MsgOptionDisableMediaUnfurl()}
}

func (s *SlackSender) webhook(ctx context.Context, target string, r RunReport) error {
	if err := s.limiter.Wait(ctx); err != nil {
		return fmt.Errorf("wait for the rate limit: %w", err)
	}
	no, body := false, render(r)
	err := slack.PostWebhookCustomHTTPContext(ctx, target, s.o.Client, &slack.WebhookMessage{
		Text: body.text, Blocks: &slack.Blocks{BlockSet: body.blocks}, Parse: "none", UnfurlLinks: &no, UnfurlMedia: &no,
	})
	if err != nil {
		return fmt.Errorf("incoming webhook: %w", err)
	}
	return nil
}

// gone reports whether the message of a run can no longer be updated.
func gone(err error) bool {
	var answer slack.SlackErrorResponse
	if !errors.As(err, &answer) {
		return false
	}
	switch answer.Err {
	case "message_not_found", "cant_update_message", "edit_window_closed", "channel_not_found":
		return true
	}
	return false
}

// classify says what may be done about an error, without its secrets: a
// *RateLimitError, a *PermanentError, or another, which is worth a retry.
func classify(err error, secret string) error {
	if err == nil {
		return nil
	}
	var limited *slack.RateLimitedError
	if errors.As(err, &limited) {
		return &RateLimitError{RetryAfter: limited.RetryAfter, Err: err}
	}
	var status slack.StatusCodeError
	if errors.As(err, &status) && status.Code == http.StatusTooManyRequests {
		return &RateLimitError{RetryAfter: 30 * time.Second, Err: err}
	}
	var answer slack.SlackErrorResponse
	if errors.As(err, &answer) {
		switch answer.Err {
		case "ratelimited", "rate_limited":
			return &RateLimitError{RetryAfter: 30 * time.Second, Err: err}
		case "msg_too_long", "msg_blocks_too_long", "invalid_blocks", "invalid_blocks_format", "no_text", "invalid_arguments", "invalid_form_data":
			return &PermanentError{Err: err}
		case "not_in_channel", "channel_not_found":
			return fmt.Errorf("%w: invite the bot to the channel, or correct the channel's name", err)
		case "invalid_auth", "not_authed", "token_revoked", "token_expired", "account_inactive", "missing_scope":
			return fmt.Errorf("%w: write a valid bot token with the scope chat:write into the token file", err)
		}
		return err
	}
	// The HTTP client's errors quote the URL, which is the webhook's secret.
	var sent *url.Error
	if errors.As(err, &sent) {
		return &redacted{text: sent.Op + " to Slack: " + redact(sent.Err.Error(), secret), cause: sent.Err}
	}
	if text := err.Error(); text != redact(text, secret) {
		return &redacted{text: redact(text, secret)}
	}
	return err
}

func redact(text, secret string) string {
	if secret == "" {
		return text
	}
	text = strings.ReplaceAll(text, secret, "<secret>")
	if u, err := url.Parse(secret); err == nil && len(u.Path) > 1 {
		text = strings.ReplaceAll(text, u.Path, "/<secret>")
	}
	return text
}

// redacted is an error whose text had secrets in it; the cause is for
// errors.Is only.
type redacted struct {
	text  string
	cause error
}

func (e *redacted) Error() string        { return e.text }
func (e *redacted) Is(target error) bool { return e.cause != nil && errors.Is(e.cause, target) }

func readSecret(file string) (string, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("read Slack's secret: %w", err)
	}
	secret := strings.TrimSpace(string(data))
	if secret == "" {
		return "", fmt.Errorf("read Slack's secret: %s is empty", file)
	}
	return secret, nil
}
