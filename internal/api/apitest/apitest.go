// Package apitest serves the API over a store in memory, for tests of the API,
// its client and the command line.
package apitest

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/stretchr/testify/require"

	"github.com/alertmedic/alertmedic/internal/api"
	"github.com/alertmedic/alertmedic/internal/auth"
	"github.com/alertmedic/alertmedic/internal/guard"
	"github.com/alertmedic/alertmedic/internal/journal"
	"github.com/alertmedic/alertmedic/internal/store"
	"github.com/alertmedic/alertmedic/playbooks"
)

// Store keeps everything in memory. Fill its fields before it is used, and use
// Append after.
type Store struct {
	mu         sync.Mutex
	RunRows    []store.Run
	StepRows   []store.Step
	Candidates []store.Candidate
	Approvals  map[string]store.Approval
	Entries    []journal.Entry
	PauseRows  []guard.Pause
	// Err, when set, is what every method returns.
	Err     error
	changed chan struct{}
}

// Append seals entries and wakes up whoever follows.
func (s *Store) Append(entries ...journal.Entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, en := range entries {
		en.Seq = int64(len(s.Entries) + 1)
		s.Entries = append(s.Entries, en)
	}
	s.wake()
}

func (s *Store) wake() {
	if s.changed != nil {
		close(s.changed)
		s.changed = nil
	}
}

// Changed implements api.Store.
func (s *Store) Changed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.changed == nil {
		s.changed = make(chan struct{})
	}
	return s.changed
}

func is(want, got string) bool { return want == "" || want == got }

func within(t, since, until time.Time) bool {
	return !t.Before(since) && (until.IsZero() || t.Before(until))
}

// Runs implements api.Store.
func (s *Store) Runs(_ context.Context, f store.RunFilter, p store.Page) ([]store.Run, string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []store.Run
	for _, r := range s.RunRows {
		if is(f.Phase, string(r.Phase)) && is(f.Wait, string(r.Wait)) && is(f.Outcome, string(r.Outcome)) && is(f.Playbook, r.Playbook) &&
			is(f.Namespace, r.Target.Namespace) && is(f.AlertName, r.AlertName) && is(f.TargetName, r.Target.Name) && is(f.Kind, string(r.Target.Kind)) &&
			is(f.Reason, r.Reason) && within(r.CreatedAt, f.Since, f.Until) {
			out = append(out, r)
		}
	}
	return page(s, out, p)
}

// Log implements api.Store.
func (s *Store) Log(_ context.Context, f store.LogFilter, p store.Page) ([]journal.Entry, string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []journal.Entry
	for _, e := range s.Entries {
		var namespace, kind, name string
		if e.Target != nil {
			namespace, kind, name = e.Target.Namespace, string(e.Target.Kind), e.Target.Name
		}
		if e.Seq > f.AfterSeq && is(f.Kind, string(e.Kind)) && is(f.Playbook, e.Playbook) && is(f.RunID, e.RunID) && is(f.AlertName, e.AlertName) &&
			is(f.Namespace, namespace) && is(f.TargetKind, kind) && is(f.TargetName, name) && is(f.Outcome, e.Outcome) && is(f.Action, e.Action) &&
			is(f.Reason, e.Reason) && is(f.Fingerprint, e.Fingerprint) && is(f.EpisodeID, e.EpisodeID) && within(e.At, f.Since, f.Until) {
			out = append(out, e)
		}
	}
	return page(s, out, p)
}

func page[T any](s *Store, items []T, p store.Page) ([]T, string, error) {
	if s.Err != nil {
		return nil, "", s.Err
	}
	if p.Descending {
		slices.Reverse(items)
	}
	from := 0
	if p.Cursor != "" {
		var err error
		if from, err = strconv.Atoi(p.Cursor); err != nil || from > len(items) {
			return nil, "", fmt.Errorf("cursor %q: %w", p.Cursor, store.ErrBadCursor)
		}
	}
	to := min(from+p.Limit, len(items))
	next := ""
	if to < len(items) {
		next = strconv.Itoa(to)
	}
	return slices.Clone(items[from:to]), next, nil
}

// FindRun implements api.Store.
func (s *Store) FindRun(_ context.Context, prefix string) (store.Run, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.Err != nil {
		return store.Run{}, s.Err
	}
	var found []store.Run
	for _, r := range s.RunRows {
		if strings.HasPrefix(r.ID, prefix) {
			found = append(found, r)
		}
	}
	switch len(found) {
	case 0:
		return store.Run{}, fmt.Errorf("no run begins with %q: %w", prefix, store.ErrNotFound)
	case 1:
	default:
		return store.Run{}, fmt.Errorf("%d runs begin with %q: %w; give more of it", len(found), prefix, store.ErrAmbiguous)
	}
	return found[0], nil
}

