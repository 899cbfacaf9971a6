package k8sactions_test

import (
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/alertmedic/alertmedic/internal/testcluster"
)

var processStart = time.Now()

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(testcluster.Main(checked{m}), testcluster.Ignored()...)
}
