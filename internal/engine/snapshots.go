package engine

import (
	"context"
	"fmt"
	"sync"

	"github.com/alertmedic/alertmedic/playbooks"
)

// snapshots keeps compiled playbooks, so that a step does not compile its
// playbook anew. It is safe for concurrent use.
type snapshots struct {
	mu sync.Mutex
	m  map[string]*playbooks.Playbook // by hash
}

// spareSnapshots is how many playbooks are kept that are not loaded any more:
// those that runs from before a reload still execute.
const spareSnapshots = 16

func (s *snapshots) get(hash string) *playbooks.Playbook {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.m[hash]
}

// put keeps a playbook. When there are many that the loaded set does not have,
// they are let go of: a run that still needs one has it compiled again.
func (s *snapshots) put(hash string, pb *playbooks.Playbook, loaded *playbooks.Set) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.m == nil {
		s.m = map[string]*playbooks.Playbook{}
	}
	if len(s.m) >= loaded.Len()+spareSnapshots {
		current := map[string]bool{}
		for _, l := range loaded.All() {
			current[l.Hash] = true
		}
		for old := range s.m {
			if !current[old] {
				delete(s.m, old)
			}
		}
	}
	s.m[hash] = pb
}

// playbook returns the compiled snapshot of a hash.
func (e *Engine) playbook(ctx context.Context, hash string) (*playbooks.Playbook, error) {
	if pb := e.compiled.get(hash); pb != nil {
		return pb, nil
	}
	doc, err := e.Store.GetPlaybook(ctx, hash)
	if err != nil {
		return nil, fmt.Errorf("read the snapshot of the playbook: %w", err)
	}
	pb, err := playbooks.Compile(doc, e.Actions)
	if err != nil {
		return nil, &snapshotError{err}
	}
	e.compiled.put(hash, pb, e.Playbooks())
	return pb, nil
}

// snapshotError says that this version cannot execute a playbook that an
// earlier one accepted: no retry helps.
type snapshotError struct{ err error }

func (e *snapshotError) Error() string {
	return "compile the snapshot of the playbook: " + e.err.Error()
}
func (e *snapshotError) Unwrap() error { return e.err }
