package notify

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/alertmedic/alertmedic/internal/store"
)

// Outbox is where messages wait; *store.Store is one. A claim is a lease: a
// message that is neither delivered nor failed comes back when it ends.
type Outbox interface {
	ClaimMessages(ctx context.Context, channel, owner string, ttl time.Duration, limit int) ([]store.Message, error)
	MessageDelivered(ctx context.Context, m store.Message) error
	MessageFailed(ctx context.Context, m store.Message, retryAt time.Time, errText string, giveUp bool) error
	MessageGivenBack(ctx context.Context, m store.Message, retryAt time.Time, why string) error
}

// Result is how a delivery that did not fail went.
type Result struct {
	// Skipped says that the channel has nothing to send for the message.
	Skipped bool
}

// Sender delivers messages of one channel. Send is called for one message at a
// time. Its errors must not hold secrets.
type Sender interface {
	Channel() string
	Send(ctx context.Context, m store.Message) (Result, error)
}

// Impatient is a Sender that says itself when a message that failed is given up;
// for others MaxAttempts does.
type Impatient interface {
	GiveUp(m store.Message, now time.Time) bool
}

// PermanentError says that trying again cannot help.
type PermanentError struct{ Err error }

func (e *PermanentError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *PermanentError) Unwrap() error { return e.Err }

// RateLimitError says that the receiver asked to be left alone for a while. It
// is no failure: a message is never given up for it.
type RateLimitError struct {
	RetryAfter time.Duration
	Err        error
}

func (e *RateLimitError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *RateLimitError) Unwrap() error { return e.Err }

// The outcomes of a delivery, as the metric labels them.
const (
	outcomeDelivered   = "delivered"
	outcomeSkipped     = "skipped"
	outcomeRetried     = "retried"
	outcomeRateLimited = "rate-limited"
	outcomeGaveUp      = "gave-up"
)

// Options are the parts of a Deliverer.
type Options struct {
	Outbox  Outbox
	Senders []Sender
	Owner   string // names this process: unique among replicas
	// Changed is closed when there may be new messages; nil polls only.
	Changed func() <-chan struct{}
	// Poll is the longest time until a due message is noticed; default 1s.
	Poll time.Duration
	// MaxAttempts is after how many failures a message is given up; default 12,
	// which the back-off stretches over about half an hour. A Sender that is
	// Impatient decides itself.
	MaxAttempts int
	// Backoff is the first delay, doubled up to MaxBackoff; defaults 1s and 10m.
	Backoff, MaxBackoff time.Duration
	// SendTimeout bounds one delivery; default 20s.
	SendTimeout time.Duration
	Now         func() time.Time // default time.Now
	Logger      *slog.Logger
	Registerer  prometheus.Registerer
}

// Deliverer takes messages out of the outbox and sends them.
type Deliverer struct {
	Options
	total *prometheus.CounterVec
}

// batch is how many messages are claimed at once, and claim for how long: with
// room for the time-out of each.
const batch = 5

// NewDeliverer checks the options and registers the metric.
func NewDeliverer(o Options) (*Deliverer, error) {
	var missing []error
	need := func(ok bool, name string) {
		if !ok {
			missing = append(missing, fmt.Errorf("notify: Options.%s is missing", name))
		}
	}
	need(o.Outbox != nil, "Outbox")
	need(o.Owner != "", "Owner")
	need(o.Logger != nil, "Logger")
	need(o.Registerer != nil, "Registerer")
	if err := errors.Join(missing...); err != nil {
		return nil, err
	}
	setDefault(&o.Poll, time.Second)
	setDefault(&o.MaxAttempts, 12)
	setDefault(&o.Backoff, time.Second)
	setDefault(&o.MaxBackoff, 10*time.Minute)
	setDefault(&o.SendTimeout, 20*time.Second)
	if o.Now == nil {
		o.Now = time.Now
	}
	d := &Deliverer{Options: o, total: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "alertmedic_notifications_total",
		Help: "Deliveries of notifications that were tried, by channel and outcome.",
	}, []string{"channel", "outcome"})}
	seen := map[string]bool{}
	for _, s := range o.Senders {
		if seen[s.Channel()] {
			return nil, fmt.Errorf("notify: two senders for the channel %q", s.Channel())
		}
		seen[s.Channel()] = true
		for _, outcome := range []string{outcomeDelivered, outcomeSkipped, outcomeRetried, outcomeRateLimited, outcomeGaveUp} {
			d.total.WithLabelValues(s.Channel(), outcome)
		}
	}
	if err := o.Registerer.Register(d.total); err != nil {
		return nil, fmt.Errorf("notify: register metrics: %w", err)
	}
	return d, nil
}

func setDefault[T comparable](v *T, fallback T) {
	var zero T
	if *v == zero {
		*v = fallback
	}
}

// Run delivers until ctx ends, then gives back what it has claimed and not
// sent. The channels do not wait for each other. It returns nil.
func (d *Deliverer) Run(ctx context.Context) error {
	var g errgroup.Group
	for _, s := range d.Senders {
		g.Go(func() error {
			d.loop(ctx, s)
			return nil
		})
	}
	return g.Wait()
}

