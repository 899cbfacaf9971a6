package api

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/alertmedic/alertmedic/internal/auth"
	"github.com/alertmedic/alertmedic/internal/guard"
)

type pausesOutput struct{ Body PauseList }

type setPauseInput struct{ Body PauseBody }

type clearPauseInput struct {
	Scope string `query:"scope" required:"true" enum:"global,playbook,namespace"`
	Value string `query:"value" maxLength:"253"`
	Why   string `query:"why" maxLength:"2000"`
}

func (a *API) registerPauses() {
	huma.Register(a.huma, operation(auth.View, huma.Operation{
		OperationID: "list-pauses", Method: http.MethodGet, Path: "/api/v1/pauses", Summary: "List the pauses in force", Tags: []string{"pauses"},
		Description: "What each holds back, who set it and why.",
	}), func(ctx context.Context, _ *struct{}) (*pausesOutput, error) { return a.pauses(ctx) })
	huma.Register(a.huma, operation(auth.Admin, huma.Operation{
		OperationID: "set-pause", Method: http.MethodPost, Path: "/api/v1/pauses", Summary: "Pause", Tags: []string{"pauses"},
		Description: "Holds back new mutations until it is cleared, restarts included. Setting a pause again replaces who and why.",
	}), a.setPause)
	huma.Register(a.huma, operation(auth.Admin, huma.Operation{
		OperationID: "clear-pause", Method: http.MethodDelete, Path: "/api/v1/pauses", Summary: "Resume", Tags: []string{"pauses"},
		Description: "Clears one pause.",
	}, http.StatusNotFound), a.clearPause)
}

func (a *API) pauses(ctx context.Context) (*pausesOutput, error) {
	list, err := a.Store.Pauses(ctx)
	if err != nil {
		return nil, a.problem(ctx, "list pauses", err)
	}
	out := &pausesOutput{Body: PauseList{Items: []guard.Pause{}}}
	out.Body.Items = append(out.Body.Items, list...)
	return out, nil
}

// checkScope keeps a pause from holding back more or less than was meant.
func checkScope(scope guard.PauseScope, value string) error {
	switch {
	case scope == guard.PauseGlobal && value != "":
		return huma.Error422UnprocessableEntity("a global pause has no value: leave value out, or set scope to playbook or namespace")
	case scope != guard.PauseGlobal && value == "":
		return huma.Error422UnprocessableEntity("value is required: write the name of the " + string(scope))
	}
	return nil
}

func (a *API) setPause(ctx context.Context, in *setPauseInput) (*pausesOutput, error) {
	if err := checkScope(in.Body.Scope, in.Body.Value); err != nil {
		return nil, err
	}
	p := guard.Pause{Scope: in.Body.Scope, Value: in.Body.Value, By: actor(ctx), Why: in.Body.Why}
	if err := a.Store.SetPause(ctx, p); err != nil {
		return nil, a.problem(ctx, "pause", err)
	}
	return a.pauses(ctx)
}

func (a *API) clearPause(ctx context.Context, in *clearPauseInput) (*pausesOutput, error) {
	scope := guard.PauseScope(in.Scope)
	if err := checkScope(scope, in.Value); err != nil {
		return nil, err
	}
	if err := a.Store.ClearPause(ctx, scope, in.Value, actor(ctx), in.Why); err != nil {
		return nil, a.problem(ctx, "lift the pause", err)
	}
	return a.pauses(ctx)
}
