package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/alertmedic/alertmedic/internal/api"
	"github.com/alertmedic/alertmedic/internal/api/client"
	"github.com/alertmedic/alertmedic/internal/guard"
)

// scopeFlags adds what a pause holds back.
func (cl *cli) scopeFlags(cmd *cobra.Command, playbook, namespace *string) {
	cmd.Flags().StringVar(playbook, "playbook", "", "only runs of this playbook")
	cmd.Flags().StringVarP(namespace, "namespace", "n", "", "only targets in this namespace")
	cmd.MarkFlagsMutuallyExclusive("playbook", "namespace")
	must(cmd.RegisterFlagCompletionFunc("playbook", cl.completePlaybooks))
}

func scopeOf(playbook, namespace string) (guard.PauseScope, string) {
	switch {
	case playbook != "":
		return guard.PausePlaybook, playbook
	case namespace != "":
		return guard.PauseNamespace, namespace
	}
	return guard.PauseGlobal, ""
}

func (cl *cli) pauseCommand() *cobra.Command {
	var playbook, namespace, why, output string
	var list bool
	cmd := &cobra.Command{
		Use: "pause", Short: "Hold back changes, everywhere or for a playbook or namespace", Args: noSubcommand,
		Long: `Hold back changes until resume: everywhere, or for one playbook or namespace. A
pause survives restarts. Alerts are still received and recorded. With --list, print
the pauses in force.`,
		Example: `  alertmedic pause --why "the network team is at work"
  alertmedic pause --namespace shop --why release
  alertmedic pause --list`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := cl.connect()
			if err != nil {
				return err
			}
			scope, value := scopeOf(playbook, namespace)
			switch {
			case list && (why != "" || value != ""):
				return usagef("--list prints all pauses: leave the other flags out")
			case list:
				pauses, err := c.Pauses(cmd.Context())
				if err != nil {
					return err
				}
				return cl.printPauses(api.PauseList{Items: pauses}, output)
			case why == "":
				return usagef("--why is required: whoever finds things at rest must be able to read why")
			}
			pauses, err := c.Pause(cmd.Context(), api.PauseBody{Scope: scope, Value: value, Why: why})
			if err != nil {
				return err
			}
			if playbook != "" {
				cl.warnOfUnloaded(cmd.Context(), c, playbook)
			}
			return cl.printPauses(pauses, output)
		},
	}
	cl.connectFlags(cmd)
	cl.scopeFlags(cmd, &playbook, &namespace)
	cmd.Flags().StringVar(&why, "why", "", "why, for the log and for whoever wonders")
	cmd.Flags().BoolVar(&list, "list", false, "print the pauses in force and change nothing")
	outputFlag(cmd, &output, "json")
	return cmd
}

// warnOfUnloaded tells whoever paused a playbook that there is none of the name: it
// may be misspelt, or be loaded later.
func (cl *cli) warnOfUnloaded(ctx context.Context, c *client.Client, name string) {
	list, err := c.Playbooks(ctx)
	if err != nil {
		fmt.Fprintf(cl.err, "warning: the pause is in force; whether playbook %q is loaded cannot be told: %s\n", name, clean(err.Error(), false))
		return
	}
	var loaded []string
	for _, p := range list.Items {
		if p.Name == name {
			return
		}
		loaded = append(loaded, p.Name)
	}
	others := "nor any other"
	if len(loaded) > 0 {
		others = "only " + clean(strings.Join(loaded, ", "), false)
	}
	fmt.Fprintf(cl.err, "warning: no playbook %q is loaded, %s: this pause holds nothing now; `alertmedic resume --playbook %s` lifts it\n", name, others, name)
}

func (cl *cli) resumeCommand() *cobra.Command {
	var playbook, namespace, why, output string
	cmd := &cobra.Command{
		Use: "resume", Short: "Clear a pause", Args: noSubcommand,
		Long: `Clear a pause: the global one, or that of a playbook or namespace. The pauses that
stay in force are printed.`,
		Example: `  alertmedic resume
  alertmedic resume --namespace shop --why "the release is out"`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := cl.connect()
			if err != nil {
				return err
			}
			scope, value := scopeOf(playbook, namespace)
			pauses, err := c.Resume(cmd.Context(), scope, value, why)
			if err != nil {
				return err
			}
			return cl.printPauses(pauses, output)
		},
	}
	cl.connectFlags(cmd)
	cl.scopeFlags(cmd, &playbook, &namespace)
	cmd.Flags().StringVar(&why, "why", "", "why, for the log")
	outputFlag(cmd, &output, "json")
	return cmd
}

func (cl *cli) printPauses(list api.PauseList, output string) error {
	if output == "json" {
		return cl.json(list)
	}
	if len(list.Items) == 0 {
		_, err := fmt.Fprintln(cl.out, "nothing is paused")
		return err
	}
	var rows [][]string
	for _, p := range list.Items {
		rows = append(rows, []string{string(p.Scope), dash(clean(p.Value, false)), clean(p.By, false), stamp(p.At), clean(p.Why, false)})
	}
	return cl.table([]string{"PAUSED", "NAME", "BY", "SINCE", "WHY"}, rows)
}
