package kube

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/alertmedic/alertmedic/internal/action"
)

func TestPing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	require.NoError(t, w.client.Ping(t.Context()))
	version, err := w.client.ServerVersion(t.Context())
	require.NoError(t, err)
	require.Equal(t, "1", version.Major)

	err = severed(t).Ping(t.Context())
	require.Equal(t, action.ReasonUnavailable, action.ReasonOf(err), "%v", err)
}

func TestOptions(t *testing.T) {
	t.Parallel()
	_, err := New(Options{Namespace: "medic"})
	require.ErrorContains(t, err, "give a kubeconfig")
	w := newWorld(t)
	config := w.RESTConfig()
	_, err = New(Options{Config: config, Namespace: "Not A Namespace"})
	require.ErrorContains(t, err, "Not A Namespace")
	config.Impersonate.UserName = "admin"
	_, err = New(Options{Config: config, Namespace: "medic"})
	require.ErrorContains(t, err, "must not impersonate")
	_, err = w.client.As("no/such:account")
	require.Error(t, err)
}

// What the real API server answers, classified.
func TestClassifyLive(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := testContext(t)
	_, pods := w.deployment(t, "web", 1)
	pod := pods[0]
	patch := func(body string) error {
		_, err := w.api.AppsV1().Deployments(w.ns).Patch(ctx, "web", types.JSONPatchType, []byte(body), metav1.PatchOptions{})
		return err
	}
	check := func(want action.Reason, err error) {
		t.Helper()
		require.Error(t, err)
		got := Classify(err, true)
		require.Equal(t, want, got.Reason, "%s: %#v", got.Message, err)
	}
	check(action.ReasonDrift, patch(`[{"op":"test","path":"/metadata/uid","value":"other"},{"op":"replace","path":"/spec/replicas","value":2}]`))
	check(action.ReasonDrift, patch(`[{"op":"test","path":"/spec/no/such/path","value":1}]`))
	check(action.ReasonInvalid, patch(`[{"op":"replace","path":"/spec/replicas","value":-1}]`))
	check(action.ReasonInvalid, patch(`[{"op":"replace","path":"/spec/selector/matchLabels/app","value":"x"}]`))
	check(action.ReasonInvalid, patch(`not a patch`))

	_, err := w.api.AppsV1().Deployments(w.ns).Get(ctx, "nope", metav1.GetOptions{})
	check(action.ReasonGone, err)
	own, err := w.client.As("")
	require.NoError(t, err)
	_, err = own.Dynamic().Resource(noSuchResource).Namespace(w.ns).Get(ctx, "x", metav1.GetOptions{})
	check(action.ReasonUnsupported, err)

	other := types.UID("other")
	check(action.ReasonGone, w.api.PolicyV1().Evictions(w.ns).Evict(ctx, &policyv1.Eviction{
		ObjectMeta:    metav1.ObjectMeta{Name: pod.Name, Namespace: w.ns},
		DeleteOptions: &metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &other}},
	}))
	check(action.ReasonGone, w.api.CoreV1().Pods(w.ns).Delete(ctx, pod.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &other}}))

	_, err = w.api.PolicyV1().PodDisruptionBudgets(w.ns).Create(ctx, &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec: policyv1.PodDisruptionBudgetSpec{
			MinAvailable: new(intstr.FromInt32(1)),
			Selector:     &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}},
		},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	w.eventually(t, func(ctx context.Context) (bool, error) {
		budget, err := w.api.PolicyV1().PodDisruptionBudgets(w.ns).Get(ctx, "web", metav1.GetOptions{})
		return err == nil && budget.Status.CurrentHealthy == 1, err
	})
	check(action.ReasonBlocked, w.api.PolicyV1().Evictions(w.ns).Evict(ctx, &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: pod.Name, Namespace: w.ns}}))

	_, err = w.api.CoreV1().ResourceQuotas(w.ns).Create(ctx, &corev1.ResourceQuota{
		ObjectMeta: metav1.ObjectMeta{Name: "none"},
		Spec:       corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{"count/secrets": resource.MustParse("0")}},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	w.eventually(t, func(ctx context.Context) (bool, error) {
		_, err = w.api.CoreV1().Secrets(w.ns).Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{GenerateName: "q-"}}, metav1.CreateOptions{})
		return apierrors.IsForbidden(err), nil
	})
	check(action.ReasonBlocked, err)
	_, err = w.api.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: w.ns}}, metav1.CreateOptions{})
	check(action.ReasonDrift, err)

	expired, cancel := context.WithDeadline(ctx, time.Now().Add(-time.Second))
	defer cancel()
	_, err = w.api.AppsV1().Deployments(w.ns).Get(expired, "web", metav1.GetOptions{})
	check(action.ReasonUnclear, err)
}

