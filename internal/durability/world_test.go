package durability

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/alertmedic/alertmedic/internal/testcluster"
)

// world are the objects that alerts complain about. An alert ends when the
// remedy that its name asks for is seen on its object, or when its time is over,
// as if a person had helped.
type world struct {
	cluster    *testcluster.Cluster
	monitoring *Monitoring
	ns         string
	random     *rand.Rand
	nodes      []string

	mu       sync.Mutex
	targets  []*target
	troubles []*trouble
	rounds   int
	alive    map[string]time.Time // pod UID to when it was last seen and not terminating
}

// target is one object, troubled by at most one alert at a time, or by two that
// compete for its lock.
type target struct {
	alert      string
	deployment string
	node       string
	busy       bool
	// rest is until when no other alert begins: most runs are over by then.
	rest time.Time
}

// trouble is one alert.
type trouble struct {
	alert  string
	labels map[string]string
	since  time.Time
	target *target
	healed func(*snapshot) bool
	flaps  bool // it ends for a moment after a while, and fires again
}

// snapshot is one look at the namespace and the nodes.
type snapshot struct {
	pods        map[string]*corev1.Pod // by name
	deployments map[string]*appsv1.Deployment
	nodes       map[string]*corev1.Node
}

// The alerts of the world, and what remedies them.
const (
	alertDelete  = "MedicDelete"  // the pod is another one
	alertRestart = "MedicRestart" // the pod template was touched
	alertScale   = "MedicScale"   // the number of replicas is another one
	alertCordon  = "MedicCordon"  // the node is unschedulable
	alertLadder  = "MedicLadder"  // only the second rung, a scaling, helps
	alertBoth    = "MedicBoth"    // two playbooks for one object, pod.delete and workload.restart, and it takes both
	alertVanish  = "MedicVanish"  // its object is deleted while the fate of the change is unclear
)

func alerts() []string {
	return []string{alertDelete, alertRestart, alertScale, alertCordon, alertLadder, alertBoth, alertVanish}
}

// matching says which playbooks must answer each alert.
func matching() map[string][]string {
	return map[string][]string{alertDelete: {"delete"}, alertRestart: {"restart"}, alertScale: {"scale"}, alertCordon: {"cordon"},
		alertLadder: {"ladder"}, alertBoth: {"both-delete", "both-restart"}, alertVanish: {"vanish"}}
}

func loadPlaybooks() []string {
	const look = "{name: look, action: diagnose, continueOnError: true}, "
	return []string{
		playbook("delete", alertDelete, "Workload", "", remedy("delete", look+deletePod, 8)),
		playbook("restart", alertRestart, "Deployment", "", remedy("restart", restart, 8)),
		playbook("scale", alertScale, "Deployment", "", remedy("scale", scale, 8)),
		playbook("cordon", alertCordon, "Node", "", remedy("cordon", "{name: cordon, action: node.cordon}", 8)),
		playbook("ladder", alertLadder, "Deployment", "",
			remedy("restart", look+restart, 2)+"\n    onFailure: Keep"+remedy("scale", scale, 8)+"\n    onFailure: Revert"),
		playbook("vanish", alertVanish, "Deployment", "", remedy("restart", restart, 8)),
		playbook("both-delete", alertBoth, "Workload", "exclusive: false", remedy("delete", deletePod, 4)),
		playbook("both-restart", alertBoth, "Workload", "exclusive: false", remedy("restart", restart, 4)),
	}
}

// Steps of these playbooks.
const (
	deletePod = "{name: delete, action: pod.delete, with: {gracePeriod: 1s}}"
	restart   = "{name: restart, action: workload.restart}"
	scale     = `{name: scale, action: workload.scale, with: {to: "{{ .Labels.replicas }}", max: 3}}`
)

// remedy has steps and a verification of so many seconds at most.
func remedy(name, steps string, timeout int) string {
	return fmt.Sprintf("\n  - name: %s\n    steps: [%s]\n    verify: {timeout: %ds, stableFor: 1s}", name, steps, timeout)
}

