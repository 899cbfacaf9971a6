package promapi

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/prometheus/alertmanager/api/v2/models"
	"github.com/prometheus/alertmanager/pkg/labels"

	"github.com/alertmedic/alertmedic/internal/alert"
)

// alertmanager reads one Alertmanager.
type alertmanager struct {
	url     string
	client  *http.Client
	answers *cache[models.GettableAlerts]
	count   func(err error)
}

// named returns the alerts of one name that the Alertmanager holds, suppressed
// ones included. All alerts of a name share an answer: a storm is one name.
func (a *alertmanager) named(ctx context.Context, name string, notBefore time.Time) (models.GettableAlerts, error) {
	matcher, err := labels.NewMatcher(labels.MatchEqual, "alertname", name)
	if err != nil {
		return nil, fmt.Errorf("alertname %q: %w", name, err)
	}
	return a.answers.get(ctx, name, notBefore, func(ctx context.Context) (models.GettableAlerts, error) {
		return a.read(ctx, url.Values{
			"filter": {matcher.String()},
			"active": {"true"}, "silenced": {"true"}, "inhibited": {"true"}, "unprocessed": {"true"},
		})
	})
}

// active returns all alerts that are neither silenced nor inhibited.
func (a *alertmanager) active(ctx context.Context) (models.GettableAlerts, error) {
	return a.read(ctx, url.Values{
		"active": {"true"}, "silenced": {"false"}, "inhibited": {"false"}, "unprocessed": {"true"},
	})
}

func (a *alertmanager) read(ctx context.Context, query url.Values) (out models.GettableAlerts, err error) {
	defer func() { a.count(err) }()
	raw, err := get(ctx, a.client, a.url, "/api/v2/alerts", query)
	if err != nil {
		return nil, fmt.Errorf("alertmanager %s: %w", a.url, err)
	}
	if err := json.Unmarshal(raw, &out); err != nil {
		return nil, fmt.Errorf("alertmanager %s: %w", a.url, err)
	}
	for _, item := range out {
		if item == nil || item.Fingerprint == nil || item.Status == nil || item.Status.State == nil {
			return nil, fmt.Errorf("alertmanager %s: an alert without fingerprint or status", a.url)
		}
	}
	return out, nil
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
	for _, item := range all {
		if *item.Fingerprint != al.Fingerprint {
			continue
		}
		s := amState{held: true}
		for _, id := range item.Status.SilencedBy {
			if !own(id) {
				s.silenced = id
				break
			}
		}
		if len(item.Status.InhibitedBy) > 0 {
			s.inhibited = item.Status.InhibitedBy[0]
		}
		// Suppressed by something that this service does not know: a person did
		// not want to be told, which is reason enough to leave it alone.
		known := len(item.Status.SilencedBy) + len(item.Status.InhibitedBy)
		if *item.Status.State == models.AlertStatusStateSuppressed && known == 0 {
			s.silenced = "muted"
			if len(item.Status.MutedBy) > 0 {
				s.silenced = "muted by " + item.Status.MutedBy[0]
			}
		}
		return s, nil
	}
	return amState{}, nil
}
