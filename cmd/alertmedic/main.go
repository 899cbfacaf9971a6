// Command alertmedic heals what Prometheus alerts complain about, and is the
// command line of the service that does.
package main

import (
	_ "time/tzdata" // the zones of windows, where the image has none

	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() { os.Exit(start()) }

// start turns signals into the end of a context. A second signal ends the
// process at once.
func start() int {
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		s, ok := (<-signals).(syscall.Signal)
		if !ok {
			return
		}
		signal.Stop(signals)
		cancel(signalled{s})
	}()
	return run(ctx, os.Args[1:], terminal())
}

// signalled is why the context ended.
type signalled struct{ syscall.Signal }

func (s signalled) Error() string { return s.String() }

// run executes one command line and returns the exit code.
func run(ctx context.Context, args []string, c console) int {
	cl := &cli{console: c}
	root := cl.root()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	var s signalled
	if errors.As(context.Cause(ctx), &s) && (s.Signal == syscall.SIGINT || err != nil) {
		return 128 + int(s.Signal)
	}
	code := cl.exitCode(err)
	if err != nil && !errors.Is(err, errReported) {
		fmt.Fprintln(c.err, cl.paint(red, "alertmedic: "+clean(err.Error(), true)))
		if code == exitUsage && !cl.started {
			fmt.Fprintln(c.err, "Run alertmedic --help, or --help after a command, to see what it takes.")
		}
	}
	return code
}
