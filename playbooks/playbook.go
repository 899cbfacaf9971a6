// Package playbooks turns YAML files into checked, compiled playbooks and
// matches alerts to them. A Set is immutable: a reload builds another one.
package playbooks

import (
	"encoding/json"
	"time"

	"github.com/prometheus/alertmanager/pkg/labels"

	"github.com/alertmedic/alertmedic/internal/action"
	"github.com/alertmedic/alertmedic/internal/guard"
)

// Playbook is the internal form that every API version decodes into. It is
// immutable after load and safe for concurrent use.
type Playbook struct {
	Name        string
	Labels      map[string]string
	Description string
	// File and Line say where it was read.
	File string
	Line int
	// Hash is the SHA-256 (hex) of Doc.
	Hash string
	// Doc is the canonical JSON of the document as written: a run keeps it as
	// its snapshot, and Compile makes the same playbook of it again.
	Doc json.RawMessage

	Matchers           labels.Matchers
	When               *Condition // nil: always
	Priority           int
	Exclusive          bool   // default true
	ServiceAccountName string // "": the configuration's default
	Target             TargetSpec
	Mode               guard.Mode // "": the configuration's default
	Limits             Limits
	Windows            []guard.Window // on top of the configuration's
	OnResolve          OnResolve
	Remedies           []Remedy
	Notify             Notify

	limitsAt map[string]position // where each limit was written, those of remedies included
}

// LimitAt is the line and column in File, from 1, of a field of the limits such
// as "spec.limits.rate.burst"; those of the playbook if it was not written.
func (p *Playbook) LimitAt(path string) (line, column int) {
	if at, ok := p.limitsAt[path]; ok {
		return at.line, at.column
	}
	return p.Line, 1
}

// TargetSpec declares what a playbook acts on. Name and Namespace are nil when
// the labels of the alert name the object.
type TargetSpec struct {
	Kind      action.Kind
	Name      *Template
	Namespace *Template
}

// Limits are a playbook's own; nil or zero means the configuration's default.
type Limits struct {
	MaxConcurrentRuns    int
	CooldownAfterSuccess time.Duration
	CooldownAfterFailure time.Duration
	MaxAttempts          int
	AttemptsWindow       time.Duration
	ExpireAfter          time.Duration
	FiringFor            time.Duration
	HumanActivity        time.Duration
	Rate                 guard.Rate // of the playbook; a zero Burst or Every is no opinion
	GitOps               guard.GitOpsPolicy
	// Unhealthy budgets; a cap of both kinds is the tighter one.
	MaxUnavailablePods        int
	MaxUnavailablePodsPercent int
	MaxUnhealthyNodes         int
	MaxUnhealthyNodesPercent  int
	// Velocity: nodes of a pool and percent of a workload's replicas taken away
	// within RemoveWindow, and replicas that must stay.
	MaxNodesPerPool  int
	MaxRemovePercent int
	RemoveWindow     time.Duration
	MinReplicas      int
}

// OnResolve says what becomes of reversible changes when the target has healed.
type OnResolve string

// What can become of a change when the target has healed: it stays, which is the
// default, or it is taken back, such as the cordon of a node that is well again.
const (
	KeepOnResolve   OnResolve = "Keep"
	RevertOnResolve OnResolve = "Revert"
)

// OnFailure says what to do with the steps of a remedy that did not heal.
type OnFailure string

// What can follow a remedy that did not heal: Keep its changes and climb the
// ladder (the default), Revert them and climb, or Stop and escalate.
const (
	Keep   OnFailure = "Keep"
	Revert OnFailure = "Revert"
	Stop   OnFailure = "Stop"
)

// Remedy is one rung of the ladder.
type Remedy struct {
	Name      string
	When      *Condition
	Mode      guard.Mode // may only tighten the playbook's
	Limits    Limits     // likewise; ExpireAfter is the playbook's alone
	Steps     []Step
	Verify    Verify
	OnFailure OnFailure
}

// Step is one action with its parameters.
type Step struct {
	Name    string
	Action  string
	When    *Condition
	Timeout time.Duration // 0: the action's default
	// ContinueOnError lets the remedy go on when the step fails.
	ContinueOnError bool
	// With holds the parameters; strings in it are templates.
	With *Params
}

// AlertWish says what a verdict asks of the alert.
type AlertWish string

// The wishes: Resolved (default) asks for an observed resolution as a second
// witness, Ignore leaves the alert out of the verdict.
const (
	AlertResolved AlertWish = "Resolved"
	AlertIgnore   AlertWish = "Ignore"
)

// Verify says when a remedy has healed. The built-in health check of the
// target's kind must hold for StableFor in any case.
type Verify struct {
	Timeout    time.Duration // default 15m
	StableFor  time.Duration // default 1m
	Alert      AlertWish
	Conditions []VerifyCondition
}

// VerifyCondition is one more thing that must be true, and what that means.
type VerifyCondition struct {
	Condition *Condition
	Message   string
}

// Notify overrides where reports of the playbook go.
type Notify struct {
	SlackChannel *Template // nil: the configuration's default
}

// TemplateData is what templates see: Alertmanager's alert, and the run.
type TemplateData struct {
	Labels, Annotations map[string]string
	Status, Fingerprint string
	StartsAt            time.Time
	Run                 RunData
}

// RunData is .Run in templates and `run` in conditions.
type RunData struct {
	ID       string        `json:"id"`
	Playbook string        `json:"playbook"`
	Remedy   string        `json:"remedy"`
	Attempt  int           `json:"attempt"` // on this target within the window, from 1
	Target   action.Target `json:"target"`
}

// AlertData is `alert`, and an item of `alerts`, in conditions.
type AlertData struct {
	Labels, Annotations map[string]string
	Status, Fingerprint string
	StartsAt            time.Time
}

// Facts are observations of the target that conditions may ask for, filled by
// the kube package. Asking for a fact that is unknown is an evaluation error,
// and an error denies.
type Facts struct {
	// RolledOutAt is when the workload's current revision was created; nil when
	// unknown or when the target has no workload.
	RolledOutAt *time.Time
	// Restarts is the sum of the container restarts of the target's pods.
	Restarts *int64
	// Replicas is the workload's spec.replicas.
	Replicas *int64
	// Revisions is how many revisions the workload keeps.
	Revisions *int64
	// HPA is true when an autoscaler owns the replicas.
	HPA *bool
}

// Vars are the variables of a condition. Now is constant in a run.
type Vars struct {
	Alert  AlertData
	Alerts []AlertData
	Target map[string]any // the raw object; nil when it is not there
	Facts  Facts
	Run    RunData
	Now    time.Time
}

// Catalogue is what the loader needs to know about actions.
type Catalogue interface {
	Lookup(name string) (action.Spec, bool)
	Names() []string
}
