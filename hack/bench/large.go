package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/alertmedic/alertmedic/internal/alert"
	"github.com/alertmedic/alertmedic/internal/journal"
	"github.com/alertmedic/alertmedic/internal/store"
)

const (
	largeRuns    = 50_000
	largeEntries = 1_000_000
)

// large compares a store that holds much with an empty one.
func large(ctx context.Context, b *bench) error {
	for _, kind := range databaseKinds {
		if err := largeOn(ctx, b, kind); err != nil {
			return fmt.Errorf("%s: %w", kind, err)
		}
		if err := b.cleanup(); err != nil {
			return err
		}
	}
	return nil
}

func largeOn(ctx context.Context, b *bench, kind string) error {
	emptyDSN, err := b.database(ctx, kind)
	if err != nil {
		return err
	}
	fullDSN, err := b.database(ctx, kind)
	if err != nil {
		return err
	}
	b.progress("%s: filling in %d runs and %d entries", kind, largeRuns, largeEntries)
	if err := fill(ctx, fullDSN, largeRuns, largeEntries); err != nil {
		return err
	}
	if err := exportMemory(ctx, b, kind, fullDSN); err != nil {
		return err
	}
	empty, err := open(ctx, emptyDSN)
	if err != nil {
		return err
	}
	defer empty.Close()
	began := time.Now()
	full, err := open(ctx, fullDSN)
	if err != nil {
		return err
	}
	defer full.Close()
	b.figure(kind+": open the full store", "ms", []float64{ms(time.Since(began))}, 0, false, "")
	if kind == "sqlite" {
		// Beside the first pages it would be measured with them.
		if err := full.Sound(ctx); err != nil {
			return err
		}
		b.figure("sqlite: until all of the full store is checked and runs go on", "ms", []float64{ms(time.Since(began))}, 0, false, "")
	}
	if err := firstPages(ctx, b, kind, full); err != nil {
		return err
	}
	var accepts, claims []float64
	n := int64(0)
	for round := range 2*b.rounds + 1 {
		var took [2]time.Duration
		var claimed [2]time.Duration
		for i, s := range []*store.Store{empty, full} {
			if took[i], err = acceptSome(ctx, s, &n); err != nil {
				return err
			}
			if claimed[i], err = claimSome(ctx, s); err != nil {
				return err
			}
		}
		if round == 0 {
			continue // statements are prepared, caches filled
		}
		accepts = append(accepts, float64(took[1])/float64(took[0]))
		claims = append(claims, float64(claimed[1])/float64(claimed[0]))
	}
	b.figure(kind+": accept, the full store against the empty one", "ratio of time", accepts, 1.1, false, "")
	b.figure(kind+": claim, the full store against the empty one", "ratio of time", claims, 1.1, false, "")
	return nil
}

// acceptSome accepts 3,200 new alerts from 16 callers.
func acceptSome(ctx context.Context, s *store.Store, n *int64) (time.Duration, error) {
	const callers, each = 16, 200
	var next atomic.Int64
	next.Store(*n)
	*n += callers * each
	var wg sync.WaitGroup
	errs := make([]error, callers)
	began := time.Now()
	for c := range callers {
		wg.Go(func() {
			for range each {
				labels := podAlert(next.Add(1))
				_, err := s.Accept(ctx, store.Batch{Observations: []store.Observation{{Source: "am", Cluster: "bench",
					Alert:     alert.Alert{Status: alert.Firing, Labels: labels, StartsAt: began, Fingerprint: alert.Fingerprint(labels)},
					Playbooks: []store.MatchedPlaybook{{Name: "restart", Hash: "hash", Exclusive: true, ExpireAfter: time.Hour}}}}})
				if err != nil {
					errs[c] = err
					return
				}
			}
		})
	}
	wg.Wait()
	return time.Since(began), errors.Join(errs...)
}

// claimSome claims 400 candidates, eight at a time, and ends them, as an engine
// does: the next claim need not step over those that are being worked on. It
// returns the median of one claim.
func claimSome(ctx context.Context, s *store.Store) (time.Duration, error) {
	var took []time.Duration
	for range 50 {
		began := time.Now()
		got, err := s.ClaimCandidates(ctx, "bench", time.Minute, 8)
		if err != nil {
			return 0, err
		}
		if len(got) == 0 {
			return 0, errors.New("nothing to claim")
		}
		took = append(took, time.Since(began))
		for _, c := range got {
			if _, err := s.ResolveCandidate(ctx, c, store.Resolution{Outcome: store.Suppressed, Reason: "condition"}); err != nil {
				return 0, err
			}
		}
	}
	slices.Sort(took)
	return percentile(took, 0.5), nil
}

