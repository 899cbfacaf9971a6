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
			RunID: "r1", Playbook: "pb", Action: "pod.delete", Mutating: true, Disruptive: true, Mode: Auto, First: true, Untouched: true, NeedsPod: true,
			Target:        action.Target{Cluster: "c1", Ref: web, Top: web, Pod: &pod},
			SourceCluster: "c1",
			Limits:        Defaults(),
		},
		Evidence: Evidence{
			ObservedAt: now.Add(-time.Second),
			Target:     TargetEvidence{Exists: true, UID: "uid-web", PodExists: true, PodUID: "uid-pod"},
			Alert:      AlertEvidence{State: AlertFiring},
			Pods:       &PodEvidence{Desired: 3, Unavailable: []string{PodKey("c1", "shop", "web-1")}},
			Watchdog:   WatchdogEvidence{HeardAt: now.Add(-time.Minute)},
			Resynced:   true,
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

func owned(in *Input) {
	in.Subject.WritesSpec = true
	in.Evidence.Target.Owner = &Ownership{Tool: "Argo CD", Name: "shop", Object: "Deployment/shop/web"}
}

func threeMasters() *ControlPlaneEvidence {
	return &ControlPlaneEvidence{Total: 3, EtcdReady: 3, EtcdTotal: 3}
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
		{"freeze", good, func(in *Input) {
			in.Subject.Limits.Windows = []Window{{Name: "noon", Freeze: true, Start: 11 * 60, End: 13 * 60}}
		},
			"window", Delay, ReasonWindow, now.Add(time.Hour), `the freeze "noon" holds until 2026-03-01T13:00:00Z (safety.windows)`},
		{"outside of the maintenance window", good, func(in *Input) { in.Subject.Limits.Windows = []Window{{Name: "night", Start: 22 * 60, End: 5 * 60}} },
			"window", Delay, ReasonWindow, now.Add(10 * time.Hour), `outside of the maintenance windows; "night" opens at 2026-03-01T22:00:00Z (safety.windows)`},
		{"a window of an unknown zone", good, func(in *Input) { in.Subject.Limits.Windows = []Window{{Name: "x", Zone: "Mars/Olympus"}} },
			"window", Delay, ReasonWindow, now.Add(15 * time.Second), ""},
		{"not resynced", good, func(in *Input) { in.Evidence.Resynced = false }, "resync", Delay, ReasonResync, now.Add(15 * time.Second), ""},
		{"no watchdog", good, func(in *Input) { in.Evidence.Watchdog = WatchdogEvidence{} }, "watchdog", Delay, ReasonWatchdog, now.Add(15 * time.Second), ""},
		{"stale watchdog", good, func(in *Input) { in.Evidence.Watchdog.HeardAt = now.Add(-11 * time.Minute) }, "watchdog", Delay, ReasonWatchdog, now.Add(15 * time.Second),
			"Auto is disarmed: the Watchdog alert was last heard of 11m0s ago, 10m0s is allowed (safety.watchdog.maxAge): is Prometheus evaluating?"},
		{"watchdog not to be asked for", good, func(in *Input) { in.Evidence.Watchdog = WatchdogEvidence{Err: "timeout"} }, "watchdog", Delay, ReasonWatchdog, now.Add(15 * time.Second), ""},
		{"fires too short", good, func(in *Input) {
			in.Subject.Limits.FiringFor, in.Subject.FiringSince = time.Minute, now.Add(-20*time.Second)
		},
			"firing-for", Delay, ReasonFlapping, now.Add(40 * time.Second), ""},
		{"fires for nobody knows how long", good, func(in *Input) { in.Subject.Limits.FiringFor = time.Minute }, "firing-for", Delay, ReasonFlapping, now.Add(15 * time.Second), ""},
		{"owned by a GitOps tool", good, owned, "gitops", Deny, ReasonGitOps, time.Time{},
			"the spec of Deployment/shop/web belongs to Argo CD shop, which would write it back: change it there (safety.gitOps is Deny)"},
		{"owned, and a person may decide", good, func(in *Input) { owned(in); in.Subject.Limits.GitOps = GitOpsApprove }, "gitops", NeedsApproval, ReasonGitOps, time.Time{}, ""},
		{"a failover too soon", good, func(in *Input) { in.Subject.Failover, in.Subject.FiringSince = true, now.Add(-time.Minute) },
			"dwell", Delay, ReasonDwell, now.Add(4 * time.Minute), ""},
		{"a failover without a person", good, func(in *Input) { in.Subject.Failover, in.Subject.FiringSince = true, now.Add(-time.Hour) },
			"dwell", NeedsApproval, ReasonApproval, time.Time{}, ""},
		{"a failover without a dwell time", good, func(in *Input) { in.Subject.Failover, in.Subject.Limits.FailoverDwell = true, 0 }, "dwell", Deny, ReasonDwell, time.Time{}, ""},
		{"a failover of nobody knows when", good, func(in *Input) { in.Subject.Failover = true }, "dwell", Delay, ReasonDwell, now.Add(15 * time.Second), ""},
		{"a person is at work", good, func(in *Input) {
			in.Evidence.Target.Touched = &Touch{Object: "Deployment/shop/web", Manager: "kubectl-edit", At: now.Add(-5 * time.Minute)}
		}, "human-activity", Delay, ReasonHuman, now.Add(10 * time.Minute), `Deployment/shop/web was changed by "kubectl-edit" at 2026-03-01T11:55:00Z: it is left alone for 15m0s (safety.humanActivity)`},
		{"human activity that nobody set", good, func(in *Input) {
			in.Evidence.Target.Touched, in.Subject.Limits.HumanActivity = &Touch{At: now.Add(-time.Hour)}, 0
		}, "human-activity", Deny, ReasonHuman, time.Time{}, ""},
		{"rate in all", good, func(in *Input) {
			in.Ledger.Buckets = []Bucket{{Scope: "rate/c1", Tokens: 0.5, At: now.Add(-30 * time.Second)}}
		},
			"rate", Delay, ReasonRate, now.Add(30 * time.Second), "safety.rate.global is used up: 10 runs at once and one more every 2m0s"},
		{"rate of the playbook", good, func(in *Input) { in.Ledger.Buckets = []Bucket{{Scope: "rate/c1/playbook/pb", At: now}} }, "rate", Delay, ReasonRate, now.Add(5 * time.Minute), ""},
		{"rate of the namespace", good, func(in *Input) { in.Ledger.Buckets = []Bucket{{Scope: "rate/c1/namespace/shop", At: now}} }, "rate", Delay, ReasonRate, now.Add(5 * time.Minute), ""},
		{"a rate that nobody set", good, func(in *Input) { in.Subject.Limits.RateGlobal = Rate{} }, "rate", Deny, ReasonRate, time.Time{}, ""},
		{"concurrency of the pool", goodNode, func(in *Input) {
			in.Subject.Target.NodePool, in.Subject.Target.Zone = "spot", "a"
			in.Ledger.Active = []Active{{RunID: "r2", Kind: action.KindNode, Disruptive: true, NodePool: "spot", Zone: "b"}}
		}, "failure-domain", Delay, ReasonZones, now.Add(15 * time.Second), ""},
		{"concurrency of the zone", goodNode, func(in *Input) {
			in.Subject.Target.NodePool, in.Subject.Target.Zone = "spot", "a"
			in.Ledger.Active = []Active{{RunID: "r2", Kind: action.KindNode, Disruptive: true, NodePool: "big", Zone: "a"}}
		}, "failure-domain", Delay, ReasonZones, now.Add(15 * time.Second), ""},
		{"one zone at a time", goodNode, func(in *Input) {
			in.Subject.Target.NodePool, in.Subject.Target.Zone = "spot", "a"
			in.Ledger.Active = []Active{{RunID: "r2", Kind: action.KindNode, Disruptive: true, NodePool: "big", Zone: "b"}}
		}, "failure-domain", Delay, ReasonZones, now.Add(15 * time.Second), "nodes are worked on in 1 other zones, safety.nodes.maxZones is 1"},
		{"a cap by zone that nobody set", goodNode, func(in *Input) { in.Subject.Limits.MaxZones = 0 }, "failure-domain", Deny, ReasonZones, time.Time{}, ""},
		{"pods that are not available", good, func(in *Input) {
			in.Evidence.Pods.Unavailable = append(in.Evidence.Pods.Unavailable, PodKey("c1", "shop", "web-2"))
		}, "pod-budget", Delay, ReasonPodBudget, now.Add(15 * time.Second), ""},
		{"pods that are being worked on", good, func(in *Input) {
			in.Ledger.Reservations = []Reservation{{RunID: "r2", Scope: PodsScope(in.Subject.Target), TargetKey: PodKey("c1", "shop", "web-2")}}
		}, "pod-budget", Delay, ReasonPodBudget, now.Add(15 * time.Second), ""},
		{"pods not counted", good, func(in *Input) { in.Evidence.Pods = nil }, "pod-budget", Delay, ReasonEvidence, now.Add(15 * time.Second), ""},
		{"a budget of pods that nobody set", good, func(in *Input) { in.Subject.Limits.MaxUnavailablePods = 0 }, "pod-budget", Deny, ReasonPodBudget, time.Time{}, ""},
		{"a storm of runs", good, func(in *Input) { in.Ledger.NewRuns = 31 }, "storm", Delay, ReasonStorm, now.Add(10 * time.Minute), ""},
		{"after a storm of runs", good, func(in *Input) {
			in.Ledger.Storms = []Storm{{Scope: RunsScope("c1"), Since: now.Add(-time.Hour), LastSeen: now.Add(-4 * time.Minute)}}
		}, "storm", Delay, ReasonStorm, now.Add(6 * time.Minute), "the storm since 2026-03-01T11:00:00Z was last seen at 2026-03-01T11:56:00Z: nothing new before 10m0s of calm (safety.storm.cooldown)"},
		{"after a storm of nodes, the steps of a run that has begun too", goodNode, func(in *Input) {
			in.Subject.First = false
			in.Ledger.Storms = []Storm{{Scope: NodesScope("c1"), Since: now.Add(-time.Hour), LastSeen: now.Add(-4 * time.Minute)}}
		}, "storm", Delay, ReasonStorm, now.Add(6 * time.Minute), ""},
		{"a storm that nobody set", good, func(in *Input) { in.Subject.Limits.StormRuns = 0 }, "storm", Deny, ReasonStorm, time.Time{}, ""},
		{"a node of the control plane", goodNode, func(in *Input) { in.Evidence.Nodes.ControlPlane = threeMasters() }, "control-plane", Deny, ReasonQuorum, time.Time{}, ""},
		{"two nodes of the control plane", goodNode, func(in *Input) {
			in.Subject.Limits.ControlPlane, in.Evidence.Nodes.ControlPlane = ControlPlaneOneAtATime, threeMasters()
			in.Evidence.Nodes.ControlPlane.Unhealthy = []string{nodeRef("n1").LockKey(), nodeRef("n9").LockKey()}
		}, "control-plane", Delay, ReasonQuorum, now.Add(15 * time.Second), ""},
		{"another node of the control plane is worked on", goodNode, func(in *Input) {
			in.Subject.Limits.ControlPlane, in.Evidence.Nodes.ControlPlane = ControlPlaneOneAtATime, threeMasters()
			in.Ledger.Reservations = []Reservation{{RunID: "r2", Scope: ControlPlaneScope("c1"), TargetKey: nodeRef("n9").LockKey()}}
		}, "control-plane", Delay, ReasonQuorum, now.Add(15 * time.Second), ""},
		{"the quorum is not known", goodNode, func(in *Input) {
			in.Subject.Limits.ControlPlane, in.Evidence.Nodes.ControlPlane = ControlPlaneOneAtATime, &ControlPlaneEvidence{Total: 3}
		}, "control-plane", Delay, ReasonQuorum, now.Add(15 * time.Second), ""},
		{"the quorum would be lost", goodNode, func(in *Input) {
			in.Subject.Limits.ControlPlane, in.Evidence.Nodes.ControlPlane = ControlPlaneOneAtATime, threeMasters()
			in.Evidence.Nodes.ControlPlane.EtcdReady, in.Evidence.Nodes.ControlPlane.TargetEtcdReady = 2, true
		}, "control-plane", Deny, ReasonQuorum, time.Time{}, "etcd would have 1 of 3 members ready and needs 2"},
		{"too many nodes of a pool", goodNode, func(in *Input) {
			for _, n := range []string{"n7", "n8", "n9"} {
				in.Ledger.Reservations = append(in.Ledger.Reservations, Reservation{RunID: n, Scope: PoolScope(in.Subject.Target), TargetKey: nodeRef(n).LockKey(),
					Created: now.Add(-30 * time.Minute), Released: new(now.Add(-20 * time.Minute))})
			}
		}, "velocity", Delay, ReasonVelocity, now.Add(15 * time.Second), ""},
		{"the floor", good, func(in *Input) { in.Subject.Removes, in.Subject.Replicas = 2, 2 }, "velocity", Deny, ReasonFloor, time.Time{}, "0 of 2 replicas would be left, safety.velocity.minReplicas is 1"},
		{"too many replicas at once", good, func(in *Input) { in.Subject.Removes, in.Subject.Replicas = 5, 10 }, "velocity", Delay, ReasonVelocity, now.Add(15 * time.Second), ""},
		{"too many replicas in a while", good, func(in *Input) {
			in.Subject.Removes, in.Subject.Replicas = 2, 8
			in.Ledger.Reservations = []Reservation{{RunID: "r2", Scope: RemovedScope(in.Subject.Target), TargetKey: "scale", Weight: 2, Created: now.Add(-30 * time.Minute), Released: &now}}
		}, "velocity", Delay, ReasonVelocity, now.Add(15 * time.Second), "4 of 10 replicas would be removed within 1h0m0s, safety.velocity.maxRemovePercent is 25"},
		{"too many replicas by the remedies of one run", good, func(in *Input) {
			in.Subject.Removes, in.Subject.Replicas, in.Subject.Remedy, in.Subject.Step = 2, 8, "second", "scale"
			in.Ledger.Reservations = []Reservation{{RunID: "r1", Scope: RemovedScope(in.Subject.Target), TargetKey: "first/scale", Weight: 2, Created: now.Add(-30 * time.Minute)}}
		}, "velocity", Delay, ReasonVelocity, now.Add(15 * time.Second), "4 of 10 replicas would be removed within 1h0m0s, safety.velocity.maxRemovePercent is 25"},
		{"resolved after a call that was refused", good, func(in *Input) {
			in.Evidence.Alert.State, in.Subject.First = AlertResolved, false
		}, "firing", Deny, ReasonResolved, time.Time{}, ""},
		{"a velocity that nobody set", goodNode, func(in *Input) { in.Subject.Limits.MaxNodesPerPool = 0 }, "velocity", Deny, ReasonVelocity, time.Time{}, ""},
		{"no place for the pods", goodNode, func(in *Input) {
			in.Subject.Displaces, in.Evidence.Capacity = 2, &CapacityEvidence{Displaced: 2, Placed: 1, Unplaced: []string{"pod shop/web-1: no node has 2 CPUs left"}}
		}, "capacity", Delay, ReasonCapacity, now.Add(15 * time.Second), "1 of 2 displaced pods fit nowhere else: pod shop/web-1: no node has 2 CPUs left; add capacity"},
		{"a place that nobody looked for", goodNode, func(in *Input) { in.Subject.Displaces = 2 }, "capacity", Delay, ReasonEvidence, now.Add(15 * time.Second), ""},
		{"a constraint that cannot be evaluated", goodNode, func(in *Input) {
			in.Subject.Displaces, in.Evidence.Capacity = 2, &CapacityEvidence{Displaced: 2, Placed: 2, Unevaluated: []string{"pod shop/web-1 claims a device"}}
		}, "capacity", Delay, ReasonCapacity, now.Add(15 * time.Second), ""},
		{"a disruption budget that allows nothing", goodNode, func(in *Input) {
			in.Subject.Displaces, in.Evidence.Capacity = 2, &CapacityEvidence{Displaced: 2, Placed: 2, Blocked: []string{"shop/web"}}
		}, "capacity", Delay, ReasonCapacity, now.Add(15 * time.Second), ""},
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
		"resolved by our own first step": {goodNode, func(in *Input) { in.Evidence.Alert.State, in.Subject.Untouched = AlertResolved, false }},
		"a pod that went because we took it": {good, func(in *Input) {
			in.Subject.Target.Kind, in.Subject.NeedsPod, in.Subject.Begun = action.KindPod, false, true
			in.Evidence.Target.Exists = false
		}},
		"a try of the same step": {good, func(in *Input) {
			in.Subject.Removes, in.Subject.Replicas, in.Subject.Remedy, in.Subject.Step = 2, 10, "first", "scale"
			in.Ledger.Reservations = []Reservation{{RunID: "r1", Scope: RemovedScope(in.Subject.Target), TargetKey: "first/scale", Weight: 2, Created: now.Add(-30 * time.Minute)}}
		}},
		"cooldown within a run":        {good, func(in *Input) { in.Subject.First = false; in.Ledger.Past = []Past{{Playbook: "pb", Ended: now}} }},
		"cooldown of another playbook": {good, func(in *Input) { in.Ledger.Past = []Past{{Playbook: "other", Ended: now}} }},
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
