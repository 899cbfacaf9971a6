package guard

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alertmedic/alertmedic/internal/action"
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func nodeRef(name string) action.Target {
	return action.Target{Cluster: "c1", Ref: action.Ref{Kind: action.KindNode, Name: name, UID: "uid-" + name},
		Top: action.Ref{Kind: action.KindNode, Name: name, UID: "uid-" + name}}
}

// good returns an input that every guard admits.
func good() Input {
	web := action.Ref{Group: "apps", Kind: action.KindDeployment, Namespace: "shop", Name: "web", UID: "uid-web"}
	pod := action.Ref{Kind: action.KindPod, Namespace: "shop", Name: "web-1", UID: "uid-pod"}
	return Input{
		Subject: Subject{
			RunID: "r1", Playbook: "pb", Action: "pod.delete", Mutating: true, Disruptive: true, Mode: Auto, First: true, NeedsPod: true,
			Target:        action.Target{Cluster: "c1", Ref: web, Top: web, Pod: &pod},
			SourceCluster: "c1",
			Limits: Limits{MaxConcurrentRuns: 1, MaxConcurrentGlobal: 5, MaxConcurrentPerNamespace: 2,
				CooldownAfterSuccess: 15 * time.Minute, CooldownAfterFailure: time.Hour, MaxAttempts: 3, AttemptsWindow: 24 * time.Hour,
				MaxUnhealthyNodes: 2, MaxUnhealthyNodesPercent: 20, Settle: time.Minute},
		},
		Evidence: Evidence{
			ObservedAt: now.Add(-time.Second),
			Target:     TargetEvidence{Exists: true, UID: "uid-web", PodExists: true, PodUID: "uid-pod"},
			Alert:      AlertEvidence{State: AlertFiring},
		},
		Ledger: Ledger{Now: now},
		Config: Config{ProtectedNamespaces: []string{"kube-system"}, RetryEvery: 15 * time.Second},
	}
}

func goodNode() Input {
	in := good()
	in.Subject.Target, in.Subject.NeedsPod, in.Subject.Action = nodeRef("n1"), false, "node.drain"
	in.Evidence.Target = TargetEvidence{Exists: true, UID: "uid-n1"}
	in.Evidence.Nodes = &NodeEvidence{Total: 10, Unhealthy: []string{nodeRef("n1").LockKey()}}
	return in
}

func TestGoodInputsAreAdmitted(t *testing.T) {
	t.Parallel()
	for name, in := range map[string]Input{"pod": good(), "node": goodNode()} {
		d, all := Decide(List(), in)
		require.Equal(t, Admit, d.Verdict, "%s: %+v", name, d)
		require.Len(t, all, len(List()))
	}
}

