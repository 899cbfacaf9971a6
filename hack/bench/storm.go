package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/alertmedic/alertmedic/internal/testcluster"
)

// The storm: as many alerts as a bad day brings, over a cluster of some size.
const (
	stormAlerts    = 10_000
	stormSeconds   = 30
	stormNodes     = 500
	stormWorkloads = 2_000
	stormQPS       = 100
	stormExpire    = 45 * time.Second
)

// storm sends distinct alerts evenly and waits until every candidate and run has
// ended.
func storm(ctx context.Context, b *bench) error {
	c, err := b.controlPlane(ctx)
	if err != nil {
		return err
	}
	b.progress("making %d nodes and %d workloads", stormNodes, stormWorkloads)
	if err := populate(ctx, c); err != nil {
		return err
	}
	b.progress("made")
	beganNow()
	mon, err := b.monitoring()
	if err != nil {
		return err
	}
	shape := func(i int64) map[string]string {
		return map[string]string{"alertname": benchAlert, "namespace": benchNamespace, "deployment": fmt.Sprintf("storm-%d", i%stormWorkloads),
			"instance": strconv.FormatInt(i, 10), "severity": "warning", "job": "kube-state-metrics"}
	}
	dsn, err := b.database(ctx, "sqlite")
	if err != nil {
		return err
	}
	m, err := b.startMedic(ctx, settings{name: "storm", dsn: dsn, monitoring: mon.url, qps: stormQPS, expireAfter: stormExpire})
	if err != nil {
		return err
	}
	all := make([]map[string]string, stormAlerts)
	for i := range all {
		all[i] = shape(int64(i))
	}
	if err := mon.hold(all...); err != nil {
		return err
	}
	began := time.Now()
	const perPost = 20
	var sent atomic.Int64
	tick := time.NewTicker(stormSeconds * time.Second * perPost / stormAlerts)
	defer tick.Stop()
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(32)
	for first := int64(0); first < stormAlerts; first += perPost {
		select {
		case <-gctx.Done():
			return errors.Join(g.Wait(), gctx.Err())
		case <-tick.C:
		}
		g.Go(func() error {
			status, err := post(gctx, m.url, webhook(shape, first, perPost))
			if err == nil && status != 200 {
				err = fmt.Errorf("a webhook was answered %d", status)
			}
			sent.Add(perPost)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	b.progress("%d alerts sent in %.0f s", sent.Load(), time.Since(began).Seconds())
	heap, allocated := b.profiling(ctx, m, "heap", "heap"), b.profiling(ctx, m, "allocs?seconds=30", "allocated")
	if err := errors.Join(drained(ctx, b, dsn), heap(), allocated()); err != nil {
		return err
	}
	took := time.Since(began)
	peak, err := peakMemory(strconv.Itoa(m.PID()))
	if err != nil {
		return err
	}
	b.figure("from the first alert until everything has ended", "s", []float64{took.Seconds()}, 0, false,
		fmt.Sprintf("%d alerts in %d s, expireAfter %s", stormAlerts, stormSeconds, stormExpire))
	b.figure("peak resident memory", "MiB", []float64{peak}, 160, false, "")
	return apiRate(b, c, began)
}

// drained waits until no candidate and no run is live.
func drained(ctx context.Context, b *bench, dsn string) error {
	db, err := sql.Open("sqlite", "file:"+dsn+"?mode=ro&_pragma=busy_timeout(5000)")
	if err != nil {
		return err
	}
	defer db.Close()
	told := time.Now()
	for {
		var candidates, runs int
		if err := db.QueryRowContext(ctx, `SELECT (SELECT count(*) FROM candidates WHERE phase = 'queued'),
			(SELECT count(*) FROM runs WHERE phase <> 'done')`).Scan(&candidates, &runs); err != nil {
			return fmt.Errorf("count what is live: %w", err)
		}
		if candidates+runs == 0 {
			return nil
		}
		if time.Since(told) > 10*time.Second {
			told = time.Now()
			b.progress("%d candidates and %d runs are live", candidates, runs)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d candidates and %d runs are still live: %w", candidates, runs, ctx.Err())
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// apiRate finds in the audit log how many requests the service made, and the
// most within any ten seconds.
func apiRate(b *bench, c *testcluster.Cluster, since time.Time) error {
	events, err := c.AuditEvents(since)
	if err != nil {
		return err
	}
	var at []time.Time
	for _, e := range events {
		if e.User.Username == medicUser {
			at = append(at, e.RequestReceivedTimestamp.Time)
		}
	}
	slices.SortFunc(at, time.Time.Compare)
	const window = 10 * time.Second
	most, from := 0, 0
	for i, t := range at {
		for t.Sub(at[from]) > window {
			from++
		}
		most = max(most, i-from+1)
	}
	// A burst may come on top of the rate once.
	limit := stormQPS + 2*stormQPS/window.Seconds()
	b.figure("requests to the API server, the busiest 10 s", "requests/s", []float64{float64(most) / window.Seconds()}, limit, false,
		fmt.Sprintf("%d in all; kubernetes.qps %d and burst %d allow the bound", len(at), stormQPS, 2*stormQPS))
	return nil
}

// populate makes the nodes and the workloads.
func populate(ctx context.Context, c *testcluster.Cluster) error {
	client := c.Client()
	if _, err := client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: benchNamespace}}, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		return err
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(16)
	for i := range stormNodes {
		g.Go(func() error {
			name := fmt.Sprintf("storm-%d", i)
			_, err := client.CoreV1().Nodes().Create(gctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name,
				Labels: map[string]string{corev1.LabelHostname: name, corev1.LabelOSStable: "linux", corev1.LabelTopologyZone: string(rune('a' + i%3))}}}, metav1.CreateOptions{})
			return err
		})
	}
	for i := range stormWorkloads {
		g.Go(func() error {
			labels := map[string]string{"app": fmt.Sprintf("storm-%d", i)}
			one := int32(1)
			_, err := client.AppsV1().Deployments(benchNamespace).Create(gctx, &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: labels["app"]},
				Spec: appsv1.DeploymentSpec{Replicas: &one, Selector: &metav1.LabelSelector{MatchLabels: labels},
					Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels},
						Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "app", Image: "app:1"}}}}}}, metav1.CreateOptions{})
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	// Nearly all of them serve: the rest is what a large cluster looks like. The
	// API server has much to do meanwhile, so it is asked seldom, and a request
	// that fails is made again.
	for {
		serving := 0
		if list, err := client.AppsV1().Deployments(benchNamespace).List(ctx, metav1.ListOptions{ResourceVersion: "0"}); err == nil {
			for _, d := range list.Items {
				if d.Status.AvailableReplicas > 0 {
					serving++
				}
			}
		}
		if serving >= stormWorkloads*95/100 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("only %d of %d workloads serve: %w", serving, stormWorkloads, ctx.Err())
		case <-time.After(3 * time.Second):
		}
	}
}
