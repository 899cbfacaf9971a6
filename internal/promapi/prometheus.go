package promapi

import (
	"context"
	"fmt"
	"strings"
	"time"

	promv1 "github.com/prometheus/client_golang/api/prometheus/v1"
	"github.com/prometheus/common/model"

	"github.com/alertmedic/alertmedic/internal/alert"
)

// prometheus reads one Prometheus, or what speaks its rules API.
type prometheus struct {
	url     string
	api     promv1.API
	answers *cache[ruleSet]
	clock   func() time.Time
	count   func(err error)
	close   func()
}

// ruleSet is one answer of the rules API: rules and the alerts they have, read
// together, so that one cannot be older than the other by a request.
type ruleSet struct {
	rules []rule
	// ahead is how far the other side's clock is ahead of this one.
	ahead time.Duration
}

type rule struct {
	promv1.AlertingRule
	interval time.Duration
}

// promState is what one Prometheus says of one alert.
type promState struct {
	firing      bool
	pending     bool
	evaluatedAt time.Time // by this process's clock
	// unknown says why nothing can be concluded, "" when something can.
	unknown string
}

// staleEvaluations is how many evaluations a rule may miss before what it says
// is old, and staleGrace what is added for slow ones.
const (
	staleEvaluations = 3
	staleGrace       = 30 * time.Second
)

// state tells what the rules that could have made the alert say of it.
func (p *prometheus) state(ctx context.Context, al alert.Alert, notBefore time.Time) (promState, error) {
	set, err := p.answers.get(ctx, al.Name(), notBefore, func(ctx context.Context) (ruleSet, error) {
		return p.rules(ctx, al.Name())
	})
	if err != nil {
		return promState{}, err
	}
	now := p.clock()
	out, found := promState{}, false
	for _, r := range set.rules {
		if !mayMake(r.Labels, al.Labels) {
			continue
		}
		at := r.LastEvaluation.Add(-set.ahead)
		switch {
		case r.LastEvaluation.IsZero() || r.Health == promv1.RuleHealthUnknown:
			return promState{unknown: "the rule has not been evaluated yet"}, nil
		case r.Health != promv1.RuleHealthGood:
			return promState{unknown: fmt.Sprintf("the rule fails to evaluate: %s", r.LastError)}, nil
		case now.Sub(at) > staleEvaluations*r.interval+staleGrace:
			return promState{unknown: fmt.Sprintf("the rule was last evaluated %s ago", now.Sub(at).Round(time.Second))}, nil
		}
		for _, active := range r.Alerts {
			if active == nil || !agree(active.Labels, al.Labels) {
				continue
			}
			switch active.State {
			case promv1.AlertStateFiring:
				out.firing = true
			case promv1.AlertStatePending:
				out.pending = true
			}
		}
		// Several rules may make one alert: it is as old as the oldest of them.
		if !found || at.Before(out.evaluatedAt) {
			out.evaluatedAt = at
		}
		found = true
	}
	if !found {
		return promState{unknown: "it has no rule that makes this alert"}, nil
	}
	return out, nil
}

// mayMake reports whether a rule with these static labels can make an alert
// with those. A templated label could become anything.
func mayMake(static model.LabelSet, labels map[string]string) bool {
	for name, value := range static {
		if got, ok := labels[string(name)]; ok && got != string(value) && !strings.Contains(string(value), "{{") {
			return false
		}
	}
	return true
}

// agree reports whether what Prometheus shows of an alert is the alert that
// Alertmanager knows. On the way external labels are added and relabelling may
// drop some, such as the replica's name: so labels that only one side has say
// nothing, and those that both have must be equal. When in doubt the alert is
// taken to be there, which is the side that is safe to err on.
func agree(shown model.LabelSet, labels map[string]string) bool {
	for name, value := range shown {
		if got, ok := labels[string(name)]; ok && got != string(value) {
			return false
		}
	}
	return true
}

func (p *prometheus) rules(ctx context.Context, name string) (set ruleSet, err error) {
	defer func() { p.count(err) }()
	var date time.Time
	ctx = context.WithValue(context.WithValue(ctx, ruleName{}, name), dateHeader{}, &date)
	res, err := p.api.Rules(ctx, nil)
	if err != nil {
		return ruleSet{}, fmt.Errorf("prometheus %s: %w", p.url, err)
	}
	set.ahead = ahead(date, p.clock())
	for _, group := range res.Groups {
		for _, item := range group.Rules {
			if r, ok := item.(promv1.AlertingRule); ok && r.Name == name {
				set.rules = append(set.rules, rule{AlertingRule: r, interval: time.Duration(group.Interval * float64(time.Second))})
			}
		}
	}
	return set, nil
}

// ahead returns how far a clock that wrote a Date header is ahead of now. The
// header has whole seconds, so that little is no difference. Without this, a
// Prometheus whose clock is ahead would seem to have evaluated a rule after a
// change that it has not seen.
func ahead(date, now time.Time) time.Duration {
	if date.IsZero() {
		return 0
	}
	const precision = 2 * time.Second
	if d := date.Sub(now); d > precision || d < -precision {
		return d
	}
	return 0
}
