package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/alertmedic/alertmedic/internal/api/client"
)

// The environment variables that stand for flags.
const (
	envServer    = "ALERTMEDIC_SERVER"
	envTokenFile = "ALERTMEDIC_TOKEN_FILE"
	envConfig    = "ALERTMEDIC_CONFIG"
	defaultURL   = "http://127.0.0.1:9095"
)

// cli holds what the commands share.
type cli struct {
	console
	server, tokenFile string
	// started is true once a command's own code runs: errors before are about
	// the command line.
	started bool
}

const rootLong = `alertmedic receives alerts from Alertmanager, matches them to playbooks, remedies
what they complain about in Kubernetes under safety limits, verifies that the
cluster healed, and writes down everything that it did.

Exit codes:
  0    success
  1    error
  2    the command line makes no sense
  3    check, verify or restore found problems in what they were given
  4    not found
  5    refused: not allowed, or in conflict with what is the case
  130  interrupted`

func (cl *cli) root() *cobra.Command {
	root := &cobra.Command{
		Use: "alertmedic", Short: "Heal what Prometheus alerts complain about", Long: rootLong,
		Example: `  # Serve, then look at what it did
  alertmedic serve --config alertmedic.yaml
  alertmedic log --follow`,
		SilenceErrors: true, SilenceUsage: true,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return unknownCommand(cmd, args[0])
			}
			return cmd.Help()
		},
	}
	root.SetIn(cl.in)
	root.SetOut(cl.out)
	root.SetErr(cl.err)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return &usageError{fmt.Errorf("%w%s", err, suggestFlag(cmd, err))}
	})
	root.AddCommand(cl.serveCommand(), cl.checkCommand(), cl.explainCommand(), cl.planCommand(), cl.rbacCommand(), cl.actionsCommand(), cl.runsCommand(), cl.logCommand(),
		cl.decideCommand(true), cl.decideCommand(false), cl.pauseCommand(), cl.resumeCommand(),
		cl.backupCommand(), cl.restoreCommand(), cl.verifyCommand(), cl.versionCommand())
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	for _, cmd := range root.Commands() {
		switch cmd.Name() {
		case "help":
			cmd.Example = "  alertmedic help runs"
			cmd.PreRunE = func(_ *cobra.Command, args []string) error {
				if len(args) > 0 && !slices.ContainsFunc(root.Commands(), func(c *cobra.Command) bool { return c.Name() == args[0] || c.HasAlias(args[0]) }) {
					return unknownCommand(root, args[0])
				}
				return nil
			}
		case "completion":
			cmd.Example = "  source <(alertmedic completion bash)"
			// cobra would print the help for a shell that it does not know, and
			// call that a success.
			cmd.Args = noSubcommand
			cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
			for _, shell := range cmd.Commands() {
				shell.Example = "  alertmedic completion " + shell.Name() + " > alertmedic." + shell.Name()
			}
		}
	}
	cl.markStart(root)
	return root
}

// markStart notes when a command's own code begins.
func (cl *cli) markStart(cmd *cobra.Command) {
	if body := cmd.RunE; body != nil && cmd.HasParent() {
		cmd.RunE = func(cmd *cobra.Command, args []string) error {
			cl.started = true
			return body(cmd, args)
		}
	}
	for _, sub := range cmd.Commands() {
		cl.markStart(sub)
	}
}

func unknownCommand(cmd *cobra.Command, name string) error {
	text := fmt.Sprintf("unknown command %q", name)
	cmd.SuggestionsMinimumDistance = 2
	if near := cmd.SuggestionsFor(name); len(near) > 0 {
		text += fmt.Sprintf("; did you mean %s?", strings.Join(near, " or "))
	}
	return usagef("%s", text)
}

// suggestFlag names the flags that an unknown one resembles. cobra knows how to
// do that for commands only, so the flags pose as commands.
func suggestFlag(cmd *cobra.Command, err error) string {
	var unknown *pflag.NotExistError
	if !errors.As(err, &unknown) {
		return ""
	}
	names := &cobra.Command{SuggestionsMinimumDistance: 2}
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		names.AddCommand(&cobra.Command{Use: f.Name, Run: func(*cobra.Command, []string) {}})
	})
	near := names.SuggestionsFor(unknown.GetSpecifiedName())
	if len(near) == 0 {
		return ""
	}
	return "; did you mean --" + strings.Join(near, " or --") + "?"
}

// connectFlags adds the flags of commands that talk to a service.
func (cl *cli) connectFlags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&cl.server, "server", "", "address of the service (default $"+envServer+", or "+defaultURL+")")
	cmd.Flags().StringVar(&cl.tokenFile, "token-file", "", "file that holds the bearer token (default $"+envTokenFile+", or none)")
	must(cmd.MarkFlagFilename("token-file"))
	must(cmd.RegisterFlagCompletionFunc("server", cobra.NoFileCompletions))
}

func (cl *cli) connect() (*client.Client, error) {
	server, tokenFile := cl.server, cl.tokenFile
	if server == "" {
		server = cl.env(envServer)
	}
	if server == "" {
		server = defaultURL
	}
	if tokenFile == "" {
		tokenFile = cl.env(envTokenFile)
	}
	c, err := client.New(client.Options{Server: server, TokenFile: tokenFile})
	if err != nil {
		return nil, &usageError{err}
	}
	return c, nil
}

// outputFlag adds -o with the formats besides the table for people.
func outputFlag(cmd *cobra.Command, into *string, formats ...string) {
	cmd.Flags().StringVarP(into, "output", "o", "", "output format instead of the one for people: "+strings.Join(formats, " or "))
	must(cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(formats, cobra.ShellCompDirectiveNoFileComp)))
	cmd.PreRunE = func(*cobra.Command, []string) error {
		if *into != "" && !slices.Contains(formats, *into) {
			return usagef("--output must be %s, not %q", strings.Join(formats, " or "), *into)
		}
		return nil
	}
}

// must is for what can only fail by a mistake in this package.
func must(err error) {
	if err != nil {
		panic(err)
	}
}
