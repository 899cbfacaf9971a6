package promapi_test

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alertmedic/alertmedic/internal/alert"
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

// becomes asks until the answer is the one that is waited for: on a machine that
// stands still for a moment a sound server is as silent as a mute one. Between two
// looks the world is brought up to date.
func becomes(t *testing.T, w *world, want guard.AlertState, a alert.Alert, upToDate func()) {
	t.Helper()
	var got guard.AlertEvidence
	for range 30 {
		upToDate()
		if got = w.State(t.Context(), a, time.Time{}); got.State == want {
			return
		}
		w.clock.advance(time.Minute)
	}
	require.Equal(t, want, got.State, got.By)
}

// One of a pair takes requests and says nothing: the other one is enough, and the
// silent one is not waited for again with each alert.
func TestASilentPeerIsNotWaitedForWithEachAlert(t *testing.T) {
	t.Parallel()
	silent := mute(t, amPath)
	w := reader(t, []*server{silent, serve(t, amPath, []doc{held(theAlert()), held(named("Other"))})}, nil,
		func(c *promapi.Config) { c.Timeout = time.Second })
	same := func() {}
	becomes(t, w, guard.AlertFiring, theAlert(), same)
	require.True(t, rests(t, w, silent))
	becomes(t, w, guard.AlertFiring, named("Other"), same)

	// It comes back with what only it knows.
	silent.set([]doc{held(named("Other"), status("suppressed", []string{"s-1"}, nil, nil))})
	w.clock.advance(time.Minute)
	becomes(t, w, guard.AlertSilenced, named("Other"), same)
}

// A Prometheus takes requests and says nothing: what fires is known from the
// other one, and nothing is resolved before both can tell.
func TestNothingIsResolvedBehindASilentPrometheus(t *testing.T) {
	t.Parallel()
	silent, other := mute(t, promPath), serve(t, promPath, rules(rule("KubePodNotReady", active("firing", local()))))
	w := reader(t, []*server{serve(t, amPath, []doc{})}, []*server{silent, other}, func(c *promapi.Config) { c.Timeout = time.Second })
	becomes(t, w, guard.AlertFiring, theAlert(), func() {
		other.set(rules(rule("KubePodNotReady", active("firing", local()), with("lastEvaluation", w.clock.Now()))))
	})
	resolved := func(servers ...*server) func() {
		return func() {
			for _, s := range servers {
				s.set(rules(rule("KubePodNotReady", with("lastEvaluation", w.clock.Now()))))
			}
		}
	}
	w.clock.advance(2 * time.Second)
	for range 3 {
		resolved(other)()
		require.Equal(t, guard.AlertUnknown, w.State(t.Context(), theAlert(), time.Time{}).State)
		w.clock.advance(2 * time.Second)
	}
	becomes(t, w, guard.AlertResolved, theAlert(), resolved(silent, other))
}
