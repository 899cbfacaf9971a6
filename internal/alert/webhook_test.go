package alert_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/prometheus/alertmanager/notify/webhook"
	"github.com/prometheus/alertmanager/template"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/alertmedic/alertmedic/internal/alert"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var now = time.Date(2026, 3, 2, 10, 10, 0, 0, time.UTC)

func fixture(t testing.TB, name string) []byte {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("..", "..", "testdata", "webhooks", name+".json"))
	require.NoError(t, err)
	return raw
}

func decode(t *testing.T, raw []byte) (alert.Webhook, []alert.Rejected) {
	t.Helper()
	w, rejected, err := alert.Decode(bytes.NewReader(raw), now, alert.Limits{})
	require.NoError(t, err)
	return w, rejected
}

// good returns an alert as Alertmanager sends it, changed by the edits.
func good(edits ...func(map[string]any)) map[string]any {
	labels := map[string]string{"alertname": "KubePodNotReady", "namespace": "shop", "pod": "web-0"}
	a := map[string]any{
		"status": "firing", "labels": labels, "annotations": map[string]string{"summary": "not ready"},
		"startsAt": "2026-03-02T10:00:00Z", "endsAt": "0001-01-01T00:00:00Z", "fingerprint": alert.Fingerprint(labels),
	}
	for _, edit := range edits {
		edit(a)
	}
	return a
}

// labels returns an edit that sets labels, with the fingerprint that fits.
func labels(set map[string]string) func(map[string]any) {
	return func(a map[string]any) {
		all := map[string]string{"alertname": "KubePodNotReady"}
		maps.Copy(all, set)
		a["labels"], a["fingerprint"] = all, alert.Fingerprint(all)
	}
}

func field(name string, value any) func(map[string]any) {
	return func(a map[string]any) { a[name] = value }
}

func without(name string) func(map[string]any) {
	return func(a map[string]any) { delete(a, name) }
}

func envelope(t testing.TB, alerts ...any) []byte {
	t.Helper()
	raw, err := json.Marshal(map[string]any{"version": "4", "groupKey": "{}:{}", "receiver": "alertmedic", "alerts": alerts})
	require.NoError(t, err)
	return raw
}

func TestDecodeFixtures(t *testing.T) {
	t.Parallel()
	type seen struct {
		status alert.Status
		name   string
	}
	for name, want := range map[string][]seen{
		"firing":             {{alert.Firing, "KubePodCrashLooping"}},
		"resolved":           {{alert.Resolved, "KubePodCrashLooping"}},
		"mixed-group":        {{alert.Resolved, "KubePodCrashLooping"}, {alert.Firing, "KubePodNotReady"}, {alert.Firing, "KubePodCrashLooping"}},
		"duplicate-in-group": {{alert.Resolved, "KubePodNotReady"}, {alert.Firing, "KubePodNotReady"}},
		"truncated":          {{alert.Resolved, "KubeNodeNotReady"}, {alert.Firing, "KubeNodeNotReady"}},
		"hostile-labels":     {{alert.Firing, "Shop"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, rejected := decode(t, fixture(t, name))
			require.Empty(t, rejected)
			require.Empty(t, w.Notes)
			var got []seen
			for _, a := range w.Alerts {
				got = append(got, seen{a.Status, a.Name()})
				require.Equal(t, time.UTC, a.StartsAt.Location())
			}
			require.Equal(t, want, got)
		})
	}
	w, _ := decode(t, fixture(t, "truncated"))
	require.EqualValues(t, 30, w.TruncatedAlerts)
	w, _ = decode(t, fixture(t, "hostile-labels"))
	require.Equal(t, "'; DROP TABLE episodes; --", w.Alerts[0].Labels["sql"], "label values are kept as they are")
}

// Alertmanager's own encoder is the oracle for what a payload looks like.
func TestDecodeReadsWhatAlertmanagerWrites(t *testing.T) {
	t.Parallel()
	set := map[string]string{"alertname": "Shop", "namespace": "shop"}
	starts := time.Date(2026, 3, 2, 10, 0, 0, 123456789, time.FixedZone("", 3600))
	raw, err := json.Marshal(&webhook.Message{
		Version: "4", GroupKey: "{}:{}", TruncatedAlerts: 2,
		Data: &template.Data{Receiver: "alertmedic", Status: "firing", Alerts: template.Alerts{{
			Status: "firing", Labels: set, Annotations: template.KV{"summary": "s"}, StartsAt: starts, Fingerprint: alert.Fingerprint(set),
		}}},
	})
	require.NoError(t, err)
	w, rejected := decode(t, raw)
	require.Empty(t, rejected)
	require.EqualValues(t, 2, w.TruncatedAlerts)
	require.Equal(t, "alertmedic", w.Receiver)
	require.Equal(t, []alert.Alert{{
		Status: alert.Firing, Labels: set, Annotations: map[string]string{"summary": "s"},
		StartsAt: time.Date(2026, 3, 2, 9, 0, 0, 123456000, time.UTC), Fingerprint: alert.Fingerprint(set),
	}}, w.Alerts)
}

