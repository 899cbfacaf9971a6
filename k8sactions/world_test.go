package k8sactions_test

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/alertmedic/alertmedic/internal/action"
	"github.com/alertmedic/alertmedic/internal/kube"
	"github.com/alertmedic/alertmedic/internal/testcluster"
	"github.com/alertmedic/alertmedic/k8sactions"
	"github.com/alertmedic/alertmedic/k8sactions/contract"
)

// world is a namespace of the real control plane and a catalogue whose
// ServiceAccount has exactly the rights that one action declares.
type world struct {
	*testcluster.Cluster
	ns   string
	api  kubernetes.Interface
	cat  *k8sactions.Catalogue
	name string // of the action

	client *kube.Client
}

// at returns the catalogue with a clock that is ahead.
func (w *world) at(t *testing.T, ahead time.Duration) *k8sactions.Catalogue {
	t.Helper()
	c, err := k8sactions.New(contract.ClientsFunc(func(sa string) (contract.Session, error) { return w.client.As(sa) }),
		k8sactions.Options{Now: func() time.Time { return time.Now().Add(ahead) }})
	require.NoError(t, err)
	return c
}

const serviceAccount = "medic"

func newWorld(t *testing.T, name string) *world {
	t.Helper()
	return makeWorld(t, name, false)
}

// newWideWorld grants the action's rules in all namespaces, as a playbook needs
// it whose target lies outside namespaces.
func newWideWorld(t *testing.T, name string) *world {
	t.Helper()
	return makeWorld(t, name, true)
}

func makeWorld(t *testing.T, name string, everywhere bool) *world {
	t.Helper()
	cluster := testcluster.Shared(t)
	w := &world{Cluster: cluster, ns: cluster.Namespace(t), api: cluster.Client(), name: name}
	remember(cluster, w.ns, name)
	client, err := kube.New(kube.Options{Config: cluster.RESTConfig(), Namespace: w.ns})
	require.NoError(t, err)
	t.Cleanup(client.Close)
	w.client = client
	w.cat = w.at(t, 0)
	w.grant(t, everywhere)
	ctx := testContext(t)
	spec, ok := w.cat.Lookup(name)
	require.True(t, ok)
	require.NoError(t, testcluster.Poll(ctx, func(ctx context.Context) (bool, error) {
		missing, err := client.CheckRules(ctx, serviceAccount, w.ns, spec.RBAC)
		return len(missing) == 0, err
	}))
	return w
}

// grant gives the ServiceAccount the rules of the action and nothing more.
func (w *world) grant(t *testing.T, everywhere bool) {
	t.Helper()
	ctx := testContext(t)
	spec, _ := w.cat.Lookup(w.name)
	var own, cluster []rbacv1.PolicyRule
	for _, r := range spec.RBAC {
		rule := rbacv1.PolicyRule{APIGroups: r.APIGroups, Resources: r.Resources, Verbs: r.Verbs}
		if r.ClusterScoped || everywhere {
			cluster = append(cluster, rule)
		} else {
			own = append(own, rule)
		}
	}
	subjects := []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: w.ns, Name: serviceAccount}}
	_, err := w.api.CoreV1().ServiceAccounts(w.ns).Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: serviceAccount}}, metav1.CreateOptions{})
	require.NoError(t, err)
	if len(own) > 0 {
		_, err = w.api.RbacV1().Roles(w.ns).Create(ctx, &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: serviceAccount}, Rules: own}, metav1.CreateOptions{})
		require.NoError(t, err)
		_, err = w.api.RbacV1().RoleBindings(w.ns).Create(ctx, &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Name: serviceAccount},
			RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: serviceAccount}, Subjects: subjects}, metav1.CreateOptions{})
		require.NoError(t, err)
	}
	if len(cluster) == 0 {
		return
	}
	name := "medic-test-" + w.ns
	_, err = w.api.RbacV1().ClusterRoles().Create(ctx, &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: cluster}, metav1.CreateOptions{})
	require.NoError(t, err)
	_, err = w.api.RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: name},
		RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: name}, Subjects: subjects}, metav1.CreateOptions{})
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
		defer cancel()
		require.NoError(t, w.api.RbacV1().ClusterRoleBindings().Delete(ctx, name, metav1.DeleteOptions{}))
		require.NoError(t, w.api.RbacV1().ClusterRoles().Delete(ctx, name, metav1.DeleteOptions{}))
	})
}

func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// request asks for the action of the world on the target.
func (w *world) request(target action.Target, params string) action.Request {
	return action.Request{Action: w.name, Params: json.RawMessage(params), Target: target, RunID: "run-1", StepID: "remedy/step", ServiceAccount: serviceAccount}
}

func (w *world) plan(t *testing.T, target action.Target, params string) action.Plan {
	t.Helper()
	p, err := w.cat.Plan(testContext(t), w.request(target, params))
	require.NoError(t, err)
	return p
}

// refused insists that the plan is refused for the reason with the text.
func (w *world) refused(t *testing.T, target action.Target, params string, reason action.Reason, text string) {
	t.Helper()
	_, err := w.cat.Plan(testContext(t), w.request(target, params))
	require.ErrorContains(t, err, text)
	require.Equal(t, reason, action.ReasonOf(err))
}

// applyAll ticks until the action is done or fails.
func (w *world) applyAll(t *testing.T, plan action.Plan) (action.Result, error) {
	t.Helper()
	return w.ticks(t, plan, func(action.Result) bool { return false })
}

