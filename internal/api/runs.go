package api

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/alertmedic/alertmedic/internal/auth"
	"github.com/alertmedic/alertmedic/internal/store"
)

type runsInput struct {
	PageInput
	Phase     string    `query:"phase" enum:"queued,active,done"`
	Wait      string    `query:"wait" enum:"approval,cooldown,guard,verify,retry,step,lock"`
	Outcome   string    `query:"outcome" enum:"healed,not-healed,escalated,suppressed,superseded,cancelled,expired,outcome-unknown,simulated"`
	Reason    string    `query:"reason"`
	Playbook  string    `query:"playbook"`
	AlertName string    `query:"alertname"`
	Namespace string    `query:"namespace" doc:"Of the target."`
	Kind      string    `query:"kind" doc:"Of the target."`
	Target    string    `query:"target" doc:"The target's name."`
	Since     time.Time `query:"since" doc:"Created at or after."`
	Until     time.Time `query:"until" doc:"Created before."`
}

func (in *runsInput) filter() store.RunFilter {
	return store.RunFilter{Phase: in.Phase, Wait: in.Wait, Outcome: in.Outcome, Reason: in.Reason, Playbook: in.Playbook,
		AlertName: in.AlertName, Namespace: in.Namespace, Kind: in.Kind, TargetName: in.Target, Since: in.Since, Until: in.Until}
}

// RunInput names a run.
type RunInput struct {
	ID string `path:"id" minLength:"4" maxLength:"64" doc:"The run's id, or a beginning of it that no other run has."`
}

type runOutput struct{ Body RunDetail }

type decisionInput struct {
	RunInput
	Body DecisionBody
}

type approvalOutput struct{ Body store.Approval }

func (a *API) registerRuns() {
	op := operation(auth.View, huma.Operation{
		OperationID: "list-runs", Method: http.MethodGet, Path: "/api/v1/runs", Summary: "List runs", Tags: []string{"runs"},
		Description: "The newest first, unless order says otherwise. With `Accept: application/x-ndjson` every run that the filters select is streamed, one a line.",
	}, http.StatusBadRequest)
	listResponses[RunList, store.Run](a, &op)
	huma.Register(a.huma, op, a.listRuns)
	huma.Register(a.huma, operation(auth.View, huma.Operation{
		OperationID: "get-run", Method: http.MethodGet, Path: "/api/v1/runs/{id}", Summary: "Read a run", Tags: []string{"runs"},
		Description: "With its steps and their plans, the alerts it answers, and the approval it waits for.",
	}, http.StatusNotFound, http.StatusConflict), a.getRun)
	for _, verb := range []struct {
		name    string
		approve bool
		summary string
	}{
		{"approve", true, "Approve the plan that a run waits with"},
		{"reject", false, "Reject the plan that a run waits with"},
	} {
		huma.Register(a.huma, operation(auth.Approve, huma.Operation{
			OperationID: verb.name + "-run", Method: http.MethodPost, Path: "/api/v1/runs/{id}/" + verb.name, Summary: verb.summary, Tags: []string{"runs"},
			Description: "The decision is bound to the run, the remedy, the plan and the UID of the target: when any of them has changed it is refused with 409.",
		}, http.StatusNotFound, http.StatusConflict), func(ctx context.Context, in *decisionInput) (*approvalOutput, error) {
			return a.decide(ctx, in, verb.approve)
		})
	}
}

func (a *API) listRuns(ctx context.Context, in *runsInput) (*huma.StreamResponse, error) {
	page := in.page(true)
	if in.ndjson() {
		return a.stream(ctx, func(ctx context.Context, w *lineWriter) error {
			return pages(ctx, page, in.Limit, w, func(ctx context.Context, p store.Page) ([]store.Run, string, error) {
				runs, next, err := a.Store.Runs(ctx, in.filter(), p)
				return public(runs), next, err
			})
		})
	}
	runs, next, err := a.Store.Runs(ctx, in.filter(), page)
	if err != nil {
		return nil, a.problem(ctx, "list runs", err)
	}
	return a.json(RunList{Items: public(runs), NextCursor: next}), nil
}

// public leaves out what is the engine's own.
func public(runs []store.Run) []store.Run {
	out := make([]store.Run, len(runs))
	for i, r := range runs {
		r.State = nil
		out[i] = r
	}
	return out
}

func (a *API) getRun(ctx context.Context, in *RunInput) (*runOutput, error) {
	run, err := a.Store.FindRun(ctx, in.ID)
	if err != nil {
		return nil, a.problem(ctx, "run "+in.ID, err)
	}
	out := RunDetail{Run: public([]store.Run{run})[0], Steps: []store.Step{}, Candidates: []store.Candidate{}}
	steps, err := a.Store.Steps(ctx, run.ID)
	if err != nil {
		return nil, a.problem(ctx, "steps of run "+run.ID, err)
	}
	out.Steps = append(out.Steps, steps...)
	candidates, err := a.Store.RunCandidates(ctx, run.ID)
	if err != nil {
		return nil, a.problem(ctx, "alerts of run "+run.ID, err)
	}
	out.Candidates = append(out.Candidates, candidates...)
	approval, err := a.Store.PendingApproval(ctx, run.ID)
	switch {
	case err == nil:
		out.Approval = &approval
	case !errors.Is(err, store.ErrNoApproval) && !errors.Is(err, store.ErrNotFound):
		return nil, a.problem(ctx, "approval of run "+run.ID, err)
	}
	return &runOutput{Body: out}, nil
}

func (a *API) decide(ctx context.Context, in *decisionInput, approve bool) (*approvalOutput, error) {
	if approve && in.Body.PlanHash == "" {
		return nil, huma.Error422UnprocessableEntity("planHash is required to approve: send the planHash of the run's approval, so that what runs is what you read")
	}
	run, err := a.Store.FindRun(ctx, in.ID)
	if err != nil {
		return nil, a.problem(ctx, "run "+in.ID, err)
	}
	approval, err := a.Store.Decide(ctx, store.Decision{RunID: run.ID, Approve: approve, PlanHash: in.Body.PlanHash, By: actor(ctx), Why: in.Body.Reason})
	if err != nil {
		return nil, a.problem(ctx, "run "+run.ID, err)
	}
	return &approvalOutput{Body: approval}, nil
}