func TestSessionsImpersonate(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := testContext(t)
	_, err := w.api.CoreV1().ServiceAccounts(w.ns).Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "medic-shop"}}, metav1.CreateOptions{})
	require.NoError(t, err)
	_, err = w.api.RbacV1().Roles(w.ns).Create(ctx, &rbacv1.Role{
		ObjectMeta: metav1.ObjectMeta{Name: "medic"},
		Rules:      []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: []string{"get", "delete"}}},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	// Bound to the group of the namespace's ServiceAccounts: impersonation must
	// carry the groups although the client does not name them.
	_, err = w.api.RbacV1().RoleBindings(w.ns).Create(ctx, &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "medic"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "medic"},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "Group", Name: "system:serviceaccounts:" + w.ns}},
	}, metav1.CreateOptions{})
	require.NoError(t, err)

	session, err := w.client.As("medic-shop")
	require.NoError(t, err)
	again, err := w.client.As("medic-shop")
	require.NoError(t, err)
	require.Same(t, session, again)
	require.Equal(t, "medic-shop", session.ServiceAccount())

	rules := []action.Rule{
		{APIGroups: []string{""}, Resources: []string{"pods", "pods/eviction"}, Verbs: []string{"get", "delete"}},
		{APIGroups: []string{"apps"}, Resources: []string{"deployments"}, Verbs: []string{"patch"}},
		{APIGroups: []string{""}, Resources: []string{"nodes"}, Verbs: []string{"patch"}, ClusterScoped: true},
	}
	want := []string{
		"delete pods/eviction in namespace " + w.ns,
		"get pods/eviction in namespace " + w.ns,
		"patch deployments.apps in namespace " + w.ns,
		"patch nodes in the cluster",
	}
	w.eventually(t, func(ctx context.Context) (bool, error) { // until the authorizer has seen the binding
		missing, err := w.client.CheckRules(ctx, "medic-shop", w.ns, rules)
		return len(missing) == len(want), err
	})
	missing, err := w.client.CheckRules(ctx, "medic-shop", w.ns, rules)
	require.NoError(t, err)
	require.Equal(t, want, missing)

	_, err = session.Typed().CoreV1().Pods(w.ns).List(ctx, metav1.ListOptions{})
	require.Equal(t, action.ReasonForbidden, Classify(err, true).Reason, "%v", err)
	require.ErrorContains(t, err, "system:serviceaccount:"+w.ns+":medic-shop")

	_, err = severed(t).CheckRules(ctx, "medic-shop", w.ns, rules)
	require.Equal(t, action.ReasonUnavailable, action.ReasonOf(err))
}

func TestEmitEvent(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(o *Options) { o.Self.Pod = "alertmedic-0" })
	ctx := testContext(t)
	d, _ := w.deployment(t, "web", 1)
	target := action.Target{Ref: action.Ref{Group: "apps", Kind: action.KindDeployment, Namespace: w.ns, Name: "web", UID: string(d.UID)}}
	long := make([]byte, 0, 5000)
	for len(long) < 5000 {
		long = append(long, "ä"...)
	}
	at := time.Now().Add(-time.Hour).Truncate(time.Second)
	event := Event{ID: "0197-event", Target: target, Type: "Warning", Reason: "RemediationFailed", Message: string(long), RunID: "run-1", At: at}
	require.NoError(t, w.client.EmitEvent(ctx, event))
	require.NoError(t, w.client.EmitEvent(ctx, event), "the answer to the first try may have been lost")
	events, err := w.api.EventsV1().Events(w.ns).List(ctx, metav1.ListOptions{FieldSelector: "reason=RemediationFailed"})
	require.NoError(t, err)
	require.Len(t, events.Items, 1)
	e := events.Items[0]
	require.Equal(t, "run-1", e.Annotations[RunAnnotation])
	require.Equal(t, d.UID, e.Regarding.UID)
	require.Equal(t, "apps/v1", e.Regarding.APIVersion)
	require.Equal(t, "Warning", e.Type)
	require.Equal(t, "alertmedic-0", e.ReportingInstance)
	require.LessOrEqual(t, len(e.Note), 1024)

	require.True(t, e.EventTime.Time.Equal(at), "when it happened, not when it could be written: %s", e.EventTime)

	require.Equal(t, action.ReasonUnavailable, action.ReasonOf(severed(t).EmitEvent(ctx, event)))
	event.ID, event.Target.Namespace = "0197-other", "nowhere-"+w.ns
	require.Equal(t, action.ReasonGone, action.ReasonOf(w.client.EmitEvent(ctx, event)), "no such namespace")
}

func TestTruncate(t *testing.T) {
	t.Parallel()
	require.Equal(t, "short", truncate("short", 10))
	require.Equal(t, "äää…", truncate("ääääääää", 10), "cut between runes")
	require.Equal(t, "a�b", truncate("a\xffb", 10), "invalid UTF-8 is mended")
}

var noSuchResource = schema.GroupVersionResource{Group: "alertmedic.io", Version: "v9", Resource: "nothings"}