// done is applyAll for an action that must succeed.
func (w *world) done(t *testing.T, plan action.Plan) action.Result {
	t.Helper()
	res, err := w.applyAll(t, plan)
	require.NoError(t, err)
	require.True(t, res.Done)
	require.NotEmpty(t, res.Message)
	return res
}

// ticks calls Apply until it is done, fails, or stop says so.
func (w *world) ticks(t *testing.T, plan action.Plan, stop func(action.Result) bool) (last action.Result, failed error) {
	t.Helper()
	var state json.RawMessage
	err := testcluster.Poll(testContext(t), func(ctx context.Context) (bool, error) {
		last, failed = w.cat.Apply(ctx, plan, state)
		if failed != nil {
			if reason := action.ReasonOf(failed); reason == action.ReasonThrottled || reason == action.ReasonUnavailable {
				return false, nil
			}
			return true, nil
		}
		if !last.Done {
			require.Positive(t, last.Again)
			require.NotEmpty(t, last.State)
		}
		state = last.State
		return last.Done || stop(last), nil
	})
	require.NoError(t, err, "last: %s", last.Message)
	return last, failed
}

func (w *world) observe(t *testing.T, plan action.Plan) action.Observation {
	t.Helper()
	seen, err := w.cat.Observe(testContext(t), plan, nil)
	require.NoError(t, err)
	return seen
}

// mutations are what the action's ServiceAccount has sent since.
func (w *world) mutations(t *testing.T, since time.Time) []auditv1.Event {
	t.Helper()
	events, err := w.Mutations(since)
	require.NoError(t, err)
	var own []auditv1.Event
	for _, e := range events {
		if e.ImpersonatedUser != nil && e.ImpersonatedUser.Username == "system:serviceaccount:"+w.ns+":"+serviceAccount &&
			e.ObjectRef != nil && e.ObjectRef.Resource != "selfsubjectaccessreviews" && e.ObjectRef.Resource != "selfsubjectrulesreviews" {
			own = append(own, e)
		}
	}
	return own
}

func template(name, image string) corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": name}},
		Spec: corev1.PodSpec{
			TerminationGracePeriodSeconds: new(int64(1)),
			Containers: []corev1.Container{{Name: "app", Image: image, Env: []corev1.EnvVar{
				{Name: "DB_PASSWORD", Value: "hunter2-" + image}, {Name: "MODE", Value: "fast"}}}},
		},
	}
}

// deployment creates a Deployment and waits until it is available.
func (w *world) deployment(t *testing.T, name string, replicas int32, change ...func(*appsv1.Deployment)) *appsv1.Deployment {
	t.Helper()
	ctx := testContext(t)
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: appsv1.DeploymentSpec{Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": name}}, Template: template(name, "shop/"+name+":1")}}
	for _, c := range change {
		c(d)
	}
	d, err := w.api.AppsV1().Deployments(w.ns).Create(ctx, d, metav1.CreateOptions{})
	require.NoError(t, err)
	if !d.Spec.Paused {
		require.NoError(t, w.WaitDeploymentAvailable(ctx, w.ns, name))
	}
	return w.getDeployment(t, name)
}

func (w *world) getDeployment(t *testing.T, name string) *appsv1.Deployment {
	t.Helper()
	d, err := w.api.AppsV1().Deployments(w.ns).Get(testContext(t), name, metav1.GetOptions{})
	require.NoError(t, err)
	return d
}

// setImage rolls a Deployment out as kubectl would.
func (w *world) setImage(t *testing.T, name, image string) {
	t.Helper()
	patch := `{"spec":{"template":{"spec":{"containers":[{"name":"app","image":"` + image + `"}]}}}}`
	_, err := w.api.AppsV1().Deployments(w.ns).Patch(testContext(t), name, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{FieldManager: "kubectl-set"})
	require.NoError(t, err)
	require.NoError(t, w.WaitDeployment(testContext(t), w.ns, name, func(d *appsv1.Deployment) bool {
		return d.Status.ObservedGeneration >= d.Generation && d.Status.UpdatedReplicas > 0
	}))
}

func (w *world) pods(t *testing.T, app string) []corev1.Pod {
	t.Helper()
	list, err := w.api.CoreV1().Pods(w.ns).List(testContext(t), metav1.ListOptions{LabelSelector: "app=" + app})
	require.NoError(t, err)
	return list.Items
}

func targetOf(kind action.Kind, group string, o metav1.Object) action.Target {
	ref := action.Ref{Group: group, Kind: kind, Namespace: o.GetNamespace(), Name: o.GetName(), UID: string(o.GetUID())}
	return action.Target{Cluster: "test", Ref: ref, Top: ref}
}

func deploymentTarget(d *appsv1.Deployment) action.Target {
	return targetOf(action.KindDeployment, "apps", d)
}

// dryRun reports whether an audited request was one.
func dryRun(e auditv1.Event) bool {
	return strings.Contains(e.RequestURI, "dryRun=All") || e.RequestObject != nil && strings.Contains(string(e.RequestObject.Raw), `"dryRun":["All"]`)
}

// noDeployment is a condition for testcluster.Poll.
func (w *world) noDeployment(name string) func(context.Context) (bool, error) {
	return func(ctx context.Context) (bool, error) {
		_, err := w.api.AppsV1().Deployments(w.ns).Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return true, nil
		}
		return false, err
	}
}
