package api

import (
	"context"
	"net/http"
	"reflect"

	"github.com/danielgtaylor/huma/v2"
	"github.com/prometheus/common/model"

	"github.com/alertmedic/alertmedic/internal/auth"
	"github.com/alertmedic/alertmedic/playbooks"
)

type playbooksOutput struct{ Body PlaybookList }

func (a *API) registerPlaybooks() {
	huma.Register(a.huma, operation(auth.View, huma.Operation{
		OperationID: "list-playbooks", Method: http.MethodGet, Path: "/api/v1/playbooks", Summary: "List the playbooks in force", Tags: []string{"playbooks"},
		Description: "In their order of precedence.",
	}), func(context.Context, *struct{}) (*playbooksOutput, error) {
		set := a.Playbooks()
		out := PlaybookList{Hash: set.Hash(), Items: []Playbook{}, Refused: a.refused()}
		for _, pb := range set.All() {
			out.Items = append(out.Items, describe(pb))
		}
		return &playbooksOutput{Body: out}, nil
	})
}

// refused says why the playbook files as they are now are not in force.
func (a *API) refused() []string {
	if a.Refused == nil {
		return nil
	}
	var out []string
	for _, p := range a.Refused() {
		out = append(out, p.String())
	}
	return out
}

func describe(pb *playbooks.Playbook) Playbook {
	out := Playbook{Name: pb.Name, Description: pb.Description, Labels: pb.Labels, File: pb.File, Line: pb.Line, Hash: pb.Hash,
		Matchers: []string{}, When: source(pb.When), Priority: pb.Priority, Exclusive: pb.Exclusive, Mode: pb.Mode,
		TargetKind: string(pb.Target.Kind), ServiceAccountName: pb.ServiceAccountName, Remedies: []Remedy{}}
	for _, m := range pb.Matchers {
		out.Matchers = append(out.Matchers, m.String())
	}
	for _, r := range pb.Remedies {
		remedy := Remedy{Name: r.Name, When: source(r.When), Mode: r.Mode, OnFailure: string(r.OnFailure), Steps: []PlaybookStep{},
			VerifyTimeout: model.Duration(r.Verify.Timeout).String(), StableFor: model.Duration(r.Verify.StableFor).String()}
		for _, s := range r.Steps {
			remedy.Steps = append(remedy.Steps, PlaybookStep{Name: s.Name, Action: s.Action})
		}
		out.Remedies = append(out.Remedies, remedy)
	}
	return out
}

func source(c *playbooks.Condition) string {
	if c == nil {
		return ""
	}
	return c.String()
}

func typeOf[T any]() reflect.Type { return reflect.TypeFor[T]() }
