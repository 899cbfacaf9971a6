package api

import (
	"time"

	"github.com/alertmedic/alertmedic/internal/guard"
	"github.com/alertmedic/alertmedic/internal/journal"
	"github.com/alertmedic/alertmedic/internal/store"
)

// RunList is one page of runs.
type RunList struct {
	Items []store.Run `json:"items"`
	// NextCursor fetches the next page; "" after the last.
	NextCursor string `json:"nextCursor,omitempty" doc:"Cursor of the next page; absent after the last."`
}

// EntryList is one page of the remediation log.
type EntryList struct {
	Items      []journal.Entry `json:"items"`
	NextCursor string          `json:"nextCursor,omitempty" doc:"Cursor of the next page; absent after the last."`
}

// RunDetail is a run with everything that belongs to it.
type RunDetail struct {
	Run        store.Run         `json:"run"`
	Steps      []store.Step      `json:"steps" doc:"The steps of all remedies so far, each with its plan and its result."`
	Candidates []store.Candidate `json:"candidates" doc:"The alerts that the run answers."`
	Approval   *store.Approval   `json:"approval,omitempty" doc:"The approval that the run waits for."`
}

// DecisionBody is a person's answer to a plan.
type DecisionBody struct {
	PlanHash string `json:"planHash,omitempty" maxLength:"128" doc:"The plan that the decision is about. Required to approve; to reject, absent means whatever is pending."`
	Reason   string `json:"reason,omitempty" maxLength:"2000" doc:"Why, for the log."`
}

// PauseBody asks for a pause.
type PauseBody struct {
	Scope guard.PauseScope `json:"scope" enum:"global,playbook,namespace"`
	Value string           `json:"value,omitempty" maxLength:"253" doc:"The playbook or namespace; absent for a global pause."`
	Why   string           `json:"why" minLength:"1" maxLength:"2000" doc:"Why, for the log and for whoever wonders."`
}

// PauseList are the pauses in force.
type PauseList struct {
	Items []guard.Pause `json:"items"`
}

// PlaybookList are the playbooks in force, in their order of precedence.
type PlaybookList struct {
	// Hash is the same as long as no playbook changes.
	Hash  string     `json:"hash" doc:"Stays the same as long as no playbook changes."`
	Items []Playbook `json:"items"`
	// Refused is empty when the files as they are now are in force.
	Refused []string `json:"refused,omitempty" doc:"What is wrong with the files as they are now, one problem each: the last reload failed, and the playbooks above are those from before."`
}

// Playbook is what the API tells of a playbook.
type Playbook struct {
	Name               string            `json:"name"`
	Description        string            `json:"description,omitempty"`
	Labels             map[string]string `json:"labels,omitempty"`
	File               string            `json:"file"`
	Line               int               `json:"line"`
	Hash               string            `json:"hash"`
	Matchers           []string          `json:"matchers"`
	When               string            `json:"when,omitempty"`
	Priority           int               `json:"priority"`
	Exclusive          bool              `json:"exclusive"`
	Mode               guard.Mode        `json:"mode,omitempty" doc:"Absent: the configuration's."`
	TargetKind         string            `json:"targetKind"`
	ServiceAccountName string            `json:"serviceAccountName,omitempty"`
	Remedies           []Remedy          `json:"remedies"`
}

// Remedy is one rung of a playbook's ladder.
type Remedy struct {
	Name          string         `json:"name"`
	When          string         `json:"when,omitempty"`
	Mode          guard.Mode     `json:"mode,omitempty"`
	OnFailure     string         `json:"onFailure"`
	Steps         []PlaybookStep `json:"steps"`
	VerifyTimeout string         `json:"verifyTimeout"`
	StableFor     string         `json:"stableFor"`
}

// PlaybookStep is one step of a remedy.
type PlaybookStep struct {
	Name   string `json:"name"`
	Action string `json:"action"`
}

// Readiness is the answer of /-/ready.
type Readiness struct {
	Ready  bool          `json:"ready"`
	Checks []CheckResult `json:"checks"`
}

// CheckResult is how one check went.
type CheckResult struct {
	Name  string `json:"name"`
	OK    bool   `json:"ok"`
	Error string `json:"error,omitempty"`
}

// Health is the answer of /-/healthy and /-/reload.
type Health struct {
	Status string    `json:"status"`
	At     time.Time `json:"at"`
}
