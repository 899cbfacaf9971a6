package engine

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"k8s.io/client-go/rest"

	"github.com/alertmedic/alertmedic/internal/action"
	"github.com/alertmedic/alertmedic/internal/alert"
	"github.com/alertmedic/alertmedic/internal/guard"
	"github.com/alertmedic/alertmedic/internal/kube"
	"github.com/alertmedic/alertmedic/internal/store"
)

// captured is one webhook that a real Alertmanager sent; hack/capture wrote it.
type captured struct {
	At       time.Time       `json:"at"`
	Until    time.Time       `json:"until"`
	Answered int             `json:"answered"`
	Body     json.RawMessage `json:"body"`
}

// envelope is what the product does not read of a webhook, for assertions about
// the sender.
type envelope struct {
	Status       string            `json:"status"`
	Receiver     string            `json:"receiver"`
	ExternalURL  string            `json:"externalURL"`
	GroupLabels  map[string]string `json:"groupLabels"`
	CommonLabels map[string]string `json:"commonLabels"`
	Alerts       []alert.Alert     `json:"alerts"`
}

func (c captured) envelope(t *testing.T) envelope {
	t.Helper()
	var e envelope
	require.NoError(t, json.Unmarshal(c.Body, &e))
	return e
}

// replay is a world to which captured webhooks come at the times that they came.
// Targets are resolved by the real resolver from the objects that the test puts
// there; the state of an alert is Alertmanager's last word about it, unless the
// test says otherwise.
type replay struct {
	*world
	webhooks []captured
	next     int
	said     map[string]alert.Status
	counts   store.AcceptResult
	active   []alert.Alert // what Snapshot answers
	objects  map[string]any
	client   *kube.Client
}

func replayOf(t *testing.T, name string, docs ...string) *replay {
	t.Helper()
	r := &replay{world: setup(t, docs...), said: map[string]alert.Status{}, objects: map[string]any{}}
	data, err := os.ReadFile(filepath.Join("..", "..", "testdata", "webhooks", "captured", name+".ndjson"))
	require.NoError(t, err)
	for lines := bufio.NewReader(bytes.NewReader(data)); ; {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			break
		}
		var c captured
		require.NoError(t, json.Unmarshal(line, &c))
		// The precision of the store's clock.
		c.At, c.Until = c.At.Truncate(time.Microsecond), c.Until.Truncate(time.Microsecond)
		r.webhooks = append(r.webhooks, c)
	}
	require.NotEmpty(t, r.webhooks)
	r.now = r.webhooks[0].At

	api := httptest.NewServer(http.HandlerFunc(r.serve))
	t.Cleanup(api.Close)
	r.client, err = kube.New(kube.Options{Config: &rest.Config{Host: api.URL}, Namespace: "alertmedic", Now: func() time.Time { return r.now }})
	require.NoError(t, err)
	t.Cleanup(r.client.Close)
	r.alert = func(a alert.Alert) guard.AlertEvidence {
		if r.said[a.Fingerprint] == alert.Firing {
			return guard.AlertEvidence{State: guard.AlertFiring}
		}
		return guard.AlertEvidence{State: guard.AlertResolved}
	}
	r.engine.Cluster = r
	r.engine.Sources = map[string]Source{"am": {Name: "am", Cluster: "c1", Reader: r}}
	return r
}

// serve answers GETs of single objects as the API server does.
func (r *replay) serve(w http.ResponseWriter, req *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	object, ok := r.objects[req.URL.Path]
	if !ok {
		w.WriteHeader(http.StatusNotFound)
		object = map[string]any{"apiVersion": "v1", "kind": "Status", "status": "Failure", "reason": "NotFound", "code": http.StatusNotFound}
	}
	_ = json.NewEncoder(w).Encode(object)
}

func (r *replay) Resolve(ctx context.Context, req kube.Request) (kube.Resolved, error) {
	return r.client.Resolve(ctx, req)
}

func (r *replay) Snapshot(context.Context) ([]alert.Alert, error) { return r.active, nil }

func (r *replay) Watchdog(context.Context) (time.Time, error) { return r.now, nil }

// meta is the metadata of an object, with its controller if it has one.
func meta(namespace, name, uid string, created time.Time, owner ...map[string]any) map[string]any {
	m := map[string]any{"name": name, "uid": uid, "creationTimestamp": created.UTC().Format(time.RFC3339)}
	if namespace != "" {
		m["namespace"] = namespace
	}
	if len(owner) > 0 {
		m["ownerReferences"] = owner
	}
	return m
}

func controller(kind, name string) map[string]any {
	return map[string]any{"apiVersion": "apps/v1", "kind": kind, "name": name, "uid": "uid-" + name, "controller": true}
}

func (r *replay) put(path, apiVersion, kind string, metadata map[string]any) {
	r.objects[path] = map[string]any{"apiVersion": apiVersion, "kind": kind, "metadata": metadata, "spec": map[string]any{}, "status": map[string]any{}}
}

// before is when objects were made that were there all along.
func (r *replay) before() time.Time { return r.webhooks[0].At.Add(-time.Hour) }

func (r *replay) putNode(name string) {
	r.put("/api/v1/nodes/"+name, "v1", "Node", meta("", name, "uid-"+name, r.before()))
}

func (r *replay) putPod(namespace, name, uid string, created time.Time, owner ...map[string]any) {
	r.put("/api/v1/namespaces/"+namespace+"/pods/"+name, "v1", "Pod", meta(namespace, name, uid, created, owner...))
}

