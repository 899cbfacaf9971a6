package guard

import (
	"time"

	"github.com/alertmedic/alertmedic/internal/action"
)

// Evidence is what was observed of the world right before a decision. It is
// gathered outside the transaction and refused when older than MaxEvidenceAge.
// A field that could not be observed is nil or Unknown, and unknown denies.
type Evidence struct {
	ObservedAt time.Time `json:"observedAt"`

	Target TargetEvidence `json:"target"`
	Alert  AlertEvidence  `json:"alert"`
	// Nodes is counted anew for disruptive actions on nodes; for others it is what
	// the watch of nodes last told, nil before it has told anything.
	Nodes *NodeEvidence `json:"nodes,omitempty"`
	// Pods counts the pods of the target's workload; only for disruptive actions
	// on pods.
	Pods *PodEvidence `json:"pods,omitempty"`
	// Capacity says whether what the plan displaces fits elsewhere; only for
	// plans that displace pods (Subject.Displaces).
	Capacity *CapacityEvidence `json:"capacity,omitempty"`
	// Watchdog is the state of the alert that always fires; only for Auto.
	Watchdog WatchdogEvidence `json:"watchdog,omitzero"`
	// Resynced says that the state of the source's alerts was read whole since
	// this process began.
	Resynced bool `json:"resynced,omitempty"`

	// Errors lists what could not be observed, and why.
	Errors []string `json:"errors,omitempty"`
}

// TargetEvidence is the state of the target in the cluster.
type TargetEvidence struct {
	Exists      bool   `json:"exists"`
	UID         string `json:"uid,omitempty"`
	Terminating bool   `json:"terminating,omitempty"` // the object, or its namespace
	// Skip is the object (target, an owner, or its namespace) whose annotation
	// alertmedic.io/skip opts out; "" when none does.
	Skip string `json:"skip,omitempty"`
	// Protected says why the target is protected, "" when it is not: control
	// plane, alertmedic's own pod or node, the nodes of its database,
	// Prometheus or Alertmanager.
	Protected string `json:"protected,omitempty"`
	// PodUID and PodExists tell about Target.Pod, when the alert named a pod.
	PodExists bool   `json:"podExists,omitempty"`
	PodUID    string `json:"podUID,omitempty"`
	// Touched is the latest change of the target or of an owner by somebody who
	// is neither alertmedic nor a controller, nil when none is recorded.
	Touched *Touch `json:"touched,omitempty"`
	// Owner is the GitOps tool that would write the target's fields back, nil
	// when none owns it.
	Owner *Ownership `json:"owner,omitempty"`
}

// Touch is a change of an object by a person, as its managed fields tell.
type Touch struct {
	Object  string    `json:"object"`  // Kind/namespace/name
	Manager string    `json:"manager"` // the field manager: "kubectl-edit"
	At      time.Time `json:"at"`      // by the API server's clock
}

// Ownership names the tool and the object of it that owns a workload.
type Ownership struct {
	Tool   string `json:"tool"`   // "Argo CD", "Flux" or "Helm"
	Name   string `json:"name"`   // the application, Kustomization or release
	Object string `json:"object"` // where it is written: Kind/namespace/name
}

// AlertState is what the source's Alertmanager and Prometheus say of an alert now.
type AlertState string

// The states of an alert as read, not as remembered.
const (
	AlertFiring    AlertState = "firing"
	AlertResolved  AlertState = "resolved" // observed absent, by a Prometheus that answers and evaluates the rule
	AlertSilenced  AlertState = "silenced"
	AlertInhibited AlertState = "inhibited"
	AlertUnknown   AlertState = "unknown" // unreachable, partial or stale
)

// AlertEvidence is the state of the alerts of a run.
type AlertEvidence struct {
	State AlertState `json:"state"`
	// By names the silence or the inhibiting alert, or the error.
	By string `json:"by,omitempty"`
	// EvaluatedAt is when Prometheus last evaluated the rule, zero if unknown.
	EvaluatedAt time.Time `json:"evaluatedAt,omitzero"`
}

// NodeEvidence counts the nodes of the cluster.
type NodeEvidence struct {
	// Total leaves out nodes that opted out.
	Total int `json:"total"`
	// Unhealthy are the target keys (action.Target.LockKey) of nodes that are not
	// Ready, under pressure, unschedulable, or starting.
	Unhealthy []string `json:"unhealthy,omitempty"`
	// GrowingSince is when the number of unhealthy nodes last grew, zero if it
	// has not grown since the process observes.
	GrowingSince time.Time `json:"growingSince,omitzero"`
	// ControlPlane counts the nodes of the control plane; nil unless the target
	// is one of them.
	ControlPlane *ControlPlaneEvidence `json:"controlPlane,omitempty"`
}

