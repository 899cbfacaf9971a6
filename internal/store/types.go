// Package store keeps everything durable: episodes, candidates, runs, steps,
// locks, reservations, pauses, approvals, the outbox and the journal, on SQLite
// (the embedded default) or PostgreSQL (what replicas run on).
//
// Every method is safe for concurrent use. A method that writes returns only
// after its transaction is durably committed.
package store

import (
	"encoding/json"
	"errors"
	"time"

	"github.com/alertmedic/alertmedic/internal/action"
	"github.com/alertmedic/alertmedic/internal/alert"
	"github.com/alertmedic/alertmedic/internal/guard"
	"github.com/alertmedic/alertmedic/internal/journal"
)

// Phase is the coarse state of a candidate or a run.
type Phase string

// The phases.
const (
	Queued Phase = "queued" // not admitted yet
	Active Phase = "active" // admitted
	Done   Phase = "done"
)

// Wait says what a run that is not being worked on waits for.
type Wait string

// The wait reasons.
const (
	WaitNone     Wait = ""
	WaitApproval Wait = "approval"
	WaitCooldown Wait = "cooldown"
	WaitGuard    Wait = "guard" // delayed by a guard other than cooldown
	WaitVerify   Wait = "verify"
	WaitRetry    Wait = "retry"
	WaitStep     Wait = "step" // an action asked to be called again
	WaitLock     Wait = "lock"
)

// Outcome is how a candidate or a run ended.
type Outcome string

// The outcomes.
const (
	Healed         Outcome = "healed"
	NotHealed      Outcome = "not-healed"
	Escalated      Outcome = "escalated"
	Suppressed     Outcome = "suppressed"
	Superseded     Outcome = "superseded"
	Cancelled      Outcome = "cancelled"
	Expired        Outcome = "expired"
	OutcomeUnknown Outcome = "outcome-unknown"
	Simulated      Outcome = "simulated" // Observe mode: planned and recorded, nothing sent
	Joined         Outcome = "joined"    // candidates only: the run decides their fate
	Failed         Outcome = "failed"    // candidates only: no target could be resolved
)

// Outcomes lists the outcomes of runs, to initialise metrics.
func Outcomes() []Outcome {
	return []Outcome{Healed, NotHealed, Escalated, Suppressed, Superseded, Cancelled, Expired, OutcomeUnknown, Simulated}
}

// Episode is one stretch of firing of one signal.
type Episode struct {
	ID       string       `json:"id"`
	Signal   alert.Signal `json:"signal"`
	Cluster  string       `json:"cluster"`
	Alert    alert.Alert  `json:"alert"` // the latest observation
	Open     bool         `json:"open"`
	OpenedAt time.Time    `json:"openedAt"`
	ClosedAt time.Time    `json:"closedAt,omitzero"`
	LastSeen time.Time    `json:"lastSeen"`
}

// Observation is one alert of one accepted webhook with the playbooks that
// matched it, highest priority first.
type Observation struct {
	Source    string
	Cluster   string
	Alert     alert.Alert
	Playbooks []MatchedPlaybook
}

// MatchedPlaybook is what accept records about a match.
type MatchedPlaybook struct {
	Name      string
	Hash      string // of the playbook's canonical form; see PutPlaybook
	Priority  int
	Exclusive bool
	// ExpireAfter bounds how long the candidate and its run may wait and work.
	ExpireAfter time.Duration
}

// Batch is what one webhook asks to be accepted: all of it commits in one
// transaction, or nothing.
type Batch struct {
	Observations []Observation
	// Rejected are entries for bad alerts, written as they are.
	Rejected []journal.Entry
}

// AcceptResult counts what a batch changed.
type AcceptResult struct {
	Opened, Reopened, Closed, Repeated, Stale, Orphaned, Candidates, Unmatched int
}

// Candidate is (episode, playbook): a reason to run, not resolved yet.
type Candidate struct {
	ID           string  `json:"id"`
	EpisodeID    string  `json:"episodeID"`
	Playbook     string  `json:"playbook"`
	PlaybookHash string  `json:"playbookHash"`
	Priority     int     `json:"priority"`
	Exclusive    bool    `json:"exclusive"`
	Phase        Phase   `json:"phase"`
	Outcome      Outcome `json:"outcome,omitempty"`
	Reason       string  `json:"reason,omitempty"`
	RunID        string  `json:"runID,omitempty"`
	Attached     bool    `json:"attached,omitempty"` // joined after the run's first intent
	Attempts     int     `json:"attempts"`           // of resolution, since it was queued last
	// Requeues is how often it was queued again because its target was lost, and
	// RequeuedAt for when the last time; zero before.
	Requeues   int       `json:"requeues,omitempty"`
	RequeuedAt time.Time `json:"requeuedAt,omitzero"`
	CreatedAt  time.Time `json:"createdAt"`
	DueAt      time.Time `json:"dueAt"`
	ExpiresAt  time.Time `json:"expiresAt"`
	Episode    Episode   `json:"episode"` // filled by the store when read
	Lease      Lease     `json:"-"`
}

