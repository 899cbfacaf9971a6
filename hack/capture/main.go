// Command capture records what a real Alertmanager sends when a cluster
// misbehaves:
//
//	go run ./hack/capture [-only name,name] [-out testdata/webhooks/captured]
//
// It starts one control plane, and for each scenario kube-state-metrics,
// Prometheus and Alertmanager of its own, breaks what the scenario is about and
// writes every webhook, in the order of arrival, as one line of
// <scenario>.ndjson. The engine's tests replay these files.
//
// The rules are the shipped ones, shortened, unless a row of the scenario needs
// the wording of another rule set.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/alertmedic/alertmedic/internal/testcluster"
)

// scenario is one story; play returns when everything it waits for has arrived.
type scenario struct {
	name string
	play func(ctx context.Context, s *stage) error
}

func main() {
	// Children die with the thread that started them: keep it.
	runtime.LockOSThread()
	only := flag.String("only", "", "names of the scenarios to run, with commas; all by default")
	out := flag.String("out", "testdata/webhooks/captured", "folder to write to")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *only, *out); err != nil {
		fmt.Fprintln(os.Stderr, "capture:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, only, out string) (err error) {
	all := slices.Concat(nodeScenarios, workloadScenarios, senderScenarios, labelScenarios)
	var names []string
	if only != "" {
		names = strings.Split(only, ",")
	}
	for _, name := range names {
		if !slices.ContainsFunc(all, func(s scenario) bool { return s.name == name }) {
			return fmt.Errorf("no scenario is called %q", name)
		}
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	cluster, err := testcluster.Start(ctx, testcluster.Options{Nodes: 3})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, cluster.Stop()) }()
	var failed []error
	for _, s := range all {
		if len(names) > 0 && !slices.Contains(names, s.name) {
			continue
		}
		started := time.Now()
		n, err := capture(ctx, cluster, s, filepath.Join(out, s.name+".ndjson"))
		fmt.Fprintf(os.Stderr, "%-28s %2d webhooks, %s\n", s.name, n, time.Since(started).Round(time.Second))
		if err != nil {
			fmt.Fprintln(os.Stderr, "  ", err)
			failed = append(failed, fmt.Errorf("%s: %w", s.name, err))
		}
		if ctx.Err() != nil {
			break
		}
	}
	return errors.Join(failed...)
}

// capture plays one scenario and writes its file when it came to its end.
func capture(ctx context.Context, cluster *testcluster.Cluster, sc scenario, path string) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	s, err := openStage(ctx, cluster, sc.name)
	if err != nil {
		return 0, err
	}
	err = errors.Join(sc.play(ctx, s), s.close())
	records := s.sink.records()
	if err != nil {
		for _, r := range records {
			fmt.Fprintln(os.Stderr, "   ", r.summary())
		}
		return len(records), err
	}
	return len(records), write(path, records)
}