// putWorkloads puts the Deployments, and the pods, that firing alerts tell of.
func (r *replay) putWorkloads() {
	for _, c := range r.webhooks {
		for _, a := range c.envelope(r.t).Alerts {
			namespace, pod, uid := a.Labels["namespace"], a.Labels["pod"], a.Labels["uid"]
			if n := a.Labels["exported_namespace"]; n != "" {
				namespace, pod = n, a.Labels["exported_pod"]
			}
			app, _, _ := strings.Cut(pod, "-")
			if pod == "" {
				app = a.Labels["deployment"]
			}
			if app == "" {
				continue
			}
			apps := "/apis/apps/v1/namespaces/" + namespace
			r.put(apps+"/deployments/"+app, "apps/v1", "Deployment", meta(namespace, app, "uid-"+app, r.before()))
			r.put(apps+"/replicasets/"+app+"-rs", "apps/v1", "ReplicaSet", meta(namespace, app+"-rs", "uid-"+app+"-rs", r.before(), controller("Deployment", app)))
			if pod != "" {
				r.putPod(namespace, pod, uid, r.before(), controller("ReplicaSet", app+"-rs"))
			}
		}
	}
}

// play replays the next n webhooks, doing in between what is due.
func (r *replay) play(n int) {
	r.t.Helper()
	for range n {
		c := r.webhooks[r.next]
		if c.At.After(r.now) {
			r.pass(c.At.Sub(r.now))
		}
		r.next++
		r.accept(c)
		r.work()
	}
}

func (r *replay) playAll() { r.t.Helper(); r.play(len(r.webhooks) - r.next) }

// playUntil replays up to and including the first webhook with such an alert.
func (r *replay) playUntil(status alert.Status, name string) {
	r.t.Helper()
	for r.next < len(r.webhooks) {
		r.play(1)
		for _, a := range r.webhooks[r.next-1].envelope(r.t).Alerts {
			if a.Status == status && a.Name() == name {
				return
			}
		}
	}
	r.t.Fatalf("no %s %s was captured", status, name)
}

// batch is what the receiver makes of a webhook.
func (r *replay) batch(c captured) store.Batch {
	r.t.Helper()
	hook, rejected, err := alert.Decode(bytes.NewReader(c.Body), r.now, alert.Limits{})
	require.NoError(r.t, err)
	require.Empty(r.t, rejected)
	require.Empty(r.t, hook.Notes)
	var b store.Batch
	for _, a := range hook.Alerts {
		require.Equal(r.t, "c1", a.Labels["cluster"])
		r.said[a.Fingerprint] = a.Status
		b.Observations = append(b.Observations, store.Observation{Source: "am", Cluster: "c1", Alert: a, Playbooks: matched(r.set.Match(a.Labels))})
	}
	return b
}

// accept commits one webhook. One that was answered 5xx is committed as well:
// the worst case is that only the answer was lost.
func (r *replay) accept(c captured) {
	r.t.Helper()
	res, err := r.store.Accept(r.t.Context(), r.batch(c))
	require.NoError(r.t, err)
	r.add(res)
}

// acceptTogether commits the next n webhooks at the same time.
func (r *replay) acceptTogether(n int) {
	r.t.Helper()
	type reply struct {
		res store.AcceptResult
		err error
	}
	replies := make(chan reply, n)
	for _, c := range r.webhooks[r.next : r.next+n] {
		b := r.batch(c)
		go func() {
			res, err := r.store.Accept(r.t.Context(), b)
			replies <- reply{res, err}
		}()
	}
	r.next += n
	for range n {
		got := <-replies
		require.NoError(r.t, got.err)
		r.add(got.res)
	}
}

func (r *replay) add(res store.AcceptResult) {
	c := &r.counts
	c.Opened += res.Opened
	c.Reopened += res.Reopened
	c.Closed += res.Closed
	c.Repeated += res.Repeated
	c.Stale += res.Stale
	c.Orphaned += res.Orphaned
	c.Candidates += res.Candidates
	c.Unmatched += res.Unmatched
}

// actedOnce asserts that, whatever came, one run sent one change, took nothing
// back, and did not claim to have healed.
func (r *replay) actedOnce(what string) {
	r.t.Helper()
	require.Equal(r.t, []string{what}, r.calls)
	require.Empty(r.t, r.undone)
	acted := 0
	for _, run := range r.runs() {
		require.NotEqual(r.t, store.Healed, run.Outcome, run.Message)
		if !run.IntentAt.IsZero() {
			acted++
		}
	}
	require.Equal(r.t, 1, acted)
}

// refused asserts that the alert led to no run, and why.
func (r *replay) refused(reason kube.ResolveReason) {
	r.t.Helper()
	require.Contains(r.t, r.log(), "candidate.ended failed "+string(reason))
	require.Empty(r.t, r.calls)
}

// sick says how many nodes of a large cluster are not ready, as the API server
// sees it.
func (r *replay) sick(total int, growing time.Time, names ...string) {
	r.nodes = &guard.NodeEvidence{Total: total, GrowingSince: growing}
	for _, n := range names {
		r.nodes.Unhealthy = append(r.nodes.Unhealthy, action.Target{Cluster: "c1", Ref: action.Ref{Kind: action.KindNode, Name: n}}.LockKey())
	}
}
