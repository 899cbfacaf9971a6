package receiver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"runtime/debug"
	"slices"
	"strconv"
	"time"

	"github.com/alertmedic/alertmedic/internal/alert"
	"github.com/alertmedic/alertmedic/internal/auth"
	"github.com/alertmedic/alertmedic/internal/store"
)

// retryAfter is what a 503 asks for, in seconds.
const retryAfter = "5"

// Answer is the body of a 200.
type Answer struct {
	Accepted   int `json:"accepted"` // alerts stored, those that changed nothing included
	Rejected   int `json:"rejected"` // bad alerts, written to the log
	Opened     int `json:"opened"`
	Reopened   int `json:"reopened"`
	Closed     int `json:"closed"`
	Repeated   int `json:"repeated"`
	Stale      int `json:"stale"`
	Orphaned   int `json:"orphaned"`
	Unmatched  int `json:"unmatched"`
	Candidates int `json:"candidates"`
}

// failure is an answer other than 200; message says what to do.
type failure struct {
	status  int
	message string
	cause   error // for the log only
}

func (f *failure) Error() string { return f.message }
func (f *failure) Unwrap() error { return f.cause }

func fail(status int, format string, args ...any) *failure {
	return &failure{status: status, message: fmt.Sprintf(format, args...)}
}

// ServeHTTP answers one webhook.
func (r *Receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	start := time.Now()
	source := unknownSource
	status := http.StatusServiceUnavailable
	defer func() {
		if p := recover(); p != nil {
			if p == http.ErrAbortHandler { //nolint:errorlint // net/http asks for this very value
				panic(p)
			}
			r.opts.Logger.Error("webhook panicked", "source", source, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			status = http.StatusServiceUnavailable
			w.Header().Set("Retry-After", retryAfter)
			writeJSON(w, status, errorBody{"internal error, see the log of alertmedic; nothing was acknowledged, and Alertmanager sends it again"})
		}
		r.metrics.requests.WithLabelValues(source, strconv.Itoa(status)).Inc()
		r.metrics.duration.Observe(time.Since(start).Seconds())
	}()

	// For the whole body, read here or not: what a handler leaves, net/http reads
	// before it answers.
	r.bodyDeadline(w, r.opts.Limits.BodyTimeout)
	src, fault := r.admit(w, req)
	if src.Name != "" {
		source = src.Name
	}
	if fault == nil {
		var answer Answer
		if answer, fault = r.take(w, req, src); fault == nil {
			status = http.StatusOK
			writeJSON(w, status, answer)
			return
		}
	}
	status = fault.status
	if status == http.StatusServiceUnavailable {
		// Alertmanager has a back-off of its own; others are told.
		w.Header().Set("Retry-After", retryAfter)
	}
	r.opts.Logger.Warn("webhook refused", "source", source, "status", status, "reason", fault.message, "err", fault.cause, "remote", req.RemoteAddr)
	writeJSON(w, status, errorBody{fault.message})
}

// admit checks all that can be known before the body is read. The source is
// returned as far as it is known, for the metrics.
func (r *Receiver) admit(w http.ResponseWriter, req *http.Request) (Source, *failure) {
	if req.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		return Source{}, fail(http.StatusMethodNotAllowed, "use POST: this is Alertmanager's webhook")
	}
	if r.draining.Load() {
		return Source{}, fail(http.StatusServiceUnavailable, "shutting down; Alertmanager sends it again")
	}
	who, err := r.opts.Authenticator.Sender(req)
	if err != nil {
		status := auth.Status(err)
		if status == http.StatusUnauthorized {
			w.Header().Set("WWW-Authenticate", `Bearer realm="alertmedic"`)
		}
		return Source{}, fail(status, "%v; set http_config.authorization.credentials_file in Alertmanager's webhook receiver", err)
	}
	if !who.May(auth.Ingest) {
		return Source{}, fail(http.StatusForbidden, "%s may not send webhooks; use the token of a source", who.Name)
	}
	src, ok := r.opts.Sources[who.Source]
	if !ok {
		return Source{}, fail(http.StatusForbidden, "%s sends for the source %q, which is not configured", who.Name, who.Source)
	}
	if enc := req.Header.Get("Content-Encoding"); enc != "" && enc != "identity" {
		return src, fail(http.StatusUnsupportedMediaType, "Content-Encoding %q is not taken; send the body as it is", enc)
	}
	if media, params, err := mime.ParseMediaType(req.Header.Get("Content-Type")); err != nil || media != "application/json" {
		return src, fail(http.StatusUnsupportedMediaType, "Content-Type is %q; send application/json", req.Header.Get("Content-Type"))
	} else if charset := params["charset"]; charset != "" && charset != "utf-8" && charset != "UTF-8" {
		return src, fail(http.StatusUnsupportedMediaType, "charset is %q; send UTF-8", charset)
	}
	if req.ContentLength > r.opts.Limits.MaxBody {
		return src, r.tooLarge()
	}
	return src, nil
}

