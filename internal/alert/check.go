package alert

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/prometheus/common/model"
)

// Rejected is one alert of a good envelope that cannot be used.
type Rejected struct {
	Index   int    `json:"index"` // of the alert in the payload
	Reason  Reason `json:"reason"`
	Message string `json:"message"` // what is wrong and what to do
	// Raw is the beginning of the alert as it was sent, valid UTF-8.
	Raw string `json:"raw,omitempty"`
	// AlertName and Fingerprint as the alert claims them, "" when not readable.
	AlertName   string `json:"alertname,omitempty"`
	Fingerprint string `json:"fingerprint,omitempty"`
}

// Reason is why an alert was rejected or adjusted: a closed set, fit for a
// metric label.
type Reason string

// Why an alert is rejected.
const (
	RejectMalformed     Reason = "malformed"
	RejectInvalidUTF8   Reason = "invalid-utf8"
	RejectTooDeep       Reason = "too-deep"
	RejectStatus        Reason = "bad-status"
	RejectNoAlertName   Reason = "no-alertname"
	RejectTooManyLabels Reason = "too-many-labels"
	RejectLabelName     Reason = "bad-label-name"
	RejectLabelTooLong  Reason = "label-too-long"
	RejectNUL           Reason = "nul-byte"
	RejectFingerprint   Reason = "bad-fingerprint"
	RejectMismatch      Reason = "fingerprint-mismatch"
	RejectNoStart       Reason = "no-starts-at"
	RejectTooManyAlerts Reason = "too-many-alerts"
)

// Why an accepted alert was adjusted.
const (
	NoteFutureStart   Reason = "starts-in-the-future"
	NoteAnnotationCut Reason = "annotation-cut"
)

// RejectReasons lists why alerts are rejected, to initialise metrics.
func RejectReasons() []Reason {
	return []Reason{RejectMalformed, RejectInvalidUTF8, RejectTooDeep, RejectStatus, RejectNoAlertName, RejectTooManyLabels,
		RejectLabelName, RejectLabelTooLong, RejectNUL, RejectFingerprint, RejectMismatch, RejectNoStart, RejectTooManyAlerts}
}

// NoteReasons lists why alerts are adjusted, to initialise metrics.
func NoteReasons() []Reason { return []Reason{NoteFutureStart, NoteAnnotationCut} }

// maxExcerpt bounds Rejected.Raw, in bytes.
const maxExcerpt = 1 << 10

// Fingerprint returns Alertmanager's fingerprint of a set of labels.
func Fingerprint(labels map[string]string) string {
	set := make(model.LabelSet, len(labels))
	for name, value := range labels {
		set[model.LabelName(name)] = model.LabelValue(value)
	}
	return set.Fingerprint().String()
}

// checkAlert decodes and checks one element of the alerts array. raw is not
// kept.
func checkAlert(raw []byte, index int, now time.Time, limits Limits) (Alert, []Note, *Rejected) {
	var a Alert
	reject := func(reason Reason, format string, args ...any) (Alert, []Note, *Rejected) {
		return Alert{}, nil, &Rejected{
			Index: index, Reason: reason, Message: fmt.Sprintf(format, args...), Raw: excerpt(raw),
			AlertName: claimed(a.Name()), Fingerprint: claimed(a.Fingerprint),
		}
	}
	// encoding/json would put U+FFFD in the place of bad bytes, and so make
	// another label value of it.
	if !utf8.Valid(raw) {
		return reject(RejectInvalidUTF8, "the alert holds bytes that are not UTF-8; correct the exporter or rule that makes the label")
	}
	if deeper(raw, limits.MaxDepth) {
		return reject(RejectTooDeep, "the alert nests deeper than %d levels; Alertmanager sends two", limits.MaxDepth)
	}
	if err := json.Unmarshal(raw, &a); err != nil {
		return reject(RejectMalformed, "the alert is not one of Alertmanager's: %s", fault(err))
	}
	if bytes.Equal(bytes.TrimSpace(raw), []byte("null")) {
		return reject(RejectMalformed, "the alert is null")
	}
	a.StartsAt, a.EndsAt = stamp(a.StartsAt), stamp(a.EndsAt)
	if reason, message := checkIdentity(a, limits); reason != "" {
		return reject(reason, "%s", message)
	}
	notes := adjust(&a, index, now, limits)
	return a, notes, nil
}

// Check applies the checks of Decode to an alert that was read elsewhere. It
// returns the alert as Decode would, sharing no map with a.
func Check(a Alert, now time.Time, limits Limits) (Alert, *Rejected) {
	raw, err := json.Marshal(a)
	if err != nil {
		return Alert{}, &Rejected{Reason: RejectMalformed, Message: "the alert cannot be written as JSON: " + err.Error()}
	}
	checked, _, rejected := checkAlert(raw, 0, now, limits.withDefaults())
	return checked, rejected
}

// fault words a decoding error without the names of Go's types.
func fault(err error) string {
	if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		if wrong.Field == "" {
			return "it is a JSON " + wrong.Value + ", want an object"
		}
		return fmt.Sprintf("the field %s is a JSON %s", quoted(wrong.Field), wrong.Value)
	}
	if bad, ok := errors.AsType[*time.ParseError](err); ok {
		return fmt.Sprintf("%s is no RFC 3339 time", quoted(bad.Value))
	}
	return strings.TrimPrefix(err.Error(), "json: ")
}

