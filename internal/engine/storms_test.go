package engine

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alertmedic/alertmedic/internal/action"
	"github.com/alertmedic/alertmedic/internal/guard"
	"github.com/alertmedic/alertmedic/internal/journal"
	"github.com/alertmedic/alertmedic/internal/store"
	"github.com/alertmedic/alertmedic/playbooks"
)

// told is a reporter that remembers what people would read.
type told struct {
	storms []Storm
	runs   []Report
}

func (r *told) Messages(rep Report) []store.Message {
	r.runs = append(r.runs, rep)
	return nil
}

func (r *told) StormMessages(s Storm) []store.Message {
	r.storms = append(r.storms, s)
	return []store.Message{{Channel: "slack", Key: "storm/" + s.Scope, Payload: json.RawMessage(`{}`)}}
}

// stormy is a cluster of so many nodes, each of which has an alert.
func stormy(t *testing.T, sick int) (*world, *told) {
	w := setup(t, doc("cordon", `  matchers: [alertname = Broken]
  target: {kind: Node}
  remedies: [{name: cordon, steps: [{name: cordon, action: node.cordon}], verify: {timeout: 5m, stableFor: 1m}}]
`))
	r := &told{}
	w.engine.Reporter = r
	limits := w.engine.Limits
	w.engine.Limits = func(pb *playbooks.Playbook, r *playbooks.Remedy) guard.Limits {
		l := limits(pb, r)
		l.StormRuns = guard.Off // so that there is one storm, that of the nodes
		return l
	}
	w.nodes = &guard.NodeEvidence{Total: 50}
	for i := range sick {
		name := fmt.Sprintf("s%d", i)
		w.targets[name] = node(name)
		w.nodes.Unhealthy = append(w.nodes.Unhealthy, w.targets[name].LockKey())
	}
	for i := range sick {
		w.fire(fmt.Sprintf("s%d", i))
	}
	return w, r
}

func (w *world) tellStorms() {
	w.t.Helper()
	require.NoError(w.t, w.engine.tellStorms(w.t.Context()))
}

// 12 of 50 nodes are unwell at once: nothing is changed, and people read one
// message that says so, not twelve.
func TestAStormIsToldOnceAndNothingIsChanged(t *testing.T) {
	t.Parallel()
	w, r := stormy(t, 12)
	w.work()
	w.tellStorms()
	w.tellStorms()
	require.Len(t, r.storms, 1, "one message, however often and by whomever it is looked")
	require.Equal(t, journal.StormBegan, r.storms[0].Event)
	require.Contains(t, r.storms[0].Message, "A storm in nodes/c1 since ")
	require.Contains(t, r.storms[0].Message, "12 runs wait or are under way")
	require.Contains(t, r.storms[0].Message, "a person must look")
	rival := w.newEngine("worker-2")
	rival.Reporter, rival.Limits = r, w.engine.Limits
	require.NoError(t, rival.tellStorms(t.Context()))
	require.Len(t, r.storms, 1, "another replica says nothing again")

	w.pass(11 * time.Minute)
	w.tellStorms()
	require.Equal(t, journal.StormGoesOn, r.storms[len(r.storms)-1].Event)
	w.pass(50 * time.Minute)
	require.Empty(t, w.calls, "12 of 50 nodes are away: the cause is not the node")
	for _, run := range w.runs() {
		require.Equal(t, store.Expired, run.Outcome)
	}
	require.Empty(t, r.runs, "what the storm held is told of as a whole")
	w.pass(11 * time.Minute)
	w.tellStorms()
	last := r.storms[len(r.storms)-1]
	require.Equal(t, journal.StormEnded, last.Event)
	require.Contains(t, last.Message, "12 expired; 0 of them changed something")
	n := len(r.storms)
	w.tellStorms()
	require.Len(t, r.storms, n, "its end is told once")
	require.Contains(t, w.log(), "storm.began storm")
	require.Contains(t, w.log(), "storm.ended storm")
}

// A storm ends only when it has been calm for long enough, and a relapse starts
// the time anew.
func TestARelapseStartsTheCalmAnew(t *testing.T) {
	t.Parallel()
	w, _ := stormy(t, 12)
	w.work()
	all := w.nodes.Unhealthy
	well := func() { w.nodes.Unhealthy = all[:1] }
	well()
	w.pass(9 * time.Minute)
	require.Empty(t, w.calls)
	w.nodes.Unhealthy = all
	w.pass(time.Minute) // the relapse
	well()
	w.pass(9 * time.Minute)
	require.Empty(t, w.calls, "9 minutes since the relapse")
	w.pass(3 * time.Minute)
	require.NotEmpty(t, w.calls)
	for _, call := range w.calls {
		require.Contains(t, call, string(action.KindNode))
	}
}
