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
	Nodes  *NodeEvidence  `json:"nodes,omitempty"` // only for disruptive actions on nodes

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

	// NeedsPod says that the action acts on Target.Pod.
	NeedsPod bool `json:"needsPod,omitempty"`
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
}

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

// The reasons, in the order of the guards that give them.
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
)

// Reasons lists all reasons, to initialise metrics.
func Reasons() []Reason {
	return []Reason{ReasonPaused, ReasonWrongCluster, ReasonProtected, ReasonOptedOut, ReasonNamespace, ReasonPlaybook,
		ReasonObserve, ReasonApproval, ReasonSettling, ReasonTargetGone, ReasonTargetReplaced, ReasonTerminating,
		ReasonResolved, ReasonSilenced, ReasonInhibited, ReasonAlertUnknown, ReasonEvidence, ReasonCooldown,
		ReasonAttempts, ReasonConcurrency, ReasonUnhealthyBudget}
}

// Decision is the outcome of the whole list, or of one guard.
type Decision struct {
	Verdict Verdict `json:"verdict"`
	Guard   string  `json:"guard,omitempty"`
	Reason  Reason  `json:"reason,omitempty"`
	// Message says what was found and what the user can change.
	Message string    `json:"message,omitempty"`
	RetryAt time.Time `json:"retryAt,omitzero"`
}
