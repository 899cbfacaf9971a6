package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/alertmedic/alertmedic/internal/config"
)

func (cl *cli) serveCommand() *cobra.Command {
	var file, profiles string
	cmd := &cobra.Command{
		Use: "serve", Short: "Receive alerts and remedy them", Args: cobra.NoArgs,
		Long: `Serve the webhook for Alertmanager, the API and the metrics, and work on runs
until SIGTERM or SIGINT. SIGHUP reads playbooks and tokens again; what is wrong in
them is logged, and what was loaded before stays in force.`,
		Example: `  alertmedic serve --config /etc/alertmedic/alertmedic.yaml`,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			cfg, err := config.Load(cl.configFile(file))
			if problems, ok := located(err); ok {
				return fmt.Errorf("%s in the configuration:\n%w", count(len(problems.Problems), "problem"), err)
			} else if err != nil {
				return err
			}
			reload, stop := hangups()
			defer stop()
			ctx, cancel := context.WithCancel(cmd.Context())
			defer cancel()
			collectEarly(cl.env)
			log := newLogger(cl.err, cfg.Log)
			if profiles != "" {
				end, failed := serveProfiles(ctx, profiles, log)
				if failed != nil {
					return failed
				}
				defer func() { err = errors.Join(err, end()) }()
			}
			return runApp(ctx, cfg, log, reload)
		},
	}
	cl.configFlag(cmd, &file)
	cmd.Flags().StringVar(&profiles, "pprof-address", "", "serve Go's profiles of the process on this HOST:PORT, best of 127.0.0.1 (default nowhere)")
	return cmd
}

// collectEarly spends some CPU on a smaller heap, unless GOGC says otherwise: the
// service runs beside what it heals, and on a bad day memory is what is short.
func collectEarly(env func(string) string) {
	if env("GOGC") == "" {
		debug.SetGCPercent(50)
	}
}

func (cl *cli) configFlag(cmd *cobra.Command, into *string) {
	cmd.Flags().StringVar(into, "config", "", "configuration file (default $"+envConfig+", or alertmedic.yaml)")
	must(cmd.MarkFlagFilename("config", "yaml", "yml"))
}

func (cl *cli) configFile(flag string) string {
	if flag == "" {
		flag = cl.env(envConfig)
	}
	if flag == "" {
		flag = "alertmedic.yaml"
	}
	return flag
}

// hangups turns SIGHUP into requests to reload; several in a row are one.
func hangups() (<-chan struct{}, func()) {
	signals, reload, done := make(chan os.Signal, 1), make(chan struct{}, 1), make(chan struct{})
	signal.Notify(signals, syscall.SIGHUP)
	go func() {
		for {
			select {
			case <-done:
				return
			case <-signals:
				select {
				case reload <- struct{}{}:
				default:
				}
			}
		}
	}()
	return reload, func() {
		signal.Stop(signals)
		close(done)
	}
}

// newLogger writes the process's log as the configuration, which was checked,
// says.
func newLogger(w io.Writer, c config.Log) *slog.Logger {
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.Level)); err != nil {
		level = slog.LevelInfo
	}
	options := &slog.HandlerOptions{Level: level}
	if c.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, options))
	}
	return slog.New(slog.NewTextHandler(w, options))
}

// located reports whether err lists problems, each with its place, which need
// no introduction.
func located(err error) (*config.Error, bool) {
	var problems *config.Error
	ok := errors.As(err, &problems)
	return problems, ok
}
