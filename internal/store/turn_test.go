package store

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
)

// A group of webhooks waits for one other transaction at most, and every other
// one for one group at most before those that came earlier.
func TestWritersTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var w turn
		var order []string
		require.NoError(t, w.take(t.Context(), false))
		queue := func(name string, accept bool) {
			go func() {
				if err := w.take(t.Context(), accept); err != nil {
					order = append(order, "failed: "+name)
					return
				}
				order = append(order, name)
				w.give()
			}()
			synctest.Wait()
		}
		for i := range 4 {
			queue(fmt.Sprint("engine ", i), false)
		}
		queue("webhooks 0", true)
		queue("webhooks 1", true)
		w.give()
		synctest.Wait()
		require.Equal(t, []string{"webhooks 0", "engine 0", "webhooks 1", "engine 1", "engine 2", "engine 3"}, order)
		require.NoError(t, w.take(t.Context(), true), "nobody has it")
		w.give()
	})
}

// One that gives up waiting leaves the turn to the next, whether it was about to
// be its own or not.
func TestOneThatGivesUpPassesItsTurnOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, accept := range []bool{false, true} {
			var w turn
			require.NoError(t, w.take(t.Context(), false))
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
