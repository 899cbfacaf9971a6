package rbac

import (
	"maps"
	"slices"
	"strings"
)

// escalation says why a verb on a resource is worth more than it seems, "" when
// it is not. The list follows Kubernetes' own advice on RBAC.
func escalation(group, resource, verb string) string {
	writes := slices.Contains([]string{"create", "update", "patch", "*"}, verb)
	reads := slices.Contains([]string{"get", "list", "watch", "*"}, verb)
	switch {
	case group == "*" || resource == "*" || verb == "*":
		return "a wildcard grants what does not exist yet as well"
	case verb == "escalate" || verb == "bind":
		return "it can grant itself any right"
	case verb == "impersonate":
		return "it can act as somebody else"
	case resource == "secrets" && reads:
		return "it reads every credential, tokens of ServiceAccounts included"
	case resource == "serviceaccounts/token" && writes:
		return "it can make a token of any ServiceAccount there"
	case (resource == "pods/exec" || resource == "pods/attach" || resource == "pods/ephemeralcontainers") && (writes || verb == "get"):
		return "it runs commands with the rights of any pod there"
	case resource == "nodes/proxy":
		return "it reaches the kubelet, and with it every pod of the node"
	case resource == "pods" && slices.Contains([]string{"create", "update", "*"}, verb),
		slices.Contains([]string{"deployments", "statefulsets", "daemonsets", "replicasets", "jobs", "cronjobs"}, resource) && writes:
		return "whoever writes a pod template runs code as any ServiceAccount of that namespace"
	case resource == "nodes" && writes:
		return "it can move workloads to a node of its choice, by labels and taints"
	case resource == "persistentvolumes" && verb == "create":
		return "it can mount the file system of a node"
	case slices.Contains([]string{"roles", "clusterroles", "rolebindings", "clusterrolebindings", "mutatingwebhookconfigurations",
		"validatingwebhookconfigurations"}, resource) && writes:
		return "it can change who may do what"
	}
	return ""
}

func (a *account) warnings(name string) []Warning {
	var out []Warning
	note := func(v verbs, where string) {
		for _, key := range slices.Sorted(maps.Keys(v)) {
			group, resource, _ := strings.Cut(key, "/")
			for _, verb := range slices.Sorted(maps.Keys(v[key])) {
				why := escalation(group, resource, verb)
				if why == "" {
					continue
				}
				what := resource
				if group != "" {
					what += "." + group
				}
				out = append(out, Warning{ServiceAccount: name, Playbooks: slices.Sorted(maps.Keys(a.usedBy[key+" "+verb])),
					Right: verb + " " + what + where, Why: why})
			}
		}
	}
	note(a.cluster, " in the whole cluster")
	for _, ns := range slices.Sorted(maps.Keys(a.namespaced)) {
		note(a.namespaced[ns].without(a.cluster), " in namespace "+ns)
	}
	return out
}
