package notify_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"github.com/stretchr/testify/require"

	"github.com/alertmedic/alertmedic/internal/action"
	"github.com/alertmedic/alertmedic/internal/journal"
	"github.com/alertmedic/alertmedic/internal/notify"
	"github.com/alertmedic/alertmedic/internal/store"
)

// memoryOutbox hands out what is due and records the answers.
type memoryOutbox struct {
	mu      sync.Mutex
	waiting []store.Message
	log     []string
	retries []time.Time
	notify  chan struct{} // one for each answer
	err     error         // of the next claim
}

func newOutbox(messages ...store.Message) *memoryOutbox {
	return &memoryOutbox{waiting: messages, notify: make(chan struct{}, 100)}
}

func (o *memoryOutbox) ClaimMessages(_ context.Context, channel, _ string, _ time.Duration, limit int) ([]store.Message, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if err := o.err; err != nil {
		o.err = nil
		return nil, err
	}
	var out, rest []store.Message
	for _, m := range o.waiting {
		if m.Channel == channel && len(out) < limit {
			m.Attempts++
			out = append(out, m)
		} else {
			rest = append(rest, m)
		}
	}
	o.waiting = rest
	return out, nil
}

func (o *memoryOutbox) MessageDelivered(_ context.Context, m store.Message) error {
	o.answer("delivered "+m.ID, time.Time{})
	return nil
}

func (o *memoryOutbox) MessageFailed(_ context.Context, m store.Message, retryAt time.Time, text string, giveUp bool) error {
	what := "failed "
	if giveUp {
		what = "gave up "
	}
	o.answer(what+m.ID+": "+text, retryAt)
	return nil
}

func (o *memoryOutbox) MessageGivenBack(_ context.Context, m store.Message, retryAt time.Time, why string) error {
	o.answer("gave back "+m.ID+": "+why, retryAt)
	return nil
}

func (o *memoryOutbox) answer(s string, at time.Time) {
	o.mu.Lock()
	o.log = append(o.log, s)
	o.retries = append(o.retries, at)
	o.mu.Unlock()
	o.notify <- struct{}{}
}

type funcSender func(ctx context.Context, m store.Message) (notify.Result, error)

func (f funcSender) Channel() string { return "slack" }
func (f funcSender) Send(ctx context.Context, m store.Message) (notify.Result, error) {
	return f(ctx, m)
}

// deliver runs a Deliverer until it has answered n times.
func deliver(t *testing.T, o *memoryOutbox, n int, senders ...notify.Sender) *prometheus.Registry {
	t.Helper()
	reg := prometheus.NewRegistry()
	d, err := notify.NewDeliverer(notify.Options{Outbox: o, Senders: senders, Owner: "test", Poll: time.Millisecond,
		Logger: slog.New(slog.NewTextHandler(io.Discard, nil)), Registerer: reg, Now: func() time.Time { return at }})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	for range n {
		select {
		case <-o.notify:
		case <-time.After(2 * time.Minute):
			t.Error("no answer in 2m")
		}
	}
	cancel()
	require.NoError(t, <-done)
	return reg
}

func msg(id, key string, attempts int) store.Message {
	return store.Message{ID: id, Channel: "slack", Key: key, RunID: key, Attempts: attempts}
}

func TestDeliverer(t *testing.T) {
	t.Parallel()
	o := newOutbox(msg("1", "a", 0), msg("2", "a", 3), msg("3", "a", 0), msg("4", "b", 0), msg("5", "c", 11), msg("6", "d", 0), msg("7", "e", 0))
	o.err = errors.New("database is away")
	reg := deliver(t, o, 7, funcSender(func(_ context.Context, m store.Message) (notify.Result, error) {
		switch m.ID {
		case "2", "5":
			return notify.Result{}, errors.New("no route")
		case "6":
			return notify.Result{}, &notify.PermanentError{Err: errors.New("bad blocks")}
		case "7":
			return notify.Result{Skipped: true}, nil
		}
		return notify.Result{}, nil
	}))
	require.Equal(t, []string{"delivered 1", "failed 2: no route", "gave back 3: waits for an earlier message of the same run",
		"delivered 4", "gave up 5: no route", "gave up 6: bad blocks", "delivered 7"}, o.log)
	require.Equal(t, at.Add(8*time.Second), o.retries[1], "the fourth attempt backs off 1s·2³")
	require.Equal(t, o.retries[1], o.retries[2])
	require.NoError(t, testutil.GatherAndCompare(reg, strings.NewReader(`
# HELP alertmedic_notifications_total Deliveries of notifications that were tried, by channel and outcome.
# TYPE alertmedic_notifications_total counter
alertmedic_notifications_total{channel="slack",outcome="delivered"} 2
alertmedic_notifications_total{channel="slack",outcome="gave-up"} 2
alertmedic_notifications_total{channel="slack",outcome="rate-limited"} 0
alertmedic_notifications_total{channel="slack",outcome="retried"} 1
alertmedic_notifications_total{channel="slack",outcome="skipped"} 1
`)))
	problems, err := testutil.GatherAndLint(reg)
	require.NoError(t, err)
	require.Equal(t, []promlint.Problem(nil), problems)
}