// Lease is the claim on a candidate or run; Epoch is the fencing token.
type Lease struct {
	Owner string
	Epoch int64
	Until time.Time
}

// Run is one execution of one playbook against one target.
type Run struct {
	ID           string        `json:"id"`
	Playbook     string        `json:"playbook"`
	PlaybookHash string        `json:"playbookHash"` // the snapshot that the run executes
	Priority     int           `json:"priority"`
	Exclusive    bool          `json:"exclusive"`
	Source       string        `json:"source"`
	Target       action.Target `json:"target"`
	TargetKey    string        `json:"targetKey"`  // Kind/namespace/name/UID within the cluster: what candidates join by
	AttemptKey   string        `json:"attemptKey"` // what cooldown and attempts count by
	AlertName    string        `json:"alertname"`  // of the first candidate
	Phase        Phase         `json:"phase"`
	Wait         Wait          `json:"wait,omitempty"`
	Outcome      Outcome       `json:"outcome,omitempty"`
	Reason       string        `json:"reason,omitempty"`
	Message      string        `json:"message,omitempty"` // the latest thing worth telling a person
	Remedy       int           `json:"remedy"`            // index into the playbook's remedies
	Step         int           `json:"step"`              // index into the remedy's steps
	Disruptive   bool          `json:"disruptive,omitempty"`
	// State is the engine's own, opaque to the store.
	State     json.RawMessage `json:"state,omitempty"`
	CreatedAt time.Time       `json:"createdAt"`
	DueAt     time.Time       `json:"dueAt"`
	ExpiresAt time.Time       `json:"expiresAt"`
	// AdmittedAt is the first admission, IntentAt the first intent of a
	// mutation; both zero until then.
	AdmittedAt time.Time `json:"admittedAt,omitzero"`
	IntentAt   time.Time `json:"intentAt,omitzero"`
	EndedAt    time.Time `json:"endedAt,omitzero"`
	// FiredAt is the earliest openedAt of the joined episodes.
	FiredAt time.Time `json:"firedAt,omitzero"`
	Lease   Lease     `json:"-"`
	// TakenOver says that the worker before never gave its lease back: it died, or
	// stood still for longer than the lease. It holds until the first transition.
	TakenOver bool `json:"-"`
	// WorkersLost counts such workers, in a row: none of them came to give the run
	// back, whatever it recorded before.
	WorkersLost int `json:"-"`
}

// Fence returns the proof of the claim under which the run was read.
func (r Run) Fence() Fence { return Fence{RunID: r.ID, Owner: r.Lease.Owner, Epoch: r.Lease.Epoch} }

// Fence is checked by every write of a claimed run: owner and epoch must still
// be those of the row.
type Fence struct {
	RunID string
	Owner string
	Epoch int64
}

// StepStatus is the state of one step of one remedy of a run.
type StepStatus string

// The states of a step. StepIntended is the one that a crash leaves behind.
const (
	StepPlanned   StepStatus = "planned"
	StepIntended  StepStatus = "intended" // a call may be in flight
	StepWaiting   StepStatus = "waiting"  // between two ticks: the last call's outcome is known
	StepDone      StepStatus = "done"
	StepFailed    StepStatus = "failed"
	StepUnknown   StepStatus = "unknown"
	StepReverted  StepStatus = "reverted"
	StepSimulated StepStatus = "simulated"
)

// Step is one step of one remedy of a run: key (RunID, Remedy, Step).
type Step struct {
	RunID      string          `json:"runID"`
	Remedy     int             `json:"remedy"`
	Step       int             `json:"step"`
	RemedyName string          `json:"remedyName"`
	Name       string          `json:"name"`
	Action     string          `json:"action"`
	Status     StepStatus      `json:"status"`
	Plan       json.RawMessage `json:"plan,omitempty"`   // action.Plan
	State      json.RawMessage `json:"state,omitempty"`  // action.Result.State of the last tick
	Result     json.RawMessage `json:"result,omitempty"` // action.Result of the last tick
	// Touched says that a call may have changed something, even one that left no State.
	Touched   bool `json:"touched,omitempty"`
	Reverting bool `json:"reverting,omitempty"`
	Ticks     int  `json:"ticks"`   // calls made
	Retries   int  `json:"retries"` // of them after a retryable failure
	// CallDeadline is the deadline of the call whose intent is recorded.
	CallDeadline time.Time `json:"callDeadline,omitzero"`
	StartedAt    time.Time `json:"startedAt,omitzero"`
	EndedAt      time.Time `json:"endedAt,omitzero"`
	Reason       string    `json:"reason,omitempty"`
	Message      string    `json:"message,omitempty"`
}

