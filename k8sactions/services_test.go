package k8sactions_test

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/alertmedic/alertmedic/internal/action"
	"github.com/alertmedic/alertmedic/internal/testcluster"
)

func tier(value string) func(*appsv1.Deployment) {
	return func(d *appsv1.Deployment) { d.Spec.Template.Labels["tier"] = value }
}

func TestServiceRestartGoesOneByOne(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "service.restart")
	w.deployment(t, "blue", 1, tier("front"))
	w.deployment(t, "green", 1, tier("front"))
	w.deployment(t, "idle", 0, tier("front"))
	w.deployment(t, "other", 1, tier("back"))
	svc := w.service(t, "front", map[string]string{"tier": "front"})
	target := targetOf(action.KindService, "", svc)
	w.refused(t, target, `{"maxWorkloads":1}`, action.ReasonRefused, "2 workloads are behind")

	plan := w.plan(t, target, "")
	require.Equal(t, []string{"test/Deployment/" + w.ns + "/blue", "test/Deployment/" + w.ns + "/green"}, plan.Locks)
	require.Equal(t, 2, plan.Displaces)

	restarted := func(name string) bool {
		return w.getDeployment(t, name).Spec.Template.Annotations["alertmedic.io/restart"] != ""
	}
	// blue's next pods do not become ready: green must not be touched.
	patchAs(t, w, "kubectl", "deployments", w.ns, "blue", `{"spec":{"template":{"metadata":{"annotations":{"medic-test/fault":"notready"}}}}}`)
	n := 0
	last, err := w.ticks(t, plan, func(action.Result) bool { n++; return n == 5 })
	require.NoError(t, err)
	require.Contains(t, last.Message, "restarting 1 of 2, Deployment/"+w.ns+"/blue")
	require.True(t, restarted("blue"))
	require.False(t, restarted("green"))
	require.Equal(t, action.NotApplied, w.observe(t, plan))

	patchAs(t, w, "kubectl", "deployments", w.ns, "blue", `{"spec":{"template":{"metadata":{"annotations":{"medic-test/fault":null}}}}}`)
	var messages []string
	res, err := w.ticks(t, plan, func(r action.Result) bool {
		if !slices.Contains(messages, r.Message) {
			messages = append(messages, r.Message)
		}
		return false
	})
	require.NoError(t, err)
	require.Contains(t, res.Message, "restarted the 2 workloads")
	require.True(t, restarted("green"))
	require.False(t, restarted("idle") || restarted("other"))
	require.Equal(t, action.Applied, w.observe(t, plan))
}

func TestServiceRestartWaitsForAReadyEndpoint(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "service.restart")
	w.deployment(t, "web", 1)
	svc := w.service(t, "web", map[string]string{"app": "web"})
	target := targetOf(action.KindService, "", svc)
	plan := w.plan(t, target, "")
	hasty := plan
	hasty.Request.Params = []byte(`{"waitForEndpoints":false}`)
	w.done(t, plan)
	// The Service now looks for pods that are not there, and has no endpoint.
	s, err := w.api.CoreV1().Services(w.ns).Get(testContext(t), "web", metav1.GetOptions{})
	require.NoError(t, err)
	s.Spec.Selector = map[string]string{"app": "nobody"}
	_, err = w.api.CoreV1().Services(w.ns).Update(testContext(t), s, metav1.UpdateOptions{})
	require.NoError(t, err)
	last, err := w.ticks(t, plan, func(r action.Result) bool { return !r.Done })
	require.NoError(t, err)
	require.Contains(t, last.Message, "waiting for a ready endpoint of the Service")
	w.done(t, hasty)
}

func TestServicesThatCannotBeRestarted(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "service.restart")
	ctx := testContext(t)
	target := func(s *corev1.Service) action.Target { return targetOf(action.KindService, "", s) }
	w.refused(t, target(w.service(t, "blind", nil)), "", action.ReasonRefused, "has no selector")
	w.refused(t, target(w.service(t, "empty", map[string]string{"app": "nobody"})), "", action.ReasonRefused, "no Deployment, StatefulSet or DaemonSet is behind")
	external, err := w.api.CoreV1().Services(w.ns).Create(ctx, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "external"},
		Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "example.org", Selector: map[string]string{"app": "web"}}}, metav1.CreateOptions{})
	require.NoError(t, err)
	w.refused(t, target(external), "", action.ReasonRefused, "only names a host outside the cluster")
	w.deployment(t, "idle", 0)
	w.refused(t, target(w.service(t, "idle", map[string]string{"app": "idle"})), "", action.ReasonRefused, "is scaled to zero")
	w.deployment(t, "paused", 1, func(d *appsv1.Deployment) { d.Spec.Paused = true })
	w.refused(t, target(w.service(t, "paused", map[string]string{"app": "paused"})), "", action.ReasonRefused, "is paused")
}

func TestServiceRestartStopsAtAWorkloadThatIsNotAsPlanned(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "service.restart")
	d := w.deployment(t, "web", 1)
	svc := w.service(t, "web", map[string]string{"app": "web"})
	plan := w.plan(t, targetOf(action.KindService, "", svc), "")
	require.NoError(t, w.api.AppsV1().Deployments(w.ns).Delete(testContext(t), "web", metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(d.UID))}))
	require.NoError(t, testcluster.Poll(testContext(t), w.noDeployment("web")))
	w.deployment(t, "web", 1)
	began := time.Now()
	_, err := w.applyAll(t, plan)
	require.Equal(t, action.ReasonGone, action.ReasonOf(err), "%v", err)
	require.Empty(t, w.mutations(t, began))
}

// What stands behind a Service may be of any kind that can be restarted.
func TestServiceRestartTakesEveryKindOfWorkload(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "service.restart")
	w.statefulSet(t, "db", 1, func(s *appsv1.StatefulSet) { s.Spec.Template.Labels["tier"] = "data" })
	w.daemonSet(t, "agent", func(d *appsv1.DaemonSet) { d.Spec.Template.Labels["tier"] = "data" })
	svc := w.service(t, "data", map[string]string{"tier": "data"})
	plan := w.plan(t, targetOf(action.KindService, "", svc), "")
	require.Equal(t, []string{"test/DaemonSet/" + w.ns + "/agent", "test/StatefulSet/" + w.ns + "/db"}, plan.Locks)
	w.done(t, plan)
	require.NotEmpty(t, w.statefulSetReady(t, "db").Spec.Template.Annotations["alertmedic.io/restart"])
	require.NotEmpty(t, w.daemonSetReady(t, "agent").Spec.Template.Annotations["alertmedic.io/restart"])
}
