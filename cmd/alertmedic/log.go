package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/alertmedic/alertmedic/internal/api"
	"github.com/alertmedic/alertmedic/internal/api/client"
	"github.com/alertmedic/alertmedic/internal/journal"
	"github.com/alertmedic/alertmedic/internal/store"
	"github.com/alertmedic/alertmedic/k8sactions"
)

// reconnectAfter is how long to wait before a broken stream is opened again.
var reconnectAfter = 2 * time.Second

// fullID is the length of a run's id, a UUID.
const fullID = 36

func (cl *cli) logCommand() *cobra.Command {
	var (
		f                    store.LogFilter
		since, until, output string
		limit                int
		follow, all          bool
	)
	cmd := &cobra.Command{
		Use: "log", Short: "Read the remediation log", Args: noSubcommand,
		Long: `Print entries of the remediation log, the newest last. With --follow, go on with
new entries as they are sealed; a broken connection is opened again and no entry is
left out. With -o json each entry is one line of JSON.`,
		Example: `  alertmedic log --follow
  alertmedic log --run 0198c2d1-7a3b
  alertmedic log --namespace shop --since 24h --all -o json | jq .message`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if limit < 0 || (limit == 0 && !follow) {
				return usagef("--limit must be at least 1")
			}
			var err error
			if f.Since, err = cl.when("since", since); err != nil {
				return err
			}
			if f.Until, err = cl.when("until", until); err != nil {
				return err
			}
			c, err := cl.connect()
			if err != nil {
				return err
			}
			if all {
				limit = 0
			}
			if f.RunID != "" && len(f.RunID) < fullID { // as the table of runs shows it
				d, err := c.Run(cmd.Context(), f.RunID)
				if err != nil {
					return err
				}
				f.RunID = d.Run.ID
			}
			return cl.log(cmd.Context(), c, f, limit, all, follow, output)
		},
	}
	cl.connectFlags(cmd)
	outputFlag(cmd, &output, "json")
	flags := cmd.Flags()
	flags.BoolVarP(&follow, "follow", "f", false, "go on with new entries until interrupted")
	flags.IntVar(&limit, "limit", 100, "how many of the newest entries")
	flags.BoolVar(&all, "all", false, "all entries instead of the newest")
	cmd.MarkFlagsMutuallyExclusive("limit", "all")
	flags.StringVar(&f.Kind, "kind", "", "kind of the entry, such as step.intent")
	flags.StringVar(&f.RunID, "run", "", "id of the run, or its beginning")
	flags.StringVar(&f.EpisodeID, "episode", "", "id of the episode")
	flags.StringVar(&f.Fingerprint, "fingerprint", "", "fingerprint of the alert")
	flags.StringVar(&f.AlertName, "alertname", "", "name of the alert")
	flags.StringVar(&f.Playbook, "playbook", "", "name of the playbook")
	flags.StringVar(&f.Action, "action", "", "name of the action")
	flags.StringVarP(&f.Namespace, "namespace", "n", "", "namespace of the target")
	flags.StringVar(&f.TargetKind, "target-kind", "", "kind of the target")
	flags.StringVar(&f.TargetName, "target", "", "name of the target")
	flags.StringVar(&f.Outcome, "outcome", "", "such as healed or escalated")
	flags.StringVar(&f.Reason, "reason", "", "such as cooldown")
	flags.StringVar(&since, "since", "", "since: a duration before now, or a date")
	flags.StringVar(&until, "until", "", "before: a duration before now, or a date")
	must(cmd.RegisterFlagCompletionFunc("playbook", cl.completePlaybooks))
	must(cmd.RegisterFlagCompletionFunc("run", cl.completeRuns(store.RunFilter{})))
	var actions []string
	for _, s := range k8sactions.Specs() {
		actions = append(actions, s.Name)
	}
	fixed(cmd, "action", actions...)
	return cmd
}

// log prints what is there, and with follow what comes. limit 0 with all means
// everything.
func (cl *cli) log(ctx context.Context, c *client.Client, f store.LogFilter, limit int, all, follow bool, output string) error {
	show := func(en journal.Entry) error {
		f.AfterSeq = max(f.AfterSeq, en.Seq)
		return cl.printEntry(en, output)
	}
	if follow {
		// What is sealed while the newest entries are read must not be missed, nor
		// come twice: following begins where this head ends.
		head, err := c.Log(ctx, store.LogFilter{}, client.Page{Limit: 1, Order: "desc"})
		if err != nil {
			return err
		}
		if !all {
			entries, err := newest(ctx, c, f, limit)
			if err != nil {
				return err
			}
			for _, en := range entries {
				if err := show(en); err != nil {
					return err
				}
			}
			if len(head.Items) > 0 {
				f.AfterSeq = max(f.AfterSeq, head.Items[0].Seq)
			}
		}
		return cl.follow(ctx, c, &f, show)
	}
	if all {
		return everything(ctx, c, f, show)
	}
	entries, err := newest(ctx, c, f, limit)
	if err != nil {
		return err
	}
	for _, en := range entries {
		if err := show(en); err != nil {
			return err
		}
	}
	return nil
}

