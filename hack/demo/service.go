package main

import (
	"context"
	"errors"
	"path/filepath"

	"github.com/alertmedic/alertmedic/internal/api"
	"github.com/alertmedic/alertmedic/internal/api/client"
	"github.com/alertmedic/alertmedic/internal/journal"
	"github.com/alertmedic/alertmedic/internal/store"
)

// api returns a client with the token of the person on call.
func (s *stage) api() (*client.Client, error) {
	return client.New(client.Options{Server: "http://" + s.address, TokenFile: filepath.Join(s.dir, "oncall.token")})
}

// follow sends the entries of the remediation log to out until ctx ends.
func (s *stage) follow(ctx context.Context, out chan<- journal.Entry) error {
	c, err := s.api()
	if err != nil {
		return err
	}
	return c.Follow(ctx, store.LogFilter{}, func(en journal.Entry) error {
		select {
		case out <- en:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
}

// approve reads the pending plan of a run and approves exactly that plan.
func (s *stage) approve(ctx context.Context, runID string) error {
	c, err := s.api()
	if err != nil {
		return err
	}
	run, err := c.Run(ctx, runID)
	if err != nil {
		return err
	}
	if run.Approval == nil {
		return errors.New("the run waits for no approval")
	}
	_, err = c.Decide(ctx, runID, true, api.DecisionBody{PlanHash: run.Approval.PlanHash, Reason: "the plan is right"})
	return err
}
