package promapi

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/alertmedic/alertmedic/internal/alert"
	"github.com/alertmedic/alertmedic/internal/guard"
	"github.com/alertmedic/alertmedic/internal/parallel"
)

// State reads the state of one alert. The answer is at most a second old, and
// never asked for before since, the time of the last change to the target.
//
// In this order:
//   - unknown, when no Alertmanager answers: nobody can say then whether a
//     person silenced it;
//   - silenced or inhibited, when any replica says so: a silence may not have
//     reached the others yet;
//   - firing, when any Alertmanager holds it or any Prometheus fires it. One
//     replica is enough, since the other may be on the very node that is broken;
//   - unknown, when a Prometheus is not configured, does not answer, has no such
//     rule, fails to evaluate it, or has not done so since; and when the alert is
//     pending: its condition holds, so it is not resolved, but the time that the
//     rule grants it has not passed, so it is nothing to act on either;
//   - resolved, when every Prometheus has evaluated the rule after since and has
//     no such alert. It says that the alert ended, not that anything healed.
func (r *Reader) State(ctx context.Context, a alert.Alert, since time.Time) guard.AlertEvidence {
	if a.Name() == "" || a.Fingerprint == "" {
		return unknown("the alert has no alertname or no fingerprint")
	}
	ctx, cancel := context.WithTimeout(ctx, r.cfg.Timeout)
	defer cancel()
	var proms []reply[promState]
	var ams []reply[amState]
	parallel.Both(func() {
		proms = each(r.prometheuses, func(p *prometheus) (promState, error) { return p.state(ctx, a, since) })
	}, func() {
		ams = each(r.alertmanagers, func(am *alertmanager) (amState, error) { return am.state(ctx, a, since, r.cfg.OwnSilence) })
	})
	return decide(ams, proms, since)
}

func decide(ams []reply[amState], proms []reply[promState], since time.Time) guard.AlertEvidence {
	heard, err := split(ams)
	if len(heard) == 0 {
		return unknown("no Alertmanager answers: %v", err)
	}
	for _, am := range heard {
		if am.silenced != "" {
			return guard.AlertEvidence{State: guard.AlertSilenced, By: am.silenced}
		}
	}
	for _, am := range heard {
		if am.inhibited != "" {
			return guard.AlertEvidence{State: guard.AlertInhibited, By: am.inhibited}
		}
	}
	if e, ok := firing(heard, proms); ok {
		return e
	}
	return absent(proms, since)
}

func firing(ams []amState, proms []reply[promState]) (guard.AlertEvidence, bool) {
	e := guard.AlertEvidence{State: guard.AlertFiring}
	found := false
	for _, am := range ams {
		found = found || am.held
	}
	for _, p := range proms {
		if p.err == nil && p.value.unknown == "" && p.value.firing {
			found = true
			if p.value.evaluatedAt.After(e.EvaluatedAt) {
				e.EvaluatedAt = p.value.evaluatedAt
			}
		}
	}
	return e, found
}

// absent tells an alert that is resolved from one that is merely not seen.
func absent(proms []reply[promState], since time.Time) guard.AlertEvidence {
	if len(proms) == 0 {
		return unknown("Alertmanager does not hold it, and no Prometheus is configured that could say why")
	}
	var oldest time.Time
	for _, p := range proms {
		s := p.value
		switch {
		case p.err != nil:
			return unknown("%v", p.err)
		case s.unknown != "":
			return unknown("a Prometheus cannot tell: %s", s.unknown)
		case s.pending:
			e := unknown("pending: its condition holds, but not yet for as long as the rule asks")
			e.EvaluatedAt = s.evaluatedAt
			return e
		case !s.evaluatedAt.After(since):
			return unknown("the rule has not been evaluated since %s", since.UTC().Format(time.RFC3339))
		}
		if oldest.IsZero() || s.evaluatedAt.Before(oldest) {
			oldest = s.evaluatedAt
		}
	}
	return guard.AlertEvidence{State: guard.AlertResolved, EvaluatedAt: oldest}
}

// maxBy bounds what evidence keeps of an error, in bytes.
const maxBy = 512

func unknown(format string, args ...any) guard.AlertEvidence {
	by := fmt.Sprintf(format, args...)
	if len(by) > maxBy {
		by = strings.ToValidUTF8(by[:maxBy], "") + "…"
	}
	return guard.AlertEvidence{State: guard.AlertUnknown, By: by}
}