// A rate limit stops the whole channel, counts as no failure and never gives up.
func TestDeliverer_rateLimit(t *testing.T) {
	t.Parallel()
	o := newOutbox(msg("1", "a", 99), msg("2", "b", 0))
	sent := 0
	deliver(t, o, 2, funcSender(func(context.Context, store.Message) (notify.Result, error) {
		sent++
		return notify.Result{}, &notify.RateLimitError{RetryAfter: time.Minute, Err: errors.New("slow down")}
	}))
	require.Equal(t, 1, sent)
	require.Equal(t, []string{"gave back 1: slow down", "gave back 2: rate limited"}, o.log)
	require.Equal(t, []time.Time{at.Add(time.Minute), at.Add(time.Minute)}, o.retries)
}

// What is claimed when the service stops goes back at once.
func TestDeliverer_stop(t *testing.T) {
	t.Parallel()
	o := newOutbox(msg("1", "a", 0), msg("2", "b", 0))
	reg := prometheus.NewRegistry()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	d, err := notify.NewDeliverer(notify.Options{Outbox: o, Owner: "test", Logger: slog.New(slog.DiscardHandler), Registerer: reg,
		Senders: []notify.Sender{funcSender(func(ctx context.Context, _ store.Message) (notify.Result, error) {
			cancel()
			<-ctx.Done()
			return notify.Result{}, ctx.Err()
		})}})
	require.NoError(t, err)
	require.NoError(t, d.Run(ctx))
	require.Equal(t, []string{"gave back 1: the service is stopping", "gave back 2: the service is stopping"}, o.log)
}

func TestNewDeliverer_missing(t *testing.T) {
	t.Parallel()
	_, err := notify.NewDeliverer(notify.Options{})
	for _, name := range []string{"Outbox", "Owner", "Logger", "Registerer"} {
		require.ErrorContains(t, err, "Options."+name+" is missing")
	}
}

type emitter struct {
	err  error
	got  []string
	ids  []string
	last action.Target
}

func (e *emitter) EmitEvent(_ context.Context, id string, r notify.EventReport) error {
	e.got = append(e.got, r.Type+" "+r.Reason+" "+r.Message+" "+r.RunID)
	e.ids = append(e.ids, id)
	e.last = r.Target
	return e.err
}

// An Event is tried for hours, however often that is, and then given up; a crash
// or a lost answer has it written under the same id again.
func TestEventsAreTriedForHoursAndNoLonger(t *testing.T) {
	t.Parallel()
	e := &emitter{err: errors.New("the API server is away")}
	r := notify.Reporter{Events: true}
	u := update(journal.StepIntent, "delete pod shop/web-1")
	for _, tt := range []struct {
		age  time.Duration
		says string
	}{{notify.EventPatience - time.Second, "failed "}, {notify.EventPatience + time.Second, "gave up "}} {
		u.At = at.Add(-tt.age)
		m := r.Messages(u)[0]
		m.Attempts = 500
		o := newOutbox(m)
		deliver(t, o, 1, &notify.EventSender{Emitter: e})
		require.Len(t, o.log, 1)
		require.True(t, strings.HasPrefix(o.log[0], tt.says+m.ID+": "), o.log[0])
		require.Equal(t, m.ID, e.ids[len(e.ids)-1])
	}
}

// The Events of a run reach its target, each with type and reason.
func TestEventSender(t *testing.T) {
	t.Parallel()
	e := &emitter{}
	s := &notify.EventSender{Emitter: e}
	r := notify.Reporter{Events: true}
	for _, u := range []notify.Update{update(journal.StepIntent, "delete pod shop/web-1"), requested(), update(journal.RemedyFailed, "still down"),
		ended(store.Healed), ended(store.Escalated), ended(store.Simulated), update(journal.VerifyStarted, "not worth an Event")} {
		for _, m := range r.Messages(u) {
			require.Equal(t, notify.ChannelEvent, m.Channel)
			require.Equal(t, "0197-run", m.Key)
			_, err := s.Send(t.Context(), m)
			require.NoError(t, err)
		}
	}
	const tail = " (playbook pod-crash-looping, run 0197-run) 0197-run"
	require.Equal(t, []string{
		"Normal RemediationStarted delete pod shop/web-1" + tail,
		"Normal RemediationNeedsApproval roll-back waits for a person until 11:00" + tail,
		"Warning RemedyFailed still down" + tail,
		"Normal RemediationHealed healed: healthy for 3m and the alert resolved" + tail,
		"Warning RemediationEnded escalated: healthy for 3m and the alert resolved" + tail,
		"Normal RemediationEnded simulated: healthy for 3m and the alert resolved" + tail,
	}, e.got)
	require.Equal(t, "u1", e.last.UID)

	e.err = errors.New("forbidden")
	_, err := s.Send(t.Context(), r.Messages(requested())[0])
	require.ErrorIs(t, err, e.err)
	var permanent *notify.PermanentError
	for _, payload := range []string{"", "{}"} {
		_, err := s.Send(t.Context(), store.Message{Payload: json.RawMessage(payload)})
		require.ErrorAs(t, err, &permanent)
	}
	u := update(journal.StepIntent, strings.Repeat("ä", 2000))
	_, err = s.Send(t.Context(), r.Messages(u)[0])
	require.ErrorIs(t, err, e.err)
	require.LessOrEqual(t, len(e.got[len(e.got)-1]), 1024+len("Normal RemediationStarted  0197-run"))
}
