package engine

import (
	"context"
	"sync"
	"time"

	"github.com/alertmedic/alertmedic/internal/kube"
)

// reading is what the decision at hand has read of the cluster, and the store's
// time before it did: evidence is as old as the oldest that it may rest on.
type reading struct {
	*kube.Reading
	since time.Time
}

// readings hands what was read to find a target over to the run that comes of it,
// which most often begins at once.
type readings struct {
	mu   sync.Mutex
	left map[string]reading // by run
}

// leave keeps a reading for a run.
func (r *readings) leave(run string, read reading) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.left == nil {
		r.left = map[string]reading{}
	}
	for id, l := range r.left { // of runs that wait, or that another process works on
		if l.Age() > kube.MaxReading {
			delete(r.left, id)
		}
	}
	r.left[run] = read
}

// take returns what was left for a run, and nothing when that is too old to be
// of use.
func (r *readings) take(run string) reading {
	r.mu.Lock()
	defer r.mu.Unlock()
	l, ok := r.left[run]
	delete(r.left, run)
	if !ok || l.Age() > kube.MaxReading {
		return reading{}
	}
	return l
}

// reads makes a move of the run that decides about a change read each object once,
// from planning over the guards to the call. It reads anew, unless it goes on with
// what the target was found by a moment ago. What looks whether a change was made,
// and what it did, never shares a reading.
func (w *work) reads(ctx context.Context, before reading) context.Context {
	if w.read = before; w.read.Reading == nil || w.now.Sub(w.read.since) > kube.MaxReading {
		w.read = reading{kube.NewReading(), w.now}
	}
	return kube.WithReading(ctx, w.read.Reading)
}