// ControlPlaneEvidence says whether the control plane can spare a node.
type ControlPlaneEvidence struct {
	// Total members of the control plane, and the target keys of those that are
	// not healthy.
	Total     int      `json:"total"`
	Unhealthy []string `json:"unhealthy,omitempty"`
	// Etcd counts the members of etcd that are ready and all of them; zero when
	// they cannot be seen, which means that the quorum is not known.
	EtcdReady int `json:"etcdReady"`
	EtcdTotal int `json:"etcdTotal"`
	// TargetEtcdReady says that the target hosts a member that is ready.
	TargetEtcdReady bool `json:"targetEtcdReady,omitempty"`
}

// PodEvidence counts the pods of one workload.
type PodEvidence struct {
	// Desired is how many replicas are asked for, those that opted out left out.
	Desired int `json:"desired"`
	// Unavailable are the keys (PodKey) of the pods that are not ready, not there
	// yet ("missing-1") or terminating; a pod that starts counts.
	Unavailable []string `json:"unavailable,omitempty"`
}

// CapacityEvidence is the outcome of placing what a plan displaces.
type CapacityEvidence struct {
	Displaced int `json:"displaced"` // pods that need a place
	Placed    int `json:"placed"`
	// Unplaced says for some pods why no node takes them.
	Unplaced []string `json:"unplaced,omitempty"`
	// Unevaluated are hard constraints that could not be evaluated.
	Unevaluated []string `json:"unevaluated,omitempty"`
	// Blocked are PodDisruptionBudgets that allow no disruption now, or several of
	// which select one pod.
	Blocked []string `json:"blocked,omitempty"`
}

// WatchdogEvidence tells when the alert that always fires was last heard of.
type WatchdogEvidence struct {
	HeardAt time.Time `json:"heardAt,omitzero"`
	Err     string    `json:"err,omitempty"`
}

// MaxEvidenceAge is how old evidence may be when a decision rests on it.
const MaxEvidenceAge = 10 * time.Second

// Subject is what asks for admission.
type Subject struct {
	RunID      string        `json:"runID"`
	Playbook   string        `json:"playbook"`
	Remedy     string        `json:"remedy"`
	Step       string        `json:"step"`
	Action     string        `json:"action"`
	Target     action.Target `json:"target"`
	Disruptive bool          `json:"disruptive"`
	Mutating   bool          `json:"mutating"`
	Mode       Mode          `json:"mode"` // the tightest of configuration, playbook and remedy
	Approved   bool          `json:"approved"`
	// First is true until the run has sent its first mutation: cooldown and
	// attempts admit a run, and are not asked again between its steps.
	First bool `json:"first"`
	// Untouched is true until a call may have changed something: not after one that
	// was refused as a whole. From then on the run's own effect may hide the alert.
	Untouched bool `json:"untouched"`
	// WritesSpec says that the action writes fields that a GitOps tool owns, and
	// Failover that it moves traffic to a standby.
	WritesSpec bool `json:"writesSpec,omitempty"`
	Failover   bool `json:"failover,omitempty"`
	// Displaces is how many pods the plan takes down that must find a place
	// elsewhere; Removes how many replicas of Replicas it takes away for good.
	Displaces int `json:"displaces,omitempty"`
	Removes   int `json:"removes,omitempty"`
	Replicas  int `json:"replicas,omitempty"`
	// FiringSince is when the oldest alert of the run began to fire.
	FiringSince time.Time `json:"firingSince,omitzero"`

	// NeedsPod says that the action acts on Target.Pod.
	NeedsPod bool `json:"needsPod,omitempty"`
	// Begun says that a call of the step has been made and the step is not over:
	// the pod is on its way, the drain goes on.
	Begun bool `json:"begun,omitempty"`
	// NamedNamespaces are those that the playbook's target names literally.
	NamedNamespaces []string `json:"namedNamespaces,omitempty"`

	// What the source says and may do.
	SourceCluster     string   `json:"sourceCluster"`
	AlertCluster      string   `json:"alertCluster,omitempty"`      // the alert's cluster label
	AllowedNamespaces []string `json:"allowedNamespaces,omitempty"` // empty: all
	AllowedPlaybooks  []string `json:"allowedPlaybooks,omitempty"`  // empty: all

	Limits Limits `json:"limits"`
}

// Mode is how much a playbook may do by itself.
type Mode string

// The modes, loosest last.
const (
	Observe Mode = "Observe"
	Approve Mode = "Approve"
	Auto    Mode = "Auto"
)

