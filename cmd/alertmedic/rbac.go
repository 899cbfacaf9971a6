package main

import (
	"fmt"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/alertmedic/alertmedic/internal/config"
	"github.com/alertmedic/alertmedic/internal/rbac"
	"github.com/alertmedic/alertmedic/k8sactions"
	"github.com/alertmedic/alertmedic/playbooks"
)

func (cl *cli) rbacCommand() *cobra.Command {
	var file, output string
	o := rbac.Options{}
	cmd := &cobra.Command{
		Use: "rbac PATH...", Short: "Print the least rights that playbooks need",
		Long: `Print Roles, ClusterRoles and bindings that give the ServiceAccounts of the playbooks
what their actions need for the kinds of their targets and no more, and alertmedic the
right to act as exactly these accounts. A playbook that names its namespace, in
target.namespace or by a matcher namespace = ..., gets a Role there, others a
ClusterRole. Rights that are worth as much as wider ones are warned of on stderr.
Nothing is sent anywhere: no cluster is needed.`,
		Example: `  alertmedic rbac playbooks/library > rbac.yaml
  alertmedic rbac --config alertmedic.yaml | kubectl apply -f -
  alertmedic rbac -o json playbooks/ | jq '.warnings'`,
		RunE: func(cmd *cobra.Command, paths []string) error {
			if cmd.Flags().Changed("config") {
				cfg, err := config.Load(file)
				if err != nil {
					return err
				}
				o.Namespace, o.Default = cfg.Kubernetes.ServiceAccountNamespace, cfg.Kubernetes.DefaultServiceAccountName
				if len(paths) == 0 {
					paths = cfg.Playbooks.Paths
				}
			}
			if len(paths) == 0 {
				return usagef("no playbooks: name files or directories of them, or the configuration with --config")
			}
			return cl.printRBAC(paths, o, output)
		},
	}
	cmd.Flags().StringVar(&file, "config", "", "take the ServiceAccounts' namespace, their default and the playbooks from this configuration")
	must(cmd.MarkFlagFilename("config", "yaml", "yml"))
	cmd.Flags().StringVar(&o.Self, "service-account", "alertmedic", "alertmedic's own ServiceAccount")
	outputFlag(cmd, &output, "json")
	return cmd
}

func (cl *cli) printRBAC(paths []string, o rbac.Options, output string) error {
	catalogue, err := k8sactions.New(nil, k8sactions.Options{})
	if err != nil {
		return fmt.Errorf("build the catalogue of actions: %w", err)
	}
	set, problems := playbooks.Load(paths, playbooks.LoadOptions{Catalogue: catalogue})
	if errs := problems.Errors(); len(errs) > 0 {
		for _, p := range errs {
			fmt.Fprintln(cl.err, cl.paint(red, clean(p.String(), false)))
		}
		return errProblems
	}
	derived, err := rbac.For(set.All(), catalogue, o)
	if err != nil {
		return err
	}
	if output == "json" {
		return cl.json(map[string]any{"objects": derived.Objects, "warnings": derived.Warnings})
	}
	for i, object := range derived.Objects {
		body, err := yaml.Marshal(object)
		if err != nil {
			return fmt.Errorf("write the rights: %w", err)
		}
		if i > 0 {
			fmt.Fprintln(cl.out, "---")
		}
		if _, err := cl.out.Write(body); err != nil {
			return err
		}
	}
	for _, w := range derived.Warnings {
		fmt.Fprintln(cl.err, "warning:", w)
	}
	return nil
}
