package testcluster

import (
	"database/sql"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestAClusterOfOnesOwnCanBeBroken(t *testing.T) {
	ctx := patient(t)
	c, err := Start(ctx, Options{Dir: t.TempDir(), TolerationSeconds: 1, NodeMonitorGracePeriod: 5 * time.Second})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Stop()); require.NoDirExists(t, c.Dir()) })
	node, err := c.AddNode(ctx, NodeOptions{Zone: "a", Capacity: corev1.ResourceList{}})
	require.NoError(t, err)
	require.Equal(t, "a", node.Labels[corev1.LabelTopologyZone])

	api := c.Process("kube-apiserver")
	require.NoError(t, api.Kill())
	_, err = c.Client().CoreV1().Nodes().Get(ctx, node.Name, metav1.GetOptions{})
	require.Error(t, err)
	require.NoError(t, api.Restart())
	require.NoError(t, c.waitHealthy(ctx, c.Server()+"/readyz", api))
	_, err = c.Client().CoreV1().Nodes().Get(ctx, node.Name, metav1.GetOptions{})
	require.NoError(t, err)

	// The rest comes back by itself: controllers still create what is needed.
	require.NoError(t, c.AddNamespace(ctx, "again"))

	// Another process would attach like this, and may not break it.
	path := t.TempDir() + "/state.json"
	require.NoError(t, c.Save(path))
	attached, err := Attach(ctx, path)
	require.NoError(t, err)
	require.Nil(t, attached.Process("etcd"))
	require.NotNil(t, c.Process("etcd"))
	require.NoError(t, attached.AddNamespace(ctx, "attached"))
	require.NoError(t, attached.Stop())
	_, err = c.Client().CoreV1().Namespaces().Get(ctx, "attached", metav1.GetOptions{})
	require.NoError(t, err)
}

func TestPostgresServesAndLeavesNothing(t *testing.T) {
	p, err := StartPostgres(patient(t), PostgresOptions{})
	require.NoError(t, err)
	dir := p.supervisor.dir
	t.Setenv(EnvPostgres, p.DSN)
	t.Run("database", func(t *testing.T) {
		dsn, ok := Database(t)
		require.True(t, ok)
		db, err := sql.Open("pgx", dsn)
		require.NoError(t, err)
		defer db.Close()
		_, err = db.ExecContext(t.Context(), "CREATE TABLE x (i int)")
		require.NoError(t, err)
	})
	require.NoError(t, p.Stop())
	require.NoDirExists(t, dir)
}