// firstPages reads the first page of every filter of the log, both ways.
func firstPages(ctx context.Context, b *bench, kind string, s *store.Store) error {
	now := time.Now()
	filters := map[string]store.LogFilter{
		"none": {}, "kind": {Kind: "step.intent"}, "kind, absent": {Kind: "no.such"}, "run": {RunID: fmt.Sprintf("0197a00-0000-7000-8000-%012d", 25_000)},
		"playbook": {Playbook: "playbook-7"}, "playbook, absent": {Playbook: "x"}, "namespace": {Namespace: "ns-3"}, "target": {TargetName: "app-1234"},
		"target kind": {TargetKind: "Deployment"}, "target kind, absent": {TargetKind: "Node"}, "alertname": {AlertName: "Alert3"},
		"episode, absent": {EpisodeID: "x"}, "fingerprint, absent": {Fingerprint: "x"}, "action": {Action: "workload.restart"}, "action, absent": {Action: "x"},
		"outcome": {Outcome: "healed"}, "outcome, rare": {Outcome: "outcome-unknown"}, "reason": {Reason: "cooldown"}, "reason, rare": {Reason: "revert-conflict"},
		"since an hour ago": {Since: now.Add(-time.Hour)}, "until an hour ago": {Until: now.Add(-time.Hour)}, "since the middle": {Since: now.Add(-70 * time.Hour)},
		"until the middle": {Until: now.Add(-70 * time.Hour)}, "in the future": {Since: now.Add(time.Hour)}, "before all": {Until: now.Add(-20_000 * time.Hour)},
		"an hour long ago":  {Since: now.Add(-100 * time.Hour), Until: now.Add(-99 * time.Hour)},
		"playbook and kind": {Playbook: "playbook-7", Kind: "run.ended"}, "namespace and outcome": {Namespace: "ns-9", Outcome: "outcome-unknown"},
		"playbook since an hour": {Playbook: "playbook-7", Since: now.Add(-time.Hour)},
	}
	type slow struct {
		name string
		took time.Duration
	}
	var all []slow
	for name, f := range filters {
		for _, descending := range []bool{false, true} {
			var took []time.Duration
			for range 3 {
				began := time.Now()
				if _, _, err := s.Log(ctx, f, store.Page{Descending: descending}); err != nil {
					return fmt.Errorf("filter %s: %w", name, err)
				}
				took = append(took, time.Since(began))
			}
			slices.Sort(took)
			if descending {
				name += ", the latest first"
			}
			all = append(all, slow{name, took[1]})
		}
	}
	slices.SortFunc(all, func(x, y slow) int { return int(y.took - x.took) })
	values := make([]float64, len(all))
	for i, a := range all {
		values[i] = ms(a.took)
	}
	var worst []string
	for _, a := range all[:3] {
		worst = append(worst, fmt.Sprintf("%s %s ms", a.name, number(ms(a.took))))
	}
	b.figure(fmt.Sprintf("%s: first page of %d filters of the log", kind, len(all)), "ms", values, 0, false, "")
	b.figure(kind+": first page of the slowest filter", "ms", []float64{values[0]}, 50, false, "slowest: "+strings.Join(worst, "; "))
	return nil
}

// exportMemory measures a process that reads everything.
func exportMemory(ctx context.Context, b *bench, kind, dsn string) error {
	c, err := b.child(ctx, "export", dsn)
	if err != nil {
		return err
	}
	var entries int
	var mib, seconds float64
	if _, err := fmt.Sscan(c.address, &entries, &mib, &seconds); err != nil {
		return fmt.Errorf("export said %q: %w", c.address, err)
	}
	if err := c.stop(); err != nil {
		return err
	}
	if entries != largeEntries {
		return fmt.Errorf("export wrote %d entries, want %d", entries, largeEntries)
	}
	b.figure(kind+": peak memory of an export of everything", "MiB", []float64{mib}, 100, false, fmt.Sprintf("%.0f s", seconds))
	return nil
}

// export writes the whole log as lines of JSON, and says how much memory that
// took.
func export(ctx context.Context) error {
	s, err := open(ctx, os.Getenv(dsnEnv))
	if err != nil {
		return err
	}
	defer s.Close()
	if err := s.Sound(ctx); err != nil { // as when the service has been up for a while
		return err
	}
	out := bufio.NewWriter(io.Discard)
	lines := json.NewEncoder(out)
	n := 0
	began := time.Now()
	if err := s.LogIter(ctx, store.LogFilter{}, func(e journal.Entry) error {
		n++
		return lines.Encode(e)
	}); err != nil {
		return err
	}
	peak, err := peakMemory("self")
	if err != nil {
		return err
	}
	fmt.Printf("%d %.1f %.1f\n", n, peak, time.Since(began).Seconds())
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// peakMemory is the most memory that a process has had resident, in MiB.
func peakMemory(pid string) (float64, error) {
	data, err := os.ReadFile("/proc/" + pid + "/status")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			var kib float64
			_, err := fmt.Sscan(rest, &kib)
			return kib / 1024, err
		}
	}
	return 0, errors.New("the kernel tells no VmHWM")
}
