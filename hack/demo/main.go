// Command demo shows alertmedic at work: it starts a real control plane,
// Prometheus, Alertmanager and alertmedic, deploys a small shop, breaks it in
// four ways and shows what fires, what runs, what is changed and whether it
// healed. At the end most nodes fail at once, and nothing must be changed.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"time"
)

// options are the demo's flags.
type options struct {
	once, observe bool
	timeout       time.Duration
}

func main() {
	// Children die with the thread that started them: keep it.
	runtime.LockOSThread()
	os.Exit(run())
}

func run() int {
	var o options
	flag.BoolVar(&o.once, "once", false, "exit when all faults are over: 0 if everything healed, 1 if not")
	flag.BoolVar(&o.observe, "observe", false, "run alertmedic in mode Observe: the same, with nothing changed")
	flag.DurationVar(&o.timeout, "timeout", 5*time.Minute, "how long the faults may take, without building and starting")
	flag.Parse()
	if flag.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "demo: unexpected argument %q; see -help\n", flag.Arg(0))
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ok, err := show(ctx, o)
	switch {
	case errors.Is(err, context.Canceled):
		return 130
	case err != nil:
		fmt.Fprintln(os.Stderr, "demo:", err)
		return 1
	case !ok:
		return 1
	}
	return 0
}

// show runs the whole demo and reports whether every fault ended as it should.
func show(ctx context.Context, o options) (_ bool, err error) {
	v := newView(os.Stdout)
	v.title("alertmedic demo" + map[bool]string{true: " (mode Observe: nothing is changed)"}[o.observe])
	s, err := openStage(ctx, o, v)
	defer func() {
		if s != nil {
			err = errors.Join(err, s.close())
		}
	}()
	if err != nil {
		return false, err
	}
	if err := s.deployShop(ctx); err != nil {
		return false, fmt.Errorf("deploy the shop: %w", err)
	}
	actCtx, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	acts, err := s.play(actCtx)
	if err != nil && ctx.Err() != nil {
		return false, ctx.Err()
	}
	if err != nil {
		return false, err
	}
	ok := v.table(acts, o.observe)
	if o.observe {
		n, err := s.mutations()
		if err != nil {
			return false, err
		}
		v.note("The API server's audit log holds %d changes by alertmedic.", n)
		ok = ok && n == 0
	} else {
		calm, err := s.storm(actCtx)
		if err != nil {
			return false, err
		}
		ok = ok && calm
	}
	if o.once {
		return ok, nil
	}
	s.printAddresses()
	v.note("Everything stays up until Ctrl-C. Try: %s", s.hint())
	<-ctx.Done()
	return ok, nil
}