// Each row breaks one thing of an input that is admitted, and names the guard
// that must object, how and why.
func TestEachGuardObjects(t *testing.T) {
	t.Parallel()
	past := func(ago time.Duration, healed bool) Past {
		return Past{RunID: "old", Playbook: "pb", Healed: healed, Started: now.Add(-ago - time.Minute), Ended: now.Add(-ago)}
	}
	tests := []struct {
		name    string
		in      func() Input
		change  func(*Input)
		guard   string
		verdict Verdict
		reason  Reason
		retryAt time.Time
		message string
	}{
		{"paused globally", good, func(in *Input) {
			in.Ledger.Pauses = []Pause{{Scope: PauseGlobal, By: "ada", Why: "release", At: now}}
		}, "paused", Delay, ReasonPaused, now.Add(15 * time.Second), "paused (global) by ada since 2026-03-01T12:00:00Z: release; `alertmedic resume` lifts it"},
		{"paused playbook", good, func(in *Input) { in.Ledger.Pauses = []Pause{{Scope: PausePlaybook, Value: "pb"}} }, "paused", Delay, ReasonPaused, now.Add(15 * time.Second), ""},
		{"paused namespace", good, func(in *Input) { in.Ledger.Pauses = []Pause{{Scope: PauseNamespace, Value: "shop"}} }, "paused", Delay, ReasonPaused, now.Add(15 * time.Second), ""},
		{"pause of a newer version", good, func(in *Input) { in.Ledger.Pauses = []Pause{{Scope: "zone", Value: "a"}} }, "paused", Delay, ReasonPaused, now.Add(15 * time.Second), ""},
		{"source of another cluster", good, func(in *Input) { in.Subject.SourceCluster = "c2" }, "wrong-cluster", Deny, ReasonWrongCluster, time.Time{}, ""},
		{"no source", good, func(in *Input) { in.Subject.SourceCluster = "" }, "wrong-cluster", Deny, ReasonWrongCluster, time.Time{}, ""},
		{"alert of another cluster", good, func(in *Input) { in.Subject.AlertCluster = "c2" }, "wrong-cluster", Deny, ReasonWrongCluster, time.Time{}, ""},
		{"empty target", good, func(in *Input) { in.Subject.Target.Ref = action.Ref{} }, "protected-target", Deny, ReasonProtected, time.Time{}, "the target is empty: an empty target never means everything"},
		{"opted out", good, func(in *Input) { in.Evidence.Target.Skip = "Deployment/shop/web" }, "protected-target", Deny, ReasonOptedOut, time.Time{}, ""},
		{"protected", good, func(in *Input) { in.Evidence.Target.Protected = "alertmedic itself" }, "protected-target", Deny, ReasonProtected, time.Time{}, "Deployment/shop/web is protected: alertmedic itself"},
		{"protected namespace", good, func(in *Input) { in.Subject.Target.Namespace = "kube-system" }, "protected-target", Deny, ReasonProtected, time.Time{}, ""},
		{"namespace of the source", good, func(in *Input) { in.Subject.AllowedNamespaces = []string{"bank"} }, "source", Deny, ReasonNamespace, time.Time{}, ""},
		{"cluster-scoped for a limited source", goodNode, func(in *Input) { in.Subject.AllowedNamespaces = []string{"bank"} }, "source", Deny, ReasonNamespace, time.Time{}, ""},
		{"playbook of the source", good, func(in *Input) { in.Subject.AllowedPlaybooks = []string{"other"} }, "source", Deny, ReasonPlaybook, time.Time{}, ""},
		{"no evidence", good, func(in *Input) { in.Evidence.ObservedAt = time.Time{} }, "evidence", Delay, ReasonEvidence, now.Add(15 * time.Second), ""},
		{"old evidence", good, func(in *Input) { in.Evidence.ObservedAt = now.Add(-MaxEvidenceAge - time.Millisecond) }, "evidence", Delay, ReasonEvidence, now.Add(time.Second), ""},
		{"failed evidence", good, func(in *Input) { in.Evidence.Errors = []string{"nodes: timeout"} }, "evidence", Delay, ReasonEvidence, now.Add(15 * time.Second), "could not observe: nodes: timeout"},
		{"target gone", good, func(in *Input) { in.Evidence.Target.Exists = false }, "target", Deny, ReasonTargetGone, time.Time{}, ""},
		{"target replaced", good, func(in *Input) { in.Evidence.Target.UID = "uid-new" }, "target", Deny, ReasonTargetReplaced, time.Time{}, ""},
		{"target without UID", good, func(in *Input) { in.Subject.Target.UID, in.Evidence.Target.UID = "", "" }, "target", Deny, ReasonTargetReplaced, time.Time{}, ""},
		{"terminating", good, func(in *Input) { in.Evidence.Target.Terminating = true }, "target", Deny, ReasonTerminating, time.Time{}, ""},
		{"pod gone", good, func(in *Input) { in.Evidence.Target.PodExists = false }, "target", Deny, ReasonTargetGone, time.Time{}, ""},
		{"pod of a StatefulSet re-created under its name", good, func(in *Input) { in.Evidence.Target.PodUID = "uid-2" }, "target", Deny, ReasonTargetReplaced, time.Time{}, ""},
		{"resolved", good, func(in *Input) { in.Evidence.Alert.State = AlertResolved }, "firing", Deny, ReasonResolved, time.Time{}, "the alert no longer fires"},
		{"silenced", good, func(in *Input) { in.Evidence.Alert = AlertEvidence{State: AlertSilenced, By: "s1"} }, "firing", Delay, ReasonSilenced, now.Add(15 * time.Second), ""},
		{"inhibited", good, func(in *Input) { in.Evidence.Alert.State = AlertInhibited }, "firing", Delay, ReasonInhibited, now.Add(15 * time.Second), ""},
		{"alert unknown", good, func(in *Input) { in.Evidence.Alert.State = AlertUnknown }, "firing", Delay, ReasonAlertUnknown, now.Add(15 * time.Second), ""},
		{"alert never read", good, func(in *Input) { in.Evidence.Alert = AlertEvidence{} }, "firing", Delay, ReasonAlertUnknown, now.Add(15 * time.Second), ""},
		{"observe", good, func(in *Input) { in.Subject.Mode = Observe }, "mode", Simulate, ReasonObserve, time.Time{}, ""},
		{"a mode of a newer version", good, func(in *Input) { in.Subject.Mode = "Dream" }, "mode", Simulate, ReasonObserve, time.Time{}, ""},
		{"approve", good, func(in *Input) { in.Subject.Mode = Approve }, "mode", NeedsApproval, ReasonApproval, time.Time{}, "waits for a person: `alertmedic approve r1`"},
		{"storm grows", goodNode, func(in *Input) { in.Evidence.Nodes.GrowingSince = now.Add(-20 * time.Second) }, "settle", Delay, ReasonSettling, now.Add(40 * time.Second), ""},
		{"nodes not counted", goodNode, func(in *Input) { in.Evidence.Nodes = nil }, "settle", Delay, ReasonEvidence, now.Add(15 * time.Second), ""},
		{"cooldown after failure", good, func(in *Input) { in.Ledger.Past = []Past{past(30*time.Minute, false)} }, "cooldown", Delay, ReasonCooldown, now.Add(30 * time.Minute), ""},
		{"cooldown after success", good, func(in *Input) { in.Ledger.Past = []Past{past(10*time.Minute, true)} }, "cooldown", Delay, ReasonCooldown, now.Add(5 * time.Minute), ""},
		{"attempts", good, func(in *Input) {
			in.Ledger.Past = []Past{past(2*time.Hour, false), past(3*time.Hour, true), past(4*time.Hour, false)}
		}, "attempts", Deny, ReasonAttempts, time.Time{}, ""},
		{"no cap on attempts", good, func(in *Input) { in.Subject.Limits.MaxAttempts = 0 }, "attempts", Deny, ReasonAttempts, time.Time{}, ""},
		{"concurrency of the playbook", good, func(in *Input) { in.Ledger.Active = []Active{{RunID: "r2", Playbook: "pb", Namespace: "bank"}} }, "concurrency", Delay, ReasonConcurrency, now.Add(15 * time.Second), ""},
		{"concurrency of the namespace", good, func(in *Input) {
			in.Ledger.Active = []Active{{RunID: "r2", Playbook: "x", Namespace: "shop"}, {RunID: "r3", Playbook: "y", Namespace: "shop"}}
		}, "concurrency", Delay, ReasonConcurrency, now.Add(15 * time.Second), ""},
		{"concurrency in all", good, func(in *Input) {
			for _, id := range []string{"a", "b", "c", "d", "e"} {
				in.Ledger.Active = append(in.Ledger.Active, Active{RunID: id, Playbook: id, Namespace: id})
			}
		}, "concurrency", Delay, ReasonConcurrency, now.Add(15 * time.Second), ""},
		{"caps that are missing admit nothing", good, func(in *Input) { in.Subject.Limits.MaxConcurrentGlobal = 0 }, "concurrency", Delay, ReasonConcurrency, now.Add(15 * time.Second), ""},
		{"unhealthy budget", goodNode, func(in *Input) {
			in.Evidence.Nodes.Unhealthy = append(in.Evidence.Nodes.Unhealthy, nodeRef("n2").LockKey(), nodeRef("n3").LockKey())
		}, "unhealthy-budget", Delay, ReasonUnhealthyBudget, now.Add(15 * time.Second), ""},
		{"unhealthy budget counts live reservations", goodNode, func(in *Input) {
			in.Ledger.Reservations = []Reservation{
				{RunID: "a", Scope: NodesScope("c1"), TargetKey: nodeRef("n2").LockKey()},
				{RunID: "b", Scope: NodesScope("c1"), TargetKey: nodeRef("n3").LockKey()}}
		}, "unhealthy-budget", Delay, ReasonUnhealthyBudget, now.Add(15 * time.Second), ""},
		{"unhealthy budget counts what was released after the evidence was observed", goodNode, func(in *Input) {
			at := in.Evidence.ObservedAt.Add(time.Millisecond)
			in.Ledger.Reservations = []Reservation{
				{RunID: "a", Scope: NodesScope("c1"), TargetKey: nodeRef("n2").LockKey(), Released: &at},
				{RunID: "b", Scope: NodesScope("c1"), TargetKey: nodeRef("n3").LockKey(), Released: &at}}
		}, "unhealthy-budget", Delay, ReasonUnhealthyBudget, now.Add(15 * time.Second), ""},
		{"unhealthy budget rounds down", goodNode, func(in *Input) {
			in.Evidence.Nodes.Total = 9
			in.Evidence.Nodes.Unhealthy = append(in.Evidence.Nodes.Unhealthy, nodeRef("n2").LockKey())
		}, "unhealthy-budget", Delay, ReasonUnhealthyBudget, now.Add(15 * time.Second), ""},
	}
	covered := map[string]bool{}
	for _, tt := range tests {
		covered[tt.guard] = true
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			in := tt.in()
			tt.change(&in)
			d, _ := Decide(List(), in)
			require.Equal(t, tt.guard, d.Guard, "%+v", d)
			require.Equal(t, tt.verdict, d.Verdict)
			require.Equal(t, tt.reason, d.Reason)
			require.Equal(t, tt.retryAt, d.RetryAt)
			require.NotEmpty(t, d.Message, "a denial tells the user what to change")
			if tt.message != "" {
				require.Equal(t, tt.message, d.Message)
			}
			// The guard itself objects, not another one before it: with this guard
			// switched off the same reason is not given.
			var others []Guard
			for _, g := range List() {
				if g.Name != tt.guard {
					others = append(others, g)
				}
			}
			d, _ = Decide(others, in)
			require.NotEqual(t, [2]string{tt.guard, string(tt.reason)}, [2]string{d.Guard, string(d.Reason)})
		})
	}
	for _, g := range List() {
		require.True(t, covered[g.Name], "no row covers the guard %s", g.Name)
	}
}