// Transition is one atomic change of a claimed run: the fence is checked, then
// everything is written, in one transaction.
type Transition struct {
	Fence Fence
	Run   Run    // the whole new row; identity columns and lease are ignored
	Steps []Step // upserted
	// Locks are taken besides those held, sorted, all or nothing (ErrLocked).
	Locks   []string
	Entries []journal.Entry
	Outbox  []Message
	// Reserve adds reservations; reservations and locks are released when
	// Run.Phase is Done.
	Reserve []guard.Reservation
	// Buckets are drawn from, and Storms (scopes) seen going on: both are kept
	// whatever becomes of the run.
	Buckets []guard.Bucket
	Storms  []string
	// Approval asks for, or voids, an approval.
	Approval *Approval
	// Release gives the lease back; the run can be claimed again at Run.DueAt.
	// Otherwise the lease is extended.
	Release bool
	// StillLost keeps Run.WorkersLost over a release which shows no more than that the
	// worker before was lost: what it died of is still ahead.
	StillLost bool
	// RequeueAt, when set, queues the joined candidates of a run that ends again,
	// for that time: their target is looked for anew. Those that have expired, whose
	// alert has resolved, or that were queued MaxRequeues times stay with the run.
	RequeueAt time.Time
	// Observed is folded into the episodes, as Accept would.
	Observed []Observation
	// Known is how many joined candidates the decision to end the run took into
	// account; with more of them there by now the transition is refused with
	// ErrJoined. 0 ends the run whoever has joined.
	Known int
}

// ApprovalStatus is the state of an approval.
type ApprovalStatus string

// The states of an approval.
const (
	ApprovalPending  ApprovalStatus = "pending"
	ApprovalApproved ApprovalStatus = "approved"
	ApprovalRejected ApprovalStatus = "rejected"
	ApprovalVoid     ApprovalStatus = "void" // the plan drifted, or the run ended
)

// Approval is bound to (run, rung, plan hash, UID): a decision about anything
// else is refused.
type Approval struct {
	RunID     string         `json:"runID"`
	Remedy    int            `json:"remedy"`
	PlanHash  string         `json:"planHash"`
	TargetUID string         `json:"targetUID"`
	Status    ApprovalStatus `json:"status"`
	AskedAt   time.Time      `json:"askedAt"`
	DecidedAt time.Time      `json:"decidedAt,omitzero"`
	By        string         `json:"by,omitempty"`
	Why       string         `json:"why,omitempty"`
}

// Decision is a person's answer. PlanHash "" means the pending plan, whatever
// it is; a non-empty one must equal it.
type Decision struct {
	RunID    string
	Approve  bool
	PlanHash string
	By       string
	Why      string
}

// Message is something to deliver outside: written in the transaction of what
// it tells, delivered later, at least once, never changing a run.
type Message struct {
	ID      string // UUIDv7
	Channel string // "slack", "event"
	RunID   string
	// Key orders and threads messages: those of one key are delivered in order.
	Key     string
	Payload json.RawMessage
	// Set by the store when claimed.
	Attempts int
	DueAt    time.Time
	Lease    Lease
}

// Page asks for a page of a listing: at most Limit items after Cursor.
type Page struct {
	Limit  int
	Cursor string // opaque; "" is the beginning
	// Descending lists the newest first.
	Descending bool
}

// RunFilter selects runs; empty fields select everything.
type RunFilter struct {
	Phase, Playbook, Namespace, Outcome, Reason, Wait, AlertName, TargetName, Kind string
	Since, Until                                                                   time.Time
}

// LogFilter selects sealed journal entries; empty fields select everything.
type LogFilter struct {
	Kind, Playbook, Namespace, RunID, EpisodeID, Fingerprint, AlertName, Action, Outcome, Reason, TargetKind, TargetName string
	Since, Until                                                                                                         time.Time
	// AfterSeq selects entries with a greater seq.
	AfterSeq int64
}

// Errors of the store, for errors.Is. Each is wrapped with what to do about it.
var (
	ErrFenced      = errors.New("lease lost: another worker owns the run")
	ErrJoined      = errors.New("an alert has joined the run since it was read")
	ErrNotFound    = errors.New("not found")
	ErrNewerSchema = errors.New("the database was written by a newer version")
	ErrBusy        = errors.New("the database is in use by another process")
	ErrNoApproval  = errors.New("no approval is pending")
	ErrPlanChanged = errors.New("the pending plan is another one")
	ErrUnavailable = errors.New("the database is not available")
	ErrCorrupt     = errors.New("the database file is damaged")
	ErrBadCursor   = errors.New("the cursor is not one that this service gave out")
	ErrAmbiguous   = errors.New("more than one matches")
	ErrInvalid     = errors.New("not acceptable")
	ErrClosed      = errors.New("the store is closed")
)

// LockedError says that a lock key is held by another run.
type LockedError struct{ Key, HolderRun string }

func (e *LockedError) Error() string { return "locked: " + e.Key + " is held by run " + e.HolderRun }