func playbook(name, alert, kind, more, remedies string) string {
	return fmt.Sprintf(`apiVersion: alertmedic.io/v1alpha1
kind: Playbook
metadata: {name: %s}
spec:
  matchers: [alertname = %s]
  target: {kind: %s}
  mode: Auto
  %s
  limits: {maxConcurrentRuns: 20}
  remedies:%s
`, name, alert, kind, more, remedies)
}

// newWorld makes each objects for each alert.
func newWorld(t *testing.T, cluster *testcluster.Cluster, monitoring *Monitoring, each int, random *rand.Rand) *world {
	t.Helper()
	w := &world{cluster: cluster, monitoring: monitoring, ns: cluster.Namespace(t), random: random, alive: map[string]time.Time{}}
	for i := range each {
		for _, alert := range alerts() {
			tg := &target{alert: alert}
			if alert == alertCordon {
				tg.node = cluster.Node(t, testcluster.NodeOptions{}).Name
				w.nodes = append(w.nodes, tg.node)
			} else {
				tg.deployment = fmt.Sprintf("%s-%d", map[string]string{alertDelete: "delete", alertRestart: "restart", alertScale: "scale", alertLadder: "ladder", alertBoth: "both", alertVanish: "vanish"}[alert], i)
				w.deploy(t, tg.deployment)
			}
			w.targets = append(w.targets, tg)
		}
	}
	for _, tg := range w.targets {
		if tg.deployment != "" {
			require.NoError(t, cluster.WaitDeploymentAvailable(t.Context(), w.ns, tg.deployment))
		}
	}
	return w
}

func (w *world) deploy(t *testing.T, name string) {
	t.Helper()
	require.NoError(t, w.create(t.Context(), name))
}

func (w *world) create(ctx context.Context, name string) error {
	labels, one, grace := map[string]string{"app": name}, int32(1), int64(1)
	_, err := w.cluster.Client().AppsV1().Deployments(w.ns).Create(ctx, &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: appsv1.DeploymentSpec{Replicas: &one, Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec: corev1.PodSpec{TerminationGracePeriodSeconds: &grace, Containers: []corev1.Container{{Name: "app", Image: "app:1"}}}}},
	}, metav1.CreateOptions{})
	return err
}

// look reads everything once.
func (w *world) look(ctx context.Context) (*snapshot, error) {
	s := &snapshot{pods: map[string]*corev1.Pod{}, deployments: map[string]*appsv1.Deployment{}, nodes: map[string]*corev1.Node{}}
	pods, err := w.cluster.Client().CoreV1().Pods(w.ns).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	deployments, err := w.cluster.Client().AppsV1().Deployments(w.ns).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	for i := range pods.Items {
		s.pods[pods.Items[i].Name] = &pods.Items[i]
	}
	for i := range deployments.Items {
		s.deployments[deployments.Items[i].Name] = &deployments.Items[i]
	}
	for _, name := range w.nodes {
		if s.nodes[name], err = w.cluster.Client().CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{}); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// run moves the world on until ctx ends: troubles that are healed end, and up to
// most() new ones begin.
func (w *world) run(ctx context.Context, most func() int) error {
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		before := time.Now()
		s, err := w.look(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		if err := w.turn(ctx, s, before, most()); err != nil && ctx.Err() == nil {
			return err
		}
	}
}

// patience is how long an alert fires that no remedy ends, and the shorter one
// is for when nothing new begins.
const (
	patience     = 20 * time.Second
	lastPatience = 5 * time.Second
)

func (w *world) turn(ctx context.Context, s *snapshot, at time.Time, most int) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, pod := range s.pods {
		if pod.DeletionTimestamp == nil {
			w.alive[string(pod.UID)] = at
		}
	}
	patient := patience
	if most == 0 {
		patient = lastPatience
	}
	var left []*trouble
	for _, tr := range w.troubles {
		age := at.Sub(tr.since)
		switch {
		case tr.healed(s) || age > patient:
			w.monitoring.Resolve(tr.alert, tr.labels)
			tr.target.busy, tr.target.rest = false, at.Add(time.Duration(w.random.Int64N(int64(8*time.Second))))
			continue
		case tr.flaps && age > 3*time.Second && age < 5*time.Second:
			w.monitoring.Resolve(tr.alert, tr.labels)
		case tr.flaps && age >= 5*time.Second:
			tr.flaps = false
			w.monitoring.Fire(tr.alert, tr.labels)
		}
		left = append(left, tr)
	}
	w.troubles = left
	for _, i := range w.random.Perm(len(w.targets)) {
		if len(w.troubles) >= most {
			break
		}
		if tg := w.targets[i]; !tg.busy && at.After(tg.rest) {
			if err := w.begin(ctx, s, tg); err != nil {
				return err
			}
		}
	}
	return nil
}

