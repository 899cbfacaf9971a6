package simulate_test

import (
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/alertmedic/alertmedic/internal/simulate"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestParseAlertsTakesWhatPeopleHaveAtHand(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"labels alone": `{"alertname": "A", "pod": "p"}`,
		"an alert":     `{"labels": {"alertname": "A", "pod": "p"}, "startsAt": "2026-03-01T12:00:00Z", "fingerprint": "x", "status": {"state": "active"}}`,
		"a webhook":    `{"version": "4", "alerts": [{"labels": {"alertname": "A", "pod": "p"}, "status": "firing"}]}`,
	} {
		got, err := simulate.ParseAlerts([]byte(text))
		require.NoError(t, err, name)
		require.Len(t, got, 1, name)
		require.Equal(t, map[string]string{"alertname": "A", "pod": "p"}, got[0].Labels, name)
	}
	for text, want := range map[string]string{
		`{"alertname"`:             "the alert is not JSON",
		`{}`:                       "the alert has no labels",
		`{"alertname": 3}`:         "the alert has no labels",
		`[{"labels": {"a": "b"}}]`: "the alert is not JSON",
	} {
		_, err := simulate.ParseAlerts([]byte(text))
		require.ErrorContains(t, err, want, text)
	}
}
