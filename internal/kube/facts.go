package kube

import (
	"context"

	"github.com/alertmedic/alertmedic/internal/action"
	"github.com/alertmedic/alertmedic/playbooks"
)

// Facts observes the target for a playbook's conditions, and returns the raw
// object too, nil when it is not there. A fact that the kind does not have, or
// that could not be read, stays nil; an error means that the target itself
// could not be read.
func (c *Client) Facts(ctx context.Context, target action.Target) (playbooks.Facts, map[string]any, error) {
	return playbooks.Facts{}, nil, action.Errorf(action.ReasonUnavailable, "facts are not built yet")
}