// newest returns the last limit entries, the oldest of them first.
func newest(ctx context.Context, c *client.Client, f store.LogFilter, limit int) ([]journal.Entry, error) {
	var out []journal.Entry
	for cursor := ""; len(out) < limit; {
		list, err := c.Log(ctx, f, client.Page{Limit: min(limit-len(out), api.MaxLimit), Cursor: cursor, Order: "desc"})
		if err != nil {
			return nil, err
		}
		out = append(out, list.Items...)
		if cursor = list.NextCursor; cursor == "" {
			break
		}
	}
	slices.Reverse(out)
	return out, nil
}

func everything(ctx context.Context, c *client.Client, f store.LogFilter, yield func(journal.Entry) error) error {
	for cursor := ""; ; {
		list, err := c.Log(ctx, f, client.Page{Limit: api.MaxLimit, Cursor: cursor, Order: "asc"})
		if err != nil {
			return err
		}
		for _, en := range list.Items {
			if err := yield(en); err != nil {
				return err
			}
		}
		if cursor = list.NextCursor; cursor == "" {
			return nil
		}
	}
}

// follow opens the stream again when it breaks. What the service refuses, it
// will refuse again; only that ends following.
func (cl *cli) follow(ctx context.Context, c *client.Client, f *store.LogFilter, yield func(journal.Entry) error) error {
	for {
		err := c.Follow(ctx, *f, func(en journal.Entry) error {
			if err := yield(en); err != nil {
				return &printError{err}
			}
			return nil
		})
		var answer *client.Error
		var failed *printError
		switch {
		case err == nil, errors.As(err, &failed):
			return err
		case errors.As(err, &answer) && answer.Status < 500:
			return err
		}
		fmt.Fprintf(cl.err, "%s; connecting again\n", clean(err.Error(), false))
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(reconnectAfter):
		}
	}
}

// printError is a failure of this side, not of the stream.
type printError struct{ err error }

func (e *printError) Error() string { return e.err.Error() }
func (e *printError) Unwrap() error { return e.err }

func (cl *cli) printEntry(en journal.Entry, output string) error {
	if output == "json" {
		enc := json.NewEncoder(cl.out)
		enc.SetEscapeHTML(false)
		return enc.Encode(en)
	}
	_, err := fmt.Fprintln(cl.out, cl.entryLine(en))
	return err
}

// entryLine is an entry as a person reads it: fixed columns first, so that lines
// that come one by one stay aligned.
func (cl *cli) entryLine(en journal.Entry) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %-20s", en.At.UTC().Format("2006-01-02T15:04:05Z"), en.Kind)
	var words []string
	if en.Target != nil {
		words = append(words, clean(en.Target.String(), false))
	} else if en.AlertName != "" {
		words = append(words, clean(en.AlertName, false))
	}
	if en.Playbook != "" {
		where := clean(en.Playbook, false)
		for _, more := range []string{en.Remedy, en.Step} {
			if more != "" {
				where += "/" + clean(more, false)
			}
		}
		words = append(words, where)
	}
	if en.Action != "" {
		words = append(words, clean(en.Action, false))
	}
	if en.Outcome != "" {
		words = append(words, cl.paint(entryColour(en), clean(en.Outcome, false)))
	}
	if en.Reason != "" {
		words = append(words, "("+clean(en.Reason, false)+")")
	}
	if en.Actor != "" && (en.Kind == journal.ApprovalDecided || en.Kind == journal.PauseSet || en.Kind == journal.PauseCleared) {
		words = append(words, "by "+clean(en.Actor, false))
	}
	b.WriteString(" " + strings.Join(words, " "))
	if en.Message != "" {
		b.WriteString(": " + clean(en.Message, false))
	}
	return b.String()
}

func entryColour(en journal.Entry) string {
	switch store.Outcome(en.Outcome) {
	case store.Healed:
		return green
	case store.NotHealed, store.Escalated, store.OutcomeUnknown, store.Failed:
		return red
	}
	return plain
}