// Tightest returns the most restrictive mode of those given. An empty mode is no
// opinion; one that this version does not know counts as Observe.
func Tightest(modes ...Mode) Mode {
	rank := map[Mode]int{Observe: 1, Approve: 2, Auto: 3}
	out := Auto
	for _, m := range modes {
		if m != "" && rank[m] == 0 {
			m = Observe
		}
		if m != "" && rank[m] < rank[out] {
			out = m
		}
	}
	return out
}

// Limits are the caps that apply to one run, the configuration's and the
// playbook's merged, the tighter one winning. Zero never means unlimited.
type Limits struct {
	MaxConcurrentRuns         int           `json:"maxConcurrentRuns"` // of the playbook
	MaxConcurrentGlobal       int           `json:"maxConcurrentGlobal"`
	MaxConcurrentPerNamespace int           `json:"maxConcurrentPerNamespace"`
	CooldownAfterSuccess      time.Duration `json:"cooldownAfterSuccess"`
	CooldownAfterFailure      time.Duration `json:"cooldownAfterFailure"`
	MaxAttempts               int           `json:"maxAttempts"`
	AttemptsWindow            time.Duration `json:"attemptsWindow"`
	// Unhealthy budget of nodes: a disruptive node action is denied when the
	// unhealthy ones, reservations and the target included, would exceed either.
	MaxUnhealthyNodes        int `json:"maxUnhealthyNodes"`
	MaxUnhealthyNodesPercent int `json:"maxUnhealthyNodesPercent"` // rounds down, at least 1
	// Settle is how long the number of unhealthy nodes must not have grown.
	Settle time.Duration `json:"settle"`

	// Windows are the freezes and maintenance windows of the configuration, and
	// PlaybookWindows those of the playbook: a run needs the leave of both.
	Windows         []Window `json:"windows,omitempty"`
	PlaybookWindows []Window `json:"playbookWindows,omitempty"`
	// FiringFor is how long an alert must have fired before anything is changed:
	// the hysteresis of a flapping one. Zero is no wait.
	FiringFor time.Duration `json:"firingFor,omitempty"`
	// HumanActivity is how long a target is left alone after a person changed it.
	HumanActivity time.Duration `json:"humanActivity"`
	// GitOps says what becomes of a change to fields that a GitOps tool owns.
	GitOps GitOpsPolicy `json:"gitOps"`
	// WatchdogAge is how old the Watchdog alert may be for mode Auto.
	WatchdogAge time.Duration `json:"watchdogAge"`
	// FailoverDwell is how long an alert must have fired before a failover.
	FailoverDwell time.Duration `json:"failoverDwell"`
	// Rates of runs that begin to change something.
	RateGlobal    Rate `json:"rateGlobal"`
	RateNamespace Rate `json:"rateNamespace"`
	RatePlaybook  Rate `json:"ratePlaybook"`
	// Active runs on the nodes of one pool, of one zone, and the number of zones
	// in which nodes are worked on at a time.
	MaxConcurrentPerPool int `json:"maxConcurrentPerPool"`
	MaxConcurrentPerZone int `json:"maxConcurrentPerZone"`
	MaxZones             int `json:"maxZones"`
	// Unhealthy budget of a workload's pods; as for nodes.
	MaxUnavailablePods        int `json:"maxUnavailablePods"`
	MaxUnavailablePodsPercent int `json:"maxUnavailablePodsPercent"`
	// Storm is when everything stops: more new runs than StormRuns in StormWindow,
	// or more unhealthy nodes than the budget; it ends StormCooldown after the
	// last sign of it.
	StormRuns     int           `json:"stormRuns"`
	StormWindow   time.Duration `json:"stormWindow"`
	StormCooldown time.Duration `json:"stormCooldown"`
	// ControlPlane says whether nodes of the control plane may be worked on.
	ControlPlane ControlPlanePolicy `json:"controlPlane"`
	// Velocity: nodes taken out of service in a pool, and percent of a workload's
	// replicas removed, within RemoveWindow; and the replicas that must stay.
	MaxNodesPerPool  int           `json:"maxNodesPerPool"`
	MaxRemovePercent int           `json:"maxRemovePercent"`
	RemoveWindow     time.Duration `json:"removeWindow"`
	MinReplicas      int           `json:"minReplicas"`
}

// Off is the value of a limit that the operator switched off. Zero is not off:
// a limit that nobody has set denies.
const Off = -1

// Rate is a token bucket: Burst at once, and one more every Every.
type Rate struct {
	Burst int           `json:"burst"` // Off: no limit
	Every time.Duration `json:"every"`
}

// GitOpsPolicy says what becomes of a change to fields that a GitOps tool owns.
type GitOpsPolicy string

