package guard

import (
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// In random storms of up to 1,000 alerts, over random clusters, limits, replicas
// with evidence of their own age, and restarts, no cap is exceeded at any
// instant, every denial has a reason, and everything ends.
func TestNoCapIsExceededInAnyStorm(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m := newModel(rapid.Uint64().Draw(t, "seed"), List())
		if focus := rapid.SampledFrom(List()).Draw(t, "focus").Name; rapid.Bool().Draw(t, "focused") {
			m.loosen(focus) // or the tightest limit hides what the others let through
		}
		most := 150
		if rapid.IntRange(0, 19).Draw(t, "size") == 0 || os.Getenv("ALERTMEDIC_SOAK") != "" {
			most = 1000
		}
		m.play(rapid.IntRange(1, most).Draw(t, "alerts"))
		require.Empty(t, m.broken)
	})
}

// notPlayed are the guards that the model's worlds never give anything to object
// to; the table of TestEachGuardObjects has their rows.
var notPlayed = []string{"paused", "wrong-cluster", "protected-target", "source", "target", "firing-for", "mode", "gitops", "dwell", "settle",
	"human-activity", "control-plane", "capacity"}

// Each guard is switched off in turn: then some promise is broken, or the suite
// would not notice that the guard is gone.
func TestTheModelMissesEachGuard(t *testing.T) {
	t.Parallel()
	tries := 100
	if os.Getenv("ALERTMEDIC_SOAK") != "" {
		tries = 3000
	}
	for _, g := range List() {
		if slices.Contains(notPlayed, g.Name) {
			continue
		}
		t.Run(g.Name, func(t *testing.T) {
			t.Parallel()
			rest := slices.DeleteFunc(List(), func(o Guard) bool { return o.Name == g.Name })
			for seed := range uint64(tries) { //nolint:gosec // a small number
				m := newModel(seed, rest)
				m.loosen(g.Name)
				m.play(200)
				if slices.ContainsFunc(m.broken, func(b string) bool { return strings.Contains(b, missed(g.Name)) }) {
					return
				}
			}
			t.Fatalf("%d storms without the guard %s break no promise", tries, g.Name)
		})
	}
}

// loosen makes every limit wide but those of the guard, so that it is the one that
// would have objected.
func (m *model) loosen(guard string) {
	tight, l := m.limits, &m.limits
	wide := Rate{Burst: 1000, Every: time.Second}
	l.MaxConcurrentGlobal, l.MaxConcurrentRuns, l.MaxConcurrentPerNamespace = 1000, 1000, 1000
	l.MaxConcurrentPerPool, l.MaxConcurrentPerZone, l.MaxZones = 1000, 1000, 3
	l.RateGlobal, l.RateNamespace, l.RatePlaybook = wide, wide, wide
	l.CooldownAfterSuccess, l.CooldownAfterFailure = 0, 0
	l.MaxAttempts, l.MaxNodesPerPool = 1000, 1000
	l.MaxUnhealthyNodes, l.MaxUnhealthyNodesPercent = 1000, 100
	l.MaxUnavailablePods, l.MaxUnavailablePodsPercent = 1000, 100
	l.StormRuns = 1000
	l.Windows = nil
	switch guard {
	case "window":
		l.Windows = []Window{{Name: "freeze", Freeze: true, From: m.now.Add(time.Minute), Until: m.now.Add(20 * time.Minute)}}
	case "cooldown":
		l.CooldownAfterSuccess, l.CooldownAfterFailure = tight.CooldownAfterSuccess, tight.CooldownAfterFailure
	case "attempts":
		l.MaxAttempts, l.AttemptsWindow = tight.MaxAttempts, tight.AttemptsWindow
	case "rate":
		l.RateGlobal, l.RateNamespace, l.RatePlaybook = tight.RateGlobal, tight.RateNamespace, tight.RatePlaybook
	case "concurrency":
		l.MaxConcurrentGlobal, l.MaxConcurrentRuns, l.MaxConcurrentPerNamespace = tight.MaxConcurrentGlobal, tight.MaxConcurrentRuns, tight.MaxConcurrentPerNamespace
	case "failure-domain":
		l.MaxConcurrentPerPool, l.MaxConcurrentPerZone, l.MaxZones = tight.MaxConcurrentPerPool, tight.MaxConcurrentPerZone, tight.MaxZones
	case "unhealthy-budget":
		l.MaxUnhealthyNodes, l.MaxUnhealthyNodesPercent = tight.MaxUnhealthyNodes, tight.MaxUnhealthyNodesPercent
	case "pod-budget":
		l.MaxUnavailablePods, l.MaxUnavailablePodsPercent = tight.MaxUnavailablePods, tight.MaxUnavailablePodsPercent
	case "storm":
		l.StormRuns = tight.StormRuns
	case "velocity":
		l.MaxNodesPerPool, l.RemoveWindow = tight.MaxNodesPerPool, tight.RemoveWindow
	}
}

// missed is the promise that is broken when a guard is gone.
func missed(guard string) string {
	switch guard {
	case "evidence", "firing", "watchdog":
		return "evidence:"
	}
	return guard + ":"
}
