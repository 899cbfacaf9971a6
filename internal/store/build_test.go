package store_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alertmedic/alertmedic/internal/action"
	"github.com/alertmedic/alertmedic/internal/alert"
	"github.com/alertmedic/alertmedic/internal/guard"
	"github.com/alertmedic/alertmedic/internal/journal"
	"github.com/alertmedic/alertmedic/internal/store"
)

// begun is when the alerts of these tests started, on both databases before any
// clock.
var begun = time.Date(2026, 3, 1, 11, 0, 0, 0, time.UTC)

func playbook(name string, priority int) store.MatchedPlaybook {
	return store.MatchedPlaybook{Name: name, Hash: "hash-" + name, Priority: priority, Exclusive: true, ExpireAfter: time.Hour}
}

func firing(fp string, pbs ...store.MatchedPlaybook) store.Observation {
	return store.Observation{Source: "am", Cluster: "c1", Playbooks: pbs, Alert: alert.Alert{Status: alert.Firing, Fingerprint: fp, StartsAt: begun,
		Labels: map[string]string{"alertname": "Broken", "fp": fp}}}
}

func resolved(fp string, endsAt time.Time) store.Observation {
	o := firing(fp)
	o.Alert.Status, o.Alert.EndsAt = alert.Resolved, endsAt
	return o
}

func (f *fixture) accept(t require.TestingT, obs ...store.Observation) store.AcceptResult {
	res, err := f.Accept(tctx, store.Batch{Observations: obs})
	require.NoError(t, err)
	return res
}

func (f *fixture) time(t require.TestingT) time.Time {
	now, err := f.Now(tctx)
	require.NoError(t, err)
	return now
}

// entries seals and returns the whole journal, having verified its chain.
func (f *fixture) entries(t require.TestingT) []journal.Entry {
	for {
		n, err := f.Seal(tctx, "sealer")
		require.NoError(t, err)
		if n == 0 {
			break
		}
	}
	var out []journal.Entry
	head := journal.Head{}
	require.NoError(t, f.LogIter(tctx, store.LogFilter{}, func(e journal.Entry) error {
		out = append(out, e)
		var err error
		head, err = head.Next(e)
		return err
	}))
	return out
}

func (f *fixture) kinds(t require.TestingT) []journal.Kind {
	var out []journal.Kind
	for _, e := range f.entries(t) {
		out = append(out, e.Kind)
	}
	return out
}

func deployment(name string) action.Target {
	ref := action.Ref{Group: "apps", Kind: action.KindDeployment, Namespace: "shop", Name: name, UID: "uid-" + name}
	return action.Target{Cluster: "c1", Ref: ref, Top: ref}
}

// template is what a resolution to a target asks for.
func template(c store.Candidate, target action.Target) store.Resolution {
	return store.Resolution{Message: "found", Run: &store.Run{Playbook: c.Playbook, PlaybookHash: c.PlaybookHash, Priority: c.Priority, Exclusive: c.Exclusive,
		Source: "am", Target: target, TargetKey: target.Cluster + "/" + target.Ref.String() + "/" + target.UID, AttemptKey: target.AttemptKey(),
		AlertName: "Broken", State: json.RawMessage(`{"stage":"plan"}`), ExpiresAt: c.ExpiresAt}}
}

func (f *fixture) candidates(t require.TestingT, limit int) []store.Candidate {
	out, err := f.ClaimCandidates(tctx, "resolver", time.Minute, limit)
	require.NoError(t, err)
	return out
}

func (f *fixture) resolve(t require.TestingT, c store.Candidate, target action.Target) store.ResolveResult {
	res, err := f.ResolveCandidate(tctx, c, template(c, target))
	require.NoError(t, err)
	return res
}

// newRun makes a queued run of a playbook on a target, by an alert of its own.
func (f *fixture) newRun(t require.TestingT, pb string, target action.Target) string {
	f.accept(t, firing(fmt.Sprintf("fp-%s-%s", pb, target.Name), playbook(pb, 0)))
	cands := f.candidates(t, 1)
	require.Len(t, cands, 1)
	return f.resolve(t, cands[0], target).RunID
}

// claim claims until the run with the ID comes.
func (f *fixture) claim(t require.TestingT, id, owner string) store.Run {
	runs, err := f.ClaimRuns(tctx, owner, time.Minute, 100)
	require.NoError(t, err)
	for _, r := range runs {
		if r.ID == id {
			return r
		}
	}
	require.FailNow(t, "the run is not among the claimed", "%s of %v", id, runs)
	return store.Run{}
}

// intent is the transition of a first mutation.
func intent(r store.Run, at time.Time) store.Transition {
	r.Phase, r.AdmittedAt, r.IntentAt = store.Active, at, at
	return store.Transition{Fence: r.Fence(), Run: r, Locks: []string{r.Target.LockKey()},
		Entries: []journal.Entry{{Kind: journal.StepIntent, RunID: r.ID, Playbook: r.Playbook, Target: &r.Target}}}
}

// end is the last transition of a run.
func end(r store.Run, outcome store.Outcome, reason string) store.Transition {
	r.Phase, r.Outcome, r.Reason = store.Done, outcome, reason
	return store.Transition{Fence: r.Fence(), Run: r, Release: true,
		Entries: []journal.Entry{{Kind: journal.RunEnded, RunID: r.ID, Playbook: r.Playbook, Target: &r.Target, Outcome: string(outcome), Reason: reason}}}
}

func (f *fixture) apply(t require.TestingT, tr store.Transition) store.Run {
	r, err := f.Apply(tctx, tr)
	require.NoError(t, err)
	return r
}

func query(r store.Run) guard.Query {
	return guard.Query{RunID: r.ID, AttemptKey: r.AttemptKey, Scopes: []string{"playbook/" + r.Playbook, "global/c1"}}
}

func mustRun(t *testing.T, f *fixture, id string) store.Run {
	t.Helper()
	r, err := f.Run(tctx, id)
	require.NoError(t, err)
	return r
}

func isErr(err, target error) bool { return errors.Is(err, target) }

func asErr[T error](err error, target *T) bool { return errors.As(err, target) }

// renew prolongs the claims of runs by a minute and returns those that were lost.
func (f *fixture) renew(t require.TestingT, runs ...store.Run) store.Lost {
	var h store.Held
	for _, r := range runs {
		h.Runs = append(h.Runs, r.Fence())
	}
	lost, err := f.RenewLeases(tctx, h, time.Minute)
	require.NoError(t, err)
	return lost
}
