package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/alertmedic/alertmedic/internal/guard"
	"github.com/alertmedic/alertmedic/internal/journal"
	"github.com/alertmedic/alertmedic/internal/store"
)

// stormEvery is how often people hear of a storm that goes on.
const stormEvery = 10 * time.Minute

// Storm is what a Reporter is told of a storm: one message for all the runs that
// it holds.
type Storm struct {
	guard.Storm
	Event   journal.Kind // StormBegan, StormGoesOn or StormEnded
	Message string
	At      time.Time
}

// stormLoop tells people of storms, soon after a guard has seen one and then now
// and again until it is over.
func (e *Engine) stormLoop(ctx context.Context) error {
	tick := time.NewTicker(e.Resync)
	defer tick.Stop()
	for {
		if err := e.tellStorms(ctx); err != nil && ctx.Err() == nil {
			e.Logger.Error("report the storms; trying again", "err", err, "after", e.Resync)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-e.stormy:
		}
	}
}

// stormSeen makes stormLoop look soon. It never blocks.
func (e *Engine) stormSeen() {
	select {
	case e.stormy <- struct{}{}:
	default:
	}
}

func (e *Engine) tellStorms(ctx context.Context) error {
	storms, err := e.Store.Storms(ctx)
	if err != nil || len(storms) == 0 {
		return err
	}
	now, err := e.Store.Now(ctx)
	if err != nil {
		return fmt.Errorf("read the clock: %w", err)
	}
	cooldown := e.Limits(nil, nil).StormCooldown
	for _, st := range storms {
		if err := e.tellStorm(ctx, st, now, cooldown); err != nil {
			return fmt.Errorf("storm %s: %w", st.Scope, err)
		}
	}
	return nil
}

func (e *Engine) tellStorm(ctx context.Context, st guard.Storm, now time.Time, cooldown time.Duration) error {
	key, since := "storm/"+st.Scope, st.Since.UTC().Format(time.RFC3339Nano)
	on := st.LastSeen.Add(cooldown).After(now)
	e.m.storms.WithLabelValues(st.Scope).Set(0)
	if on {
		e.m.storms.WithLabelValues(st.Scope).Set(1)
	}
	told, err := e.Store.GetValue(ctx, key)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	report := Storm{Storm: st, At: now}
	value := ""
	nth := int(now.Sub(st.Since) / stormEvery)
	switch {
	case on && !strings.HasPrefix(told, "on "+since+" "):
		report.Event, value = journal.StormBegan, fmt.Sprintf("on %s %d", since, nth)
	case on:
		report.Event, value = journal.StormGoesOn, fmt.Sprintf("on %s %d", since, nth)
	case strings.HasPrefix(told, "on "):
		report.Event, value = journal.StormEnded, fmt.Sprintf("off %s %s", since, st.LastSeen.UTC().Format(time.RFC3339Nano))
	}
	if value == "" || value == told {
		return nil
	}
	counts, err := e.Store.CountStorm(ctx, st)
	if err != nil {
		return err
	}
	report.Message = stormMessage(report, counts, cooldown)
	var msgs []store.Message
	if e.Reporter != nil {
		msgs = e.Reporter.StormMessages(report)
	}
	en := journal.Entry{At: now, Kind: report.Event, Reason: string(guard.ReasonStorm), Message: report.Message,
		Data: encode(map[string]any{"scope": st.Scope, "since": st.Since, "lastSeen": st.LastSeen, "live": counts.Live, "ended": counts.Ended, "mutated": counts.Mutations})}
	first, err := e.Store.Tell(ctx, key, value, en, msgs...)
	if first {
		e.Logger.Warn(report.Message, "event", report.Event, "scope", st.Scope)
	}
	return err
}

// stormMessage says what goes on, what became of the runs, and what to do.
func stormMessage(s Storm, c store.RunCounts, cooldown time.Duration) string {
	var what string
	switch {
	case strings.HasPrefix(s.Scope, "nodes/"):
		what = "more nodes are unhealthy than may be"
	default:
		what = "more runs began in a short time than may"
	}
	ended := make([]string, 0, len(c.Ended))
	for o, n := range c.Ended {
		ended = append(ended, fmt.Sprintf("%d %s", n, o))
	}
	slices.Sort(ended)
	fate := fmt.Sprintf("%d runs wait or are under way", c.Live)
	if len(ended) > 0 {
		fate += ", ended since then: " + strings.Join(ended, ", ")
	}
	since := s.Since.UTC().Format(time.RFC3339)
	if s.Event == journal.StormEnded {
		return fmt.Sprintf("The storm in %s since %s is over: calm since %s. %s; %d of them changed something. What still fires is acted on again.",
			s.Scope, since, s.LastSeen.UTC().Format(time.RFC3339), fate, c.Mutations)
	}
	return fmt.Sprintf("A storm in %s since %s: %s. Nothing new is changed until it has been calm for %s; the cause is likely one for all, and a person must look. %s: `alertmedic runs --wait guard`.",
		s.Scope, since, what, cooldown, fate)
}
