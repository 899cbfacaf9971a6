package workload

import (
	"slices"

	"github.com/alertmedic/alertmedic/internal/action"
)

// resources are the API server's names of the kinds.
var resources = map[action.Kind]string{
	action.KindDeployment: "deployments", action.KindStatefulSet: "statefulsets", action.KindDaemonSet: "daemonsets", action.KindReplicaSet: "replicasets",
}

// patching is the right to read and change workloads of these kinds, each only
// for playbooks whose targets may be of it, and the rules that follow.
func patching(kinds []action.Kind, more ...action.Rule) []action.Rule {
	var out []action.Rule
	for _, k := range kinds {
		out = append(out, action.Rule{APIGroups: []string{"apps"}, Resources: []string{resources[k]}, Verbs: []string{"get", "patch"}, Kinds: []action.Kind{k}})
	}
	return slices.Concat(out, more)
}
