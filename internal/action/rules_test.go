package action_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/alertmedic/alertmedic/internal/action"
)

// A playbook is asked for the rights that its declared target kind needs: a wide
// kind for those of all that it covers, a narrow one for those of the wide.
func TestRulesFollowTheDeclaredKind(t *testing.T) {
	t.Parallel()
	rule := func(resource string, kinds ...action.Kind) action.Rule {
		return action.Rule{Resources: []string{resource}, Kinds: kinds}
	}
	s := action.Spec{RBAC: []action.Rule{rule("events"), rule("deployments", action.KindWorkload),
		rule("controllerrevisions", action.KindStatefulSet, action.KindDaemonSet), rule("nodes", action.KindNode)}}
	for kind, want := range map[action.Kind][]string{
		"":                     {"events", "deployments", "controllerrevisions", "nodes"},
		action.KindWorkload:    {"events", "deployments", "controllerrevisions"},
		action.KindStatefulSet: {"events", "deployments", "controllerrevisions"},
		action.KindDeployment:  {"events", "deployments"},
		action.KindNode:        {"events", "nodes"},
		action.KindService:     {"events"},
	} {
		var got []string
		for _, r := range s.Rules(kind) {
			got = append(got, r.Resources...)
		}
		require.Equal(t, want, got, kind)
	}
}
