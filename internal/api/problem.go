package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/alertmedic/alertmedic/internal/store"
)

// problem turns an error of the store into an answer that says what to do. What
// is not known to be the caller's doing is logged, and not shown: it may quote
// the database's address.
func (a *API) problem(ctx context.Context, what string, err error) error {
	switch {
	case ctx.Err() != nil:
		return huma.NewError(http.StatusServiceUnavailable, "the request was given up: "+what)
	case errors.Is(err, store.ErrNotFound):
		return huma.Error404NotFound(fmt.Sprintf("%s: %v", what, err))
	case errors.Is(err, store.ErrBadCursor):
		return huma.Error400BadRequest(fmt.Sprintf("%s: %v: leave cursor out to begin anew", what, err))
	case errors.Is(err, store.ErrAmbiguous):
		return huma.Error409Conflict(fmt.Sprintf("%s: %v", what, err))
	case errors.Is(err, store.ErrInvalid):
		return huma.Error422UnprocessableEntity(fmt.Sprintf("%s: %v", what, err))
	case errors.Is(err, store.ErrNoApproval):
		return huma.Error409Conflict(fmt.Sprintf("%s: %v: read the run to see what it waits for", what, err))
	case errors.Is(err, store.ErrPlanChanged):
		return huma.Error409Conflict(fmt.Sprintf("%s: %v: read the run, and decide about its present plan", what, err))
	case errors.Is(err, store.ErrUnavailable), errors.Is(err, store.ErrBusy):
		a.Logger.Error("API request", "request", what, "err", err)
		return huma.Error503ServiceUnavailable(what + ": the database is not available, try again")
	}
	a.Logger.Error("API request", "request", what, "err", err)
	return huma.Error500InternalServerError(what + ": failed; the service's log says why")
}
