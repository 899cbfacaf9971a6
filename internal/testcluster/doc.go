// Package testcluster runs a real Kubernetes control plane on loopback for
// tests and the demo: etcd, kube-apiserver, kube-controller-manager and
// kube-scheduler, with kwok standing in for every kubelet. API server,
// scheduler, controllers, eviction, disruption budgets, RBAC and admission are
// the real ones; no container ever runs.
//
// # Use in a test
//
//	func TestRestart(t *testing.T) {
//		cluster := testcluster.Shared(t)     // one control plane for the whole test run
//		ns := cluster.Namespace(t)           // fresh, deleted with all in it at the end
//		node := cluster.Node(t, testcluster.NodeOptions{Zone: "a"})
//		...
//		err := cluster.WaitDeploymentAvailable(ctx, ns, "shop")
//	}
//
// Shared attaches to the cluster named by ALERTMEDIC_TESTCLUSTER, which
// `go run ./hack/testenv -- go test ./...` sets; without it, the first call
// starts one that ends with the test process. A test that must break a
// component (kill the API server, say) calls [Start] for one of its own.
// Prometheus, Alertmanager and kube-state-metrics belong to the test that
// wants them: [Cluster.StartMonitoring].
//
// # Faults
//
// A fault is the annotation (or label) medic-test/fault on a Node or a Pod, so
// that it can also be put in a pod template or set with kubectl. Removing it
// heals. See [NodeFault] and [PodFault] for the values. A container whose image
// holds the word "broken" never starts (ImagePullBackOff), which is how a bad
// rollout sticks and a rollback heals it. These annotations of a pod tune its
// simulation, each a Go duration: medic-test/start-delay,
// medic-test/termination-delay, medic-test/crash-interval,
// medic-test/run-time (how long a Job's pod runs).
//
// # Ends
//
// Nothing outlives the process that called Start: not after Ctrl-C, a panic or
// kill -9. See supervisor and reaper.
//
// # Environment
//
// ALERTMEDIC_CACHE moves the folder of built programs (by default the user's
// cache folder, alertmedic/bin/<module>-<digest>/<program>);
// KUBEBUILDER_ASSETS names a folder of fitting programs;
// ALERTMEDIC_TESTCLUSTER is the state file of a running cluster;
// ALERTMEDIC_TEST_POSTGRES is the DSN of a throwaway PostgreSQL.
package testcluster
