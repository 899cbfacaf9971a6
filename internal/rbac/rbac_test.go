package rbac_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	rbacv1 "k8s.io/api/rbac/v1"

	"github.com/alertmedic/alertmedic/internal/rbac"
	"github.com/alertmedic/alertmedic/k8sactions"
	"github.com/alertmedic/alertmedic/playbooks"
)

const head = "apiVersion: alertmedic.io/v1alpha1\nkind: Playbook\n"

func derive(t *testing.T, o rbac.Options, docs ...string) rbac.Derived {
	t.Helper()
	cat, err := k8sactions.New(nil, k8sactions.Options{})
	require.NoError(t, err)
	set, problems := playbooks.LoadBytes("t.yaml", []byte(head+strings.Join(docs, "---\n"+head)), playbooks.LoadOptions{Catalogue: cat})
	require.NoError(t, problems.Err())
	out, err := rbac.For(set.All(), cat, o)
	require.NoError(t, err)
	return out
}

const restart = `metadata: {name: restart}
spec:
  matchers: [alertname = A, namespace = shop]
  serviceAccountName: medic-shop
  target: {kind: Deployment}
  remedies: [{name: r, steps: [{name: s, action: workload.restart}]}]
`

// One that says where it acts gets a Role there and nothing anywhere else.
func TestANamespaceThatIsWrittenDownNarrows(t *testing.T) {
	t.Parallel()
	got := derive(t, rbac.Options{}, restart)
	require.Len(t, got.Objects, 4)
	role := got.Objects[0].(rbacv1.Role)
	require.Equal(t, "shop", role.Namespace)
	require.Equal(t, []rbacv1.PolicyRule{{APIGroups: []string{"apps"}, Resources: []string{"deployments"}, Verbs: []string{"get", "patch"}}}, role.Rules)
	binding := got.Objects[1].(rbacv1.RoleBinding)
	require.Equal(t, []rbacv1.Subject{{Kind: "ServiceAccount", Name: "medic-shop", Namespace: "alertmedic"}}, binding.Subjects)
	impersonate := got.Objects[2].(rbacv1.Role)
	require.Equal(t, []string{"medic-shop"}, impersonate.Rules[0].ResourceNames, "as this account and as no other")
	require.Equal(t, "alertmedic", got.Objects[3].(rbacv1.RoleBinding).Subjects[0].Name)
	require.Len(t, got.Warnings, 1)
	require.Equal(t, "medic-shop (restart) may patch deployments.apps in namespace shop: whoever writes a pod template runs code as any ServiceAccount of that namespace",
		got.Warnings[0].String())
}

func TestWithoutANamespaceItIsTheCluster(t *testing.T) {
	t.Parallel()
	for name, matchers := range map[string]string{"none": "[alertname = A]", "a pattern": `[alertname = A, namespace =~ "shop.*"]`, "all but one": "[alertname = A, namespace != shop]"} {
		got := derive(t, rbac.Options{}, strings.Replace(restart, "[alertname = A, namespace = shop]", matchers, 1))
		require.IsType(t, rbacv1.ClusterRole{}, got.Objects[0], name)
	}
	templated := strings.Replace(restart, "{kind: Deployment}", "{kind: Deployment, namespace: '{{ .Labels.exported_namespace }}'}", 1)
	require.IsType(t, rbacv1.ClusterRole{}, derive(t, rbac.Options{}, templated).Objects[0], "the matcher is about another label")
}

// What an account has in the cluster is not granted in namespaces again, and a
// node lies in none.
func TestRightsOfAnAccountAreGrantedOnce(t *testing.T) {
	t.Parallel()
	node := `metadata: {name: node}
spec:
  matchers: [alertname = N, namespace = shop]
  serviceAccountName: medic-shop
  target: {kind: Node}
  remedies: [{name: r, steps: [{name: s, action: node.cordon}]}]
`
	wide := strings.Replace(strings.Replace(restart, "{name: restart}", "{name: wide}", 1), ", namespace = shop", "", 1)
	got := derive(t, rbac.Options{Namespace: "medics", Self: "am"}, restart, node, wide)
	require.Len(t, got.Objects, 4, "one ClusterRole, and the impersonation")
	role := got.Objects[0].(rbacv1.ClusterRole)
	require.Equal(t, []rbacv1.PolicyRule{
		{APIGroups: []string{""}, Resources: []string{"nodes"}, Verbs: []string{"get", "patch"}},
		{APIGroups: []string{"apps"}, Resources: []string{"deployments"}, Verbs: []string{"get", "patch"}},
	}, role.Rules)
	require.Equal(t, "medics", got.Objects[2].(rbacv1.Role).Namespace)
	require.Equal(t, "am-impersonate", got.Objects[2].(rbacv1.Role).Name)
}

// A playbook without an account acts as the default, or as the service itself,
// which impersonates nobody then.
func TestPlaybooksWithoutAnAccount(t *testing.T) {
	t.Parallel()
	plain := strings.Replace(restart, "  serviceAccountName: medic-shop\n", "", 1)
	got := derive(t, rbac.Options{}, plain)
	require.Len(t, got.Objects, 2)
	require.Equal(t, "alertmedic-playbooks", got.Objects[0].(rbacv1.Role).Name)
	require.Equal(t, "alertmedic", got.Objects[1].(rbacv1.RoleBinding).Subjects[0].Name)
	got = derive(t, rbac.Options{Default: "medic"}, plain)
	require.Equal(t, "medic", got.Objects[1].(rbacv1.RoleBinding).Subjects[0].Name)
	require.Equal(t, []string{"medic"}, got.Objects[2].(rbacv1.Role).Rules[0].ResourceNames)
}
