package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/alertmedic/alertmedic/internal/alert"
	"github.com/alertmedic/alertmedic/internal/journal"
	"github.com/alertmedic/alertmedic/internal/parallel"
)

// groupLimit bounds how many webhooks share one transaction, so that a storm
// does not make the first of them wait for the last.
const groupLimit = 128

// acceptTimeout bounds one shared transaction. It does not follow any caller's
// context: one that hangs up must not undo what the others wait for.
const acceptTimeout = 15 * time.Second

type acceptRequest struct {
	observed []observed
	rejected []journal.Entry
	out      chan acceptReply // with room for one: the committer never waits
}

type acceptReply struct {
	result AcceptResult
	err    error
}

// observed is an observation in the form in which it is stored.
type observed struct {
	Observation
	signal alert.Signal
	doc    string // the alert
	about  []byte // what the journal keeps of an alert that opens an episode
}

// Accept folds a webhook's alerts into the episodes and returns after they are
// durable. Concurrent calls share one transaction; a batch that cannot be stored
// fails alone. When ctx ends first the batch may be committed all the same;
// accepting it again changes nothing.
//
// The error wraps ErrInvalid for a batch that can never be accepted; any other
// one is worth a retry.
func (s *Store) Accept(ctx context.Context, b Batch) (AcceptResult, error) {
	req, err := s.prepare(b)
	if err != nil {
		return AcceptResult{}, s.wrap("accept", err)
	}
	select {
	case s.accepts <- req:
	case <-s.closing:
		return AcceptResult{}, fmt.Errorf("accept: %w", ErrClosed)
	case <-ctx.Done():
		return AcceptResult{}, fmt.Errorf("accept: %s did not answer in time, look at its load and the network between; nothing was written: %w", s.loc.shown, ctx.Err())
	}
	select {
	case r := <-req.out:
		return r.result, r.err
	case <-ctx.Done():
		return AcceptResult{}, fmt.Errorf("accept: %s did not answer in time, look at its load and the network between; it may or may not have been written, and comes again: %w", s.loc.shown, ctx.Err())
	}
}

// ObserveEpisodes folds what was read from a source exactly as Accept folds what
// a source sent.
func (s *Store) ObserveEpisodes(ctx context.Context, obs []Observation) (AcceptResult, error) {
	return s.Accept(ctx, Batch{Observations: obs})
}

// prepare does, outside of the transaction, all that needs no database.
func (s *Store) prepare(b Batch) (acceptRequest, error) {
	req := acceptRequest{observed: make([]observed, len(b.Observations)), rejected: b.Rejected, out: make(chan acceptReply, 1)}
	if err := inParts(len(b.Observations), func(i int) (err error) {
		req.observed[i], err = prepareOne(i, b.Observations[i])
		return err
	}); err != nil {
		return req, err
	}
	for _, e := range b.Rejected {
		if _, err := encodeEntry(e); err != nil {
			return req, err
		}
	}
	return req, nil
}

func prepareOne(i int, o Observation) (observed, error) {
	if err := o.invalid(); err != nil {
		return observed{}, fmt.Errorf("alert %d: %w", i, err)
	}
	doc, err := json.Marshal(o.Alert)
	if err != nil {
		return observed{}, fmt.Errorf("alert %d (%s): %w: encode the alert: %w", i, o.Alert.Name(), ErrInvalid, err)
	}
	p := observed{Observation: o, signal: o.signal(), doc: string(doc)}
	if o.Alert.Status == alert.Firing {
		if p.about, err = json.Marshal(struct {
			Labels   map[string]string `json:"labels"`
			StartsAt time.Time         `json:"startsAt"`
		}{o.Alert.Labels, o.Alert.StartsAt}); err != nil {
			return observed{}, fmt.Errorf("alert %d (%s): %w: encode the labels: %w", i, o.Alert.Name(), ErrInvalid, err)
		}
	}
	return p, nil
}

