package auth_test

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/yaml"

	"github.com/alertmedic/alertmedic/internal/auth"
	"github.com/alertmedic/alertmedic/internal/testcluster"
)

// The API server knows whose token it is; the service may ask it with the right
// that the shipped manifest gives, and not without.
func TestTokenReviewByTheAPIServer(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cluster := testcluster.Shared(t)
	ns := cluster.Namespace(t)
	admin := cluster.Client()
	for _, name := range []string{"alertmedic", "person"} {
		_, err := admin.CoreV1().ServiceAccounts(ns).Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
		require.NoError(t, err)
	}
	config, err := cluster.RESTConfigFor(ctx, ns, "alertmedic")
	require.NoError(t, err)
	service, err := kubernetes.NewForConfig(config)
	require.NoError(t, err)
	t.Cleanup(func() { testcluster.CloseIdle(service) })
	reviewer := auth.NewKubernetesReviewer(service.AuthenticationV1().TokenReviews())
	token, err := cluster.Token(ctx, ns, "person")
	require.NoError(t, err)

	// An authenticator is made anew where its memory of an answer would do.
	identify := func(token string) (auth.Identity, error) {
		a, err := auth.Load(nil, auth.WithReviewer(reviewer, auth.Mapping{Groups: map[string][]auth.Role{"system:serviceaccounts:" + ns: {auth.View}}}))
		require.NoError(t, err)
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://medic.example/", nil)
		require.NoError(t, err)
		r.Header.Set("Authorization", "Bearer "+token)
		return a.Authenticate(r)
	}
	_, err = identify(token)
	require.ErrorIs(t, err, auth.ErrUnavailable, "without the right nobody can be let in, and nobody is called unknown")

	role, binding := shipped(t)
	role.Name += "-" + ns
	_, err = admin.RbacV1().ClusterRoles().Create(ctx, role, metav1.CreateOptions{})
	require.NoError(t, err)
	binding.Name, binding.RoleRef.Name, binding.Subjects[0].Namespace = role.Name, role.Name, ns
	_, err = admin.RbacV1().ClusterRoleBindings().Create(ctx, binding, metav1.CreateOptions{})
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, admin.RbacV1().ClusterRoleBindings().Delete(context.Background(), role.Name, metav1.DeleteOptions{}))
		require.NoError(t, admin.RbacV1().ClusterRoles().Delete(context.Background(), role.Name, metav1.DeleteOptions{}))
	})

	var who auth.Identity
	require.NoError(t, testcluster.Poll(ctx, func(context.Context) (bool, error) {
		who, err = identify(token)
		return err == nil, nil // until the authorizer has seen the binding
	}), "%v", err)
	require.Equal(t, auth.Identity{Name: "system:serviceaccount:" + ns + ":person", Roles: []auth.Role{auth.View}}, who)

	// Until the API server has answered in time and has seen the deletion.
	unknown := func(token string) {
		require.NoError(t, testcluster.Poll(ctx, func(context.Context) (bool, error) {
			_, err = identify(token)
			return errors.Is(err, auth.ErrBadCredential), nil
		}), "%v", err)
	}
	unknown(token[:len(token)-8] + "AAAAAAAA")
	require.NoError(t, admin.CoreV1().ServiceAccounts(ns).Delete(ctx, "person", metav1.DeleteOptions{}))
	unknown(token) // the account is gone
}

// shipped reads the right that is shipped for this.
func shipped(t *testing.T) (*rbacv1.ClusterRole, *rbacv1.ClusterRoleBinding) {
	t.Helper()
	data, err := os.ReadFile("../../deploy/manifests/tokenreview/rbac.yaml")
	require.NoError(t, err)
	docs := bytes.Split(data, []byte("\n---\n"))
	require.Len(t, docs, 2)
	var role rbacv1.ClusterRole
	var binding rbacv1.ClusterRoleBinding
	require.NoError(t, yaml.UnmarshalStrict(docs[0], &role))
	require.NoError(t, yaml.UnmarshalStrict(docs[1], &binding))
	require.Len(t, binding.Subjects, 1)
	return &role, &binding
}
