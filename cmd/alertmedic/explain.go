package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/alertmedic/alertmedic/internal/simulate"
)

// alertFlags add the alert that explain and plan are about.
func (cl *cli) alertFlags(cmd *cobra.Command, text *string, r *simulate.ExplainRequest) {
	cl.connectFlags(cmd)
	cmd.Flags().StringVar(text, "alert", "", "the alert as JSON: its labels, an alert, or a whole webhook; @FILE reads a file and - the standard input")
	cmd.Flags().StringVar(&r.Playbook, "playbook", "", "only this playbook")
	cmd.Flags().StringVar(&r.Source, "source", "", "the source that would send it (default the first)")
	must(cmd.RegisterFlagCompletionFunc("playbook", cl.completePlaybooks))
}

func (cl *cli) explainCommand() *cobra.Command {
	var text, output string
	var r simulate.ExplainRequest
	cmd := &cobra.Command{
		Use: "explain", Short: "Say what would become of an alert", Args: noSubcommand,
		Long: `Say what would become of an alert, against the live state: which playbooks match and
why the others do not, what they would act on and how that was found, what each guard
would say, and the plan of each step. Nothing is written, and nothing is sent to
the cluster but reads.`,
		Example: `  alertmedic explain --alert '{"alertname": "KubePodCrashLooping", "namespace": "shop", "pod": "web-1"}'
  alertmedic explain --alert @alert.json --playbook pod-crash-looping
  amtool alert query -o json alertname=KubeNodeNotReady | jq '.[0]' | alertmedic explain --alert -`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return cl.explained(cmd, text, r, func(e *simulate.Explanation) error {
				switch output {
				case "json":
					return cl.json(e)
				case "yaml":
					return cl.yaml(e)
				}
				return cl.cleaned(e.WriteText)
			})
		},
	}
	cl.alertFlags(cmd, &text, &r)
	outputFlag(cmd, &output, "json", "yaml")
	return cmd
}

func (cl *cli) planCommand() *cobra.Command {
	var text string
	var r simulate.ExplainRequest
	cmd := &cobra.Command{
		Use: "plan", Short: "Print what playbooks would change for an alert", Args: noSubcommand,
		Long: `Print the plans alone that explain shows: of each playbook that matches the alert, what
the remedies that apply would change, as a diff of the live objects. Nothing is
written.`,
		Example: `  alertmedic plan --alert '{"alertname": "KubeDeploymentRolloutStuck", "namespace": "shop", "deployment": "checkout"}'
  alertmedic plan --alert @webhook.json --playbook deployment-rollout-stuck`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			told := false
			return cl.explained(cmd, text, r, func(e *simulate.Explanation) error {
				if len(e.Refused) > 0 && !told { // beside the plans, which are piped into other tools
					told = true
					fmt.Fprintf(cl.err, "The playbook files as they are now were refused; the plans are of those from before:\n  %s\n",
						clean(strings.Join(e.Refused, "\n  "), true))
				}
				return cl.cleaned(e.WritePlan)
			})
		},
	}
	cl.alertFlags(cmd, &text, &r)
	return cmd
}

// explained asks about each alert in the text.
func (cl *cli) explained(cmd *cobra.Command, text string, r simulate.ExplainRequest, show func(*simulate.Explanation) error) error {
	if text == "" {
		return usagef(`--alert is required: write its labels, such as --alert '{"alertname": "KubeNodeNotReady", "node": "n1"}'`)
	}
	data, err := cl.alertText(text)
	if err != nil {
		return err
	}
	alerts, err := simulate.ParseAlerts(data)
	if err != nil {
		return usagef("--alert: %v", err)
	}
	c, err := cl.connect()
	if err != nil {
		return err
	}
	for i, a := range alerts {
		a.Playbook, a.Source = r.Playbook, r.Source
		e, err := c.Explain(cmd.Context(), a)
		if err != nil {
			return err
		}
		if i > 0 {
			fmt.Fprintln(cl.out)
		}
		if err := show(e); err != nil {
			return err
		}
	}
	return nil
}

// cleaned prints what write writes, made harmless for a terminal.
func (cl *cli) cleaned(write func(io.Writer) error) error {
	var b strings.Builder
	if err := write(&b); err != nil {
		return err
	}
	_, err := io.WriteString(cl.out, clean(b.String(), true))
	return err
}

// yaml prints v as a YAML document of its own.
func (cl *cli) yaml(v any) error {
	doc, err := yaml.Marshal(v)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(cl.out, "---\n%s", doc)
	return err
}

// alertText reads the alert from where the flag says.
func (cl *cli) alertText(text string) ([]byte, error) {
	const most = 1 << 20
	if text == "-" {
		return io.ReadAll(io.LimitReader(cl.in, most))
	}
	if file, ok := strings.CutPrefix(text, "@"); ok {
		data, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("--alert: %w", err)
		}
		return data, nil
	}
	return []byte(text), nil
}
