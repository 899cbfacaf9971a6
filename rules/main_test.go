package rules_test

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/alertmedic/alertmedic/internal/testcluster"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(testcluster.Main(m), testcluster.Ignored()...) }
