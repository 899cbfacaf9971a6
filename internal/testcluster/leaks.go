package testcluster

import (
	"fmt"
	"os"

	"go.uber.org/goleak"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// Main is for a TestMain whose tests use [Shared]: goleak.VerifyTestMain(Main(m),
// Ignored()...). After the tests it ends the cluster that they shared, so that
// what goroutines are left are leaks of the tests or of what they test.
func Main(m goleak.TestingM) goleak.TestingM { return main{m} }

type main struct{ tests goleak.TestingM }

// Run implements goleak.TestingM.
func (m main) Run() int {
	code := m.tests.Run()
	if err := stopShared(); err != nil {
		fmt.Fprintln(os.Stderr, "stop the shared cluster:", err)
		code = max(code, 1)
	}
	return code
}

// stopShared ends the cluster of Shared if a test has asked for it; it must not
// be asked for again.
func stopShared() error {
	if !sharedUsed.Load() {
		return nil
	}
	c, err := shared()
	if err != nil {
		return nil //nolint:nilerr // the test that asked has failed of it
	}
	return c.Stop()
}

// Ignored are the goroutines of this package, and of what it waits with, that may
// live as long as the process.
func Ignored() []goleak.Option {
	return []goleak.Option{
		// The thread that the kernel ties child processes to: if it ended, it
		// would take them along (see lasting).
		goleak.IgnoreAnyFunction("github.com/alertmedic/alertmedic/internal/testcluster.init.func1.1"),
		// client-go's watcher can miss its own stop: it is signalled without the lock
		// under which it looks before it sleeps. Only tests wait with it.
		goleak.IgnoreAnyFunction("k8s.io/client-go/tools/watch.(*eventProcessor).takeBatch"),
	}
}

// CloseIdle closes the idle connections of a client. (http.Client's own
// CloseIdleConnections does not see through client-go's wrappers, and making the
// transport again from the configuration finds another one once the client is
// garbage.)
func CloseIdle(client kubernetes.Interface) {
	if rc, ok := client.CoreV1().RESTClient().(*rest.RESTClient); ok {
		utilnet.CloseIdleConnectionsFor(rc.Client.Transport)
	}
}
