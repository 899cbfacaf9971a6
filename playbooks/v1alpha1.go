package playbooks

import (
	"github.com/invopop/jsonschema"

	"github.com/alertmedic/alertmedic/internal/action"
)

// APIVersion and Kind of the documents that Load reads.
const (
	APIVersion = "alertmedic.io/v1alpha1"
	Kind       = "Playbook"
)

// The types below are the file format, version v1alpha1: their tags are what
// the loader enforces and what the JSON Schema says. They are decoded into and
// converted at once; nothing else sees them. A pointer tells "left out" from
// zero.
type (
	v1Document struct {
		APIVersion string     `json:"apiVersion" jsonschema:"required,enum=alertmedic.io/v1alpha1"`
		Kind       string     `json:"kind" jsonschema:"required,enum=Playbook"`
		Metadata   v1Metadata `json:"metadata" jsonschema:"required"`
		Spec       v1Spec     `json:"spec" jsonschema:"required"`
	}

	v1Metadata struct {
		Name        string            `json:"name" jsonschema:"required,description=A DNS-1123 label; unique among all playbooks."`
		Labels      map[string]string `json:"labels,omitempty"`
		Annotations map[string]string `json:"annotations,omitempty"`
	}

	v1Spec struct {
		Description        string     `json:"description,omitempty" jsonschema:"description=What the playbook does and why; for people."`
		Matchers           []string   `json:"matchers" jsonschema:"required,minItems=1,description=Matchers in Alertmanager's syntax; all must hold."`
		When               string     `json:"when,omitempty" jsonschema:"description=A CEL condition that must hold too."`
		Priority           int        `json:"priority,omitempty" jsonschema:"description=The highest wins when several playbooks match one alert and target; then the name.,default=0"`
		Exclusive          *bool      `json:"exclusive,omitempty" jsonschema:"description=Whether playbooks of lower priority give way.,default=true"`
		ServiceAccountName string     `json:"serviceAccountName,omitempty" jsonschema:"description=Impersonated on every call to the API server; the configuration's default when left out."`
		Target             v1Target   `json:"target" jsonschema:"required"`
		Mode               string     `json:"mode,omitempty" jsonschema:"enum=Observe,enum=Approve,enum=Auto,description=How much the playbook may do by itself; the configuration's default when left out."`
		Limits             v1Limits   `json:"limits,omitempty"`
		Windows            []v1Window `json:"windows,omitempty" jsonschema:"description=Freezes and maintenance windows of this playbook; they come on top of the configuration's."`
		OnResolve          string     `json:"onResolve,omitempty" jsonschema:"enum=Keep,enum=Revert,default=Keep,description=What becomes of reversible changes when the target has healed: Keep them; or Revert them\\, such as the cordon of a node."`
		Remedies           []v1Remedy `json:"remedies" jsonschema:"required,minItems=1,description=The ladder: the next one is tried when one did not heal."`
		Notify             v1Notify   `json:"notify,omitempty"`
	}

	v1Target struct {
		Kind      string `json:"kind" jsonschema:"required,description=Static; RBAC is derived from it."`
		Name      string `json:"name,omitempty" jsonschema:"description=A template; the labels of the alert name the object when left out."`
		Namespace string `json:"namespace,omitempty" jsonschema:"description=A template; the labels of the alert name the namespace when left out."`
	}

	// v1Limits are a playbook's. Its runs expire before they have chosen a remedy.
	v1Limits struct {
		v1Caps
		ExpireAfter *action.Duration `json:"expireAfter,omitempty" jsonschema:"description=How long a run may wait before its first change."`
	}

	// v1Caps are the limits that a playbook and each of its remedies may set.
	v1Caps struct {
		MaxConcurrentRuns *int             `json:"maxConcurrentRuns,omitempty" jsonschema:"minimum=1,description=Runs of this playbook at one time."`
		Cooldown          v1Cooldown       `json:"cooldown,omitempty"`
		Attempts          v1Attempts       `json:"attempts,omitempty"`
		FiringFor         *action.Duration `json:"firingFor,omitempty" jsonschema:"description=How long an alert must have fired before anything is changed; longer than the configuration's."`
		HumanActivity     *action.Duration `json:"humanActivity,omitempty" jsonschema:"description=How long a target is left alone after a person changed it; longer than the configuration's."`
		Rate              v1Rate           `json:"rate,omitempty"`
		GitOps            string           `json:"gitOps,omitempty" jsonschema:"enum=Deny,enum=Approve,enum=Allow,description=What becomes of a change to fields that Argo CD\\, Flux or Helm owns; may only be tighter than the configuration's."`
		MaxUnavailable    *int             `json:"maxUnavailablePods,omitempty" jsonschema:"minimum=1,description=Pods of the workload that may be away\\, the target included."`
		MaxUnavailablePct *int             `json:"maxUnavailablePodsPercent,omitempty" jsonschema:"minimum=1,maximum=100,description=The same in percent of the workload's pods\\, rounded down\\, at least one."`
		MaxUnhealthy      *int             `json:"maxUnhealthyNodes,omitempty" jsonschema:"minimum=1,description=Nodes that may be away\\, the target included."`
		MaxUnhealthyPct   *int             `json:"maxUnhealthyNodesPercent,omitempty" jsonschema:"minimum=1,maximum=100,description=The same in percent of the nodes\\, rounded down\\, at least one."`
		Velocity          v1Velocity       `json:"velocity,omitempty"`
	}

	v1Rate struct {
		Burst *int             `json:"burst,omitempty" jsonschema:"minimum=1,description=Runs that may begin at once."`
		Every *action.Duration `json:"every,omitempty" jsonschema:"description=The time after which one more may."`
	}

	v1Velocity struct {
		MaxNodesPerPool  *int             `json:"maxNodesPerPool,omitempty" jsonschema:"minimum=1,description=Nodes of a pool that may be taken out of service within the window."`
		MaxRemovePercent *int             `json:"maxRemovePercent,omitempty" jsonschema:"minimum=1,maximum=100,description=Percent of a workload's replicas that may be removed within the window\\, at least one."`
		Window           *action.Duration `json:"window,omitempty"`
		MinReplicas      *int             `json:"minReplicas,omitempty" jsonschema:"minimum=1,description=Replicas that must stay."`
	}

	v1Cooldown struct {
		AfterSuccess *action.Duration `json:"afterSuccess,omitempty" jsonschema:"description=Rest of a target after it was healed."`
		AfterFailure *action.Duration `json:"afterFailure,omitempty" jsonschema:"description=Rest of a target after it was not."`
	}

	v1Attempts struct {
		Max    *int             `json:"max,omitempty" jsonschema:"minimum=1,description=Runs on one target within the window."`
		Window *action.Duration `json:"window,omitempty"`
	}

	v1Window struct {
		Name       string   `json:"name" jsonschema:"required,description=Stands in the log; unique in the playbook."`
		Type       string   `json:"type" jsonschema:"required,enum=Freeze,enum=Maintenance,description=Nothing is changed inside a Freeze or outside of the Maintenance windows."`
		Days       []string `json:"days,omitempty" jsonschema:"enum=Sun,enum=Mon,enum=Tue,enum=Wed,enum=Thu,enum=Fri,enum=Sat,description=Days on which it begins; all when left out."`
		Start      string   `json:"start,omitempty" jsonschema:"description=A time of the day such as 22:00; whole days without start and end."`
		End        string   `json:"end,omitempty" jsonschema:"description=A time of the day; one that is not later lies on the next day."`
		From       string   `json:"from,omitempty" jsonschema:"description=RFC 3339; for a window that comes once."`
		Until      string   `json:"until,omitempty" jsonschema:"description=RFC 3339."`
		TimeZone   string   `json:"timeZone,omitempty" jsonschema:"default=UTC,description=An IANA name such as Europe/Berlin."`
		Namespaces []string `json:"namespaces,omitempty" jsonschema:"description=Namespaces that it is for; all when left out."`
	}

	v1Remedy struct {
		Name      string   `json:"name" jsonschema:"required,description=A DNS-1123 label; unique in the playbook."`
		When      string   `json:"when,omitempty" jsonschema:"description=A CEL condition; the remedy is passed over when it does not hold."`
		Mode      string   `json:"mode,omitempty" jsonschema:"enum=Observe,enum=Approve,enum=Auto,description=May only be tighter than the playbook's."`
		Limits    v1Caps   `json:"limits,omitempty" jsonschema:"description=May only be tighter than the playbook's."`
		Steps     []v1Step `json:"steps" jsonschema:"required,minItems=1"`
		Verify    v1Verify `json:"verify,omitempty"`
		OnFailure string   `json:"onFailure,omitempty" jsonschema:"enum=Keep,enum=Revert,enum=Stop,default=Keep,description=What becomes of a remedy that did not heal: Keep its changes and climb; Revert them and climb; or Stop and escalate."`
	}

	v1Step struct {
		Name            string           `json:"name" jsonschema:"required,description=A DNS-1123 label; unique in the remedy."`
		Action          string           `json:"action" jsonschema:"required"`
		When            string           `json:"when,omitempty" jsonschema:"description=A CEL condition; the step is passed over when it does not hold."`
		Timeout         *action.Duration `json:"timeout,omitempty" jsonschema:"description=Bounds the whole step; the action's default when left out."`
		ContinueOnError bool             `json:"continueOnError,omitempty" jsonschema:"description=Whether the remedy goes on when the step fails."`
		With            withParams       `json:"with,omitempty"`
	}

	v1Verify struct {
		Timeout    *action.Duration `json:"timeout,omitempty" jsonschema:"description=How long healing may take (15m when left out)."`
		StableFor  *action.Duration `json:"stableFor,omitempty" jsonschema:"description=How long the target must stay healthy (1m when left out)."`
		Alert      string           `json:"alert,omitempty" jsonschema:"enum=Resolved,enum=Ignore,default=Resolved,description=Whether the alert must be seen resolved too."`
		Conditions []v1Condition    `json:"conditions,omitempty"`
	}

	v1Condition struct {
		Expression string `json:"expression" jsonschema:"required,description=A CEL condition that must hold as well."`
		Message    string `json:"message,omitempty" jsonschema:"description=What the condition means; for people."`
	}

	v1Notify struct {
		Slack v1Slack `json:"slack,omitempty"`
	}

	v1Slack struct {
		Channel string `json:"channel,omitempty" jsonschema:"description=A template; the configuration's default when left out."`
	}
)

// withParams is the `with` of a step, kept as written until the action, and
// with it the type of the parameters, is known.
type withParams struct{ root *node }

// JSONSchema says only that it is a mapping; the schema of the format adds the
// parameters of each action.
func (withParams) JSONSchema() *jsonschema.Schema {
	return &jsonschema.Schema{Type: "object"}
}
