package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/alertmedic/alertmedic/internal/alert"
	"github.com/alertmedic/alertmedic/internal/guard"
	"github.com/alertmedic/alertmedic/internal/store"
)

// resyncLoop reads every source now and then: Alertmanager marks alerts that it
// truncated as notified, drops resolutions of silenced ones and tells nothing of
// a resolve and re-fire within one group_interval.
//
// It rests for at least as long as a reading took: an Alertmanager that is slow
// because it has very many alerts must not be kept busy with listing them.
func (e *Engine) resyncLoop(ctx context.Context) error {
	rest := time.NewTimer(e.Resync)
	defer rest.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-rest.C:
		case <-e.resync:
		}
		began := time.Now()
		e.resyncAll(ctx)
		rest.Reset(max(e.Resync, time.Since(began)))
	}
}

// firstReading is how long the work that was left by a process before waits for
// the sources.
const firstReading = 5 * time.Second

// firstResync reads every source, and leaves to the loop what takes too long.
func (e *Engine) firstResync(ctx context.Context) {
	soon, cancel := context.WithTimeout(ctx, firstReading)
	defer cancel()
	e.resyncAll(soon)
	if soon.Err() != nil {
		e.TriggerResync()
	}
}

func (e *Engine) resyncAll(ctx context.Context) {
	for _, src := range e.Sources {
		if src.Reader == nil {
			continue
		}
		err := e.resyncSource(ctx, src)
		if ctx.Err() != nil {
			return
		}
		outcome := "ok"
		if err != nil {
			outcome = "error"
			e.Logger.Warn("read the state of the source's alerts; trying again at the next resync", "source", src.Name, "err", err)
		}
		e.m.resyncs.WithLabelValues(src.Name, outcome).Inc()
	}
}

// resyncSource folds what the source's Alertmanager holds as firing into the
// episodes, and closes those whose resolution is positively observed.
func (e *Engine) resyncSource(ctx context.Context, src Source) error {
	active, err := src.Reader.Snapshot(ctx)
	if err != nil {
		return fmt.Errorf("list the active alerts: %w", err)
	}
	firing := make(map[string]bool, len(active))
	for _, a := range active {
		firing[a.Fingerprint] = true
	}
	// In parts: ten thousand alerts in one transaction would hold up webhooks.
	for part := range slices.Chunk(active, resyncBatch) {
		if err := e.observe(ctx, e.matching(src, part)); err != nil {
			return err
		}
	}
	open, err := e.Store.OpenEpisodes(ctx, src.Name)
	if err != nil {
		return fmt.Errorf("list the open episodes: %w", err)
	}
	now, err := e.Store.Now(ctx)
	if err != nil {
		return fmt.Errorf("read the clock: %w", err)
	}
	var unknown error
	var obs []store.Observation
	for _, ep := range open {
		if firing[ep.Signal.Fingerprint] {
			continue
		}
		switch st := src.Reader.State(ctx, ep.Alert, e.Store.Wall(ep.LastSeen)); st.State {
		case guard.AlertResolved:
			a := ep.Alert.Clone()
			a.Status, a.EndsAt = alert.Resolved, now
			obs = append(obs, store.Observation{Source: src.Name, Cluster: ep.Cluster, Alert: a})
		case guard.AlertUnknown:
			unknown = errors.Join(unknown, fmt.Errorf("%s: %s", ep.Alert.Name(), st.By))
		}
	}
	for part := range slices.Chunk(obs, resyncBatch) {
		if err := e.observe(ctx, part); err != nil {
			return err
		}
	}
	e.resynced.add(src.Name) // one alert whose state is unknown holds its own runs only
	return unknown
}

// resyncBatch is how many alerts are recorded in one transaction.
const resyncBatch = 500

// matching makes observations of the alerts that a playbook is for. Alertmanager
// holds alerts of other receivers too, which never reach the webhook either.
func (e *Engine) matching(src Source, active []alert.Alert) []store.Observation {
	set := e.Playbooks()
	var obs []store.Observation
	for _, a := range active {
		if matched := e.Matched(set.Match(a.Labels)); len(matched) > 0 {
			obs = append(obs, store.Observation{Source: src.Name, Cluster: src.Cluster, Alert: a, Playbooks: matched})
		}
	}
	return obs
}

func (e *Engine) observe(ctx context.Context, obs []store.Observation) error {
	if len(obs) == 0 {
		return nil
	}
	if _, err := e.Store.ObserveEpisodes(ctx, obs); err != nil {
		return fmt.Errorf("record what was read: %w", err)
	}
	return nil
}

// resyncedSources are those whose alerts were read whole since the start. It is
// safe for concurrent use; its zero value is empty.
type resyncedSources struct{ names sync.Map }

func (r *resyncedSources) add(name string)      { r.names.Store(name, true) }
func (r *resyncedSources) has(name string) bool { _, ok := r.names.Load(name); return ok }
