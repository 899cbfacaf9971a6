package main

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/prometheus/common/model"
	"github.com/spf13/cobra"

	"github.com/alertmedic/alertmedic/internal/action"
	"github.com/alertmedic/alertmedic/k8sactions"
	"github.com/alertmedic/alertmedic/playbooks"
)

// described is an action as -o json prints it.
type described struct {
	Name           string             `json:"name"`
	Summary        string             `json:"summary"`
	Description    string             `json:"description"`
	Kinds          []action.Kind      `json:"kinds"`
	Parameters     json.RawMessage    `json:"parameters"`
	RBAC           []action.Rule      `json:"rbac"`
	Disruptive     bool               `json:"disruptive"`
	Mutating       bool               `json:"mutating"`
	Reversible     bool               `json:"reversible"`
	Replay         action.ReplayClass `json:"replay"`
	DefaultTimeout string             `json:"defaultTimeout"`
	Example        string             `json:"example"`
}

func describeAction(s action.Spec) (described, error) {
	schema, err := playbooks.ParamsSchema(s)
	if err != nil {
		return described{}, fmt.Errorf("parameters of %s: %w", s.Name, err)
	}
	raw, err := json.Marshal(schema)
	if err != nil {
		return described{}, fmt.Errorf("parameters of %s: %w", s.Name, err)
	}
	return described{Name: s.Name, Summary: s.Summary, Description: s.Description, Kinds: s.Kinds, Parameters: raw, RBAC: s.RBAC,
		Disruptive: s.Disruptive, Mutating: s.Mutating, Reversible: s.Reversible, Replay: s.Replay,
		DefaultTimeout: model.Duration(s.DefaultTimeout).String(), Example: s.Example}, nil
}

func (cl *cli) actionsCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use: "actions", Short: "List the actions that a step can carry out", Args: noSubcommand,
		Long:    "List the actions that a playbook's step can carry out. Nothing is sent anywhere.",
		Example: "  alertmedic actions\n  alertmedic actions describe node.drain",
		RunE: func(*cobra.Command, []string) error {
			specs := k8sactions.Specs()
			if output == "json" {
				list := make([]described, 0, len(specs))
				for _, s := range specs {
					d, err := describeAction(s)
					if err != nil {
						return err
					}
					list = append(list, d)
				}
				return cl.json(list)
			}
			rows := make([][]string, 0, len(specs))
			for _, s := range specs {
				rows = append(rows, []string{s.Name, kinds(s.Kinds), effect(s), s.Summary})
			}
			return cl.table([]string{"ACTION", "TARGETS", "EFFECT", "SUMMARY"}, rows)
		},
	}
	outputFlag(cmd, &output, "json")
	cmd.AddCommand(cl.describeCommand())
	return cmd
}

// noSubcommand suggests what a misspelt subcommand was meant to be.
func noSubcommand(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return unknownCommand(cmd, args[0])
	}
	return nil
}

func kinds(list []action.Kind) string {
	names := make([]string, len(list))
	for i, k := range list {
		names[i] = string(k)
	}
	return strings.Join(names, ",")
}

func effect(s action.Spec) string {
	switch {
	case !s.Mutating:
		return "reads only"
	case s.Disruptive && s.Reversible:
		return "disruptive, reversible"
	case s.Disruptive:
		return "disruptive"
	case s.Reversible:
		return "reversible"
	}
	return "changes"
}

func (cl *cli) describeCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use: "describe NAME", Short: "Describe an action: parameters, rights, example", Args: oneArg("an action: alertmedic actions lists them"),
		Long:    "Describe an action: what it does and refuses, its parameters, the rights that it needs, and an example of a step.",
		Example: "  alertmedic actions describe workload.rollback",
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			var names []string
			for _, s := range k8sactions.Specs() {
				names = append(names, cobra.CompletionWithDesc(s.Name, s.Summary))
			}
			if len(args) > 0 {
				names = nil
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(_ *cobra.Command, args []string) error {
			names := &cobra.Command{SuggestionsMinimumDistance: 2}
			for _, s := range k8sactions.Specs() {
				if s.Name == args[0] {
					return cl.printAction(s, output)
				}
				names.AddCommand(&cobra.Command{Use: s.Name, Run: func(*cobra.Command, []string) {}})
			}
			hint := "; alertmedic actions lists them"
			if near := names.SuggestionsFor(args[0]); len(near) > 0 {
				hint = "; did you mean " + strings.Join(near, " or ") + "?"
			}
			return fmt.Errorf("action %q: %w%s", args[0], errNotFound, hint)
		},
	}
	outputFlag(cmd, &output, "json")
	return cmd
}

func (cl *cli) printAction(s action.Spec, output string) error {
	d, err := describeAction(s)
	if err != nil {
		return err
	}
	if output == "json" {
		return cl.json(d)
	}
	schema, err := playbooks.ParamsSchema(s)
	if err != nil {
		return fmt.Errorf("parameters of %s: %w", s.Name, err)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s\n\n%s\n\n", s.Name, s.Summary, wrap(s.Description, 80))
	fmt.Fprintf(&b, "Targets:  %s\nEffect:   %s\nReplay:   %s\nTimeout:  %s\n\nParameters:\n", kinds(s.Kinds), effect(s), s.Replay, d.DefaultTimeout)
	if schema.Properties == nil || schema.Properties.Len() == 0 {
		b.WriteString("  none\n")
	} else {
		for p := schema.Properties.Oldest(); p != nil; p = p.Next() {
			fmt.Fprintf(&b, "  %s", p.Key)
			for _, r := range schema.Required {
				if r == p.Key {
					b.WriteString(" (required)")
				}
			}
			text := p.Value.Description
			for _, alternative := range p.Value.AnyOf {
				if text == "" {
					text = alternative.Description
				}
			}
			if p.Value.Default != nil {
				text = strings.TrimSpace(fmt.Sprintf("%s Default: %v.", text, p.Value.Default))
			}
			b.WriteString("\n" + indent(wrap(text, 74), "      ") + "\n")
		}
	}
	b.WriteString("\nRights:\n")
	for _, r := range s.RBAC {
		group := strings.Join(r.APIGroups, ",")
		if group == "" {
			group = "core"
		}
		only := ""
		if len(r.Kinds) > 0 {
			only = "; for targets " + kinds(r.Kinds)
		}
		fmt.Fprintf(&b, "  %s: %s of %s%s\n", group, strings.Join(r.Verbs, ", "), strings.Join(r.Resources, ", "), only)
	}
	fmt.Fprintf(&b, "\nExample:\n%s\n", indent(strings.TrimSpace(s.Example), "  "))
	_, err = fmt.Fprint(cl.out, b.String())
	return err
}

// wrap breaks text into lines of at most width characters.
func wrap(text string, width int) string {
	var b strings.Builder
	n := 0
	for i, word := range strings.Fields(text) {
		switch {
		case i == 0:
		case n+1+len(word) > width:
			b.WriteByte('\n')
			n = 0
		default:
			b.WriteByte(' ')
			n++
		}
		b.WriteString(word)
		n += len(word)
	}
	return b.String()
}

func indent(text, by string) string {
	if text == "" {
		return ""
	}
	return by + strings.ReplaceAll(text, "\n", "\n"+by)
}
