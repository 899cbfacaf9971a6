package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/alertmedic/alertmedic/internal/action"
	"github.com/alertmedic/alertmedic/internal/api"
	"github.com/alertmedic/alertmedic/internal/api/client"
	"github.com/alertmedic/alertmedic/internal/store"
)

func (cl *cli) runsCommand() *cobra.Command {
	var (
		f                    store.RunFilter
		since, until, output string
		limit                int
	)
	cmd := &cobra.Command{
		Use: "runs [RUN]", Short: "List runs, or show one", Args: cobra.MaximumNArgs(1),
		Long: `List runs, the newest first. With RUN, the beginning of a run's id, show that one:
its alerts, its plans, what was done, and the approval that it waits for.`,
		Example: `  alertmedic runs --phase active
  alertmedic runs --namespace shop --since 24h -o wide
  alertmedic runs 0198c2d1-7a3b`,
		ValidArgsFunction: cl.completeRuns(store.RunFilter{}),
		RunE: func(cmd *cobra.Command, args []string) error {
			if limit < 1 {
				return usagef("--limit must be at least 1")
			}
			c, err := cl.connect()
			if err != nil {
				return err
			}
			if len(args) == 1 {
				return cl.showRun(cmd.Context(), c, args[0], output)
			}
			if f.Since, err = cl.when("since", since); err != nil {
				return err
			}
			if f.Until, err = cl.when("until", until); err != nil {
				return err
			}
			list, err := listRuns(cmd.Context(), c, f, limit)
			if err != nil {
				return err
			}
			return cl.printRuns(list, output)
		},
	}
	cl.connectFlags(cmd)
	outputFlag(cmd, &output, "wide", "json")
	flags := cmd.Flags()
	flags.StringVar(&f.Phase, "phase", "", "queued, active or done")
	flags.StringVar(&f.Wait, "wait", "", "what the run waits for, such as approval")
	flags.StringVar(&f.Outcome, "outcome", "", "such as healed or escalated")
	flags.StringVar(&f.Reason, "reason", "", "such as cooldown")
	flags.StringVar(&f.Playbook, "playbook", "", "name of the playbook")
	flags.StringVar(&f.AlertName, "alertname", "", "name of the alert")
	flags.StringVarP(&f.Namespace, "namespace", "n", "", "namespace of the target")
	flags.StringVar(&f.Kind, "kind", "", "kind of the target")
	flags.StringVar(&f.TargetName, "target", "", "name of the target")
	flags.StringVar(&since, "since", "", "created since: a duration before now, or a date")
	flags.StringVar(&until, "until", "", "created before: a duration before now, or a date")
	flags.IntVar(&limit, "limit", 50, "how many at most")
	fixed(cmd, "phase", string(store.Queued), string(store.Active), string(store.Done))
	fixed(cmd, "wait", string(store.WaitApproval), string(store.WaitCooldown), string(store.WaitGuard), string(store.WaitVerify), string(store.WaitRetry), string(store.WaitStep), string(store.WaitLock))
	var outcomes, kinds []string
	for _, o := range store.Outcomes() {
		outcomes = append(outcomes, string(o))
	}
	for _, k := range action.Kinds() {
		kinds = append(kinds, string(k))
	}
	fixed(cmd, "outcome", outcomes...)
	fixed(cmd, "kind", kinds...)
	must(cmd.RegisterFlagCompletionFunc("playbook", cl.completePlaybooks))
	return cmd
}

func pageOf(limit int) client.Page { return client.Page{Limit: min(limit, api.MaxLimit)} }

// listRuns reads as many pages as limit needs.
func listRuns(ctx context.Context, c *client.Client, f store.RunFilter, limit int) (api.RunList, error) {
	out := api.RunList{Items: []store.Run{}}
	for {
		page := pageOf(limit - len(out.Items))
		page.Cursor = out.NextCursor
		list, err := c.Runs(ctx, f, page)
		if err != nil {
			return out, err
		}
		out.Items = append(out.Items, list.Items...)
		out.NextCursor = list.NextCursor
		if out.NextCursor == "" || len(out.Items) >= limit {
			return out, nil
		}
	}
}

// state says in a word or two where a run is.
func state(r store.Run) string {
	switch {
	case r.Phase == store.Done:
		return string(r.Outcome)
	case r.Wait != store.WaitNone:
		return "waits for " + string(r.Wait)
	}
	return string(r.Phase)
}

func stateColour(r store.Run) string {
	if r.Phase != store.Done {
		if r.Wait == store.WaitApproval {
			return yellow
		}
		return blue
	}
	switch r.Outcome {
	case store.Healed:
		return green
	case store.NotHealed, store.Escalated, store.OutcomeUnknown:
		return red
	}
	return plain
}

// minID is how much of an id a table shows at least: its time of creation.
const minID = 13

// shortIDs returns how many characters tell the ids apart.
func shortIDs(runs []store.Run) int {
	for n := minID; ; n++ {
		seen, clash, longer := map[string]bool{}, false, false
		for _, r := range runs {
			id := r.ID[:min(n, len(r.ID))]
			clash, longer = clash || seen[id], longer || len(r.ID) > n
			seen[id] = true
		}
		if !clash || !longer {
			return n
		}
	}
}

func (cl *cli) printRuns(list api.RunList, output string) error {
	if output == "json" {
		return cl.json(list)
	}
	if len(list.Items) == 0 {
		_, err := fmt.Fprintln(cl.err, "no runs")
		return err
	}
	n := shortIDs(list.Items)
	header := []string{"RUN", "AGE", "PLAYBOOK", "TARGET", cl.paint(plain, "STATE"), "REASON"}
	if output == "wide" {
		n = 64
		header = append(header, "ALERT", "CREATED", "ENDED", "MESSAGE")
	}
	var rows [][]string
	for _, r := range list.Items {
		row := []string{r.ID[:min(n, len(r.ID))], short(cl.now().Sub(r.CreatedAt)), clean(r.Playbook, false), clean(r.Target.String(), false),
			cl.paint(stateColour(r), state(r)), dash(clean(r.Reason, false))}
		if output == "wide" {
			row = append(row, clean(r.AlertName, false), stamp(r.CreatedAt), stamp(r.EndedAt), clean(r.Message, false))
		}
		rows = append(rows, row)
	}
	if err := cl.table(header, rows); err != nil {
		return err
	}
	if list.NextCursor != "" {
		_, err := fmt.Fprintln(cl.err, "there are more; see --limit and the filters")
		return err
	}
	return nil
}
