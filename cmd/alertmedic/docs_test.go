package main

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"github.com/stretchr/testify/require"
)

// commands returns every command that people see, parents first.
func commands(root *cobra.Command) []*cobra.Command {
	out := []*cobra.Command{root}
	for _, sub := range root.Commands() {
		if !sub.Hidden && sub.Name() != "help" {
			out = append(out, commands(sub)...)
		}
	}
	return out
}

func rootForDocs() *cobra.Command {
	cl := &cli{console: console{in: strings.NewReader(""), out: &bytes.Buffer{}, err: &bytes.Buffer{}, env: func(string) string { return "" }}}
	return cl.root()
}

// Every command says what it does and shows an example, and so does every flag.
func TestHelp(t *testing.T) {
	t.Parallel()
	for _, cmd := range commands(rootForDocs()) {
		require.NotEmpty(t, cmd.Short, cmd.CommandPath())
		require.NotEmpty(t, cmd.Long, cmd.CommandPath())
		require.Contains(t, cmd.Example, "alertmedic", cmd.CommandPath())
		cmd.LocalFlags().VisitAll(func(f *pflag.Flag) { require.NotEmpty(t, f.Usage, "%s --%s", cmd.CommandPath(), f.Name) })
	}
}

// docs/cli.md says what the commands say of themselves.
func TestDocs(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	b.WriteString("# The command line\n\nMade from the commands' own help by `go test ./cmd/alertmedic -run TestDocs -update`; do not edit.\n")
	for _, cmd := range commands(rootForDocs()) {
		if cmd.HasParent() && cmd.Parent().Name() == "completion" {
			continue
		}
		cmd.InitDefaultHelpFlag()
		fmt.Fprintf(&b, "\n## %s\n\n", cmd.CommandPath())
		long := strings.TrimSpace(cmd.Long)
		if lines := strings.Split(long, "\n"); slices.ContainsFunc(lines, func(l string) bool { return strings.HasPrefix(l, "  ") }) {
			long = "```text\n" + long + "\n```" // a table, which Markdown would run together
		}
		fmt.Fprintf(&b, "%s\n\n", long)
		if cmd.Runnable() && cmd.HasParent() {
			fmt.Fprintf(&b, "```text\n%s\n```\n\n", cmd.UseLine())
		}
		fmt.Fprintf(&b, "```sh\n%s\n```\n", dedent(cmd.Example))
		if flags := cmd.NonInheritedFlags(); flags.HasAvailableFlags() {
			fmt.Fprintf(&b, "\n```text\n%s```\n", flags.FlagUsages())
		}
	}
	const file = "../../docs/cli.md"
	if *update {
		require.NoError(t, os.WriteFile(file, []byte(b.String()), 0o644))
	}
	want, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, string(want), b.String(), "run go test ./cmd/alertmedic -run TestDocs -update")
}

func dedent(s string) string {
	lines := strings.Split(strings.Trim(s, "\n"), "\n")
	for i, l := range lines {
		lines[i] = strings.TrimPrefix(l, "  ")
	}
	return strings.Join(lines, "\n")
}
