package playbooks

import (
	"errors"
	"slices"

	"github.com/alertmedic/alertmedic/internal/action"
)

// fakeCatalogue stands for the table of actions, which this package may not
// import.
type fakeCatalogue map[string]action.Spec

func (c fakeCatalogue) Lookup(name string) (action.Spec, bool) { s, ok := c[name]; return s, ok }

func (c fakeCatalogue) Names() []string {
	var out []string
	for name := range c {
		out = append(out, name)
	}
	slices.Sort(out)
	return out
}

type deleteParams struct {
	GracePeriod *action.Duration `json:"gracePeriod,omitempty" jsonschema:"description=Time to shut down."`
	Force       bool             `json:"force,omitempty"`
}

type scaleParams struct {
	To      *int32            `json:"to,omitempty"`
	By      *int32            `json:"by,omitempty"`
	Ceiling int32             `json:"ceiling" jsonschema:"required"`
	Reason  string            `json:"reason,omitempty"`
	Policy  string            `json:"policy,omitempty" jsonschema:"enum=Gentle,enum=Hard"`
	Ratio   float64           `json:"ratio,omitempty"`
	Dry     bool              `json:"dry,omitempty"`
	Wait    action.Duration   `json:"wait,omitempty"`
	Names   []string          `json:"names,omitempty"`
	Labels  map[string]string `json:"labels,omitempty"`
}

// Validate implements what a schema cannot say.
func (p *scaleParams) Validate() error {
	if (p.To == nil) == (p.By == nil) {
		return errors.New("exactly one of to and by must be set")
	}
	return nil
}

func catalogue() fakeCatalogue {
	workloads := []action.Kind{action.KindWorkload}
	return fakeCatalogue{
		"pod.delete": {Name: "pod.delete", Summary: "Delete the pod.", Kinds: []action.Kind{action.KindPod, action.KindWorkload},
			NewParams: func() any { return &deleteParams{} }, Mutating: true, Disruptive: true},
		"workload.rollback": {Name: "workload.rollback", Kinds: workloads, NewParams: func() any { return &struct{}{} }, Mutating: true, Reversible: true},
		"workload.scale": {Name: "workload.scale", Kinds: workloads,
			NewParams: func() any { return &scaleParams{Policy: "Gentle"} }, Mutating: true, Reversible: true},
		"node.cordon": {Name: "node.cordon", Kinds: []action.Kind{action.KindNode}, Mutating: true, Reversible: true},
		"diagnose":    {Name: "diagnose", Kinds: action.Kinds()},
	}
}
