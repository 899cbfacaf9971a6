package promapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/prometheus/alertmanager/api/v2/models"
	"github.com/prometheus/alertmanager/pkg/labels"

	"github.com/alertmedic/alertmedic/internal/alert"
)

// alertmanager reads one Alertmanager.
type alertmanager struct {
	url     string
	client  *http.Client
	answers *cache[heldAlerts]
	count   func(err error)
}

// heldAlerts are the alerts of a name that an Alertmanager holds, with no more
// than is asked of them: a storm has ten thousand of one name.
type heldAlerts struct {
	// suppressed is by fingerprint, nil for an alert that nothing suppresses.
	suppressed map[string]*status
	updated    time.Time // when it last heard of any of them
}

// status is the status of Alertmanager's API v2 (models.AlertStatus).
type status struct {
	State       string   `json:"state"`
	SilencedBy  []string `json:"silencedBy"`
	InhibitedBy []string `json:"inhibitedBy"`
	MutedBy     []string `json:"mutedBy"`
}

// suppressing returns a status that tells of more than an alert that is active.
func (s status) suppressing() *status {
	if s.State != models.AlertStatusStateSuppressed && len(s.SilencedBy)+len(s.InhibitedBy) == 0 {
		return nil
	}
	return &s
}

// shown is what every alert of Alertmanager's API v2 has (models.GettableAlert).
// Its own models keep whatever an answer holds and parse times by trial, which
// made most of the garbage of a storm.
type shown struct {
	Fingerprint string    `json:"fingerprint"`
	UpdatedAt   time.Time `json:"updatedAt"`
	Status      status    `json:"status"`
}

// activeAlert is an alert with what a webhook would tell of it.
type activeAlert struct {
	shown
	StartsAt     time.Time         `json:"startsAt"`
	Labels       map[string]string `json:"labels"`
	Annotations  map[string]string `json:"annotations"`
	GeneratorURL string            `json:"generatorURL"`
	Receivers    []struct {
		Name string `json:"name"`
	} `json:"receivers"`
}

func (a activeAlert) alert() alert.Alert {
	return alert.Alert{
		Status: alert.Firing, Labels: a.Labels, Annotations: a.Annotations,
		GeneratorURL: a.GeneratorURL, Fingerprint: a.Fingerprint, StartsAt: a.StartsAt,
	}
}

// routedTo reports whether one of the receivers gets the alert.
func (a activeAlert) routedTo(receivers []string) bool {
	for _, r := range a.Receivers {
		if slices.Contains(receivers, r.Name) {
			return true
		}
	}
	return false
}

// named returns the alerts of one name that the Alertmanager holds, suppressed
// ones included. All alerts of a name share an answer: a storm is one name.
func (a *alertmanager) named(ctx context.Context, name string, notBefore time.Time) (heldAlerts, error) {
	matcher, err := labels.NewMatcher(labels.MatchEqual, "alertname", name)
	if err != nil {
		return heldAlerts{}, fmt.Errorf("alertname %q: %w", name, err)
	}
	return a.answers.get(ctx, name, notBefore, func(ctx context.Context) (heldAlerts, error) {
		out := heldAlerts{suppressed: map[string]*status{}}
		err := read(ctx, a, url.Values{
			"filter": {matcher.String()},
			"active": {"true"}, "silenced": {"true"}, "inhibited": {"true"}, "unprocessed": {"true"},
		}, func(item shown) error {
			out.suppressed[item.Fingerprint] = item.Status.suppressing()
			out.updated = maxTime(out.updated, item.UpdatedAt)
			return item.whole()
		})
		return out, err
	})
}

// active returns the alerts that are neither silenced nor inhibited and that one
// of the receivers gets; without receivers all of them.
func (a *alertmanager) active(ctx context.Context, receivers []string) ([]activeAlert, error) {
	var out []activeAlert
	err := read(ctx, a, url.Values{
		"active": {"true"}, "silenced": {"false"}, "inhibited": {"false"}, "unprocessed": {"true"},
	}, func(item activeAlert) error {
		if len(receivers) == 0 || item.routedTo(receivers) {
			out = append(out, item)
		}
		return item.whole()
	})
	return out, err
}

// whole refuses an alert of which nothing could be concluded.
func (s shown) whole() error {
	if s.Fingerprint == "" || s.Status.State == "" {
		return errors.New("an alert without fingerprint or status")
	}
	return nil
}

// read yields the alerts of an answer one after the other, as they come. What it
// has yielded is worth nothing when it returns an error.
func read[T any](ctx context.Context, a *alertmanager, query url.Values, yield func(T) error) (err error) {
	defer func() { a.count(err) }()
	body, err := open(ctx, a.client, a.url, "/api/v2/alerts", query)
	if err != nil {
		return fmt.Errorf("alertmanager %s: %w", a.url, err)
	}
	defer body.Close()
	if err := decodeList(body, yield); err != nil {
		return fmt.Errorf("alertmanager %s: %w", a.url, err)
	}
	return nil
}

// decodeList yields the items of a JSON list. A list that is cut off is an error.
func decodeList[T any](r io.Reader, yield func(T) error) error {
	dec := json.NewDecoder(r)
	if first, err := dec.Token(); err != nil {
		return fmt.Errorf("read the list of alerts: %w", err)
	} else if first != json.Delim('[') {
		return fmt.Errorf("the answer is not a list of alerts: it begins with %v", first)
	}
	for dec.More() {
		var item T
		if err := dec.Decode(&item); err != nil {
			return fmt.Errorf("read an alert of the list: %w", err)
		}
		if err := yield(item); err != nil {
			return err
		}
	}
	if _, err := dec.Token(); err != nil {
		return fmt.Errorf("read the end of the list of alerts: %w", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows the list of alerts")
	}
	return nil
}

// amState is what one Alertmanager says of one alert.
type amState struct {
	held      bool // it is there, suppressed or not
	silenced  string
	inhibited string
}

func (a *alertmanager) state(ctx context.Context, al alert.Alert, notBefore time.Time, own func(id string) bool) (amState, error) {
	all, err := a.named(ctx, al.Name(), notBefore)
	if err != nil {
		return amState{}, err
	}
	st, held := all.suppressed[al.Fingerprint]
	s := amState{held: held}
	if st == nil {
		return s, nil
	}
	for _, id := range st.SilencedBy {
		if !own(id) {
			s.silenced = id
			break
		}
	}
	if len(st.InhibitedBy) > 0 {
		s.inhibited = st.InhibitedBy[0]
	}
	// Suppressed by something that this service does not know: a person did
	// not want to be told, which is reason enough to leave it alone.
	known := len(st.SilencedBy) + len(st.InhibitedBy)
	if st.State == models.AlertStatusStateSuppressed && known == 0 {
		s.silenced = "muted"
		if len(st.MutedBy) > 0 {
			s.silenced = "muted by " + st.MutedBy[0]
		}
	}
	return s, nil
}