// The policies, tightest first.
const (
	GitOpsDeny    GitOpsPolicy = "Deny"
	GitOpsApprove GitOpsPolicy = "Approve"
	GitOpsAllow   GitOpsPolicy = "Allow"
)

// ControlPlanePolicy says whether nodes of the control plane may be worked on.
type ControlPlanePolicy string

// The policies: never, or one at a time while the quorum is known to hold.
const (
	ControlPlaneProtect    ControlPlanePolicy = "Protect"
	ControlPlaneOneAtATime ControlPlanePolicy = "OneAtATime"
)

// Verdict is what a guard says.
type Verdict string

// The verdicts. Delay asks again at Decision.RetryAt; NeedsApproval holds the
// run until a person decides; Simulate lets it plan and record without sending
// (Observe mode).
const (
	Admit         Verdict = "admit"
	Delay         Verdict = "delay"
	Deny          Verdict = "deny"
	NeedsApproval Verdict = "needs-approval"
	Simulate      Verdict = "simulate"
)

// Reason is a guard's typed reason: a closed set, fit for a metric label.
type Reason string

// The reasons. Their names are part of the log and of the metrics.
const (
	ReasonPaused          Reason = "paused"
	ReasonWrongCluster    Reason = "wrong-cluster"
	ReasonProtected       Reason = "protected-target"
	ReasonOptedOut        Reason = "opted-out"
	ReasonNamespace       Reason = "namespace-not-allowed"
	ReasonPlaybook        Reason = "playbook-not-allowed"
	ReasonObserve         Reason = "observe-mode"
	ReasonApproval        Reason = "needs-approval"
	ReasonSettling        Reason = "settling"
	ReasonTargetGone      Reason = "target-gone"
	ReasonTargetReplaced  Reason = "target-replaced"
	ReasonTerminating     Reason = "terminating"
	ReasonResolved        Reason = "resolved"
	ReasonSilenced        Reason = "silenced"
	ReasonInhibited       Reason = "inhibited"
	ReasonAlertUnknown    Reason = "alert-unknown"
	ReasonEvidence        Reason = "evidence-unknown"
	ReasonCooldown        Reason = "cooldown"
	ReasonAttempts        Reason = "attempts"
	ReasonConcurrency     Reason = "concurrency"
	ReasonUnhealthyBudget Reason = "unhealthy-budget"
	ReasonWindow          Reason = "window"
	ReasonResync          Reason = "not-resynced"
	ReasonWatchdog        Reason = "watchdog-stale"
	ReasonFlapping        Reason = "firing-too-short"
	ReasonGitOps          Reason = "gitops-owned"
	ReasonDwell           Reason = "failover-dwell"
	ReasonHuman           Reason = "human-activity"
	ReasonRate            Reason = "rate"
	ReasonZones           Reason = "failure-domain"
	ReasonPodBudget       Reason = "pod-budget"
	ReasonStorm           Reason = "storm"
	ReasonQuorum          Reason = "control-plane-quorum"
	ReasonVelocity        Reason = "velocity"
	ReasonFloor           Reason = "capacity-floor"
	ReasonCapacity        Reason = "capacity"
)

// Reasons lists all reasons, to initialise metrics.
func Reasons() []Reason {
	return []Reason{ReasonPaused, ReasonWrongCluster, ReasonProtected, ReasonOptedOut, ReasonNamespace, ReasonPlaybook,
		ReasonObserve, ReasonApproval, ReasonSettling, ReasonTargetGone, ReasonTargetReplaced, ReasonTerminating,
		ReasonResolved, ReasonSilenced, ReasonInhibited, ReasonAlertUnknown, ReasonEvidence, ReasonCooldown,
		ReasonAttempts, ReasonConcurrency, ReasonUnhealthyBudget, ReasonWindow, ReasonResync, ReasonWatchdog,
		ReasonFlapping, ReasonGitOps, ReasonDwell, ReasonHuman, ReasonRate, ReasonZones, ReasonPodBudget,
		ReasonStorm, ReasonQuorum, ReasonVelocity, ReasonFloor, ReasonCapacity}
}

// Decision is the outcome of the whole list, or of one guard.
type Decision struct {
	Verdict Verdict `json:"verdict"`
	Guard   string  `json:"guard,omitempty"`
	Reason  Reason  `json:"reason,omitempty"`
	// Message says what was found and what the user can change.
	Message string    `json:"message,omitempty"`
	RetryAt time.Time `json:"retryAt,omitzero"`
	// Storm is the scope of a storm that the guard saw going on: it is recorded
	// whatever is decided, because the calm is counted from the last sign.
	Storm string `json:"storm,omitempty"`
}