// inParts calls fn for 0 to n-1, on all processors when there are many, and
// returns the first error in that order.
func inParts(n int, fn func(i int) error) error {
	errs := make([]error, n)
	parallel.Each(n, 64, func(i int) { errs[i] = fn(i) })
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// gatherFor is how long a group waits for the senders of the group before it,
// which have their answers now and send again: it is less than a commit takes,
// so whoever came first has the answer sooner than after a commit of few.
const gatherFor = 500 * time.Microsecond

// committer takes every batch that waits and commits them together.
func (s *Store) committer() {
	before := 0 // batches in the group before
	for {
		var group []acceptRequest
		select {
		case req := <-s.accepts:
			group = append(group, req)
		case <-s.closing:
			return
		}
		group = s.gather(group, groupLimit, nil)
		if want := min(before, groupLimit); len(group) < want {
			timer := time.NewTimer(gatherFor)
			group = s.gather(group, want, timer.C)
			timer.Stop()
		}
		before = len(group)
		s.metrics.group.Observe(float64(len(group)))
		s.commitGroup(group)
	}
}

// gather adds batches to a group up to a limit: those that wait and, unless over
// is nil, those that come before it.
func (s *Store) gather(group []acceptRequest, limit int, over <-chan time.Time) []acceptRequest {
	for len(group) < limit {
		if over == nil {
			select {
			case req := <-s.accepts:
				group = append(group, req)
				continue
			default:
				return group
			}
		}
		select {
		case req := <-s.accepts:
			group = append(group, req)
		case <-over:
			return group
		case <-s.closing:
			return group // what was taken is committed, or refused as closed
		}
	}
	return group
}

// commitGroup commits a group and answers it. One that fails, and not for
// trouble of the database, which is everybody's, holds a bad batch: then each
// batch is committed by itself.
func (s *Store) commitGroup(group []acceptRequest) {
	results, err := s.acceptGroup(group)
	if err != nil && len(group) > 1 && s.batchFault(err) {
		for i := range group {
			s.commitGroup(group[i : i+1])
		}
		return
	}
	for i, req := range group {
		if err != nil {
			req.out <- acceptReply{err: err}
			continue
		}
		s.metrics.accepted(results[i])
		req.out <- acceptReply{result: results[i]}
	}
}

// batchFault tells an error that what is written can be the cause of.
func (s *Store) batchFault(err error) bool {
	if errors.Is(err, errRace) || errors.Is(err, ErrClosed) || errors.Is(err, ErrUnavailable) || errors.Is(err, context.DeadlineExceeded) {
		return false
	}
	f := s.dialect.fault(err)
	return errors.Is(err, ErrInvalid) || f == faultOther || f == faultUnique
}

func (s *Store) acceptGroup(group []acceptRequest) ([]AcceptResult, error) {
	ctx, cancel := context.WithTimeout(context.Background(), acceptTimeout)
	defer cancel()
	var results []AcceptResult
	err := s.inTimedTx(ctx, "accept", true, func(t *txn) error {
		results = make([]AcceptResult, len(group)) // the transaction may run again
		f, err := t.lockSignals(ctx, group)
		if err != nil {
			return err
		}
		for i, req := range group {
			for j := range req.observed {
				o := &req.observed[j]
				if err := f.fold(ctx, o, &results[i]); err != nil {
					return fmt.Errorf("alert %d (%s): %w", j, o.Alert.Name(), err)
				}
			}
			f.entries = append(f.entries, req.rejected...)
		}
		return f.flush(ctx)
	})
	return results, err
}

// observe folds observations into the episodes within a transaction of something
// else.
func (t *txn) observe(ctx context.Context, obs []Observation) error {
	if len(obs) == 0 {
		return nil
	}
	req, err := t.s.prepare(Batch{Observations: obs})
	if err != nil {
		return err
	}
	f, err := t.lockSignals(ctx, []acceptRequest{req})
	if err != nil {
		return err
	}
	var res AcceptResult
	for i := range req.observed {
		if err := f.fold(ctx, &req.observed[i], &res); err != nil {
			return err
		}
	}
	return f.flush(ctx)
}

// invalid says why an observation can never be accepted.
func (o *Observation) invalid() error {
	switch {
	case o.Source == "":
		return fmt.Errorf("%w: it has no source", ErrInvalid)
	case o.Alert.Fingerprint == "":
		return fmt.Errorf("%w: it has no fingerprint", ErrInvalid)
	case o.Alert.Status != alert.Firing && o.Alert.Status != alert.Resolved:
		return fmt.Errorf("%w: its status is %q, and not firing or resolved", ErrInvalid, o.Alert.Status)
	}
	for _, p := range o.Playbooks {
		if p.Name == "" || p.Hash == "" {
			return fmt.Errorf("%w: a matched playbook has no name or hash", ErrInvalid)
		}
	}
	return nil
}

func (o *Observation) signal() alert.Signal {
	return alert.Signal{Source: text(o.Source), Fingerprint: text(o.Alert.Fingerprint)}
}
