package k8sactions_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/alertmedic/alertmedic/playbooks"
)

// TestExamplesPassTheCheck loads the example of each action as a user would
// paste it into a playbook.
func TestExamplesPassTheCheck(t *testing.T) {
	t.Parallel()
	c := describing(t)
	for _, s := range c.All() {
		doc := fmt.Sprintf("apiVersion: alertmedic.io/v1alpha1\nkind: Playbook\nmetadata: {name: x}\nspec:\n  matchers: [alertname = X]\n"+
			"  target: {kind: %s}\n  remedies:\n  - name: r\n    steps:\n    - %s\n", s.Kinds[0], s.Example)
		_, problems := playbooks.LoadBytes(s.Name, []byte(doc), playbooks.LoadOptions{Catalogue: c})
		require.Empty(t, problems, s.Name)
	}
}