func (d *Deliverer) loop(ctx context.Context, s Sender) {
	for ctx.Err() == nil {
		var changed <-chan struct{}
		if d.Changed != nil {
			changed = d.Changed()
		}
		messages, err := d.Outbox.ClaimMessages(ctx, s.Channel(), d.Owner, 2*batch*d.SendTimeout, batch)
		if err != nil && ctx.Err() == nil {
			d.Logger.Error("claim notifications; trying again", "channel", s.Channel(), "err", err)
		}
		pause := d.deliver(ctx, s, messages)
		if pause == 0 && len(messages) > 0 {
			continue
		}
		if pause > 0 {
			changed = nil // news does not lift a rate limit
		}
		timer := time.NewTimer(max(pause, d.Poll))
		select {
		case <-ctx.Done():
		case <-timer.C:
		case <-changed:
		}
		timer.Stop()
	}
}

// deliver sends claimed messages, and returns how long the receiver wants to be
// left alone. After a failure the messages of the same key wait, so that their
// order is kept.
func (d *Deliverer) deliver(ctx context.Context, s Sender, messages []store.Message) (pause time.Duration) {
	blocked := map[string]time.Time{}
	for _, m := range messages {
		retryAt, held := blocked[m.Key]
		switch {
		case ctx.Err() != nil:
			d.giveBack(ctx, m, d.Now(), "the service is stopping")
			continue
		case pause > 0:
			d.giveBack(ctx, m, d.Now().Add(pause), "rate limited")
			continue
		case held:
			d.giveBack(ctx, m, retryAt, "waits for an earlier message of the same run")
			continue
		}
		sendCtx, cancel := context.WithTimeout(ctx, d.SendTimeout)
		result, err := s.Send(sendCtx, m)
		cancel()
		var limited *RateLimitError
		switch {
		case err == nil:
			d.delivered(ctx, s, m, result)
		case ctx.Err() != nil:
			d.giveBack(ctx, m, d.Now(), "the service is stopping")
		case errors.As(err, &limited):
			pause = max(limited.RetryAfter, d.Backoff)
			d.total.WithLabelValues(s.Channel(), outcomeRateLimited).Inc()
			d.Logger.Warn("rate limited", "channel", s.Channel(), "retryAfter", pause)
			d.giveBack(ctx, m, d.Now().Add(pause), err.Error())
		default:
			blocked[m.Key] = d.failed(ctx, s, m, err)
		}
	}
	return pause
}

func (d *Deliverer) delivered(ctx context.Context, s Sender, m store.Message, result Result) {
	outcome := outcomeDelivered
	if result.Skipped {
		outcome = outcomeSkipped
	}
	d.total.WithLabelValues(s.Channel(), outcome).Inc()
	ctx, cancel := d.recordContext(ctx)
	defer cancel()
	if err := d.Outbox.MessageDelivered(ctx, m); err != nil {
		d.Logger.Error("record a delivered notification; it may be delivered again", "channel", s.Channel(), "run", m.RunID, "err", err)
	}
}

func (d *Deliverer) failed(ctx context.Context, s Sender, m store.Message, err error) time.Time {
	var permanent *PermanentError
	giveUp := m.Attempts >= d.MaxAttempts
	if i, ok := s.(Impatient); ok {
		giveUp = i.GiveUp(m, d.Now())
	}
	giveUp = giveUp || errors.As(err, &permanent)
	retryAt := d.Now().Add(d.delay(m.Attempts))
	log, outcome := d.Logger.Warn, outcomeRetried
	if giveUp {
		log, outcome = d.Logger.Error, outcomeGaveUp
	}
	d.total.WithLabelValues(s.Channel(), outcome).Inc()
	log("deliver a notification", "channel", s.Channel(), "run", m.RunID, "outcome", outcome, "attempts", m.Attempts, "err", err)
	ctx, cancel := d.recordContext(ctx)
	defer cancel()
	if recErr := d.Outbox.MessageFailed(ctx, m, retryAt, err.Error(), giveUp); recErr != nil {
		d.Logger.Error("record a failed notification; it is tried again when its claim ends", "channel", s.Channel(), "run", m.RunID, "err", recErr)
	}
	return retryAt
}

func (d *Deliverer) giveBack(ctx context.Context, m store.Message, at time.Time, why string) {
	ctx, cancel := d.recordContext(ctx)
	defer cancel()
	if err := d.Outbox.MessageGivenBack(ctx, m, at, why); err != nil {
		d.Logger.Warn("give a notification back; it is tried again when its claim ends", "run", m.RunID, "err", err)
	}
}

// recordContext outlives a shutdown by a moment: what was sent should be known
// as sent.
func (d *Deliverer) recordContext(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
}

// delay is the back-off after so many attempts.
func (d *Deliverer) delay(attempts int) time.Duration {
	delay := d.Backoff
	for range attempts - 1 {
		if delay *= 2; delay >= d.MaxBackoff {
			return d.MaxBackoff
		}
	}
	return delay
}
