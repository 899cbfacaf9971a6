package api

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/alertmedic/alertmedic/internal/auth"
	"github.com/alertmedic/alertmedic/internal/simulate"
)

// Explainer says what would become of an alert; *engine.Engine is one. An error
// that wraps store.ErrNotFound names what does not exist.
type Explainer func(ctx context.Context, r simulate.ExplainRequest) (*simulate.Explanation, error)

type explainInput struct {
	Body simulate.ExplainRequest
}

type explainOutput struct {
	Body *simulate.Explanation
}

func (a *API) registerExplain() {
	huma.Register(a.huma, operation(auth.View, huma.Operation{
		OperationID: "explain", Method: http.MethodPost, Path: "/api/v1/explain", Summary: "Explain what would become of an alert", Tags: []string{"runs"},
		Description: "Against the live state: which playbooks match and why the others do not, the target and how it was found, what each guard says, and the plan of each step. Nothing is written.",
	}, http.StatusNotFound, http.StatusUnprocessableEntity), a.explain)
}

func (a *API) explain(ctx context.Context, in *explainInput) (*explainOutput, error) {
	if a.Explain == nil {
		return nil, huma.Error501NotImplemented("this process cannot explain: it runs no engine")
	}
	if len(in.Body.Labels) == 0 {
		return nil, huma.Error422UnprocessableEntity("labels is empty: write the labels of the alert, alertname among them")
	}
	out, err := a.Explain(ctx, in.Body)
	if err != nil {
		return nil, a.problem(ctx, "explain", err)
	}
	out.Refused = a.refused()
	return &explainOutput{Body: out}, nil
}