// checkIdentity checks what an alert must have to be followed.
func checkIdentity(a Alert, limits Limits) (Reason, string) {
	if a.Status != Firing && a.Status != Resolved {
		return RejectStatus, fmt.Sprintf("status is %s, want \"firing\" or \"resolved\"", quoted(string(a.Status)))
	}
	if len(a.Labels) > limits.MaxLabels {
		return RejectTooManyLabels, fmt.Sprintf("the alert has %d labels, the limit is %d; drop labels with alert_relabel_configs", len(a.Labels), limits.MaxLabels)
	}
	for _, name := range slices.Sorted(maps.Keys(a.Labels)) {
		if reason, message := checkLabel(name, a.Labels[name], limits); reason != "" {
			return reason, message
		}
	}
	if a.Name() == "" {
		return RejectNoAlertName, "the alert has no alertname label: its state could not be read back; name it in the rule"
	}
	if len(a.Fingerprint) != 16 || strings.Trim(a.Fingerprint, "0123456789abcdef") != "" {
		return RejectFingerprint, fmt.Sprintf("fingerprint is %s, want 16 lower-case hexadecimal digits", quoted(a.Fingerprint))
	}
	// The fingerprint is the identity of the signal, the labels are what is acted
	// on: they must not tell of two different alerts.
	if want := Fingerprint(a.Labels); a.Fingerprint != want {
		return RejectMismatch, fmt.Sprintf("fingerprint is %s, but that of the labels is %s; something changed the payload on its way", a.Fingerprint, want)
	}
	if a.StartsAt.IsZero() {
		return RejectNoStart, "the alert has no startsAt"
	}
	return "", ""
}

func checkLabel(name, value string, limits Limits) (Reason, string) {
	switch {
	case !model.UTF8Validation.IsValidLabelName(name):
		return RejectLabelName, fmt.Sprintf("%s is no label name", quoted(name))
	case len(name) > limits.MaxLabelName:
		return RejectLabelTooLong, fmt.Sprintf("the label name %s is %d bytes long, the limit is %d", quoted(name), len(name), limits.MaxLabelName)
	case len(value) > limits.MaxLabelValue:
		return RejectLabelTooLong, fmt.Sprintf("the label %s is %d bytes long, the limit is %d; move long text to an annotation", quoted(name), len(value), limits.MaxLabelValue)
	case strings.ContainsRune(name, 0) || strings.ContainsRune(value, 0):
		// PostgreSQL keeps no NUL in text: one such alert would fail its batch for ever.
		return RejectNUL, fmt.Sprintf("the label %s holds a NUL character", quoted(name))
	}
	return "", ""
}

// adjust brings what does not identify an alert within the limits: for that no
// alert is lost.
func adjust(a *Alert, index int, now time.Time, limits Limits) []Note {
	var notes []Note
	if ahead := a.StartsAt.Sub(now); ahead > limits.MaxSkew {
		notes = append(notes, Note{Index: index, Reason: NoteFutureStart, Message: fmt.Sprintf(
			"startsAt was %s ahead of this clock and is taken as the time of receipt; check the clocks", ahead.Round(time.Second))})
		a.StartsAt = stamp(now)
	}
	a.GeneratorURL = cut(a.GeneratorURL, limits.MaxAnnotationValue)
	for i, name := range slices.Sorted(maps.Keys(a.Annotations)) {
		if i >= limits.MaxAnnotations || len(name) > limits.MaxLabelName || strings.ContainsRune(name, 0) {
			delete(a.Annotations, name)
			notes = append(notes, Note{Index: index, Reason: NoteAnnotationCut, Message: fmt.Sprintf("the annotation %s was left out", quoted(name))})
			continue
		}
		if value := cut(a.Annotations[name], limits.MaxAnnotationValue); value != a.Annotations[name] {
			notes = append(notes, Note{Index: index, Reason: NoteAnnotationCut, Message: fmt.Sprintf(
				"the annotation %s was shortened or cleaned (%d bytes, the limit is %d)", quoted(name), len(a.Annotations[name]), limits.MaxAnnotationValue)})
			a.Annotations[name] = value
		}
	}
	return notes
}

// cut returns s without NUL, shortened to at most most bytes at a rune boundary.
func cut(s string, most int) string {
	s = strings.ReplaceAll(s, "\x00", "\uFFFD")
	if len(s) <= most {
		return s
	}
	s = s[:most]
	return strings.ToValidUTF8(s, "")
}

// latest is the last time that JSON can tell.
var latest = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)

// stamp brings a time to UTC and to microseconds, the precision that both
// databases keep. In UTC a time of the year 1 or 9999 may lie outside of what
// can be written as JSON, which would fail all alerts that came with it: before
// that is no time, after it the last one.
func stamp(t time.Time) time.Time {
	t = t.UTC()
	switch {
	case t.Year() < 1 || t.IsZero():
		return time.Time{}
	case t.After(latest):
		return latest
	}
	return t.Truncate(time.Microsecond)
}

func excerpt(raw []byte) string {
	return strings.ToValidUTF8(string(raw[:min(len(raw), maxExcerpt)]), "\uFFFD")
}

// claimed cuts what a rejected alert says of itself to what a log column holds.
func claimed(s string) string { return cut(s, 256) }
