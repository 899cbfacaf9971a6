package durability

import (
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/alertmedic/alertmedic/internal/testcluster"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(tests{testcluster.Main(m)}, testcluster.Ignored()...)
}

// tests removes the built service after the tests.
type tests struct{ goleak.TestingM }

// Run implements goleak.TestingM.
func (t tests) Run() int {
	code := t.TestingM.Run()
	if err := RemoveBinary(); err != nil {
		fmt.Fprintln(os.Stderr, "remove the built service:", err)
		code = max(code, 1)
	}
	return code
}
