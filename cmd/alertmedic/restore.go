package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/alertmedic/alertmedic/internal/config"
	"github.com/alertmedic/alertmedic/internal/store"
)

func (cl *cli) restoreCommand() *cobra.Command {
	var file, output string
	var force, move, brokenLog bool
	cmd := &cobra.Command{
		Use: "restore FILE", Short: "Restore a backup into the database", Args: oneFile("the backup"),
		Long: `Fill the database that the configuration names with a backup, made from SQLite or
PostgreSQL, by this version or an earlier one. The service must be stopped, on all
replicas. Either all of the backup is there afterwards, or nothing has changed.

What happened after the backup was taken is not in it, so nothing goes on by
itself. Runs that were live end with the reason "restored": as cancelled if they
had changed nothing yet, as escalated if they had, as outcome-unknown if a call was
under way. Messages that were not delivered are not sent. Cooldowns and attempts of
what came later are lost. Therefore everything is paused until ` + "`alertmedic resume`" + `;
alerts are received meanwhile, and those that still fire then are acted on.

With --move none of this is done: runs go on where they were. It is for a backup
that was taken with --config while the service was stopped, and has not been started
since, such as on the way from SQLite to PostgreSQL.`,
		Example: `  alertmedic restore --config alertmedic.yaml alertmedic.backup
  alertmedic restore --config postgresql.yaml --move sqlite.backup
  gpg --decrypt alertmedic.backup.gpg | alertmedic restore --config alertmedic.yaml -`,
		RunE: func(cmd *cobra.Command, args []string) error {
			dsn, err := cl.dsn(file)
			if err != nil {
				return err
			}
			in, closeIn, err := cl.openBackup(args[0])
			if err != nil {
				return err
			}
			defer closeIn()
			got, err := store.Restore(cmd.Context(), in, store.RestoreOptions{DSN: dsn, Force: force, Move: move, BrokenLog: brokenLog, Actor: "alertmedic restore",
				Logger: newLogger(cl.err, config.Log{Level: "warn", Format: "logfmt"})})
			switch {
			case errors.Is(err, store.ErrNotEmpty), errors.Is(err, store.ErrBusy), errors.Is(err, store.ErrNewerSchema):
				return fmt.Errorf("%w: %w", errRefused, err)
			case errors.Is(err, store.ErrBadBackup):
				return &badBackupError{err}
			case err != nil:
				return err
			}
			if output == "json" {
				return cl.json(got)
			}
			return cl.printRestored(got, move)
		},
	}
	cl.configFlag(cmd, &file)
	cmd.Flags().BoolVar(&force, "force", false, "replace what is in the database; on SQLite the file before is kept beside it, on PostgreSQL it is gone")
	cmd.Flags().BoolVar(&move, "move", false, "the service has been stopped since before the backup: go on where it was")
	cmd.Flags().BoolVar(&brokenLog, "broken-log", false, "restore although the log in the backup was tampered with, as verify says")
	outputFlag(cmd, &output, "json")
	return cmd
}

// badBackupError is found in what a command was given, as check finds problems.
type badBackupError struct{ err error }

func (e *badBackupError) Error() string { return e.err.Error() }
func (e *badBackupError) Unwrap() error { return e.err }

func oneFile(what string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) != 1 {
			return usagef("name one file, %s; - is the standard input", what)
		}
		return nil
	}
}

func (cl *cli) openBackup(name string) (io.Reader, func(), error) {
	if name == "-" {
		return cl.in, func() {}, nil
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, nil, fmt.Errorf("read the backup: %w", err)
	}
	return f, func() { _ = f.Close() }, nil
}

func (cl *cli) printRestored(r store.Restored, move bool) error {
	say := func(format string, args ...any) error {
		_, err := fmt.Fprintln(cl.out, clean(fmt.Sprintf(format, args...), false))
		return err
	}
	chain := fmt.Sprintf("the log's chain holds up to seq %d", r.Backup.Journal.Seq)
	if r.Backup.BrokenLog != "" {
		chain = "the log's chain is broken, as `alertmedic verify` says of it from now on: " + r.Backup.BrokenLog
	}
	errs := []error{say("restored into %s: %s", r.Database, summary(r.Backup)), say("%s", chain)}
	if r.Kept != "" {
		errs = append(errs, say("the database before is kept as %s", r.Kept))
	}
	if move {
		return errors.Join(append(errs, say("moved: runs go on where they were when the service starts"))...)
	}
	if n := r.Cancelled + r.Escalated + r.Unknown; n > 0 {
		errs = append(errs, say("%s ended: %d cancelled, %d escalated, %d outcome-unknown; see them with `alertmedic runs --reason restored`",
			count(n, "live run"), r.Cancelled, r.Escalated, r.Unknown))
	}
	if r.Candidates > 0 {
		errs = append(errs, say("%s ended before a run began", count(r.Candidates, "candidate")))
	}
	if r.Messages > 0 {
		errs = append(errs, say("%s will not be sent", count(r.Messages, "message")))
	}
	return errors.Join(append(errs, say("paused: start the service, look at what fires and at what was done since %s, then `alertmedic resume`", stamp(r.Backup.TakenAt)))...)
}
