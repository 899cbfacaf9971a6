package kube

import (
	"context"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/alertmedic/alertmedic/internal/testcluster"
)

// world is a namespace of the real control plane with a Client to it.
type world struct {
	*testcluster.Cluster
	ns     string
	api    kubernetes.Interface
	client *Client
	gets   *atomic.Int64 // requests that the client sent
}

func newWorld(t *testing.T, change ...func(*Options)) *world {
	t.Helper()
	cluster := testcluster.Shared(t)
	w := &world{Cluster: cluster, ns: cluster.Namespace(t), api: cluster.Client(), gets: new(atomic.Int64)}
	config := cluster.RESTConfig()
	config.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return counted{next, w.gets}
	})
	options := Options{Config: config, Namespace: w.ns}
	for _, c := range change {
		c(&options)
	}
	client, err := New(options)
	require.NoError(t, err)
	t.Cleanup(client.Close)
	w.client = client
	return w
}

type counted struct {
	next http.RoundTripper
	n    *atomic.Int64
}

func (c counted) RoundTrip(r *http.Request) (*http.Response, error) {
	c.n.Add(1)
	return c.next.RoundTrip(r)
}

func (c counted) CloseIdleConnections() {
	if i, ok := c.next.(interface{ CloseIdleConnections() }); ok {
		i.CloseIdleConnections()
	}
}

func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func podTemplate(name string, annotations map[string]string) corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": name}, Annotations: annotations},
		Spec: corev1.PodSpec{
			TerminationGracePeriodSeconds: new(int64(0)),
			Containers:                    []corev1.Container{{Name: "app", Image: "shop/" + name + ":1"}},
		},
	}
}

// deployment creates a Deployment and waits for its pods.
func (w *world) deployment(t *testing.T, name string, replicas int32) (*appsv1.Deployment, []corev1.Pod) {
	t.Helper()
	ctx := testContext(t)
	d, err := w.api.AppsV1().Deployments(w.ns).Create(ctx, &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas,
			Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": name}},
			Template: podTemplate(name, nil),
		},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	require.NoError(t, w.WaitDeploymentAvailable(ctx, w.ns, name))
	return d, w.pods(t, "app="+name, int(replicas))
}

// pods waits until exactly n live pods have the labels.
func (w *world) pods(t *testing.T, selector string, n int) []corev1.Pod {
	t.Helper()
	var out []corev1.Pod
	w.eventually(t, func(ctx context.Context) (bool, error) {
		list, err := w.api.CoreV1().Pods(w.ns).List(ctx, metav1.ListOptions{LabelSelector: selector})
		if err != nil {
			return false, err
		}
		out = list.Items
		return len(out) == n, nil
	})
	return out
}

func (w *world) eventually(t *testing.T, check func(context.Context) (bool, error)) {
	t.Helper()
	require.NoError(t, testcluster.Poll(testContext(t), check))
}

// severed is a client of an API server that is not there.
func severed(t *testing.T) *Client {
	t.Helper()
	client, err := New(Options{Config: &rest.Config{Host: "https://127.0.0.1:1"}, Namespace: "medic"})
	require.NoError(t, err)
	t.Cleanup(client.Close)
	return client
}
