package main

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/alertmedic/alertmedic/internal/journal"
	"github.com/alertmedic/alertmedic/internal/store"
)

// verified is what verify found, as -o json prints it.
type verified struct {
	OK      bool  `json:"ok"`
	Seq     int64 `json:"seq"` // up to which it holds
	Removed int64 `json:"removed,omitempty"`
	// Checkpoints is how many signed ones the log was compared with.
	Checkpoints int    `json:"checkpoints,omitempty"`
	Problem     string `json:"problem,omitempty"`
	// BadSeq is that of the first entry that is wrong.
	BadSeq int64 `json:"badSeq,omitempty"`
}

func (cl *cli) verifyCommand() *cobra.Command {
	var checkpoints, key, output string
	cmd := &cobra.Command{
		Use: "verify [BACKUP]", Short: "Check that nobody altered the remediation log",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usagef("name one backup, or none to check the log of the service")
			}
			return nil
		},
		Long: `Check the chain of the whole remediation log: that every entry follows the one
before, and that none was altered, left out or put in between. The log is read from
the service, or from a backup. The first entry that is wrong is named, and the exit
code is 3.

Whoever can write to the database could make the whole chain anew. Checkpoints, which
the service signs and writes to its own log and to journal.checkpointFile, show that:
with --checkpoints and --key the log is compared with them.`,
		Example: `  alertmedic verify
  alertmedic verify alertmedic.backup
  alertmedic verify --checkpoints checkpoints.jsonl --key checkpoint-public.pem`,
		RunE: func(cmd *cobra.Command, args []string) error {
			signed, err := loadCheckpoints(checkpoints, key)
			if err != nil {
				return err
			}
			var entries func(context.Context, func(journal.Entry) error) error
			if len(args) == 1 {
				entries = func(ctx context.Context, yield func(journal.Entry) error) error {
					return cl.backupEntries(args[0], yield)
				}
			} else {
				c, err := cl.connect()
				if err != nil {
					return err
				}
				entries = func(ctx context.Context, yield func(journal.Entry) error) error {
					return c.Entries(ctx, store.LogFilter{}, yield)
				}
			}
			result, err := verifyLog(cmd.Context(), signed, entries)
			if err != nil {
				return err
			}
			if err := cl.printVerified(result, output); err != nil {
				return err
			}
			if !result.OK {
				return errProblems
			}
			return nil
		},
	}
	cl.connectFlags(cmd)
	cmd.Flags().StringVar(&checkpoints, "checkpoints", "", "file of checkpoints, one a line, to compare the log with")
	cmd.Flags().StringVar(&key, "key", "", "public key (PEM) that the checkpoints were signed with")
	cmd.MarkFlagsRequiredTogether("checkpoints", "key")
	must(cmd.MarkFlagFilename("checkpoints"))
	must(cmd.MarkFlagFilename("key", "pem"))
	outputFlag(cmd, &output, "json")
	return cmd
}

// verifyLog reads a whole log. The error is about reading it; what is wrong with
// it is in the result.
func verifyLog(ctx context.Context, signed map[int64]journal.Checkpoint, entries func(context.Context, func(journal.Entry) error) error) (verified, error) {
	var v journal.Verifier
	var out verified
	err := entries(ctx, func(e journal.Entry) error {
		if err := v.Add(e); err != nil {
			return err
		}
		if cp, ok := signed[e.Seq]; ok {
			out.Checkpoints++
			return cp.Matches(e)
		}
		return nil
	})
	if err == nil {
		err = v.End()
	}
	out.Seq, out.Removed = v.Head().Seq, v.Removed()
	if err == nil {
		for seq, cp := range signed {
			if seq > out.Seq { // Matches nothing: cut off
				err = cp.Matches(journal.Entry{})
			}
		}
	}
	var broken *journal.ChainError
	switch {
	case err == nil:
		out.OK = true
	case errors.As(err, &broken):
		out.Problem, out.BadSeq = err.Error(), broken.Seq
	case errors.Is(err, store.ErrBadBackup):
		out.Problem = err.Error()
	default:
		return out, err
	}
	return out, nil
}

func (cl *cli) backupEntries(name string, yield func(journal.Entry) error) error {
	in, closeIn, err := cl.openBackup(name)
	if err != nil {
		return err
	}
	defer closeIn()
	return store.BackupEntries(in, yield)
}

// loadCheckpoints reads the checkpoints of a file by seq, and checks their
// signatures.
func loadCheckpoints(file, keyFile string) (map[int64]journal.Checkpoint, error) {
	if file == "" {
		return nil, nil
	}
	doc, err := os.ReadFile(keyFile)
	if err != nil {
		return nil, fmt.Errorf("read the public key: %w", err)
	}
	var pub ed25519.PublicKey
	if pub, err = journal.ParsePublicPEM(doc); err != nil {
		return nil, fmt.Errorf("read the public key %s: %w", keyFile, err)
	}
	lines, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read the checkpoints: %w", err)
	}
	out := map[int64]journal.Checkpoint{}
	for n, line := range strings.Split(string(lines), "\n") {
		var cp journal.Checkpoint
		if strings.TrimSpace(line) == "" {
			continue
		}
		if err := json.Unmarshal([]byte(line), &cp); err != nil {
			return nil, fmt.Errorf("%s:%d: this is no checkpoint: %w", file, n+1, err)
		}
		if err := cp.Verify(pub); err != nil {
			return nil, fmt.Errorf("%s:%d: %w", file, n+1, err)
		}
		out[cp.Seq] = cp
	}
	return out, nil
}

func (cl *cli) printVerified(v verified, output string) error {
	if output == "json" {
		return cl.json(v)
	}
	if !v.OK {
		_, err := fmt.Fprintln(cl.out, cl.paint(red, clean(v.Problem, false)))
		if err == nil {
			_, err = fmt.Fprintf(cl.out, "the log holds up to seq %d\n", v.Seq)
		}
		return err
	}
	text := fmt.Sprintf("the log holds up to seq %d", v.Seq)
	if v.Removed > 0 {
		text += fmt.Sprintf("; entries up to seq %d were removed by store.retention.journal", v.Removed)
	}
	if v.Checkpoints > 0 {
		text += fmt.Sprintf("; it agrees with %s", count(v.Checkpoints, "checkpoint"))
	}
	_, err := fmt.Fprintln(cl.out, text)
	return err
}
