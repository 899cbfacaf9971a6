package alert

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/alertmedic/alertmedic/internal/parallel"
)

// Webhook is one decoded notification of Alertmanager's webhook version 4.
//
// The top-level status, groupLabels, commonLabels and externalURL are left out
// on purpose: a mixed group is "firing" as a whole, grouping decides what is
// common, and an address in a payload is never one to call. Only the alerts
// themselves say something.
type Webhook struct {
	Version  string
	Receiver string
	GroupKey string
	// Alerts are the good ones, in the order sent. Duplicates stay: the order
	// of observations means something, and the store folds them.
	Alerts []Alert
	// Index holds the place of each of Alerts in the payload.
	Index []int
	// TruncatedAlerts is how many alerts of the group were left out, by
	// Alertmanager (max_alerts) or by Limits.MaxAlerts. They are not lost only if
	// the sender's state is read.
	TruncatedAlerts uint64
	// Notes say what was adjusted in alerts that were accepted all the same.
	Notes []Note
}

// Note says how an accepted alert was adjusted.
type Note struct {
	Index   int    // of the alert in the payload
	Reason  Reason // one of NoteReasons
	Message string
}

// EnvelopeError says why a payload as a whole cannot be decoded. Its message is
// fit to be shown to the sender: it says what to do and quotes nothing secret.
type EnvelopeError struct {
	Message string
	Err     error // the cause, may be nil
}

func (e *EnvelopeError) Error() string {
	if e.Err == nil {
		return e.Message
	}
	return e.Message + ": " + e.Err.Error()
}

// Unwrap returns the cause.
func (e *EnvelopeError) Unwrap() error { return e.Err }

// Decode reads one webhook payload that was received at now. It returns an
// *EnvelopeError when the payload as a whole makes no sense; any other error is
// r's own, wrapped. A bad alert is no error: it comes back as Rejected and the
// others are kept, since one refused payload would come again at every
// group_interval and hold up its whole group for ever.
//
// The payload is decoded alert by alert, so that memory is bounded by the size
// of the payload and not by the number of its elements.
func Decode(r io.Reader, now time.Time, limits Limits) (Webhook, []Rejected, error) {
	limits = limits.withDefaults()
	src := &readErrors{r: r}
	d := &decoder{dec: json.NewDecoder(src), now: now, limits: limits, seen: map[string]bool{}}
	err := d.envelope()
	switch {
	case err == nil:
		return d.webhook, d.rejected, nil
	case src.err != nil:
		return Webhook{}, nil, fmt.Errorf("read the webhook payload: %w", src.err)
	}
	if env, ok := errors.AsType[*EnvelopeError](err); ok {
		return Webhook{}, nil, env
	}
	return Webhook{}, nil, syntaxError(err)
}

// syntaxError words what encoding/json found for the one who has to repair it.
func syntaxError(err error) *EnvelopeError {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return &EnvelopeError{Message: "the body ends before the JSON document does; check what lies between Alertmanager and here for cut bodies"}
	}
	if syn, ok := errors.AsType[*json.SyntaxError](err); ok {
		return &EnvelopeError{Message: fmt.Sprintf("the body is not JSON (at byte %d); send Alertmanager's webhook payload, version 4", syn.Offset), Err: err}
	}
	return &EnvelopeError{Message: "the body is not Alertmanager's webhook payload, version 4", Err: err}
}

// readErrors remembers the reader's own failure, to tell it from bad JSON.
type readErrors struct {
	r   io.Reader
	err error
}

func (e *readErrors) Read(p []byte) (int, error) {
	n, err := e.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		e.err = err
	}
	return n, err
}

type decoder struct {
	dec      *json.Decoder
	now      time.Time
	limits   Limits
	seen     map[string]bool
	raw      json.RawMessage // reused for every value
	webhook  Webhook
	rejected []Rejected
	dropped  uint64 // alerts beyond Limits.MaxAlerts
}

func (d *decoder) envelope() error {
	tok, err := d.dec.Token()
	if err != nil {
		return err
	}
	if tok != json.Delim('{') {
		return &EnvelopeError{Message: "the body is not a JSON object; send Alertmanager's webhook payload, version 4"}
	}
	for d.dec.More() {
		tok, err := d.dec.Token()
		if err != nil {
			return err
		}
		key, _ := tok.(string) // the decoder refuses any other key
		if err := d.field(key); err != nil {
			return err
		}
	}
	if _, err := d.dec.Token(); err != nil {
		return err
	}
	if _, err := d.dec.Token(); !errors.Is(err, io.EOF) {
		return &EnvelopeError{Message: "there is more after the JSON document; send one payload a request"}
	}
	if d.webhook.Version != "4" {
		return &EnvelopeError{Message: fmt.Sprintf("webhook version is %s, want \"4\"; point a webhook_configs receiver of Alertmanager 0.16 or later here, without a custom payload", quoted(d.webhook.Version))}
	}
	if !d.seen["alerts"] {
		return &EnvelopeError{Message: "the payload has no alerts array; point a webhook_configs receiver of Alertmanager here, without a custom payload"}
	}
	d.overflow()
	return nil
}

