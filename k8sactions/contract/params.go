package contract

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/alertmedic/alertmedic/internal/action"
)

// Params decodes rendered parameters into p, which holds the defaults. Unknown
// parameters and trailing data are refused: a misspelt limit must never be
// taken for "no limit".
func Params[T any](raw json.RawMessage, p *T) (*T, error) {
	if err := decode(raw, p); err != nil {
		return nil, err
	}
	return p, nil
}

// CheckParams decodes raw as spec declares it and throws the outcome away.
func CheckParams(spec action.Spec, raw json.RawMessage) error {
	if spec.NewParams == nil {
		return decode(raw, &struct{}{})
	}
	return decode(raw, spec.NewParams())
}

func decode(raw json.RawMessage, into any) error {
	if trimmed := bytes.TrimSpace(raw); len(trimmed) > 0 && !bytes.Equal(trimmed, []byte("null")) {
		dec := json.NewDecoder(bytes.NewReader(trimmed))
		dec.DisallowUnknownFields()
		if err := dec.Decode(into); err != nil {
			return action.Errorf(action.ReasonRefused, "parameters: %s", strings.TrimPrefix(err.Error(), "json: "))
		}
		if _, err := dec.Token(); !errors.Is(err, io.EOF) {
			return action.Errorf(action.ReasonRefused, "parameters: more than one JSON value")
		}
	}
	if v, ok := into.(interface{ Validate() error }); ok {
		if err := v.Validate(); err != nil {
			return action.Errorf(action.ReasonRefused, "parameters: %w", err)
		}
	}
	return nil
}

// CheckGrace checks a grace period. Zero is refused because Kubernetes reads it
// as "remove the object without waiting for the kubelet": two pods of one
// identity could then run at once.
func CheckGrace(d *action.Duration) error {
	if d == nil {
		return nil
	}
	if d.Std().Seconds() < 1 {
		return fmt.Errorf("gracePeriod is %s: at least 1s is needed, pods are never removed by force", d)
	}
	if s := d.Std().Seconds(); s != float64(int64(s)) {
		return fmt.Errorf("gracePeriod is %s: Kubernetes counts whole seconds", d)
	}
	return nil
}

// GraceSeconds is a grace period as the API server wants it; nil leaves it to
// the pod.
func GraceSeconds(d *action.Duration) *int64 {
	if d == nil {
		return nil
	}
	s := int64(d.Std().Seconds())
	return &s
}

// Encode writes an action's own state, before-state or evidence.
func Encode(v any) json.RawMessage {
	raw, err := json.Marshal(v)
	if err != nil {
		// Only values of our own plain types come here.
		panic(fmt.Sprintf("encode %T: %v", v, err))
	}
	return raw
}

// Decode reads what Encode wrote, perhaps an older version of it.
func Decode(raw json.RawMessage, into any) error {
	if len(raw) == 0 {
		return nil
	}
	if err := json.Unmarshal(raw, into); err != nil {
		return action.Errorf(action.ReasonInternal, "decode the action's own record: %w", err)
	}
	return nil
}
