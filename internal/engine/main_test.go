package engine

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/alertmedic/alertmedic/internal/testcluster"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, testcluster.Ignored()...) }
