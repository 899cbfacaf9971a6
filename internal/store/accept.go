package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/alertmedic/alertmedic/internal/alert"
)

// groupLimit bounds how many webhooks share one transaction, so that a storm
// does not make the first of them wait for the last.
const groupLimit = 64

// acceptTimeout bounds one shared transaction. It does not follow any caller's
// context: one that hangs up must not undo what the others wait for.
const acceptTimeout = 15 * time.Second

type acceptRequest struct {
	batch Batch
	out   chan acceptReply // with room for one: the committer never waits
}

type acceptReply struct {
	result AcceptResult
	err    error
}

// Accept folds a webhook's alerts into the episodes and returns after they are
// durable. Concurrent calls share one transaction, each under a savepoint: a bad
// batch fails alone. When ctx ends first the batch may be committed all the same;
// accepting it again changes nothing.
//
// The error wraps ErrInvalid for a batch that can never be accepted; any other
// one is worth a retry.
func (s *Store) Accept(ctx context.Context, b Batch) (AcceptResult, error) {
	req := acceptRequest{batch: b, out: make(chan acceptReply, 1)}
	select {
	case s.accepts <- req:
	case <-s.closing:
		return AcceptResult{}, fmt.Errorf("accept: %w", ErrClosed)
	case <-ctx.Done():
		return AcceptResult{}, fmt.Errorf("accept: nothing was written: %w", ctx.Err())
	}
	select {
	case r := <-req.out:
		return r.result, r.err
	case <-ctx.Done():
		return AcceptResult{}, fmt.Errorf("accept: it may or may not have been written: %w", ctx.Err())
	}
}

// ObserveEpisodes folds what was read from a source exactly as Accept folds what
// a source sent.
func (s *Store) ObserveEpisodes(ctx context.Context, obs []Observation) (AcceptResult, error) {
	return s.Accept(ctx, Batch{Observations: obs})
}

// committer takes every batch that waits and commits them together.
func (s *Store) committer() {
	for {
		var group []acceptRequest
		select {
		case req := <-s.accepts:
			group = append(group, req)
		case <-s.closing:
			return
		}
	more:
		for len(group) < groupLimit {
			select {
			case req := <-s.accepts:
				group = append(group, req)
			default:
				break more
			}
		}
		s.commitGroup(group)
	}
}

func (s *Store) commitGroup(group []acceptRequest) {
	ctx, cancel := context.WithTimeout(context.Background(), acceptTimeout)
	defer cancel()
	s.metrics.group.Observe(float64(len(group)))
	replies := make([]acceptReply, len(group))
	err := s.inTx(ctx, "accept", func(t *txn) error {
		replies = make([]acceptReply, len(group)) // the transaction may run again
		if err := t.lockSignals(ctx, group); err != nil {
			return err
		}
		for i, req := range group {
			var err error
			if replies[i], err = t.acceptOne(ctx, req.batch); err != nil {
				return err
			}
		}
		return nil
	})
	for i, req := range group {
		if err != nil {
			replies[i] = acceptReply{err: err}
		}
		if replies[i].err == nil {
			s.metrics.accepted(replies[i].result)
		}
		req.out <- replies[i]
	}
}

// lockSignals makes and locks the rows of every signal of the group, sorted, so
// that two replicas that are told the same do not wait for each other in a ring.
func (t *txn) lockSignals(ctx context.Context, group []acceptRequest) error {
	var all []alert.Signal
	for _, req := range group {
		for _, o := range req.batch.Observations {
			if o.invalid() == nil {
				all = append(all, o.signal())
			}
		}
	}
	slices.SortFunc(all, func(a, b alert.Signal) int {
		return cmp.Or(cmp.Compare(a.Source, b.Source), cmp.Compare(a.Fingerprint, b.Fingerprint))
	})
	for _, sig := range slices.Compact(all) {
		if err := t.exec(ctx, "INSERT INTO signals (source, fingerprint) VALUES ($1, $2) ON CONFLICT (source, fingerprint) DO NOTHING",
			sig.Source, sig.Fingerprint); err != nil {
			return fmt.Errorf("record the signal: %w", err)
		}
		if t.s.dialect.forUpdate == "" {
			continue
		}
		if _, err := exists(ctx, t, "SELECT 1 FROM signals WHERE source = $1 AND fingerprint = $2"+t.s.dialect.forUpdate, sig.Source, sig.Fingerprint); err != nil {
			return fmt.Errorf("lock the signal: %w", err)
		}
	}
	return t.tick(ctx)
}

// acceptOne works on one batch under a savepoint. Its error is about the whole
// transaction; the batch's own is in the reply.
func (t *txn) acceptOne(ctx context.Context, b Batch) (acceptReply, error) {
	if err := t.exec(ctx, "SAVEPOINT batch"); err != nil {
		return acceptReply{}, fmt.Errorf("begin the batch: %w", err)
	}
	result, err := t.acceptBatch(ctx, b)
	if err != nil {
		// Trouble of the database is everybody's, a bad batch is its sender's alone.
		if f := t.s.dialect.fault(err); !errors.Is(err, ErrInvalid) && (errors.Is(err, errRace) || f != faultOther && f != faultUnique) {
			return acceptReply{}, err
		}
		if rerr := t.exec(ctx, "ROLLBACK TO SAVEPOINT batch"); rerr != nil {
			return acceptReply{}, errors.Join(err, rerr)
		}
		return acceptReply{err: t.s.wrap("accept", err)}, nil
	}
	if err := t.exec(ctx, "RELEASE SAVEPOINT batch"); err != nil {
		return acceptReply{}, fmt.Errorf("end the batch: %w", err)
	}
	return acceptReply{result: result}, nil
}

func (t *txn) acceptBatch(ctx context.Context, b Batch) (AcceptResult, error) {
	var res AcceptResult
	for i, o := range b.Observations {
		if err := o.invalid(); err != nil {
			return res, fmt.Errorf("alert %d: %w", i, err)
		}
		if err := t.fold(ctx, o, &res); err != nil {
			return res, fmt.Errorf("alert %d (%s): %w", i, o.Alert.Name(), err)
		}
	}
	return res, t.append(ctx, b.Rejected...)
}

// invalid says why an observation can never be accepted.
func (o Observation) invalid() error {
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

func (o Observation) signal() alert.Signal {
	return alert.Signal{Source: text(o.Source), Fingerprint: text(o.Alert.Fingerprint)}
}