func TestDecodeRefusesEnvelopes(t *testing.T) {
	t.Parallel()
	nested := strings.Repeat("[", 33) + strings.Repeat("]", 33)
	for name, tc := range map[string]struct{ body, want string }{
		"empty body": {"", "the body ends before the JSON document does; check what lies between Alertmanager and here for cut bodies"},
		"truncated":  {`{"version":"4","alerts":[{"status":"firing","labels":{"alertn`, "the body ends before the JSON document does; check what lies between Alertmanager and here for cut bodies"},
		"not JSON":   {`status=firing`, "the body is not JSON (at byte 1); send Alertmanager's webhook payload, version 4: invalid character 's' looking for beginning of value"},
		"array":      {`[]`, "the body is not a JSON object; send Alertmanager's webhook payload, version 4"},
		"null":       {`null`, "the body is not a JSON object; send Alertmanager's webhook payload, version 4"},
		"version 3":  {`{"version":"3","alerts":[]}`, `webhook version is "3", want "4"; point a webhook_configs receiver of Alertmanager 0.16 or later here, without a custom payload`},
		"no version": {`{"alerts":[]}`, `webhook version is "", want "4"; point a webhook_configs receiver of Alertmanager 0.16 or later here, without a custom payload`},
		"number":     {`{"version":4,"alerts":[]}`, `the field "version" must be a string`},
		"no alerts":  {`{"version":"4"}`, "the payload has no alerts array; point a webhook_configs receiver of Alertmanager here, without a custom payload"},
		"object":     {`{"version":"4","alerts":{}}`, "alerts must be an array; point a webhook_configs receiver of Alertmanager here, without a custom payload"},
		"null array": {`{"version":"4","alerts":null}`, "alerts must be an array; point a webhook_configs receiver of Alertmanager here, without a custom payload"},
		"negative":   {`{"version":"4","alerts":[],"truncatedAlerts":-1}`, `the field "truncatedAlerts" must be a whole number that is not negative`},
		"twice":      {`{"version":"4","alerts":[],"alerts":[]}`, `the field "alerts" is there twice`},
		"trailing":   {`{"version":"4","alerts":[]}{}`, "there is more after the JSON document; send one payload a request"},
		"deep":       {`{"version":"4","alerts":[],"groupLabels":` + nested + `}`, `the field "groupLabels" nests deeper than 32 levels`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, _, err := alert.Decode(strings.NewReader(tc.body), now, alert.Limits{})
			env, ok := errors.AsType[*alert.EnvelopeError](err)
			require.True(t, ok, "%v", err)
			require.EqualError(t, env, tc.want)
		})
	}
}

func TestDecodeTellsAFailedReadFromABadPayload(t *testing.T) {
	t.Parallel()
	broken := errors.New("connection reset")
	_, _, err := alert.Decode(io.MultiReader(strings.NewReader(`{"version":"4",`), iotest.ErrReader(broken)), now, alert.Limits{})
	require.ErrorIs(t, err, broken)
	_, isEnvelope := errors.AsType[*alert.EnvelopeError](err)
	require.False(t, isEnvelope)
}

