package store

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"
)

// post queues messages in the transaction of what they tell.
func (t *txn) post(ctx context.Context, runID string, msgs []Message) error {
	for _, m := range msgs {
		if m.Channel == "" || !json.Valid(m.Payload) {
			return fmt.Errorf("%w: a message needs a channel and a JSON payload", ErrInvalid)
		}
		var err error
		if m.ID == "" {
			if m.ID, err = newID(); err != nil {
				return err
			}
		}
		if m.RunID == "" {
			m.RunID = runID
		}
		if m.Key == "" {
			m.Key = m.ID // nothing to be in order with
		}
		if err := t.exec(ctx, `INSERT INTO outbox (id, channel, run_id, order_key, payload, recorded, ord, status, due_at)
			VALUES ($1, $2, $3, $4, $5, $6, $7, 'pending', $8) ON CONFLICT (id) DO NOTHING`,
			m.ID, m.Channel, m.RunID, text(m.Key), string(m.Payload), micros(t.now), t.s.ord.Add(1), micros(cmpTime(m.DueAt, t.now))); err != nil {
			return fmt.Errorf("queue the message: %w", err)
		}
	}
	return nil
}

// Post queues messages that belong to no run's transition.
func (s *Store) Post(ctx context.Context, msgs ...Message) error {
	return s.inTx(ctx, "post messages", func(t *txn) error {
		t.wakes = true
		return t.post(ctx, "", msgs)
	})
}

type claimedMessage struct {
	Message
	recorded, ord int64
}

// ClaimMessages takes up to limit due messages of a channel: of each key the
// oldest only, so that those of one key are delivered in order. Delivery is at
// least once: a claim that runs out is taken again.
func (s *Store) ClaimMessages(ctx context.Context, channel, owner string, ttl time.Duration, limit int) ([]Message, error) {
	now, err := s.Now(ctx)
	if err != nil {
		return nil, err
	}
	due, err := exists(ctx, s.read, "SELECT 1 FROM outbox WHERE channel = $1 AND status = 'pending' AND due_at <= $2 AND (lease_owner = '' OR lease_until <= $2) LIMIT 1",
		channel, micros(now))
	if err != nil || !due || limit < 1 {
		return nil, s.wrap("claim messages", err)
	}
	var got []claimedMessage
	err = s.inTx(ctx, "claim messages", func(t *txn) error {
		var err error
		got, err = collect(ctx, t, scanMessage, `WITH due AS MATERIALIZED (
				SELECT o.id FROM outbox o WHERE o.channel = $1 AND o.status = 'pending' AND o.due_at <= $2 AND (o.lease_owner = '' OR o.lease_until <= $2)
				AND NOT EXISTS (SELECT 1 FROM outbox p WHERE p.channel = o.channel AND p.order_key = o.order_key AND p.status = 'pending'
					AND (p.recorded, p.ord, p.id) < (o.recorded, o.ord, o.id))
				ORDER BY o.recorded, o.ord, o.id LIMIT $3`+s.dialect.skipLocked+`)
			UPDATE outbox SET lease_owner = $4, lease_epoch = lease_epoch + 1, lease_until = $5, attempts = attempts + 1
			WHERE id IN (SELECT id FROM due)
			RETURNING id, channel, run_id, order_key, payload, attempts, due_at, lease_owner, lease_epoch, lease_until, recorded, ord`,
			channel, micros(t.now), int64(limit), owner, micros(t.now.Add(ttl)))
		return err
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(got, func(a, b claimedMessage) int {
		if a.recorded != b.recorded {
			return int(a.recorded - b.recorded)
		}
		return int(a.ord - b.ord)
	})
	out := make([]Message, len(got))
	for i, m := range got {
		out[i] = m.Message
	}
	return out, nil
}

func scanMessage(sc scanner) (claimedMessage, error) {
	var m claimedMessage
	var payload string
	var due, until int64
	err := sc.Scan(&m.ID, &m.Channel, &m.RunID, &m.Key, &payload, &m.Attempts, &due, &m.Lease.Owner, &m.Lease.Epoch, &until, &m.recorded, &m.ord)
	m.Payload, m.DueAt, m.Lease.Until = json.RawMessage(payload), fromMicros(due), fromMicros(until)
	return m, err
}

// MessageDelivered removes a claimed message. The error wraps ErrFenced when the
// claim was lost: somebody else delivers, or has delivered, it too.
func (s *Store) MessageDelivered(ctx context.Context, m Message) error {
	return s.inTx(ctx, "record the delivery", func(t *txn) error {
		t.wakes = true // the next one of the key
		n, err := t.affected(ctx, "DELETE FROM outbox WHERE id = $1 AND lease_owner = $2 AND lease_epoch = $3 AND status = 'pending'", m.ID, m.Lease.Owner, m.Lease.Epoch)
		return messageFenced(m, n, err)
	})
}

// MessageFailed gives a claimed message back to be tried again at retryAt, or,
// with giveUp, keeps it as failed, which lets the next one of its key go.
func (s *Store) MessageFailed(ctx context.Context, m Message, retryAt time.Time, errText string, giveUp bool) error {
	status := "pending"
	if giveUp {
		status = "failed"
	}
	return s.inTx(ctx, "record the failed delivery", func(t *txn) error {
		t.wakes = giveUp
		n, err := t.affected(ctx, `UPDATE outbox SET status = $1, due_at = $2, error = $3, lease_owner = '', lease_until = 0
			WHERE id = $4 AND lease_owner = $5 AND lease_epoch = $6 AND status = 'pending'`,
			status, micros(cmpTime(retryAt, t.now)), text(errText), m.ID, m.Lease.Owner, m.Lease.Epoch)
		return messageFenced(m, n, err)
	})
}

// MessageGivenBack gives back a claimed message that was not sent, or that the
// receiver did not want to look at yet: the claim does not count as an attempt.
func (s *Store) MessageGivenBack(ctx context.Context, m Message, retryAt time.Time, why string) error {
	return s.inTx(ctx, "give the message back", func(t *txn) error {
		n, err := t.affected(ctx, `UPDATE outbox SET attempts = attempts - 1, due_at = $1, error = $2, lease_owner = '', lease_until = 0
			WHERE id = $3 AND lease_owner = $4 AND lease_epoch = $5 AND status = 'pending'`,
			micros(cmpTime(retryAt, t.now)), text(why), m.ID, m.Lease.Owner, m.Lease.Epoch)
		return messageFenced(m, n, err)
	})
}

func messageFenced(m Message, n int64, err error) error {
	if err == nil && n == 0 {
		return fmt.Errorf("message %s: %w", m.ID, ErrFenced)
	}
	return err
}
