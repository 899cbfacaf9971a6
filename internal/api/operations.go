package api

import (
	"context"
	"net/http"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/alertmedic/alertmedic/internal/auth"
)

type healthOutput struct{ Body Health }

type readyOutput struct {
	Status int
	Body   Readiness
}

func (a *API) registerOperations() {
	huma.Register(a.huma, operation("", huma.Operation{
		OperationID: "healthy", Method: http.MethodGet, Path: "/-/healthy", Summary: "Liveness", Tags: []string{"operations"},
		Description: "Answers as long as the process does. Needs no token.",
	}), func(context.Context, *struct{}) (*healthOutput, error) {
		return &healthOutput{Body: Health{Status: "healthy", At: time.Now().UTC()}}, nil
	})
	huma.Register(a.huma, operation("", huma.Operation{
		OperationID: "ready", Method: http.MethodGet, Path: "/-/ready", Summary: "Readiness", Tags: []string{"operations"},
		Description: "200 when every check passes, 503 with the ones that do not. Needs no token.",
		Responses: map[string]*huma.Response{"503": {Description: "Not ready.", Content: map[string]*huma.MediaType{
			"application/json": {Schema: a.huma.OpenAPI().Components.Schemas.Schema(typeOf[Readiness](), true, "")},
		}}},
	}), a.ready)
	huma.Register(a.huma, operation(auth.Admin, huma.Operation{
		OperationID: "reload", Method: http.MethodPost, Path: "/-/reload", Summary: "Read playbooks and tokens again", Tags: []string{"operations"},
		Description: "When anything in them is wrong, what was loaded before stays in force and the problems are in the answer.",
	}, http.StatusUnprocessableEntity, http.StatusNotImplemented), a.reload)
}

func (a *API) ready(ctx context.Context, _ *struct{}) (*readyOutput, error) {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	out := &readyOutput{Status: http.StatusOK, Body: Readiness{Ready: true, Checks: make([]CheckResult, len(a.Ready))}}
	var wg sync.WaitGroup
	for i, c := range a.Ready {
		wg.Go(func() {
			r := CheckResult{Name: c.Name, OK: true}
			if err := c.Check(ctx); err != nil {
				r.OK, r.Error = false, err.Error()
			}
			out.Body.Checks[i] = r
		})
	}
	wg.Wait()
	for i, r := range out.Body.Checks {
		if !r.OK && !a.Ready[i].Advisory {
			out.Status, out.Body.Ready = http.StatusServiceUnavailable, false
		}
	}
	return out, nil
}

func (a *API) reload(ctx context.Context, _ *struct{}) (*healthOutput, error) {
	if a.Reload == nil {
		return nil, huma.Error501NotImplemented("this process cannot reload: restart it")
	}
	a.Logger.Info("reload asked for", "by", actor(ctx))
	if err := a.Reload(ctx); err != nil {
		return nil, huma.Error422UnprocessableEntity("what was loaded before stays in force: " + err.Error())
	}
	return &healthOutput{Body: Health{Status: "reloaded", At: time.Now().UTC()}}, nil
}
