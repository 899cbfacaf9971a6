package action

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/invopop/jsonschema"
	"github.com/prometheus/common/model"
)

// Duration is a parameter written as a Prometheus duration: "30s", "1h30m",
// "1d". It is never negative, and a bare number is refused because its unit
// would be a guess.
type Duration time.Duration

// ParseDuration reads a Prometheus duration.
func ParseDuration(s string) (Duration, error) {
	d, err := model.ParseDuration(s)
	if err != nil {
		return 0, fmt.Errorf(`%q is not a duration such as "30s", "5m" or "1h30m"`, s)
	}
	return Duration(d), nil
}

// Std returns the duration as the standard library's type.
func (d Duration) Std() time.Duration { return time.Duration(d) }

// String returns the shortest Prometheus notation.
func (d Duration) String() string { return model.Duration(d).String() }

// MarshalJSON writes the Prometheus notation.
func (d Duration) MarshalJSON() ([]byte, error) { return json.Marshal(d.String()) }

// UnmarshalJSON reads a string in Prometheus notation.
func (d *Duration) UnmarshalJSON(data []byte) error {
	var s string
	if err := json.Unmarshal(data, &s); err != nil {
		return fmt.Errorf(`%s is not a duration: write it with its unit, such as "30s"`, data)
	}
	parsed, err := ParseDuration(s)
	if err != nil {
		return err
	}
	*d = parsed
	return nil
}

// JSONSchema describes the notation for the generated schema of the format.
func (Duration) JSONSchema() *jsonschema.Schema {
	return &jsonschema.Schema{
		Type:        "string",
		Pattern:     `^((([0-9]+)y)?(([0-9]+)w)?(([0-9]+)d)?(([0-9]+)h)?(([0-9]+)m)?(([0-9]+)s)?(([0-9]+)ms)?|0)$`,
		Description: `A Prometheus duration, such as "30s", "5m" or "1h30m".`,
		Examples:    []any{"30s", "5m", "1h30m"},
	}
}
