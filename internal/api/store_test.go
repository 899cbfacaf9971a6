package api_test

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/stretchr/testify/require"

	"github.com/alertmedic/alertmedic/internal/action"
	"github.com/alertmedic/alertmedic/internal/alert"
	"github.com/alertmedic/alertmedic/internal/api"
	"github.com/alertmedic/alertmedic/internal/api/client"
	"github.com/alertmedic/alertmedic/internal/auth"
	"github.com/alertmedic/alertmedic/internal/guard"
	"github.com/alertmedic/alertmedic/internal/journal"
	"github.com/alertmedic/alertmedic/internal/store"
)

var _ api.Store = (*store.Store)(nil)

type everyone struct{}

func (everyone) Authenticate(*http.Request) (auth.Identity, error) {
	return auth.Identity{Name: "tester", Roles: auth.Roles()}, nil
}

// realStore is a database in which one run waits for approval.
func realStore(t *testing.T) (*store.Store, *client.Client, string) {
	t.Helper()
	ctx := t.Context()
	st, err := store.Open(ctx, store.Options{DSN: filepath.Join(t.TempDir(), "a.db"), FlapDwell: time.Minute})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, st.Close()) })
	require.NoError(t, st.PutPlaybook(ctx, "hash", []byte(`{}`)))
	_, err = st.Accept(ctx, store.Batch{Observations: []store.Observation{{Source: "main", Cluster: "c",
		Alert:     alert.Alert{Status: alert.Firing, Fingerprint: "f1", StartsAt: time.Now(), Labels: map[string]string{"alertname": "KubePodCrashLooping"}},
		Playbooks: []store.MatchedPlaybook{{Name: "pod-crash-looping", Hash: "hash", Exclusive: true, ExpireAfter: time.Hour}}}}})
	require.NoError(t, err)
	candidates, err := st.ClaimCandidates(ctx, "test", time.Minute, 1)
	require.NoError(t, err)
	require.Len(t, candidates, 1)
	target := action.Target{Cluster: "c", Ref: action.Ref{Kind: action.KindDeployment, Namespace: "shop", Name: "web", UID: "u1"}}
	res, err := st.ResolveCandidate(ctx, candidates[0], store.Resolution{Run: &store.Run{Playbook: "pod-crash-looping", PlaybookHash: "hash", Exclusive: true, Source: "main",
		Target: target, TargetKey: "k", AttemptKey: target.AttemptKey(), AlertName: "KubePodCrashLooping", ExpiresAt: time.Now().Add(time.Hour)}})
	require.NoError(t, err)
	require.True(t, res.Created)
	runs, err := st.ClaimRuns(ctx, "test", time.Minute, 1)
	require.NoError(t, err)
	require.Len(t, runs, 1)
	run := runs[0]
	run.Wait, run.DueAt = store.WaitApproval, time.Now().Add(time.Hour)
	_, err = st.Apply(ctx, store.Transition{Fence: run.Fence(), Run: run, Release: true,
		Steps:    []store.Step{{RunID: run.ID, RemedyName: "roll-back", Name: "undo", Action: "workload.rollback", Status: store.StepPlanned, Plan: json.RawMessage(`{"summary":"undo it"}`)}},
		Approval: &store.Approval{RunID: run.ID, PlanHash: "9f3c2a", TargetUID: "u1", Status: store.ApprovalPending, AskedAt: time.Now()}})
	require.NoError(t, err)
	seal(t, st)

	router := chi.NewRouter()
	a, err := api.New(router, api.Options{Store: st, Auth: everyone{}, Playbooks: noPlaybooks, Logger: slog.New(slog.DiscardHandler), Poll: time.Hour})
	require.NoError(t, err)
	srv := httptest.NewServer(router)
	t.Cleanup(srv.Close)
	t.Cleanup(a.Close)
	c, err := client.New(client.Options{Server: srv.URL})
	require.NoError(t, err)
	return st, c, run.ID
}

func seal(t *testing.T, st *store.Store) {
	t.Helper()
	_, err := st.Seal(t.Context(), "test")
	require.NoError(t, err)
}

// The API over the real database, through the client.
func TestRealStore(t *testing.T) {
	t.Parallel()
	st, c, id := realStore(t)
	ctx := t.Context()

	list, err := c.Runs(ctx, store.RunFilter{Wait: "approval", Namespace: "shop"}, client.Page{})
	require.NoError(t, err)
	require.Len(t, list.Items, 1)
	detail, err := c.Run(ctx, id[:23])
	require.NoError(t, err)
	require.Equal(t, id, detail.Run.ID)
	require.Len(t, detail.Steps, 1)
	require.Len(t, detail.Candidates, 1)
	require.Equal(t, "9f3c2a", detail.Approval.PlanHash)

	var refused *client.Error
	_, err = c.Run(ctx, "ffffffff")
	require.ErrorAs(t, err, &refused)
	require.Equal(t, 404, refused.Status)
	_, err = c.Runs(ctx, store.RunFilter{}, client.Page{Cursor: "made-up"})
	require.ErrorAs(t, err, &refused)
	require.Equal(t, 400, refused.Status)
	_, err = c.Decide(ctx, id, true, api.DecisionBody{PlanHash: "old"})
	require.ErrorAs(t, err, &refused)
	require.Equal(t, 409, refused.Status)
	approval, err := c.Decide(ctx, id, true, api.DecisionBody{PlanHash: "9f3c2a", Reason: "ok"})
	require.NoError(t, err)
	require.Equal(t, "tester", approval.By)
	_, err = c.Decide(ctx, id, false, api.DecisionBody{})
	require.ErrorAs(t, err, &refused)
	require.Equal(t, 409, refused.Status, "once is enough: %v", err)

	pauses, err := c.Pause(ctx, api.PauseBody{Scope: guard.PauseNamespace, Value: "shop", Why: "release"})
	require.NoError(t, err)
	require.Len(t, pauses.Items, 1)
	require.Equal(t, "tester", pauses.Items[0].By)
	_, err = c.Resume(ctx, guard.PauseGlobal, "", "")
	require.ErrorAs(t, err, &refused)
	require.Equal(t, 404, refused.Status)
	pauses, err = c.Resume(ctx, guard.PauseNamespace, "shop", "done")
	require.NoError(t, err)
	require.Empty(t, pauses.Items)

	seal(t, st)
	entries, err := c.Log(ctx, store.LogFilter{RunID: id, Kind: string(journal.ApprovalDecided)}, client.Page{})
	require.NoError(t, err)
	require.Len(t, entries.Items, 1)
	require.Equal(t, "tester", entries.Items[0].Actor)
}

// A follower gets every sealed entry once, in order, and is woken by the seal.
func TestRealStore_follow(t *testing.T) {
	t.Parallel()
	st, c, _ := realStore(t)
	var seqs []int64
	done := errDone{}
	err := c.Follow(t.Context(), store.LogFilter{}, func(en journal.Entry) error {
		seqs = append(seqs, en.Seq)
		if strings.HasPrefix(en.Message, "last") {
			return done
		}
		if len(seqs) == 1 {
			if err := st.Append(t.Context(), journal.Entry{Kind: journal.ServiceStarted, Message: "last"}); err != nil {
				return err
			}
			_, err := st.Seal(t.Context(), "test")
			return err
		}
		return nil
	})
	require.ErrorIs(t, err, done)
	require.NotEmpty(t, seqs)
	for i, s := range seqs {
		require.EqualValues(t, i+1, s)
	}
}

type errDone struct{}

func (errDone) Error() string { return "done" }
