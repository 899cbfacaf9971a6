package guard

import (
	"time"

	"github.com/alertmedic/alertmedic/internal/action"
)

// Ledger is what the store knows that admission counts by. The store fills it
// inside the admission transaction, after it has locked the scope rows, so that
// two replicas never decide on the same state.
type Ledger struct {
	// Now is the store's clock: the database's on PostgreSQL.
	Now    time.Time
	Pauses []Pause
	// Active are the runs that have begun to change something and have not ended,
	// this one excluded. One that has only looked so far takes no slot: several
	// of them would keep each other waiting for ever.
	// Those that wait for a person's approval are not among them: they do nothing,
	// and five unanswered questions must not stop everything else. They are
	// admitted anew when they are approved.
	Active []Active
	// Past are the ended attempts on the same attempt key, newest first, of any
	// playbook, up to the longest window asked for.
	Past []Past
	// Reservations are those live at any time since Query.Since, and those made
	// since Query.ReservedSince.
	Reservations []Reservation
	// Buckets are the token buckets of Query.Scopes that were ever drawn from.
	Buckets []Bucket
	// Storms are those of Query.Scopes that were ever seen.
	Storms []Storm
	// NewRuns is how many runs were created since Query.StormSince, counted up to
	// Query.StormLimit + 1.
	NewRuns int
}

// Query says how far a Ledger must reach.
type Query struct {
	RunID      string
	AttemptKey string
	// PastSince bounds Ledger.Past.
	PastSince time.Time
	// Since is the evidence's observedAt: reservations released after it count,
	// because the evidence cannot have seen their effect yet.
	Since time.Time
	// ReservedSince bounds the reservations that velocity counts; zero is none.
	ReservedSince time.Time
	// StormSince and StormLimit bound Ledger.NewRuns.
	StormSince time.Time
	StormLimit int
	// Scopes are locked before the ledger is read; storms and buckets belong to a
	// scope.
	Scopes []string
}

// PauseScope says what a pause holds back.
type PauseScope string

// The scopes of a pause.
const (
	PauseGlobal    PauseScope = "global"
	PausePlaybook  PauseScope = "playbook"
	PauseNamespace PauseScope = "namespace"
)

// Pause is a durable hold: it survives restarts and says who and why.
type Pause struct {
	Scope PauseScope `json:"scope"`
	// Value names the playbook or namespace; "" for a global pause.
	Value string    `json:"value,omitempty"`
	By    string    `json:"by"`
	Why   string    `json:"why"`
	At    time.Time `json:"at"`
}

// Active is a run that has begun to change something and has not ended.
type Active struct {
	RunID      string      `json:"runID"`
	Playbook   string      `json:"playbook"`
	Namespace  string      `json:"namespace,omitempty"`
	TargetKey  string      `json:"targetKey"`
	AttemptKey string      `json:"attemptKey"`
	Kind       action.Kind `json:"kind,omitempty"`
	NodePool   string      `json:"nodePool,omitempty"`
	Zone       string      `json:"zone,omitempty"`
	Disruptive bool        `json:"disruptive,omitempty"`
}

// Past is an ended attempt: a run that sent at least one mutation.
type Past struct {
	RunID    string    `json:"runID"`
	Playbook string    `json:"playbook"`
	Outcome  string    `json:"outcome"`
	Healed   bool      `json:"healed"`
	Started  time.Time `json:"started"` // first intent
	Ended    time.Time `json:"ended"`
}

// Bucket is the state of a token bucket when it was last drawn from.
type Bucket struct {
	Scope  string    `json:"scope"`
	Tokens float64   `json:"tokens"`
	At     time.Time `json:"at"`
}

// Storm is the last storm of a scope.
type Storm struct {
	Scope    string    `json:"scope"`
	Since    time.Time `json:"since"`    // the first sign of this storm
	LastSeen time.Time `json:"lastSeen"` // the last sign: calm is counted from it
}

// Reservation counts a target as unhealthy from the admission of a disruptive
// run until its release, and what was taken away for velocity long after that.
type Reservation struct {
	RunID     string `json:"runID"`
	Scope     string `json:"scope"` // see NodesScope, PoolScope, PodsScope, RemovedScope
	TargetKey string `json:"targetKey"`
	// Weight is how many replicas were removed in a RemovedScope, else 0.
	Weight   int        `json:"weight,omitempty"`
	Created  time.Time  `json:"created"`
	Released *time.Time `json:"released,omitempty"`
}
