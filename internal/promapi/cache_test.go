package promapi

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// An answer that makes the program panic is an error to whoever asked, not the end
// of the process; and it is shared like any other failure.
func TestAPanicWhileReadingAnAnswer(t *testing.T) {
	t.Parallel()
	c := newCache[int]("prometheus 127.0.0.1", time.Minute, time.Minute, time.Now)
	asked := 0
	for range 2 {
		_, err := c.get(t.Context(), "rules", time.Time{}, func(context.Context) (int, error) {
			asked++
			panic("nil map")
		})
		require.ErrorContains(t, err, "prometheus 127.0.0.1: panic while reading the answer: nil map")
	}
	require.Equal(t, 1, asked)
}