func TestWhatLiftsAnObjection(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		in     func() Input
		change func(*Input)
	}{
		"a pause of another namespace": {good, func(in *Input) { in.Ledger.Pauses = []Pause{{Scope: PauseNamespace, Value: "bank"}} }},
		"a protected namespace that is named": {good, func(in *Input) {
			in.Subject.Target.Namespace = "kube-system"
			in.Subject.NamedNamespaces = []string{"kube-system"}
		}},
		"an approved plan": {good, func(in *Input) { in.Subject.Mode, in.Subject.Approved = Approve, true }},
		// A cordon resolves the alert that asked for it: the drain must still come.
		"resolved by our own first step": {goodNode, func(in *Input) { in.Evidence.Alert.State, in.Subject.First = AlertResolved, false }},
		"cooldown within a run":          {good, func(in *Input) { in.Subject.First = false; in.Ledger.Past = []Past{{Playbook: "pb", Ended: now}} }},
		"cooldown of another playbook":   {good, func(in *Input) { in.Ledger.Past = []Past{{Playbook: "other", Ended: now}} }},
		"attempts out of the window": {good, func(in *Input) {
			for range 5 {
				in.Ledger.Past = append(in.Ledger.Past, Past{Playbook: "pb", Started: now.Add(-25 * time.Hour), Ended: now.Add(-25 * time.Hour)})
			}
		}},
		"a small pool may lose one": {goodNode, func(in *Input) { in.Evidence.Nodes.Total = 3 }},
		"a reservation of another cluster": {goodNode, func(in *Input) {
			in.Ledger.Reservations = []Reservation{{Scope: NodesScope("c2"), TargetKey: "x"}, {Scope: NodesScope("c2"), TargetKey: "y"}}
		}},
		"a reservation that ended before the evidence": {goodNode, func(in *Input) {
			at := in.Evidence.ObservedAt.Add(-time.Second)
			in.Ledger.Reservations = []Reservation{
				{Scope: NodesScope("c1"), TargetKey: nodeRef("n2").LockKey(), Released: &at},
				{Scope: NodesScope("c1"), TargetKey: nodeRef("n3").LockKey(), Released: &at}}
		}},
		"diagnosis in a protected place": {good, func(in *Input) {
			in.Subject.Mutating, in.Evidence.Target.Protected, in.Evidence.Alert.State = false, "x", AlertUnknown
		}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			in := tt.in()
			tt.change(&in)
			d, _ := Decide(List(), in)
			require.Equal(t, Admit, d.Verdict, "%+v", d)
		})
	}
}

func TestTightest(t *testing.T) {
	t.Parallel()
	require.Equal(t, Auto, Tightest())
	require.Equal(t, Auto, Tightest("", Auto))
	require.Equal(t, Approve, Tightest(Auto, Approve, ""))
	require.Equal(t, Observe, Tightest(Auto, Approve, Observe))
	require.Equal(t, Observe, Tightest("Dream"), "a mode that this version does not know allows nothing")
}