func (w *world) quiet() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.troubles) == 0
}

func (w *world) lastSeen() map[string]time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return maps.Clone(w.alive)
}

// begin makes an alert fire about a target.
func (w *world) begin(ctx context.Context, s *snapshot, tg *target) error {
	w.rounds++
	tr := &trouble{alert: tg.alert, since: time.Now(), target: tg, flaps: w.random.IntN(8) == 0,
		labels: map[string]string{"round": fmt.Sprint(w.rounds), "shard": fmt.Sprint(w.rounds % 3)}}
	if tg.node != "" {
		if s.nodes[tg.node].Spec.Unschedulable {
			_, err := w.cluster.Client().CoreV1().Nodes().Patch(ctx, tg.node, types.MergePatchType, []byte(`{"spec":{"unschedulable":null}}`), metav1.PatchOptions{})
			return err // fires when that is seen
		}
		tr.labels["node"] = tg.node
		tr.healed = func(s *snapshot) bool { return s.nodes[tg.node].Spec.Unschedulable }
	} else {
		d := s.deployments[tg.deployment]
		if d == nil {
			return w.create(ctx, tg.deployment) // fires when that is seen
		}
		if d.DeletionTimestamp != nil {
			return nil
		}
		tr.labels["namespace"], tr.labels["deployment"] = w.ns, tg.deployment
		replicas := *d.Spec.Replicas
		was := d.Spec.Template.Annotations["alertmedic.io/restart"]
		switch tg.alert {
		case alertDelete, alertBoth:
			pod := podOf(s, tg.deployment)
			if pod == nil {
				return nil // later
			}
			tr.labels["pod"] = pod.Name
			tr.healed = func(s *snapshot) bool {
				gone := s.pods[pod.Name] == nil || s.pods[pod.Name].UID != pod.UID
				if tg.alert == alertDelete {
					return gone
				}
				// A restart alone takes the pod away too: let the two runs compete.
				return gone && s.deployments[tg.deployment].Spec.Template.Annotations["alertmedic.io/restart"] != was
			}
		case alertVanish:
			tr.healed = func(s *snapshot) bool { return s.deployments[tg.deployment] == nil }
		case alertRestart:
			tr.healed = func(s *snapshot) bool {
				return s.deployments[tg.deployment].Spec.Template.Annotations["alertmedic.io/restart"] != was
			}
		default:
			tr.labels["replicas"] = fmt.Sprint(3 - replicas)
			tr.healed = func(s *snapshot) bool { return *s.deployments[tg.deployment].Spec.Replicas != replicas }
		}
	}
	tg.busy = true
	w.monitoring.Fire(tr.alert, tr.labels)
	w.troubles = append(w.troubles, tr)
	return nil
}

// vanish deletes a Deployment of alertVanish at the moment in which a change of
// it is cut off: its fate cannot be known then.
func (w *world) vanish(c Call, m Moment) {
	name, found := strings.CutPrefix(c.Path, "/apis/apps/v1/namespaces/"+w.ns+"/deployments/")
	if m != Arrived || !found || !strings.HasPrefix(name, "vanish-") || c.Method != http.MethodPatch {
		return
	}
	// An error leaves the object where it is, which is only one vanishing less.
	_ = w.cluster.Client().AppsV1().Deployments(w.ns).Delete(context.Background(), name, metav1.DeleteOptions{})
}

// podOf is a running pod of a Deployment, older than the alert will be.
func podOf(s *snapshot, deployment string) *corev1.Pod {
	for _, pod := range s.pods {
		if pod.Labels["app"] == deployment && pod.DeletionTimestamp == nil && testcluster.PodReady(pod) {
			return pod
		}
	}
	return nil
}
