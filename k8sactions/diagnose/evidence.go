package diagnose

import (
	"encoding/json"
	"strings"

	"github.com/alertmedic/alertmedic/k8sactions/contract"
)

// Evidence is what diagnose records. All text in it is redacted.
type Evidence struct {
	Target     string      `json:"target"`
	Conditions []Condition `json:"conditions,omitempty"`
	Status     any         `json:"status,omitempty"`    // the numbers that matter for the kind
	Endpoints  *Endpoints  `json:"endpoints,omitempty"` // of a Service
	Pods       []Pod       `json:"pods,omitempty"`
	Events     []Event     `json:"events,omitempty"` // newest first
	Rollout    []Rollout   `json:"rollout,omitempty"`
	Logs       []Log       `json:"logs,omitempty"`
	// Missing says what could not be read, and why.
	Missing []string `json:"missing,omitempty"`
	// Cut says what was left out for size.
	Cut []string `json:"cut,omitempty"`
}

// Endpoints counts the addresses behind a Service.
type Endpoints struct {
	Ready    int `json:"ready"`
	NotReady int `json:"notReady"`
}

// Condition is a condition of the target.
type Condition struct {
	Type    string `json:"type"`
	Status  string `json:"status"`
	Reason  string `json:"reason,omitempty"`
	Message string `json:"message,omitempty"`
	Since   string `json:"since,omitempty"`
}

// Pod is one of the target's pods.
type Pod struct {
	Name       string      `json:"name"`
	Phase      string      `json:"phase"`
	Node       string      `json:"node,omitempty"`
	Ready      bool        `json:"ready"`
	Containers []Container `json:"containers,omitempty"`
}

// Container is the state of a container and how its last life ended.
type Container struct {
	Name     string `json:"name"`
	Image    string `json:"image,omitempty"`
	Restarts int32  `json:"restarts,omitempty"`
	State    string `json:"state"`
	Last     string `json:"last,omitempty"`
}

// Event is a Kubernetes Event.
type Event struct {
	Object  string `json:"object"`
	Type    string `json:"type,omitempty"`
	Reason  string `json:"reason"`
	Message string `json:"message"`
	Count   int32  `json:"count,omitempty"`
	Last    string `json:"last,omitempty"`
}

// Rollout is one revision of the target.
type Rollout struct {
	Revision int64    `json:"revision"`
	Name     string   `json:"name"`
	Created  string   `json:"created"`
	Images   []string `json:"images,omitempty"`
}

// Log is the end of a container's log.
type Log struct {
	Pod       string   `json:"pod"`
	Container string   `json:"container"`
	Previous  bool     `json:"previous,omitempty"` // of the container's life before
	Lines     []string `json:"lines"`
}

const cutMark = "[cut]"

// encode writes the evidence in at most limit bytes. The oldest log lines go
// first, then events, revisions and pods; why something is missing stays.
func (e *Evidence) encode(limit int) json.RawMessage {
	raw := contract.Encode(e)
	if len(raw) <= limit {
		return raw
	}
	cut := map[string]bool{}
	note := func(what string) {
		if !cut[what] {
			cut[what] = true
			e.Cut = append(e.Cut, what)
		}
	}
	for len(raw) > limit {
		switch {
		case e.trimLogs(len(raw) - limit):
			note("log lines")
		case len(e.Events) > 0:
			e.Events = e.Events[:len(e.Events)/2]
			note("events")
		case len(e.Rollout) > 2:
			e.Rollout = e.Rollout[:len(e.Rollout)/2]
			note("rollout history")
		case len(e.Pods) > 0:
			e.Pods = e.Pods[:len(e.Pods)/2]
			note("pods")
		case e.Status != nil:
			e.Status = nil
			note("status")
		case len(e.Conditions) > 0:
			e.Conditions = nil
			note("conditions")
		case len(e.Missing) > 0:
			e.Missing = e.Missing[:len(e.Missing)/2]
			note("what could not be read")
		default:
			return contract.Encode(Evidence{Target: shortened(e.Target, 253), Cut: []string{"everything"}})
		}
		raw = contract.Encode(e)
	}
	return raw
}

// trimLogs takes away at least part of excess bytes from the start of the
// longest log, whose end matters most.
func (e *Evidence) trimLogs(excess int) bool {
	longest, size := -1, 0
	for i, l := range e.Logs {
		n := 0
		for _, line := range l.Lines {
			n += len(line)
		}
		if n > size {
			longest, size = i, n
		}
	}
	if longest < 0 {
		return false
	}
	l := &e.Logs[longest]
	if len(l.Lines) > 0 && l.Lines[0] == cutMark {
		l.Lines = l.Lines[1:]
	}
	if len(l.Lines) <= 1 {
		l.Lines = nil
		return true
	}
	drop := 0
	for gone := 0; drop < len(l.Lines)/2+1 && gone < excess+len(cutMark)+3; drop++ {
		gone += len(l.Lines[drop])
	}
	l.Lines = append([]string{cutMark}, l.Lines[drop:]...)
	return true
}

func shortened(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "") + cutMark
}