// overflow reports the alerts beyond MaxAlerts like a truncation by the sender.
func (d *decoder) overflow() {
	if d.dropped == 0 {
		return
	}
	d.webhook.TruncatedAlerts += d.dropped
	d.rejected = append(d.rejected, Rejected{
		Index:  d.limits.MaxAlerts,
		Reason: RejectTooManyAlerts,
		Message: fmt.Sprintf("the webhook has %d alerts more than the %d that one may hold; they are picked up when the sender's state is read: add labels to Alertmanager's group_by, so that groups are smaller",
			d.dropped, d.limits.MaxAlerts),
	})
}

func (d *decoder) field(key string) error {
	if d.seen[key] {
		return &EnvelopeError{Message: fmt.Sprintf("the field %s is there twice", quoted(key))}
	}
	switch key {
	case "alerts":
		d.seen[key] = true
		return d.alerts()
	case "version":
		return d.value(key, &d.webhook.Version, "a string")
	case "receiver":
		return d.value(key, &d.webhook.Receiver, "a string")
	case "groupKey":
		return d.value(key, &d.webhook.GroupKey, "a string")
	case "truncatedAlerts":
		return d.value(key, &d.webhook.TruncatedAlerts, "a whole number that is not negative")
	}
	// Fields that are not used may come and go with Alertmanager's versions.
	if err := d.dec.Decode(&d.raw); err != nil {
		return err
	}
	return d.shallow(key)
}

func (d *decoder) value(key string, into any, want string) error {
	d.seen[key] = true
	if err := d.dec.Decode(&d.raw); err != nil {
		return err
	}
	if err := d.shallow(key); err != nil {
		return err
	}
	if err := json.Unmarshal(d.raw, into); err != nil {
		return &EnvelopeError{Message: fmt.Sprintf("the field %q must be %s", key, want)}
	}
	return nil
}

func (d *decoder) shallow(key string) error {
	if deeper(d.raw, d.limits.MaxDepth) {
		return &EnvelopeError{Message: fmt.Sprintf("the field %s nests deeper than %d levels", quoted(key), d.limits.MaxDepth)}
	}
	return nil
}

func (d *decoder) alerts() error {
	tok, err := d.dec.Token()
	if err != nil {
		return err
	}
	if tok != json.Delim('[') {
		return &EnvelopeError{Message: "alerts must be an array; point a webhook_configs receiver of Alertmanager here, without a custom payload"}
	}
	var raws []json.RawMessage
	first := 0 // the place of the first of them
	for i := 0; d.dec.More(); i++ {
		if err := d.dec.Decode(&d.raw); err != nil {
			return err
		}
		if i >= d.limits.MaxAlerts {
			d.dropped++
			continue
		}
		if raws = append(raws, bytes.Clone(d.raw)); len(raws) == checkedAtOnce {
			d.check(raws, first)
			raws, first = raws[:0], i+1
		}
	}
	d.check(raws, first)
	_, err = d.dec.Token()
	return err
}

// checkedAtOnce bounds how many alerts are held undecoded.
const checkedAtOnce = 256

// check decodes and checks alerts, of which the first has the place given, on
// all processors: in a storm one webhook has hundreds of them.
func (d *decoder) check(raws []json.RawMessage, first int) {
	type checked struct {
		alert    Alert
		notes    []Note
		rejected *Rejected
	}
	all := make([]checked, len(raws))
	parallel.Each(len(raws), 16, func(i int) {
		c := &all[i]
		c.alert, c.notes, c.rejected = checkAlert(raws[i], first+i, d.now, d.limits)
	})
	for i, c := range all {
		if c.rejected != nil {
			d.rejected = append(d.rejected, *c.rejected)
			continue
		}
		d.webhook.Alerts = append(d.webhook.Alerts, c.alert)
		d.webhook.Index = append(d.webhook.Index, first+i)
		d.webhook.Notes = append(d.webhook.Notes, c.notes...)
	}
}

// deeper reports whether valid JSON nests more than limit levels.
func deeper(raw []byte, limit int) bool {
	depth := 0
	for i := 0; i < len(raw); i++ {
		switch raw[i] {
		case '{', '[':
			if depth++; depth > limit {
				return true
			}
		case '}', ']':
			depth--
		case '"':
			i = endOfString(raw, i)
		}
	}
	return false
}

// endOfString returns the index of the quote that closes the string at start.
func endOfString(raw []byte, start int) int {
	for i := start + 1; i < len(raw); i++ {
		switch raw[i] {
		case '\\':
			i++
		case '"':
			return i
		}
	}
	return len(raw)
}

// quoted returns s in quotes, cut to a length that fits a message.
func quoted(s string) string {
	const most = 64
	if len(s) > most {
		s = string(bytes.ToValidUTF8([]byte(s[:most]), nil)) + "…"
	}
	return fmt.Sprintf("%q", s)
}
