// Package journal defines the append-only remediation log: the schema of an
// entry, its canonical form, the hash chain, signed checkpoints and their
// verification. Storing entries is the store's work.
//
// It is a leaf: it imports only action.
package journal

import (
	"encoding/json"
	"time"

	"github.com/alertmedic/alertmedic/internal/action"
)

// Kind says what an entry records: a closed set, named noun.verb.
type Kind string

// The kinds of entries.
const (
	EpisodeOpened     Kind = "episode.opened"
	EpisodeReopened   Kind = "episode.reopened"
	EpisodeClosed     Kind = "episode.closed"
	AlertRejected     Kind = "alert.rejected"  // a bad alert inside a good envelope
	AlertUnmatched    Kind = "alert.unmatched" // no playbook matches
	AlertOrphan       Kind = "alert.resolved-without-firing"
	CandidateCreated  Kind = "candidate.created"  // beside the first, which episode.opened names: see CreatesCandidate
	CandidateRequeued Kind = "candidate.requeued" // what it was resolved to is gone or replaced: its target is looked for anew
	CandidateEnded    Kind = "candidate.ended"    // could not become or join a run: outcome and reason
	RunCreated        Kind = "run.created"
	RunJoined         Kind = "run.joined"   // a candidate joined a run
	RunAttached       Kind = "run.attached" // after the first intent: evidence only
	RunWaiting        Kind = "run.waiting"  // wait reason and due time
	RunPlanned        Kind = "run.planned"  // plans of a remedy, before any intent
	RunEnded          Kind = "run.ended"
	RunTakenOver      Kind = "run.taken-over" // by another replica, or after a restart
	GuardDecided      Kind = "guard.decided"
	StepIntent        Kind = "step.intent" // written before the call
	StepProgress      Kind = "step.progress"
	StepDone          Kind = "step.done"
	StepFailed        Kind = "step.failed"
	StepUnknown       Kind = "step.unknown"
	StepObserved      Kind = "step.observed" // what Observe concluded after a crash
	StepLate          Kind = "step.late"     // a call ended after another worker took the run over
	StepSimulated     Kind = "step.simulated"
	StepReverted      Kind = "step.reverted"
	StepRevertFailed  Kind = "step.revert-failed"
	VerifyStarted     Kind = "verify.started"
	VerifyVerdict     Kind = "verify.verdict"
	RemedyFailed      Kind = "remedy.failed" // the ladder goes on, or ends
	ApprovalRequested Kind = "approval.requested"
	ApprovalDecided   Kind = "approval.decided"
	ApprovalVoided    Kind = "approval.voided" // the plan drifted
	StormBegan        Kind = "storm.began"     // very much breaks at once: nothing new is changed
	StormGoesOn       Kind = "storm.goes-on"   // still, with what became of the runs
	StormEnded        Kind = "storm.ended"
	PauseSet          Kind = "pause.set"
	PauseCleared      Kind = "pause.cleared"
	ConfigReloaded    Kind = "config.reloaded"
	ConfigRejected    Kind = "config.rejected"
	ServiceStarted    Kind = "service.started"
	ServiceStopped    Kind = "service.stopped"
	ServiceRestored   Kind = "service.restored" // from a backup: what came after it is not here
	JournalPruned     Kind = "journal.pruned"   // entries up to a seq are removed: see Pruned
	RetentionApplied  Kind = "retention.applied"
)

// Kinds lists all kinds.
func Kinds() []Kind {
	return []Kind{
		EpisodeOpened, EpisodeReopened, EpisodeClosed, AlertRejected, AlertUnmatched,
		AlertOrphan, CandidateCreated, CandidateRequeued, CandidateEnded, RunCreated,
		RunJoined, RunAttached, RunWaiting, RunPlanned, RunEnded,
		RunTakenOver, GuardDecided, StepIntent, StepProgress, StepDone,
		StepFailed, StepUnknown, StepObserved, StepLate, StepSimulated,
		StepReverted, StepRevertFailed, VerifyStarted, VerifyVerdict, RemedyFailed,
		ApprovalRequested, ApprovalDecided, ApprovalVoided, StormBegan, StormGoesOn,
		StormEnded, PauseSet, PauseCleared, ConfigReloaded, ConfigRejected,
		ServiceStarted, ServiceStopped, ServiceRestored, JournalPruned, RetentionApplied,
	}
}

// Entry is one record of the remediation log. Fields that do not apply are
// empty. Times are UTC with microseconds, the precision both databases keep.
type Entry struct {
	Seq  int64     `json:"seq,omitempty"` // contiguous from 1, given by the sealer
	ID   string    `json:"id"`            // UUIDv7, given when the entry is made
	At   time.Time `json:"at"`
	Kind Kind      `json:"kind"`

	Cluster     string         `json:"cluster,omitempty"`
	Source      string         `json:"source,omitempty"`
	Fingerprint string         `json:"fingerprint,omitempty"`
	AlertName   string         `json:"alertname,omitempty"`
	EpisodeID   string         `json:"episodeID,omitempty"`
	CandidateID string         `json:"candidateID,omitempty"`
	RunID       string         `json:"runID,omitempty"`
	Playbook    string         `json:"playbook,omitempty"`
	Remedy      string         `json:"remedy,omitempty"`
	Step        string         `json:"step,omitempty"`
	Action      string         `json:"action,omitempty"`
	Target      *action.Target `json:"target,omitempty"`
	Outcome     string         `json:"outcome,omitempty"`
	Reason      string         `json:"reason,omitempty"`
	Message     string         `json:"message,omitempty"`
	Actor       string         `json:"actor,omitempty"` // who: a replica, or a person's identity
	// Data is a JSON document of the kind's own: plan, verdict, evidence.
	Data json.RawMessage `json:"data,omitempty"`

	PrevHash string `json:"prevHash,omitempty"` // hex SHA-256 of the entry before
	Hash     string `json:"hash,omitempty"`
}

// CreatesCandidate reports whether the entry tells of a candidate for the first
// time. The first candidate of an episode is told of by the entry that opens it,
// each further one by an entry of its own.
func (e Entry) CreatesCandidate() bool {
	return e.Kind == CandidateCreated || e.Kind == EpisodeOpened && e.CandidateID != ""
}
