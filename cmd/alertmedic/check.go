package main

import (
	"cmp"
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/alertmedic/alertmedic/internal/app"
	"github.com/alertmedic/alertmedic/internal/config"
	"github.com/alertmedic/alertmedic/k8sactions"
	"github.com/alertmedic/alertmedic/playbooks"
)

// checked is what check found, as -o json prints it.
type checked struct {
	OK        bool               `json:"ok"`
	Playbooks int                `json:"playbooks"`
	Problems  playbooks.Problems `json:"problems"`
}

func (cl *cli) checkCommand() *cobra.Command {
	var file, output string
	var strict, cluster bool
	cmd := &cobra.Command{
		Use: "check [PATH...]", Short: "Check playbooks and the configuration",
		Long: `Check playbook files, directories of them, and with --config the configuration.
All problems are printed, each with file, line and column; the exit code is 3 when
there is one. Without PATH the playbooks that the configuration names are checked.
Without --cluster nothing is sent anywhere.`,
		Example: `  alertmedic check playbooks/library
  alertmedic check --config alertmedic.yaml --cluster
  alertmedic check --config alertmedic.yaml
  alertmedic check -o json playbooks/library | jq -r '.problems[].message'`,
		RunE: func(cmd *cobra.Command, paths []string) error {
			if len(paths) == 0 && !cmd.Flags().Changed("config") {
				return usagef("nothing to check: name a playbook file or directory, or the configuration with --config")
			}
			if cluster && !cmd.Flags().Changed("config") {
				return usagef("--cluster needs --config: it says which cluster, and who the playbooks act as")
			}
			result, err := check(cmd.Context(), paths, file, cluster)
			if err != nil {
				return err
			}
			result.OK = len(result.Problems.Errors()) == 0 && (!strict || len(result.Problems) == 0)
			if err := cl.printChecked(result, output); err != nil {
				return err
			}
			if !result.OK {
				return errProblems
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&file, "config", "", "check this configuration file too")
	must(cmd.MarkFlagFilename("config", "yaml", "yml"))
	cmd.Flags().BoolVar(&cluster, "cluster", false, "ask the cluster of --config whether the playbooks' ServiceAccounts have the rights that their steps need")
	cmd.Flags().BoolVar(&strict, "strict", false, "count warnings as problems")
	outputFlag(cmd, &output, "json")
	return cmd
}

func check(ctx context.Context, paths []string, configFile string, cluster bool) (checked, error) {
	result := checked{Problems: playbooks.Problems{}}
	var kubernetes *config.Kubernetes
	var cfg *config.Config
	if configFile != "" {
		var err error
		cfg, err = config.Load(configFile)
		if problems, ok := located(err); ok {
			for _, p := range problems.Problems {
				result.Problems = append(result.Problems, playbooks.Problem{File: p.File, Line: p.Line, Column: p.Column, Path: p.Path, Message: p.Message})
			}
		} else if err != nil {
			return result, err
		} else {
			for _, w := range cfg.Safety.Warnings() {
				result.Problems = append(result.Problems, playbooks.Problem{File: configFile, Line: 1, Column: 1, Path: "safety", Message: w, Warning: true})
			}
		}
		if cfg != nil && cluster {
			kubernetes = &cfg.Kubernetes
		}
		if len(paths) == 0 && cfg != nil {
			paths = cfg.Playbooks.Paths
		}
	}
	if len(paths) == 0 {
		return result, nil // the configuration is too wrong to say where the playbooks are
	}
	catalogue, err := k8sactions.New(nil, k8sactions.Options{})
	if err != nil {
		return result, fmt.Errorf("build the catalogue of actions: %w", err)
	}
	set, problems := playbooks.Load(paths, playbooks.LoadOptions{Catalogue: catalogue})
	result.Problems = append(result.Problems, problems...)
	result.Playbooks = set.Len()
	if cfg != nil {
		result.Problems = append(result.Problems, compared(cfg, set)...)
	}
	if kubernetes == nil {
		return result, nil
	}
	missing, err := app.MissingRights(ctx, *kubernetes, set.All(), catalogue)
	if err != nil {
		return result, fmt.Errorf("--cluster: %w", err)
	}
	for _, pb := range set.All() {
		if lacks := missing[pb.Name]; len(lacks) > 0 {
			result.Problems = append(result.Problems, playbooks.Problem{File: pb.File, Line: 1, Column: 1, Path: "spec.serviceAccountName",
				Message: "the cluster does not let " + cmp.Or(pb.ServiceAccountName, kubernetes.DefaultServiceAccountName, "alertmedic") + " " +
					strings.Join(lacks, ", ") + ": grant what `alertmedic rbac` prints"})
		}
	}
	return result, nil
}

// compared warns of what playbooks and configuration say that does not fit
// together.
func compared(cfg *config.Config, set *playbooks.Set) playbooks.Problems {
	var out playbooks.Problems
	warn := func(file, path, message string, line, column int) {
		out = append(out, playbooks.Problem{File: file, Line: line, Column: column, Path: path, Message: message, Warning: true})
	}
	known := map[string]bool{}
	for _, pb := range set.All() {
		known[pb.Name] = true
		for _, l := range cfg.LooserThan(pb) {
			line, column := pb.LimitAt(l.Path)
			warn(pb.File, l.Path, l.Message, line, column)
		}
	}
	if set.Len() == 0 {
		return out // what is wrong with the playbooks is said already
	}
	for i, w := range cfg.Safety.Windows {
		for _, name := range w.Playbooks {
			if !known[name] {
				warn(cfg.File, fmt.Sprintf("safety.windows[%d].playbooks", i),
					fmt.Sprintf("the window %q is for the playbook %q, which is not there: correct the name, or it holds nothing", w.Name, name), 1, 1)
			}
		}
	}
	return out
}

func (cl *cli) printChecked(r checked, output string) error {
	if output == "json" {
		return cl.json(r)
	}
	for _, p := range r.Problems {
		colour := red
		if p.Warning {
			colour = yellow
		}
		if _, err := fmt.Fprintln(cl.out, cl.paint(colour, clean(p.String(), false))); err != nil {
			return err
		}
	}
	errs, warnings := len(r.Problems.Errors()), len(r.Problems.Warnings())
	summary := fmt.Sprintf("%s, %s", count(errs, "problem"), count(warnings, "warning"))
	if errs == 0 {
		summary = fmt.Sprintf("%s, %s", summary, count(r.Playbooks, "playbook"))
	}
	_, err := fmt.Fprintln(cl.err, summary)
	return err
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