func (r *Receiver) tooLarge() *failure {
	return fail(http.StatusRequestEntityTooLarge, "the body is larger than %d bytes; add labels to Alertmanager's group_by, so that groups are smaller", r.opts.Limits.MaxBody)
}

// take reads, decodes and stores one webhook.
func (r *Receiver) take(w http.ResponseWriter, req *http.Request, src Source) (Answer, *failure) {
	// With no place to wait in, decoding would be work for nothing.
	if r.waiting.full() || !r.inFlight.take(r.opts.Limits.RequestOverhead) {
		return Answer{}, busy()
	}
	defer r.inFlight.give(r.opts.Limits.RequestOverhead)
	body := &meteredBody{body: http.MaxBytesReader(w, req.Body, r.opts.Limits.MaxBody), budget: &r.inFlight}
	defer body.release()
	now := r.opts.Clock()
	webhook, rejected, err := alert.Decode(body, now, r.opts.Limits.Alert)
	if err != nil {
		return Answer{}, r.unreadable(err)
	}
	if !r.waiting.take(1) {
		return Answer{}, busy()
	}
	defer r.waiting.give(1)
	batch, foreign := r.batch(webhook, rejected, src, now)
	var result store.AcceptResult
	if len(batch.Observations)+len(batch.Rejected) > 0 {
		// The sender may give up while the commit is under way: what is committed
		// then comes again and changes nothing.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(req.Context()), r.opts.Limits.AcceptTimeout)
		defer cancel()
		// net/http goes on reading, and a deadline that passes meanwhile would end
		// the context of every later request of the connection.
		r.bodyDeadline(w, 0)
		defer r.bodyDeadline(w, r.opts.Limits.BodyTimeout)
		if result, err = r.opts.Accepter.Accept(ctx, batch); err != nil {
			return Answer{}, &failure{http.StatusServiceUnavailable, "the alerts could not be stored, see the log of alertmedic; nothing was acknowledged, and Alertmanager sends it again", err}
		}
	}
	r.committed(src, webhook, append(rejected, foreign...), batch)
	return Answer{
		Accepted: len(batch.Observations), Rejected: len(batch.Rejected),
		Opened: result.Opened, Reopened: result.Reopened, Closed: result.Closed, Repeated: result.Repeated,
		Stale: result.Stale, Orphaned: result.Orphaned, Unmatched: result.Unmatched, Candidates: result.Candidates,
	}, nil
}

// bodyDeadline says how long the rest of a body may take; 0 is for ever.
func (r *Receiver) bodyDeadline(w http.ResponseWriter, d time.Duration) {
	var at time.Time
	if d > 0 {
		at = time.Now().Add(d)
	}
	// What cannot set deadlines has no connection to guard: a test's recorder.
	_ = http.NewResponseController(w).SetReadDeadline(at)
}

func busy() *failure {
	return &failure{http.StatusServiceUnavailable, "too many webhooks at once; Alertmanager sends it again", errBudget}
}

// unreadable tells a payload that is bad and stays so from one that did not
// arrive.
func (r *Receiver) unreadable(err error) *failure {
	if envelope, ok := errors.AsType[*alert.EnvelopeError](err); ok {
		return fail(http.StatusBadRequest, "%s", envelope.Error())
	}
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return r.tooLarge()
	}
	if errors.Is(err, errBudget) {
		return busy()
	}
	return &failure{http.StatusServiceUnavailable, "the body did not arrive whole; send it again", err}
}

// committed tells everybody else of what is stored.
func (r *Receiver) committed(src Source, webhook alert.Webhook, rejected []alert.Rejected, batch store.Batch) {
	r.metrics.count(src.Name, batch, rejected, webhook.Notes)
	for _, rej := range rejected {
		r.opts.Logger.Warn("alert rejected", "source", src.Name, "group", webhook.GroupKey, "index", rej.Index,
			"alertname", rej.AlertName, "reason", string(rej.Reason), "message", rej.Message)
	}
	for _, note := range webhook.Notes {
		r.opts.Logger.Info("alert adjusted", "source", src.Name, "group", webhook.GroupKey, "index", note.Index,
			"reason", string(note.Reason), "message", note.Message)
	}
	if len(src.Receivers) > 0 && !slices.Contains(src.Receivers, webhook.Receiver) {
		r.metrics.strangers.WithLabelValues(src.Name).Inc()
		r.opts.Logger.Warn("the webhook is of a receiver that the source does not name: its alerts are taken in, but those of a webhook that is missed or cut are not read back; "+
			"add its name to receivers of the source", "source", src.Name, "receiver", webhook.Receiver, "receivers", src.Receivers)
	}
	if webhook.TruncatedAlerts > 0 {
		r.opts.Logger.Info("alerts left out of a webhook: their state will be read", "source", src.Name,
			"group", webhook.GroupKey, "count", webhook.TruncatedAlerts)
		if r.opts.OnTruncated != nil {
			r.opts.OnTruncated(src.Name)
		}
	}
}

type errorBody struct {
	Error string `json:"error"`
}

func writeJSON(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	// The status is sent: there is nobody to tell of a failed write.
	_ = json.NewEncoder(w).Encode(body)
}
