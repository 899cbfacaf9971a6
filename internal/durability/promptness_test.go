package durability

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// What took longer than its delay is late, and so is what arrives as the process
// goes on after it stood still: it was sent before.
func TestPromptness(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		w := watchPromptness(ctx)
		time.Sleep(time.Minute)
		arrived := time.Now()
		require.False(t, w.late(arrived, 0))
		time.Sleep(3 * time.Second)
		require.False(t, w.late(arrived, 3*time.Second))
		require.True(t, w.late(arrived, time.Second))
		require.False(t, (*promptness)(nil).late(arrived, 0))

		w.stood = time.Now()
		require.True(t, w.late(time.Now(), 0))
		time.Sleep(tolerance)
		require.False(t, w.late(time.Now(), 0))
		cancel()
		synctest.Wait()
	})
}
