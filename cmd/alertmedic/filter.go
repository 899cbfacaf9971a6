package main

import (
	"context"
	"strings"
	"time"

	"github.com/prometheus/common/model"
	"github.com/spf13/cobra"

	"github.com/alertmedic/alertmedic/internal/store"
)

// when parses a point in time: a duration before now, or a date.
func (cl *cli) when(flag, text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if d, err := model.ParseDuration(text); err == nil {
		return cl.now().Add(-time.Duration(d)), nil
	}
	for _, layout := range []string{time.RFC3339Nano, time.DateTime, time.DateOnly} {
		if t, err := time.ParseInLocation(layout, text, time.UTC); err == nil {
			return t, nil
		}
	}
	return time.Time{}, usagef("--%s must be a duration before now such as 2h, or a date such as 2026-03-01T10:00:00Z, not %q", flag, text)
}

func fixed(cmd *cobra.Command, flag string, values ...string) {
	must(cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)))
}

// completeTimeout is how long a person who pressed Tab is kept waiting.
var completeTimeout = 2 * time.Second

// completePlaybooks asks the service for the names of its playbooks.
func (cl *cli) completePlaybooks(cmd *cobra.Command, _ []string, prefix string) ([]string, cobra.ShellCompDirective) {
	ctx, cancel := completeContext(cmd)
	defer cancel()
	c, err := cl.connect()
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	list, err := c.Playbooks(ctx)
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	var out []string
	for _, pb := range list.Items {
		if strings.HasPrefix(pb.Name, prefix) {
			out = append(out, cobra.CompletionWithDesc(pb.Name, clean(pb.Description, false)))
		}
	}
	return out, cobra.ShellCompDirectiveNoFileComp
}

// completeRuns asks the service for the newest runs that f selects.
func (cl *cli) completeRuns(f store.RunFilter) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		ctx, cancel := completeContext(cmd)
		defer cancel()
		c, err := cl.connect()
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		list, err := c.Runs(ctx, f, pageOf(50))
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		var out []string
		for _, r := range list.Items {
			if strings.HasPrefix(r.ID, prefix) {
				out = append(out, cobra.CompletionWithDesc(r.ID, clean(r.Playbook+" on "+r.Target.String()+", "+state(r), false)))
			}
		}
		return out, cobra.ShellCompDirectiveNoFileComp
	}
}

func completeContext(cmd *cobra.Command) (context.Context, context.CancelFunc) {
	ctx := cmd.Context()
	if ctx == nil {
		ctx = context.Background()
	}
	return context.WithTimeout(ctx, completeTimeout)
}
