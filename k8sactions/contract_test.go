package k8sactions_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/alertmedic/alertmedic/internal/action"
	"github.com/alertmedic/alertmedic/internal/testcluster"
)

// scene is one arrangement of objects for an action to work on.
type scene struct {
	target action.Target
	// state is what the action changes, in any form that can be compared.
	state func() any
	// wanted is state after the action; nil when it cannot be foretold.
	wanted any
	// drift changes something that a plan relies on; nil for actions whose only
	// precondition is the UID.
	drift func()
	// foreign has another manager take what the action has set.
	foreign func()
}

// subject is an action with the scene for it.
type subject struct {
	name    string
	action  string
	params  string
	arrange func(*testing.T, *world) scene
}

func patchAs(t *testing.T, w *world, manager, resource, namespace, name, patch string) {
	t.Helper()
	var request = w.api.AppsV1().RESTClient().Patch(types.MergePatchType)
	if resource == "nodes" {
		request = w.api.CoreV1().RESTClient().Patch(types.MergePatchType)
	}
	if namespace != "" {
		request = request.Namespace(namespace)
	}
	require.NoError(t, request.Resource(resource).Name(name).Param("fieldManager", manager).Body([]byte(patch)).Do(testContext(t)).Error())
}

// theNode is a node of the test's own.
func theNode(t *testing.T, w *world) (*corev1.Node, func() bool) {
	node := w.Node(t, testcluster.NodeOptions{})
	return node, func() bool {
		n, err := w.api.CoreV1().Nodes().Get(testContext(t), node.Name, metav1.GetOptions{})
		require.NoError(t, err)
		return n.Spec.Unschedulable
	}
}

func subjects() []subject {
	aPod := func(t *testing.T, w *world) scene {
		w.deployment(t, "web", 1)
		pod := w.pods(t, "web")[0]
		return scene{
			target: targetOf(action.KindPod, "", &pod),
			state: func() any {
				for _, p := range w.pods(t, "web") {
					if p.UID == pod.UID {
						return p.DeletionTimestamp == nil
					}
				}
				return false
			},
			wanted: false,
		}
	}
	return []subject{
		{"pod.delete", "pod.delete", `{"gracePeriod":"2s"}`, aPod},
		{"pod.evict", "pod.evict", ``, aPod},
		{"workload.restart", "workload.restart", ``, func(t *testing.T, w *world) scene {
			d := w.deployment(t, "web", 2)
			return scene{
				target: deploymentTarget(d),
				state:  func() any { return w.getDeployment(t, "web").Spec.Template.Annotations["alertmedic.io/restart"] },
				wanted: "run-1.remedy/step",
				drift: func() {
					patchAs(t, w, "kubectl", "deployments", w.ns, "web", `{"spec":{"template":{"metadata":{"annotations":{"alertmedic.io/restart":"another.run"}}}}}`)
				},
			}
		}},
		{"workload.scale", "workload.scale", `{"by":2,"max":9}`, func(t *testing.T, w *world) scene {
			d := w.deployment(t, "web", 1)
			return scene{
				target: deploymentTarget(d),
				state:  func() any { return *w.getDeployment(t, "web").Spec.Replicas },
				wanted: int32(3),
				drift:  func() { patchAs(t, w, "kubectl", "deployments", w.ns, "web", `{"spec":{"replicas":2}}`) },
				foreign: func() {
					// Away and back again: the value is as alertmedic left it, its owner is not.
					patchAs(t, w, "kubectl", "deployments", w.ns, "web", `{"spec":{"replicas":2}}`)
					patchAs(t, w, "kubectl", "deployments", w.ns, "web", `{"spec":{"replicas":3}}`)
				},
			}
		}},
		{"workload.rollback", "workload.rollback", ``, func(t *testing.T, w *world) scene {
			w.deployment(t, "web", 1)
			w.setImage(t, "web", "shop/web:broken")
			d := w.getDeployment(t, "web")
			image := func(v string) {
				patchAs(t, w, "kubectl", "deployments", w.ns, "web", `{"spec":{"template":{"spec":{"containers":[{"name":"app","image":"`+v+`"}]}}}}`)
			}
			return scene{
				target:  deploymentTarget(d),
				state:   func() any { return w.getDeployment(t, "web").Spec.Template.Spec.Containers[0].Image },
				wanted:  "shop/web:1",
				drift:   func() { image("shop/web:3") },
				foreign: func() { image("shop/web:3") },
			}
		}},
		{"node.cordon", "node.cordon", ``, func(t *testing.T, w *world) scene {
			node, cordoned := theNode(t, w)
			flip := func(v string) {
				patchAs(t, w, "kubectl-cordon", "nodes", "", node.Name, `{"spec":{"unschedulable":`+v+`}}`)
			}
			return scene{
				target: targetOf(action.KindNode, "", node),
				state:  func() any { return cordoned() },
				wanted: true,
				drift:  func() { flip("true") },
				foreign: func() {
					flip("false")
					flip("true")
				},
			}
		}},
		{"node.uncordon", "node.uncordon", ``, func(t *testing.T, w *world) scene {
			node, cordoned := theNode(t, w)
			patchAs(t, w, "alertmedic", "nodes", "", node.Name, `{"metadata":{"annotations":{"alertmedic.io/cordoned-by":"run-0"}},"spec":{"unschedulable":true}}`)
			return scene{
				target: targetOf(action.KindNode, "", node),
				state:  func() any { return cordoned() },
				wanted: false,
				drift: func() {
					patchAs(t, w, "kubectl", "nodes", "", node.Name, `{"metadata":{"annotations":{"alertmedic.io/cordoned-by":"run-7"}}}`)
				},
				foreign: func() {
					patchAs(t, w, "alertmedic", "nodes", "", node.Name, `{"metadata":{"annotations":{"alertmedic.io/run":"run-7"}}}`)
				},
			}
		}},
		{"node.drain", "node.drain", `{"maxParallel":1}`, func(t *testing.T, w *world) scene {
			node, cordoned := theNode(t, w)
			w.deployment(t, "web", 2, func(d *appsv1.Deployment) { testcluster.OnNode(&d.Spec.Template.Spec, node.Name) })
			first := w.pods(t, "web")
			return scene{
				target: targetOf(action.KindNode, "", node),
				state: func() any {
					left := 0
					for _, p := range w.pods(t, "web") {
						for _, f := range first {
							if p.UID == f.UID {
								left++
							}
						}
					}
					return map[string]any{"cordoned": cordoned(), "pods": left}
				},
				wanted: map[string]any{"cordoned": true, "pods": 0},
				foreign: func() {
					patchAs(t, w, "kubectl-cordon", "nodes", "", node.Name, `{"spec":{"unschedulable":false}}`)
					patchAs(t, w, "kubectl-cordon", "nodes", "", node.Name, `{"spec":{"unschedulable":true}}`)
				},
			}
		}},
		{"service.restart", "service.restart", ``, func(t *testing.T, w *world) scene {
			w.deployment(t, "web", 1)
			s := w.service(t, "web", map[string]string{"app": "web"})
			return scene{
				target: targetOf(action.KindService, "", s),
				state:  func() any { return w.getDeployment(t, "web").Spec.Template.Annotations["alertmedic.io/restart"] },
				wanted: "run-1.remedy/step",
				drift: func() {
					patchAs(t, w, "kubectl", "deployments", w.ns, "web", `{"spec":{"template":{"metadata":{"annotations":{"alertmedic.io/restart":"another.run"}}}}}`)
				},
			}
		}},
		{"diagnose", "diagnose", ``, func(t *testing.T, w *world) scene {
			d := w.deployment(t, "web", 1)
			return scene{target: deploymentTarget(d), state: func() any { return w.getDeployment(t, "web").Spec.Template }}
		}},
	}
}

