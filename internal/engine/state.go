package engine

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/alertmedic/alertmedic/internal/guard"
)

// stage is where a run stands in its current remedy. Together with the run's
// remedy and step indices and the rows of its steps it is all that a worker
// needs to go on after a crash.
type stage string

const (
	stagePlan     stage = "plan"     // choose the remedy, plan its steps
	stageApproval stage = "approval" // a person decides
	stageStep     stage = "step"     // steps are being carried out
	stageVerify   stage = "verify"
	stageRevert   stage = "revert"
)

// state is what the engine keeps in store.Run.State.
type state struct {
	Stage stage `json:"stage"`
	// PlanHash identifies the plans of the current remedy.
	PlanHash string `json:"planHash,omitempty"`
	// Approved is the plan hash that a person approved.
	Approved string    `json:"approved,omitempty"`
	AskedAt  time.Time `json:"askedAt,omitzero"`
	// Mutated says that the run has sent a mutation, RemedyMutated that the
	// current remedy has.
	Mutated bool `json:"mutated,omitempty"`
	// Touched says that a call may have changed something. A call that was refused
	// as a whole has not, so that what is asked before the first change is asked
	// again before it is made anew.
	Touched       bool      `json:"touched,omitempty"`
	RemedyMutated bool      `json:"remedyMutated,omitempty"`
	LastMutation  time.Time `json:"lastMutation,omitzero"`
	Replans       int       `json:"replans,omitempty"`  // of the current remedy, after drift
	Backoffs      int       `json:"backoffs,omitempty"` // consecutive retries of anything but a step's call
	// LastGuard keeps the journal from repeating the same denial at each retry.
	LastGuard guard.Reason `json:"lastGuard,omitempty"`
	Verify    verifyState  `json:"verify,omitzero"`
	// Revert is the ladder's way on after a revert.
	Revert revertState `json:"revert,omitzero"`
	Rungs  []rung      `json:"rungs,omitempty"`
	// Reported says that people were told about the run, so that they are told
	// about its end as well.
	Reported bool `json:"reported,omitempty"`
}

type verifyState struct {
	StartedAt    time.Time `json:"startedAt"`
	Deadline     time.Time `json:"deadline"`
	HealthySince time.Time `json:"healthySince,omitzero"`
	Extended     bool      `json:"extended,omitempty"`
	Last         string    `json:"last,omitempty"` // what was missing at the last look
}

type revertState struct {
	Next   int    `json:"next"`   // index of the step to revert, downwards
	Reason string `json:"reason"` // why the remedy failed
	Failed bool   `json:"failed,omitempty"`
	// Healed says that the target has healed and onResolve takes the changes back,
	// those of the last remedy first; Remedy is the one at hand.
	Healed bool `json:"healed,omitempty"`
	Remedy int  `json:"remedy,omitempty"`
	// Undone are the changes that were taken back.
	Undone []string `json:"undone,omitempty"`
}

// rung is how a remedy ended.
type rung struct {
	Name   string `json:"name"`
	Result string `json:"result"` // skipped, failed, not-healed, unknown, healed
	Reason string `json:"reason,omitempty"`
}

func decodeState(raw json.RawMessage) (state, error) {
	st := state{Stage: stagePlan}
	if len(raw) == 0 {
		return st, nil
	}
	if err := json.Unmarshal(raw, &st); err != nil {
		return st, fmt.Errorf("decode the state of the run: %w", err)
	}
	return st, nil
}

func encode(v any) json.RawMessage {
	raw, err := json.Marshal(v)
	if err != nil {
		// Only values of our own types come here, none of which can fail.
		panic(fmt.Sprintf("encode %T: %v", v, err))
	}
	return raw
}
