// Command testenv runs a command beside a local control plane:
//
//	go run ./hack/testenv [-cluster=false] [-postgres] -- go test ./...
//
// It starts one control plane, names it to the command in
// ALERTMEDIC_TESTCLUSTER, stops it when the command has ended, and ends with
// the command's exit code. With -postgres it also starts a throwaway
// PostgreSQL, named in ALERTMEDIC_TEST_POSTGRES. Signals go to the command.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/alertmedic/alertmedic/internal/testcluster"
)

func main() {
	cluster := flag.Bool("cluster", true, "start a control plane")
	postgres := flag.Bool("postgres", false, "start a throwaway PostgreSQL")
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "usage: testenv [flags] -- command [arguments]")
		flag.PrintDefaults()
	}
	flag.Parse()
	if flag.NArg() == 0 {
		flag.Usage()
		os.Exit(2)
	}
	code, err := run(*cluster, *postgres, flag.Args())
	if err != nil {
		fmt.Fprintln(os.Stderr, "testenv:", err)
		if code == 0 {
			code = 1
		}
	}
	os.Exit(code)
}

// stop says what went wrong at the end of something; what the command found
// stands all the same.
func stop(what string, end func() error) {
	if err := end(); err != nil {
		fmt.Fprintf(os.Stderr, "testenv: stop %s: %v\n", what, err)
	}
}

func run(cluster, postgres bool, command []string) (code int, err error) {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	interrupted := make(chan struct{})
	started := make(chan struct{})
	go func() {
		select {
		case <-signals:
			close(interrupted)
			cancel()
		case <-started:
		}
	}()
	env := os.Environ()
	if postgres {
		p, err := testcluster.StartPostgres(ctx, testcluster.PostgresOptions{})
		if err != nil {
			return 1, err
		}
		defer stop("PostgreSQL", p.Stop)
		env = append(env, testcluster.EnvPostgres+"="+p.DSN)
	}
	if cluster {
		c, err := testcluster.Start(ctx, testcluster.SharedOptions)
		if err != nil {
			return 1, err
		}
		defer stop("the control plane", c.Stop)
		state := filepath.Join(c.Dir(), "state.json")
		if err := c.Save(state); err != nil {
			return 1, err
		}
		env = append(env, testcluster.EnvState+"="+state)
	}
	close(started)
	select {
	case <-interrupted:
		return 130, nil
	default:
	}
	cmd := exec.Command(command[0], command[1:]...) //nolint:noctx // outlives the call: it is stopped in order
	cmd.Stdin, cmd.Stdout, cmd.Stderr, cmd.Env = os.Stdin, os.Stdout, os.Stderr, env
	if err := cmd.Start(); err != nil {
		return 127, err
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	for {
		select {
		case s := <-signals:
			// A terminal sends Ctrl-C to the command as well; twice does no harm.
			if err := cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
				fmt.Fprintf(os.Stderr, "testenv: pass %s on: %v\n", s, err)
			}
		case err := <-done:
			var exit *exec.ExitError
			if errors.As(err, &exit) {
				if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
					return 128 + int(status.Signal()), nil
				}
				return exit.ExitCode(), nil
			}
			return 0, err
		}
	}
}
