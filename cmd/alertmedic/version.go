package main

import (
	"fmt"
	"runtime"

	"github.com/prometheus/common/version"
	"github.com/spf13/cobra"
)

// versionName is the version that the linker set, "dev" otherwise.
func versionName() string {
	if version.Version == "" {
		return "dev"
	}
	return version.Version
}

func (cl *cli) versionCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use: "version", Short: "Print the version", Args: cobra.NoArgs,
		Long:    "Print the version of this program.",
		Example: "  alertmedic version -o json",
		RunE: func(*cobra.Command, []string) error {
			if output == "json" {
				return cl.json(map[string]string{"version": versionName(), "revision": version.GetRevision(), "go": runtime.Version(), "platform": runtime.GOOS + "/" + runtime.GOARCH})
			}
			_, err := fmt.Fprintf(cl.out, "alertmedic %s (revision %s, %s, %s/%s)\n", versionName(), version.GetRevision(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return err
		},
	}
	outputFlag(cmd, &output, "json")
	return cmd
}
