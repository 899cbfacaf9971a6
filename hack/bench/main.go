// Command bench measures what alertmedic promises about speed:
//
//	go run ./hack/bench [-run REGEX] [-rounds 3] [-write docs/benchmarks.md]
//
// Each figure is set against another of the same run on the same machine, the
// two measured in turns, so that what else the machine does touches both. It
// starts what it needs: a PostgreSQL with fsync, a control plane, and the
// service as a process of its own. With -write the tables replace those between
// the markers of the file, and the JSON is written beside it; with -run as well
// only the tables of what was run, which say when.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"syscall"
	"time"
)

// scenario is one measurement. Its error ends it and not the others.
type scenario struct {
	name    string
	limit   time.Duration
	service bool // it starts the service, which is built before the limit counts
	run     func(ctx context.Context, b *bench) error
}

// The limits leave room for a machine that is a few times slower than ours.
var scenarios = []scenario{
	{"accept", 5 * time.Minute, false, accept},
	{"batch", 2 * time.Minute, false, batch},
	{"match", time.Minute, false, match},
	{"large", 10 * time.Minute, false, large},
	{"working", 5 * time.Minute, true, working},
	{"react", 5 * time.Minute, true, react},
	{"idle", 3 * time.Minute, true, idle},
	{"storm", 12 * time.Minute, true, storm},
	{"takeover", 5 * time.Minute, true, takeover},
	{"start", 5 * time.Minute, true, start},
}

func main() {
	if child := os.Getenv(childEnv); child != "" {
		if err := beChild(child); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			os.Exit(1)
		}
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) (err error) {
	flags := flag.NewFlagSet("bench", flag.ExitOnError)
	pattern := flags.String("run", "", "run only the scenarios whose names match this `regular expression`")
	rounds := flags.Int("rounds", 3, "how often each figure is measured")
	write := flags.String("write", "", "write the tables into this `file`, and the JSON beside it")
	profiles := flags.String("profiles", "", "keep the CPU profiles of the servers in this `folder`")
	if err := flags.Parse(args); err != nil {
		return err
	}
	wanted, err := regexp.Compile(*pattern)
	if err != nil {
		return err
	}
	b, err := newBench(*rounds, *profiles)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	began := time.Now()
	for _, s := range scenarios {
		if !wanted.MatchString(s.name) || ctx.Err() != nil {
			continue
		}
		b.scenario = s.name
		if s.service {
			if _, err := b.service(ctx); err != nil {
				return err
			}
		}
		b.progress("begins (at most %s)", s.limit)
		sctx, cancel := context.WithTimeout(ctx, s.limit)
		if err := s.run(sctx, b); err != nil {
			b.progress("FAILED: %v", err)
			b.failures = append(b.failures, fmt.Sprintf("%s: %v", s.name, err))
		}
		if err := b.cleanup(); err != nil {
			b.progress("clean up: %v", err)
		}
		cancel()
	}
	b.report.Seconds = int(time.Since(began).Seconds())
	b.report.Failures = b.failures
	fmt.Println()
	b.report.markdown(os.Stdout)
	if *write != "" {
		if *pattern != "" {
			earlier, err := readReport(*write)
			if err != nil {
				return err
			}
			b.report = b.report.into(earlier, scenarios)
		}
		if err := b.report.write(*write); err != nil {
			return err
		}
	}
	if len(b.failures) > 0 {
		return fmt.Errorf("%d scenarios failed", len(b.failures))
	}
	return ctx.Err()
}