func TestDecodeRejectsABadAlertAlone(t *testing.T) {
	t.Parallel()
	many := map[string]string{}
	for i := range 128 {
		many[fmt.Sprintf("l%d", i)] = "x"
	}
	for name, tc := range map[string]struct {
		bad    any
		reason alert.Reason
		want   string
	}{
		"null":        {nil, alert.RejectMalformed, "the alert is null"},
		"string":      {"firing", alert.RejectMalformed, "the alert is not one of Alertmanager's: it is a JSON string, want an object"},
		"label type":  {good(field("labels", map[string]any{"alertname": 7})), alert.RejectMalformed, `the alert is not one of Alertmanager's: the field "labels" is a JSON number`},
		"time":        {good(field("startsAt", "yesterday")), alert.RejectMalformed, `the alert is not one of Alertmanager's: "yesterday" is no RFC 3339 time`},
		"status":      {good(field("status", "pending")), alert.RejectStatus, `status is "pending", want "firing" or "resolved"`},
		"no labels":   {good(field("labels", map[string]string{})), alert.RejectNoAlertName, "the alert has no alertname label: its state could not be read back; name it in the rule"},
		"many labels": {good(labels(many)), alert.RejectTooManyLabels, "the alert has 129 labels, the limit is 128; drop labels with alert_relabel_configs"},
		"empty name":  {good(labels(map[string]string{"": "x"})), alert.RejectLabelName, `"" is no label name`},
		"64 KiB":      {good(labels(map[string]string{"big": strings.Repeat("x", 64<<10)})), alert.RejectLabelTooLong, `the label "big" is 65536 bytes long, the limit is 16384; move long text to an annotation`},
		"long name":   {good(labels(map[string]string{strings.Repeat("n", 2000): "x"})), alert.RejectLabelTooLong, fmt.Sprintf("the label name %q is 2000 bytes long, the limit is 1024", strings.Repeat("n", 64)+"…")},
		"NUL":         {good(labels(map[string]string{"pod": "a\x00b"})), alert.RejectNUL, `the label "pod" holds a NUL character`},
		"no print":    {good(without("fingerprint")), alert.RejectFingerprint, `fingerprint is "", want 16 lower-case hexadecimal digits`},
		"bad print":   {good(field("fingerprint", "XYZ")), alert.RejectFingerprint, `fingerprint is "XYZ", want 16 lower-case hexadecimal digits`},
		"other print": {good(field("fingerprint", "0123456789abcdef")), alert.RejectMismatch, "fingerprint is 0123456789abcdef, but that of the labels is " + good()["fingerprint"].(string) + "; something changed the payload on its way"},
		"before all":  {good(field("startsAt", "0001-01-01T00:00:00+05:00")), alert.RejectNoStart, "the alert has no startsAt"},
		"no start":    {good(without("startsAt")), alert.RejectNoStart, "the alert has no startsAt"},
		"deep":        {good(field("extra", json.RawMessage(strings.Repeat("[", 32)+strings.Repeat("]", 32)))), alert.RejectTooDeep, "the alert nests deeper than 32 levels; Alertmanager sends two"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, rejected := decode(t, envelope(t, good(), tc.bad, good(labels(map[string]string{"pod": "web-1"}))))
			require.Len(t, w.Alerts, 2, "the others are kept")
			require.Equal(t, []int{0, 2}, w.Index)
			require.Len(t, rejected, 1)
			require.Equal(t, 1, rejected[0].Index)
			require.Equal(t, tc.reason, rejected[0].Reason)
			require.Equal(t, tc.want, rejected[0].Message)
			require.LessOrEqual(t, len(rejected[0].Raw), 4<<10)
			require.Contains(t, alert.RejectReasons(), rejected[0].Reason)
		})
	}
}

// In UTC a time may lie outside of what JSON can tell: what is kept can always
// be written.
func TestDecodeKeepsTimesThatCanBeWritten(t *testing.T) {
	t.Parallel()
	w, rejected := decode(t, envelope(t,
		good(field("startsAt", "9999-12-31T23:59:59-05:00"), field("endsAt", "9999-12-31T23:59:59-05:00")),
		good(field("endsAt", "0000-01-01T00:00:00+05:00"))))
	require.Empty(t, rejected)
	require.Equal(t, now, w.Alerts[0].StartsAt)
	require.Equal(t, 9999, w.Alerts[0].EndsAt.Year())
	require.True(t, w.Alerts[1].EndsAt.IsZero())
	for _, a := range w.Alerts {
		_, err := json.Marshal(a)
		require.NoError(t, err)
	}
	_, failed := alert.Check(alert.Alert{Status: alert.Firing, EndsAt: time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)}, now, alert.Limits{})
	require.NotNil(t, failed)
	require.Equal(t, alert.RejectMalformed, failed.Reason)
}

func TestDecodeRejectsInvalidUTF8Alone(t *testing.T) {
	t.Parallel()
	raw := bytes.Replace(envelope(t, good(labels(map[string]string{"pod": "BAD"})), good()), []byte("BAD"), []byte{0xff, 0xfe}, 1)
	w, rejected := decode(t, raw)
	require.Len(t, w.Alerts, 1)
	require.Len(t, rejected, 1)
	require.Equal(t, alert.RejectInvalidUTF8, rejected[0].Reason)
	require.Equal(t, "the alert holds bytes that are not UTF-8; correct the exporter or rule that makes the label", rejected[0].Message)
	require.Contains(t, rejected[0].Raw, "\uFFFD")
}