func (w *world) service(t *testing.T, name string, selector map[string]string) *corev1.Service {
	t.Helper()
	s, err := w.api.CoreV1().Services(w.ns).Create(testContext(t), &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.ServiceSpec{Selector: selector, Ports: []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(8080)}}}}, metav1.CreateOptions{})
	require.NoError(t, err)
	return s
}

// budget protects the pods of an app.
func (w *world) budget(t *testing.T, name, app string, minAvailable int) {
	t.Helper()
	ctx := testContext(t)
	atLeast := intstr.FromInt(minAvailable)
	_, err := w.api.PolicyV1().PodDisruptionBudgets(w.ns).Create(ctx, &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: policyv1.PodDisruptionBudgetSpec{MinAvailable: &atLeast, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": app}}}}, metav1.CreateOptions{})
	require.NoError(t, err)
}

// TestContract holds every action to the contract, as a ServiceAccount that has
// the rights which the action declares and no other.
func TestContract(t *testing.T) {
	t.Parallel()
	for _, sub := range subjects() {
		t.Run(sub.name, func(t *testing.T) {
			t.Parallel()
			t.Run("one life", func(t *testing.T) { t.Parallel(); oneLife(t, sub) })
			t.Run("drift", func(t *testing.T) { t.Parallel(); drifts(t, sub) })
			t.Run("revert conflict", func(t *testing.T) { t.Parallel(); revertConflicts(t, sub) })
		})
	}
}

// oneLife goes through all that can happen to a step on one object.
func oneLife(t *testing.T, sub subject) {
	w := newWorld(t, sub.action)
	spec, _ := w.cat.Lookup(sub.action)
	sc := sub.arrange(t, w)
	before := sc.state()

	began := time.Now()
	plan := w.plan(t, sc.target, sub.params)
	require.Empty(t, w.mutations(t, began), "a plan changes nothing")
	require.Equal(t, before, sc.state())
	require.NotEmpty(t, plan.Summary)
	require.Equal(t, w.request(sc.target, sub.params), plan.Request)
	require.False(t, plan.Noop)
	if spec.Mutating {
		require.NotEmpty(t, plan.Changes)
		require.NotEmpty(t, plan.Diff)
		require.NotEmpty(t, plan.Before)
		require.Equal(t, action.NotApplied, w.observe(t, plan))
	}
	require.NotContains(t, string(plan.Before)+plan.Diff+plan.Summary, "hunter2", "no secret of a template in a plan")
	for _, c := range plan.Changes {
		require.NotContains(t, string(c.Before)+string(c.After), "hunter2")
	}

	for _, target := range []func(*action.Target){
		func(t *action.Target) { t.UID = "00000000-0000-0000-0000-000000000000" },
		func(t *action.Target) { t.Name += "-x" },
	} {
		other := sc.target
		target(&other)
		w.refused(t, other, sub.params, action.ReasonGone, other.Ref.String())
	}

	began = time.Now()
	dry := plan
	dry.Request.DryRun = true
	res := w.done(t, dry)
	require.NotEmpty(t, res.Message)
	require.Equal(t, before, sc.state(), "a dry run changes nothing")
	sent := w.mutations(t, began)
	require.Equal(t, spec.Mutating, len(sent) > 0, "a dry run asks the API server")
	for _, e := range sent {
		require.True(t, dryRun(e), "%s %s", e.Verb, e.RequestURI)
	}

	began = time.Now()
	w.done(t, plan)
	if sc.wanted != nil {
		require.Equal(t, sc.wanted, sc.state())
	}
	after := sc.state()
	if spec.Mutating {
		require.Equal(t, action.Applied, w.observe(t, plan))
		sent := w.mutations(t, began)
		require.NotEmpty(t, sent)
		for _, e := range sent {
			require.NotNil(t, e.RequestObject)
			require.Contains(t, string(e.RequestObject.Raw), carried(e.Verb), "every change carries the UID of its object")
			require.NotContains(t, string(e.RequestObject.Raw), "resourceVersion")
		}
	} else {
		require.Empty(t, w.mutations(t, began))
	}
	began = time.Now()
	w.done(t, plan) // as after a crash, without the state of the tick before
	require.Equal(t, after, sc.state(), "applying again does no harm")
	require.Empty(t, w.mutations(t, began), "applying again sends nothing")

	if !spec.Reversible {
		return
	}
	restored := before
	if sub.action == "node.drain" {
		restored = map[string]any{"cordoned": false, "pods": 0} // evicted pods do not come back
	}
	for range 2 { // the second time as after a crash
		res, err := w.cat.Revert(testContext(t), plan, nil)
		require.NoError(t, err)
		require.True(t, res.Done)
		require.NotEmpty(t, res.Message)
		require.Equal(t, restored, sc.state())
	}
}

// carried is how the UID stands in the body of a request.
func carried(verb string) string {
	if verb == "patch" {
		return `{"op":"test","path":"/metadata/uid","value":"`
	}
	return `"preconditions":{"uid":"`
}

func drifts(t *testing.T, sub subject) {
	w := newWorld(t, sub.action)
	sc := sub.arrange(t, w)
	plan := w.plan(t, sc.target, sub.params)
	began := time.Now()
	forged := plan
	forged.Request.Target.UID = "00000000-0000-0000-0000-000000000000"
	if sub.action != "pod.delete" && sub.action != "pod.evict" && sub.action != "diagnose" {
		_, err := w.applyAll(t, forged)
		require.Equal(t, action.ReasonGone, action.ReasonOf(err), "%v", err)
	}
	if sc.drift != nil {
		sc.drift()
		drifted := sc.state()
		_, err := w.applyAll(t, plan)
		require.Equal(t, action.ReasonDrift, action.ReasonOf(err), "%v", err)
		require.Equal(t, drifted, sc.state())
		require.Equal(t, action.NotApplied, w.observe(t, plan))
	}
	require.Empty(t, w.mutations(t, began), "what is not as planned is not touched")
}

func revertConflicts(t *testing.T, sub subject) {
	w := newWorld(t, sub.action)
	spec, _ := w.cat.Lookup(sub.action)
	sc := sub.arrange(t, w)
	if !spec.Reversible {
		_, err := w.cat.Revert(testContext(t), w.plan(t, sc.target, sub.params), nil)
		require.Equal(t, action.ReasonUnsupported, action.ReasonOf(err))
		return
	}
	plan := w.plan(t, sc.target, sub.params)
	w.done(t, plan)
	sc.foreign()
	taken, began := sc.state(), time.Now()
	_, err := w.cat.Revert(testContext(t), plan, nil)
	require.Equal(t, action.ReasonRevertConflict, action.ReasonOf(err), "%v", err)
	require.Equal(t, taken, sc.state())
	require.Empty(t, w.mutations(t, began))
}
