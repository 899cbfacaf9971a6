package playbooks

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alertmedic/alertmedic/internal/action"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func ptr[T any](v T) *T { return &v }

func someVars() Vars {
	a := AlertData{
		Labels:      map[string]string{"alertname": "KubePodCrashLooping", "namespace": "shop", "pod": "web-1"},
		Annotations: map[string]string{"summary": "it crashes"},
		Status:      "firing", Fingerprint: "abc", StartsAt: noon.Add(-10 * time.Minute),
	}
	return Vars{
		Alert:  a,
		Alerts: []AlertData{a, {Labels: map[string]string{"pod": "web-2"}}},
		Target: map[string]any{
			"spec":   map[string]any{"replicas": int64(3), "paused": false, "cpu": "500m", "version": "1.2.3", "ip": "10.0.0.7"},
			"status": map[string]any{"updatedReplicas": int64(3), "ratio": 3.0},
		},
		Facts: Facts{RolledOutAt: ptr(noon.Add(-30 * time.Minute)), Restarts: ptr(int64(7)), Replicas: ptr(int64(3)),
			Revisions: ptr(int64(2)), HPA: ptr(false)},
		Run: RunData{ID: "r1", Playbook: "p", Remedy: "m", Attempt: 2,
			Target: action.Target{Cluster: "eu", Ref: action.Ref{Kind: action.KindDeployment, Namespace: "shop", Name: "web", UID: "u"}}},
		Now: noon,
	}
}

func TestConditionEval(t *testing.T) {
	t.Parallel()
	for expr, want := range map[string]bool{
		`label(alert, 'severity') == ''`:                                                true,
		`label(alert, 'namespace') == 'shop'`:                                           true,
		`alert.labels.namespace == 'shop' && 'pod' in alert.labels`:                     true,
		`alert.annotations.summary.contains('crash')`:                                   true,
		`alert.status == 'firing' && alert.fingerprint == 'abc'`:                        true,
		`now - alert.startsAt > duration('5m')`:                                         true,
		`alerts.size() == 2 && alerts.exists(a, label(a, 'pod') == 'web-2')`:            true,
		`target.status.updatedReplicas == target.spec.replicas`:                         true,
		`target.status.ratio == target.spec.replicas`:                                   true,
		`target.spec.paused == true`:                                                    false,
		`has(target.spec.missing)`:                                                      false,
		`quantity(target.spec.cpu).isLessThan(quantity('1'))`:                           true,
		`semver(target.spec.version).isLessThan(semver('1.10.0'))`:                      true,
		`ip(target.spec.ip).family() == 4 && cidr('10.0.0.0/8').containsIP('10.1.1.1')`: true,
		`sets.contains(['a', 'b'], ['a'])`:                                              true,
		`'a,b'.split(',').size() == 2`:                                                  true,
		`facts.rolledOutWithin('1h')`:                                                   true,
		`facts.rolledOutWithin('29m')`:                                                  false,
		`facts.rolledOutWithin('30m')`:                                                  true,
		`facts.restarts() > 5 && facts.replicas() == 3 && facts.revisions() >= 2`:       true,
		`facts.hpa()`: false,
		`run.attempt == 2 && run.target.kind == 'Deployment' && run.remedy == 'm'`: true,
	} {
		c, err := CompileCondition(expr)
		require.NoError(t, err, expr)
		require.Equal(t, expr, c.String())
		got, err := c.Eval(context.Background(), someVars())
		require.NoError(t, err, expr)
		require.Equal(t, want, got, expr)
	}
}

func TestConditionNilHolds(t *testing.T) {
	t.Parallel()
	var c *Condition
	got, err := c.Eval(context.Background(), Vars{})
	require.NoError(t, err)
	require.True(t, got)
	require.True(t, c.AlertOnly())
	require.Empty(t, c.String())
}

func TestConditionErrorsDeny(t *testing.T) {
	t.Parallel()
	for expr, want := range map[string]string{
		`alert.labels.severity == 'x'`:                "no such key: severity",
		`target.spec.replicas > 0`:                    "no such key: spec", // target is null
		`facts.rolledOutWithin('1h')`:                 "facts.rolledOutWithin(): unknown fact: it was not observed",
		`facts.restarts() > 0`:                        "facts.restarts(): unknown fact",
		`facts.replicas() > 0`:                        "facts.replicas(): unknown fact",
		`facts.revisions() > 0`:                       "facts.revisions(): unknown fact",
		`!facts.hpa()`:                                "facts.hpa(): unknown fact",
		`facts.rolledOutWithin(run.id)`:               `"" is not a duration`,
		`[1,2,3].map(x, x * 2)[run.attempt - 1] == 1`: "index out of bounds",
	} {
		c, err := CompileCondition(expr)
		require.NoError(t, err, expr)
		got, err := c.Eval(context.Background(), Vars{Now: noon})
		require.ErrorContains(t, err, want, expr)
		require.False(t, got, expr)
	}
	c, err := CompileCondition(`facts.hpa()`)
	require.NoError(t, err)
	_, err = c.Eval(context.Background(), Vars{})
	require.ErrorIs(t, err, ErrUnknownFact)
}

func TestConditionDoesNotCompile(t *testing.T) {
	t.Parallel()
	for expr, want := range map[string]string{
		``:                                  "is empty",
		`alert.lables.x == 'y'`:             "does not compile: undefined field 'lables' (at line 1, column 6 of the expression)",
		`foo == bar`:                        "does not compile: undeclared reference to 'foo' (in container '') (at line 1, column 1 of the expression); undeclared reference to 'bar' (in container '') (at line 1, column 8 of the expression)",
		`target.spec.paused`:                "yields dyn, not a boolean: compare it with something, as in (...) == true",
		`facts.restarts()`:                  "yields int, not a boolean: compare it with something, as in (...) == true",
		`facts.rolledOutWithin('1.5h')`:     `rolledOutWithin: "1.5h" is not a duration such as "30s", "5m" or "1h30m"`,
		`alert.status.matches('(')`:         "does not compile: invalid matches argument (at line 1, column 22 of the expression)",
		strings.Repeat("!", 20000) + "true": "is 20004 bytes long; at most 16384 are compiled",
	} {
		_, err := CompileCondition(expr)
		require.EqualError(t, err, want, expr)
	}
}

func TestConditionIsBounded(t *testing.T) {
	t.Parallel()
	many := make([]AlertData, 2000)
	c, err := CompileCondition(`alerts.all(a, alerts.all(b, alerts.all(c, a.status == b.status && b.status == c.status)))`)
	require.NoError(t, err)
	_, err = c.Eval(context.Background(), Vars{Alerts: many})
	require.ErrorContains(t, err, "actual cost limit exceeded")

	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err = c.Eval(ctx, Vars{Alerts: many})
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorContains(t, err, "operation interrupted")
}

func TestConditionAlertOnly(t *testing.T) {
	t.Parallel()
	for expr, want := range map[string]bool{
		`label(alert, 'x') == 'y'`:                  true,
		`alert.labels.exists(k, k == 'target')`:     true,
		`true`:                                      true,
		`label(alert, 'x') == '' && facts.hpa()`:    false,
		`now > alert.startsAt`:                      false,
		`alerts.exists(a, a.status == 'firing')`:    false,
		`target == null`:                            false,
		`[1].exists(x, x == 1 && run.attempt == 1)`: false,
	} {
		c, err := CompileCondition(expr)
		require.NoError(t, err)
		require.Equal(t, want, c.AlertOnly(), expr)
	}
}
