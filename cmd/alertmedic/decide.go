package main

import (
	"bufio"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/alertmedic/alertmedic/internal/api"
	"github.com/alertmedic/alertmedic/internal/store"
)

// decideCommand makes approve and reject.
func (cl *cli) decideCommand(approve bool) *cobra.Command {
	var plan, reason, output string
	var yes bool
	name, short := "reject", "Reject the plan that a run waits with"
	long := `Reject the plan that a run waits with; the run goes on with its next remedy, or ends.`
	example := `  alertmedic reject 0198c2d1-7a3b --reason "the release is being rolled forward"`
	if approve {
		name, short = "approve", "Approve the plan that a run waits with"
		long = `Approve the plan that a run waits with. The plan is shown first, and a person at a
terminal is asked; without a terminal name the plan with --plan, or pass --yes.
The approval is for that plan and that object only: if the plan drifts, the run
waits again.`
		example = `  alertmedic approve 0198c2d1-7a3b
  alertmedic approve 0198c2d1-7a3b --plan 9f3c2a --reason "checked with the shop team"`
	}
	cmd := &cobra.Command{
		Use: name + " RUN", Short: short, Long: long, Example: example, Args: oneArg("a run: alertmedic runs --wait approval lists those that wait"),
		ValidArgsFunction: cl.completeRuns(store.RunFilter{Wait: string(store.WaitApproval)}),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := cl.connect()
			if err != nil {
				return err
			}
			if approve && plan == "" {
				d, err := c.Run(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				if d.Approval == nil {
					return fmt.Errorf("%w: run %s waits for no approval, it is %s", errRefused, d.Run.ID, state(d.Run))
				}
				plan = d.Approval.PlanHash
				if !yes && !cl.ask {
					return usagef("nobody can be asked here: name the plan with --plan, or pass --yes; the plan that waits is %s", plan)
				}
				if !yes {
					fmt.Fprint(cl.err, cl.runText(d))
					if !cl.confirm("\nApprove this plan?") {
						return fmt.Errorf("%w: not approved", errRefused)
					}
				}
			}
			a, err := c.Decide(cmd.Context(), args[0], approve, api.DecisionBody{PlanHash: plan, Reason: reason})
			if err != nil {
				return err
			}
			if output == "json" {
				return cl.json(a)
			}
			_, err = fmt.Fprintf(cl.out, "run %s: plan %s %s by %s\n", a.RunID, a.PlanHash, a.Status, clean(a.By, false))
			return err
		},
	}
	cl.connectFlags(cmd)
	outputFlag(cmd, &output, "json")
	cmd.Flags().StringVar(&plan, "plan", "", "hash of the plan that the decision is about, as runs RUN shows it")
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the log")
	if approve {
		cmd.Flags().BoolVarP(&yes, "yes", "y", false, "approve whatever plan is pending, without asking")
	}
	return cmd
}

// confirm asks a person; anything but a yes is a no.
func (cl *cli) confirm(question string) bool {
	fmt.Fprint(cl.err, question+" [y/N] ")
	answer, _ := bufio.NewReader(cl.in).ReadString('\n') // a closed input is a no
	switch strings.ToLower(strings.TrimSpace(answer)) {
	case "y", "yes":
		return true
	}
	return false
}

// oneArg asks for exactly one argument, in words that say which.
func oneArg(what string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) != 1 {
			return usagef("name %s", what)
		}
		return nil
	}
}
