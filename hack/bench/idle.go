package main

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"syscall"
	"time"
)

// idle measures a process with the shipped playbooks and nothing to do.
func idle(ctx context.Context, b *bench) error {
	mon, err := b.monitoring()
	if err != nil {
		return err
	}
	dsn, err := b.database(ctx, "sqlite")
	if err != nil {
		return err
	}
	m, err := b.startMedic(ctx, settings{name: "idle", dsn: dsn, monitoring: mon.url, mode: "library"})
	if err != nil {
		return err
	}
	wait := func(d time.Duration) error {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(d):
			return nil
		}
	}
	if err := wait(5 * time.Second); err != nil { // what the start leaves behind
		return err
	}
	var shares, memory []float64
	for range b.rounds {
		const window = 15 * time.Second
		before, err := cpuSeconds(m.PID())
		if err != nil {
			return err
		}
		if err := wait(window); err != nil {
			return err
		}
		after, err := cpuSeconds(m.PID())
		if err != nil {
			return err
		}
		mib, err := resident(m.PID())
		if err != nil {
			return err
		}
		shares, memory = append(shares, 100*(after-before)/window.Seconds()), append(memory, mib)
	}
	b.figure("CPU", "% of a core", shares, 0.5, false, "15 s each; the kernel counts in 0.07 %")
	b.figure("resident memory", "MiB", memory, 64, false, "")
	return nil
}

// working compares the webhook of the whole service at work with the bare
// handler; while that is measured, the service stands still.
func working(ctx context.Context, b *bench) error {
	c, err := b.controlPlane(ctx)
	if err != nil {
		return err
	}
	if _, err := deploy(ctx, c, "working", 20); err != nil {
		return err
	}
	mon, err := b.monitoring()
	if err != nil {
		return err
	}
	bare, err := b.child(ctx, "bare", "")
	if err != nil {
		return err
	}
	var n atomic.Int64
	shape := func(i int64) map[string]string {
		return map[string]string{"alertname": benchAlert, "namespace": benchNamespace, "deployment": fmt.Sprintf("working-%d", i%20),
			"instance": fmt.Sprint(i), "severity": "warning", "job": "kube-state-metrics", "prometheus": "monitoring/k8s"}
	}
	for _, kind := range databaseKinds {
		dsn, err := b.database(ctx, kind)
		if err != nil {
			return err
		}
		m, err := b.startMedic(ctx, settings{name: "working-" + kind, dsn: dsn, monitoring: mon.url, mode: "Observe"})
		if err != nil {
			return err
		}
		for _, connections := range []int{16, 256} {
			var rates, ratios, p99 []float64
			for range b.rounds {
				if err := syscall.Kill(m.PID(), syscall.SIGSTOP); err != nil {
					return err
				}
				base, err := load(ctx, bare.address, shape, &n, connections, stretch)
				if cerr := syscall.Kill(m.PID(), syscall.SIGCONT); err == nil {
					err = cerr
				}
				if err != nil {
					return err
				}
				taken := b.profiling(ctx, m, fmt.Sprintf("profile?seconds=%d", int(stretch.Seconds())), fmt.Sprintf("service-%s-%d", kind, connections))
				got, err := load(ctx, m.address, shape, &n, connections, stretch)
				if err := errors.Join(err, taken()); err != nil {
					return fmt.Errorf("%s: %w\n%s", kind, err, m.Tail())
				}
				rates, ratios = append(rates, got.rate), append(ratios, got.rate/base.rate)
				p99 = append(p99, ms(percentile(got.latencies, 0.99)))
			}
			b.figure(fmt.Sprintf("%s, %d connections, the engine at work", kind, connections), "requests/s", rates, 0, true, "")
			b.figure(fmt.Sprintf("%s, %d connections, the engine at work, against the bare handler", kind, connections), "ratio", ratios, 0.125, true, "")
			b.figure(fmt.Sprintf("%s, %d connections, the engine at work, p99", kind, connections), "ms", p99, 0, false, "")
		}
		if err := m.Kill(); err != nil {
			return err
		}
	}
	return nil
}

// start measures a start on a store with 100,000 runs, to the first answer that
// it is ready.
func start(ctx context.Context, b *bench) error {
	mon, err := b.monitoring()
	if err != nil {
		return err
	}
	if _, err := b.controlPlane(ctx); err != nil {
		return err
	}
	for _, kind := range databaseKinds {
		dsn, err := b.database(ctx, kind)
		if err != nil {
			return err
		}
		b.progress("%s: filling in 100,000 runs", kind)
		if err := fill(ctx, dsn, 100_000, 0); err != nil {
			return err
		}
		var took []float64
		m, err := b.startMedic(ctx, settings{name: "start-" + kind, dsn: dsn, monitoring: mon.url, mode: "library"})
		if err != nil {
			return err
		}
		took = append(took, ms(time.Since(m.launched)))
		for range b.rounds - 1 {
			if err := m.Kill(); err != nil {
				return err
			}
			began := time.Now()
			if err := m.Restart(); err != nil {
				return err
			}
			if err := m.waitReady(ctx); err != nil {
				return err
			}
			took = append(took, ms(time.Since(began)))
		}
		b.figure(kind+": from the start of the process to ready, 100,000 runs in the store", "ms", took, 1000, false, "after kill -9")
		if err := m.Kill(); err != nil {
			return err
		}
	}
	return nil
}

func webhookOf(labels map[string]string) []byte {
	return webhook(func(int64) map[string]string { return labels }, 0, 1)
}