// Steps implements api.Store.
func (s *Store) Steps(_ context.Context, runID string) ([]store.Step, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []store.Step
	for _, st := range s.StepRows {
		if st.RunID == runID {
			out = append(out, st)
		}
	}
	return out, s.Err
}

// RunCandidates implements api.Store.
func (s *Store) RunCandidates(_ context.Context, runID string) ([]store.Candidate, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []store.Candidate
	for _, c := range s.Candidates {
		if c.RunID == runID {
			out = append(out, c)
		}
	}
	return out, s.Err
}

// PendingApproval implements api.Store.
func (s *Store) PendingApproval(_ context.Context, runID string) (store.Approval, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a, ok := s.Approvals[runID]
	if !ok || a.Status != store.ApprovalPending {
		return store.Approval{}, store.ErrNoApproval
	}
	return a, s.Err
}

// Decide implements api.Store.
func (s *Store) Decide(_ context.Context, d store.Decision) (store.Approval, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a, ok := s.Approvals[d.RunID]
	switch {
	case s.Err != nil:
		return a, s.Err
	case !ok || a.Status != store.ApprovalPending:
		return a, store.ErrNoApproval
	case d.PlanHash != "" && d.PlanHash != a.PlanHash:
		return a, store.ErrPlanChanged
	}
	a.Status, a.By, a.Why, a.DecidedAt = store.ApprovalRejected, d.By, d.Why, a.AskedAt.Add(time.Minute)
	if d.Approve {
		a.Status = store.ApprovalApproved
	}
	s.Approvals[d.RunID] = a
	s.wake()
	return a, nil
}

// Pauses implements api.Store.
func (s *Store) Pauses(context.Context) ([]guard.Pause, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.PauseRows), s.Err
}

// SetPause implements api.Store.
func (s *Store) SetPause(_ context.Context, p guard.Pause) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	p.At = time.Date(2026, 3, 1, 10, 0, 0, 0, time.UTC)
	s.PauseRows = slices.DeleteFunc(s.PauseRows, func(o guard.Pause) bool { return o.Scope == p.Scope && o.Value == p.Value })
	s.PauseRows = append(s.PauseRows, p)
	slices.SortFunc(s.PauseRows, func(a, b guard.Pause) int {
		return cmp.Or(cmp.Compare(a.Scope, b.Scope), cmp.Compare(a.Value, b.Value))
	})
	return s.Err
}

// ClearPause implements api.Store.
func (s *Store) ClearPause(_ context.Context, scope guard.PauseScope, value, _, _ string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := len(s.PauseRows)
	s.PauseRows = slices.DeleteFunc(s.PauseRows, func(o guard.Pause) bool { return o.Scope == scope && o.Value == value })
	if s.Err == nil && len(s.PauseRows) == before {
		return fmt.Errorf("there is no such pause: %w", store.ErrNotFound)
	}
	return s.Err
}

// The tokens that Server accepts, by what they may do.
const (
	Viewer = "viewer-token-0123456789"
	Oncall = "oncall-token-0123456789" // view and approve
	Admin  = "admin-token-0123456789"  // all
	Sender = "sender-token-0123456789" // webhooks only
)

type tokens struct{}

// Authenticate implements api.Authenticator.
func (tokens) Authenticate(r *http.Request) (auth.Identity, error) {
	switch strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ") {
	case "":
		return auth.Identity{}, auth.ErrNoCredential
	case Viewer:
		return auth.Identity{Name: "viewer", Roles: []auth.Role{auth.View}}, nil
	case Oncall:
		return auth.Identity{Name: "oncall", Roles: []auth.Role{auth.View, auth.Approve}}, nil
	case Admin:
		return auth.Identity{Name: "admin", Roles: []auth.Role{auth.View, auth.Approve, auth.Admin}}, nil
	case Sender:
		return auth.Identity{Name: "alertmanager", Roles: []auth.Role{auth.Ingest}, Source: "main"}, nil
	case "unavailable":
		return auth.Identity{}, auth.ErrUnavailable
	}
	return auth.Identity{}, auth.ErrBadCredential
}

// Server serves the API over st until the test ends. change may adjust the
// options.
func Server(t testing.TB, st *Store, change func(*api.Options)) *httptest.Server {
	t.Helper()
	o := api.Options{Store: st, Auth: tokens{}, Playbooks: func() *playbooks.Set { return nil }, Version: "test", Logger: slog.New(slog.DiscardHandler)}
	if change != nil {
		change(&o)
	}
	router := chi.NewRouter()
	a, err := api.New(router, o)
	require.NoError(t, err)
	srv := httptest.NewServer(router)
	t.Cleanup(srv.Close)
	t.Cleanup(a.Close)
	return srv
}
