package promapi_test

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alertmedic/alertmedic/internal/guard"
	"github.com/alertmedic/alertmedic/internal/promapi"
)

// mute is a server that takes requests and says nothing until the test ends.
func mute(t *testing.T, path string) *server {
	t.Helper()
	leave := make(chan struct{})
	s := serve(t, path, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-leave }))
	t.Cleanup(func() { close(leave) }) // before the server's own end, which waits for it
	return s
}

// rests reports whether a silent server is soon left alone, whatever is asked
// about, for the other one alone answers then.
func rests(t *testing.T, w *world, silent *server) bool {
	t.Helper()
	for i := range 20 {
		before := len(silent.asked())
		w.State(t.Context(), named(fmt.Sprint("Another", i)), time.Time{})
		if len(silent.asked()) == before {
			return true
		}
	}
	return false
}

// One of a pair takes requests and says nothing: the other one is enough, and the
// silent one is not waited for again with each alert.
func TestASilentPeerIsNotWaitedForWithEachAlert(t *testing.T) {
	t.Parallel()
	silent := mute(t, amPath)
	w := reader(t, []*server{silent, serve(t, amPath, []doc{held(theAlert()), held(named("Other"))})}, nil,
		func(c *promapi.Config) { c.Timeout = time.Second })
	require.Equal(t, guard.AlertFiring, w.State(t.Context(), theAlert(), time.Time{}).State)
	require.True(t, rests(t, w, silent))
	require.Equal(t, guard.AlertFiring, w.State(t.Context(), named("Other"), time.Time{}).State)

	// It comes back with what only it knows.
	silent.set([]doc{held(named("Other"), status("suppressed", []string{"s-1"}, nil, nil))})
	w.clock.advance(time.Minute)
	require.Equal(t, guard.AlertSilenced, w.State(t.Context(), named("Other"), time.Time{}).State)
}

// A Prometheus takes requests and says nothing: what fires is known from the
// other one, and nothing is resolved before both can tell.
func TestNothingIsResolvedBehindASilentPrometheus(t *testing.T) {
	t.Parallel()
	silent, other := mute(t, promPath), serve(t, promPath, rules(rule("KubePodNotReady", active("firing", local()))))
	w := reader(t, []*server{serve(t, amPath, []doc{})}, []*server{silent, other}, func(c *promapi.Config) { c.Timeout = time.Second })
	require.Equal(t, guard.AlertFiring, w.State(t.Context(), theAlert(), time.Time{}).State)
	w.clock.advance(2 * time.Second)
	now := with("lastEvaluation", w.clock.Now())
	other.set(rules(rule("KubePodNotReady", now)))
	require.Equal(t, guard.AlertUnknown, w.State(t.Context(), theAlert(), time.Time{}).State)
	silent.set(rules(rule("KubePodNotReady", now)))
	w.clock.advance(2 * time.Second)
	require.Equal(t, guard.AlertResolved, w.State(t.Context(), theAlert(), time.Time{}).State)
}
