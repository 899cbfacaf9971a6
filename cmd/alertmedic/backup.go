package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/alertmedic/alertmedic/internal/config"
	"github.com/alertmedic/alertmedic/internal/store"
)

func (cl *cli) backupCommand() *cobra.Command {
	var file, output string
	cmd := &cobra.Command{
		Use: "backup -o FILE", Short: "Take a backup of the database", Args: noSubcommand,
		Long: `Take a consistent backup of the database while the service goes on: whatever was
acknowledged before is in it. The file is the same for SQLite and PostgreSQL, is
checked when it is complete, and only then takes its name; one that was there is
replaced. It holds everything that the log and the runs hold: keep it like them.

The running service is asked for it (--server), which takes the role admin. With
--config the database that the configuration names is read without a service; on
SQLite that works only while none runs. Only a backup of a stopped service can be
restored as a move to another database.`,
		Example: `  alertmedic backup -o alertmedic.backup
  alertmedic backup --server https://alertmedic.example.org --token-file admin-token -o alertmedic.backup
  alertmedic backup --config alertmedic.yaml -o before-upgrade.backup
  alertmedic backup -o - | gpg --encrypt --recipient ops > alertmedic.backup.gpg`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			offline := cmd.Flags().Changed("config")
			switch {
			case output == "":
				return usagef("-o is required: name the file of the backup, or - for the standard output")
			case offline && cmd.Flags().Changed("server"):
				return usagef("--config reads the database itself and --server asks the service: leave one out")
			}
			take := cl.fromService
			if offline {
				take = func(ctx context.Context, w io.Writer) error { return cl.fromDatabase(ctx, file, w) }
			}
			if output == "-" {
				return take(cmd.Context(), cl.out)
			}
			info, err := takeFile(cmd.Context(), output, take)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cl.err, "%s: %s\n", clean(output, false), summary(info))
			return err
		},
	}
	cl.connectFlags(cmd)
	cl.configFlag(cmd, &file)
	cmd.Flags().Lookup("config").Usage = "read the database of this configuration instead of asking the service"
	cmd.Flags().StringVarP(&output, "output", "o", "", "file of the backup, or - for the standard output")
	must(cmd.MarkFlagFilename("output"))
	return cmd
}

func summary(info store.BackupInfo) string {
	return fmt.Sprintf("%d runs, %d episodes, %d log entries, as of %s (%s, schema %d)",
		info.Rows["runs"], info.Rows["episodes"], info.Rows["journal"], stamp(info.TakenAt), info.Dialect, info.Schema)
}

func (cl *cli) fromService(ctx context.Context, w io.Writer) error {
	c, err := cl.connect()
	if err != nil {
		return err
	}
	return c.Backup(ctx, w)
}

func (cl *cli) fromDatabase(ctx context.Context, file string, w io.Writer) (err error) {
	dsn, err := cl.dsn(file)
	if err != nil {
		return err
	}
	s, stopped, err := store.OpenForBackup(ctx, dsn)
	if errors.Is(err, store.ErrBusy) {
		return fmt.Errorf("%w: %w; or ask the service itself for the backup: leave --config out", errRefused, err)
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	_, err = s.Backup(ctx, w, store.BackupOptions{Program: versionName(), Stopped: stopped})
	return err
}

// dsn reads which database the configuration names.
func (cl *cli) dsn(file string) (string, error) {
	cfg, err := config.Load(cl.configFile(file))
	if problems, ok := located(err); ok {
		return "", fmt.Errorf("%s in the configuration:\n%w", count(len(problems.Problems), "problem"), err)
	} else if err != nil {
		return "", err
	}
	return cfg.Store.ResolveDSN()
}

// takeFile writes a backup beside its place and moves it there when it is whole
// and on the disk.
func takeFile(ctx context.Context, name string, take func(context.Context, io.Writer) error) (info store.BackupInfo, err error) {
	f, err := os.CreateTemp(filepath.Dir(name), filepath.Base(name)+".*.partial") // for its owner only
	if err != nil {
		return info, fmt.Errorf("write the backup: %w", err)
	}
	done := false
	defer func() {
		if !done {
			err = errors.Join(err, f.Close(), os.Remove(f.Name()))
		}
	}()
	if err := take(ctx, f); err != nil {
		return info, err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return info, fmt.Errorf("check the backup: %w", err)
	}
	// A log that was tampered with is told, and no reason to be without a backup.
	info, verdict := store.VerifyBackup(f)
	if verdict != nil && !errors.Is(verdict, store.ErrBrokenLog) {
		return info, fmt.Errorf("check the backup: %w", verdict)
	}
	if err := f.Sync(); err != nil {
		return info, fmt.Errorf("write the backup: %w", err)
	}
	if err := os.Rename(f.Name(), name); err != nil {
		return info, fmt.Errorf("write the backup: %w", err)
	}
	done = true
	if err := f.Close(); err != nil {
		return info, fmt.Errorf("write the backup: %w", err)
	}
	if verdict != nil {
		return info, &badBackupError{fmt.Errorf("%s is written, and may be restored with --broken-log: %w", name, verdict)}
	}
	return info, nil
}
