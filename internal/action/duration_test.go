package action_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alertmedic/alertmedic/internal/action"
)

func TestDurationReadsPrometheusNotationOnly(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]time.Duration{`"30s"`: 30 * time.Second, `"1h30m"`: 90 * time.Minute, `"1d"`: 24 * time.Hour, `"0"`: 0} {
		var d action.Duration
		require.NoError(t, json.Unmarshal([]byte(in), &d), in)
		require.Equal(t, want, d.Std())
		back, err := json.Marshal(d)
		require.NoError(t, err)
		var again action.Duration
		require.NoError(t, json.Unmarshal(back, &again))
		require.Equal(t, d, again)
	}
	for in, want := range map[string]string{
		`30`:     `30 is not a duration: write it with its unit, such as "30s"`,
		`"1.5h"`: `"1.5h" is not a duration such as "30s", "5m" or "1h30m"`,
		`"-1s"`:  `"-1s" is not a duration such as "30s", "5m" or "1h30m"`,
		`""`:     `"" is not a duration such as "30s", "5m" or "1h30m"`,
	} {
		var d action.Duration
		require.EqualError(t, json.Unmarshal([]byte(in), &d), want)
	}
}