func TestDecodeAdjustsWithoutLosing(t *testing.T) {
	t.Parallel()
	w, rejected := decode(t, envelope(t, good(
		field("startsAt", "2027-03-02T10:10:00Z"),
		field("annotations", map[string]string{"long": strings.Repeat("ä", 20_000), "nul": "a\x00b", "kept": "k"}),
	), good(field("startsAt", "2026-03-02T10:14:00Z"))))
	require.Empty(t, rejected)
	require.Equal(t, now, w.Alerts[0].StartsAt)
	require.Equal(t, now.Add(4*time.Minute), w.Alerts[1].StartsAt, "a few minutes of skew are left alone")
	require.Equal(t, strings.Repeat("ä", 8<<10), w.Alerts[0].Annotations["long"])
	require.Equal(t, "a\uFFFDb", w.Alerts[0].Annotations["nul"])
	require.Equal(t, "k", w.Alerts[0].Annotations["kept"])
	require.Equal(t, []alert.Note{
		{Index: 0, Reason: alert.NoteFutureStart, Message: "startsAt was 8760h0m0s ahead of this clock and is taken as the time of receipt; check the clocks"},
		{Index: 0, Reason: alert.NoteAnnotationCut, Message: `the annotation "long" was shortened or cleaned (40000 bytes, the limit is 16384)`},
		{Index: 0, Reason: alert.NoteAnnotationCut, Message: `the annotation "nul" was shortened or cleaned (3 bytes, the limit is 16384)`},
	}, w.Notes)
}

func TestDecodeCountsAlertsBeyondTheLimitAsTruncated(t *testing.T) {
	t.Parallel()
	w, rejected, err := alert.Decode(bytes.NewReader(envelope(t, good(), good(), good(), "bad")), now, alert.Limits{MaxAlerts: 2})
	require.NoError(t, err)
	require.Len(t, w.Alerts, 2)
	require.EqualValues(t, 2, w.TruncatedAlerts)
	require.Equal(t, []alert.Rejected{{Index: 2, Reason: alert.RejectTooManyAlerts,
		Message: "the webhook has 2 alerts more than the 2 that one may hold; they are picked up when the sender's state is read: add labels to Alertmanager's group_by, so that groups are smaller"}}, rejected)
}

func TestCheckIsDecode(t *testing.T) {
	t.Parallel()
	w, _ := decode(t, fixture(t, "firing"))
	a, rejected := alert.Check(w.Alerts[0], now, alert.Limits{})
	require.Nil(t, rejected)
	require.Equal(t, w.Alerts[0], a)
	a.Labels["pod"] = "another"
	require.Equal(t, "web-0", w.Alerts[0].Labels["pod"], "no map is shared")
	_, rejected = alert.Check(a, now, alert.Limits{})
	require.NotNil(t, rejected)
	require.Equal(t, alert.RejectMismatch, rejected.Reason)
}

// Whatever is sent, Decode neither panics nor lets through what breaks a limit.
func FuzzDecode(f *testing.F) {
	for _, name := range []string{"firing", "resolved", "mixed-group", "duplicate-in-group", "truncated", "hostile-labels"} {
		f.Add(fixture(f, name))
	}
	f.Add([]byte(`{"version":"4","alerts":[null,{},[],"",{"labels":{"a":null}}]}`))
	f.Add([]byte("{\"version\":\"4\",\"alerts\":[{\"labels\":{\"alertname\":\"\xff\"}}]}"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		limits := alert.Limits{MaxAlerts: 8, MaxLabels: 16, MaxLabelValue: 64}
		w, rejected, err := alert.Decode(bytes.NewReader(raw), now, limits)
		if err != nil {
			_, ok := errors.AsType[*alert.EnvelopeError](err)
			require.True(t, ok, "%v", err)
			return
		}
		require.True(t, json.Valid(raw))
		require.LessOrEqual(t, len(w.Alerts), 8)
		require.Len(t, w.Index, len(w.Alerts))
		for _, a := range w.Alerts {
			require.Equal(t, alert.Fingerprint(a.Labels), a.Fingerprint)
			require.NotEmpty(t, a.Name())
			require.LessOrEqual(t, len(a.Labels), 16)
			for name, value := range a.Labels {
				require.LessOrEqual(t, len(value), 64)
				require.NotContains(t, name+value, "\x00")
			}
			again, rejected := alert.Check(a, now, limits)
			require.Nil(t, rejected)
			require.Equal(t, a.Labels, again.Labels)
		}
		for _, r := range rejected {
			require.Contains(t, alert.RejectReasons(), r.Reason)
			require.NotEmpty(t, r.Message)
			require.NotContains(t, r.Raw+r.AlertName+r.Fingerprint, "\x00")
		}
	})
}
