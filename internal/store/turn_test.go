package store

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
)

// Some webhooks go before the others that wait, which then go one at a time and
// in their order.
func TestWritersTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var w turn
		var order []string
		require.NoError(t, w.take(t.Context(), 0))
		queue := func(name string, webhooks int) {
			go func() {
				if err := w.take(t.Context(), webhooks); err != nil {
					name += " failed"
				}
				order = append(order, name)
				w.give()
			}()
			synctest.Wait()
		}
		for i := range 4 {
			queue(fmt.Sprint("engine ", i), 0)
		}
		for i, webhooks := range []int{16, 16, 16, 128, 16} {
			queue(fmt.Sprint("webhooks ", i), webhooks)
		}
		w.give()
		synctest.Wait()
		require.Equal(t, []string{"webhooks 0", "webhooks 1", "webhooks 2", "engine 0", "webhooks 3", "engine 1", "webhooks 4",
			"engine 2", "engine 3"}, order)
		require.NoError(t, w.take(t.Context(), 1), "nobody has it")
		w.give()
	})
}

// One that gives up waiting leaves the turn to the next, whether it was about to
// be its own or not.
func TestOneThatGivesUpPassesItsTurnOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, accept := range []int{0, 1} {
			var w turn
			require.NoError(t, w.take(t.Context(), 0))
			ctx, cancel := context.WithCancel(t.Context())
			gone, next := make(chan error, 1), make(chan error, 1)
			go func() { gone <- w.take(ctx, accept) }()
			synctest.Wait()
			go func() { next <- w.take(t.Context(), accept) }()
			synctest.Wait()
			cancel()
			require.ErrorIs(t, <-gone, context.Canceled)
			w.give()
			require.NoError(t, <-next)

			// Given and given up at once: either way somebody has it next.
			ctx, cancel = context.WithCancel(t.Context())
			go func() { gone <- w.take(ctx, accept) }()
			synctest.Wait()
			go func() { next <- w.take(t.Context(), accept) }()
			synctest.Wait()
			w.give()
			cancel()
			if err := <-gone; err == nil {
				w.give()
			}
			require.NoError(t, <-next)
			w.give()
			require.False(t, w.taken)
		}
	})
}
