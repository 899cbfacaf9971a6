package durability

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"

	"github.com/alertmedic/alertmedic/internal/journal"
	"github.com/alertmedic/alertmedic/internal/store"
	"github.com/alertmedic/alertmedic/internal/testcluster"
)

// Record is everything that is known of what happened in one test: what the
// service says of itself, and what the world around it saw.
type Record struct {
	// What Alertmanager was told, and by which playbooks an alert of a name must
	// be answered.
	Accepted  []Acceptance        `json:"accepted"`
	Answers   map[int]int         `json:"answers"` // of webhooks, by HTTP status
	Playbooks map[string][]string `json:"playbooks"`
	// What the service says.
	Journal    []journal.Entry   `json:"journal"`
	Unsealed   int               `json:"unsealed"`
	Runs       []store.Run       `json:"runs"`
	Candidates []store.Candidate `json:"candidates"`
	// What the proxy and the API server saw.
	Calls  []Call         `json:"calls"`
	Audit  []Mutation     `json:"audit"`
	Faults map[string]int `json:"faults"`
	// Alive is when each pod, by UID, was last seen and not terminating.
	Alive map[string]time.Time `json:"alive"`
	// What was done to the processes.
	Kills []Kill `json:"kills"`
}

// Kill is one thing that was done to a process.
type Kill struct {
	At      time.Time `json:"at"`
	Replica string    `json:"replica"`
	How     string    `json:"how"` // "killed: arrived" (see Moment), "paused", ...
}

// Mutation is one change in the API server's audit log.
type Mutation struct {
	ID        string    `json:"id"`
	At        time.Time `json:"at"` // received
	Verb      string    `json:"verb"`
	Resource  string    `json:"resource"`
	Namespace string    `json:"namespace,omitempty"`
	Name      string    `json:"name,omitempty"`
	UserAgent string    `json:"userAgent"`
	Code      int       `json:"code"`
	Run       string    `json:"run,omitempty"`
	Step      string    `json:"step,omitempty"`
	UID       string    `json:"uid,omitempty"`
}

// Applied reports whether the API server made the change.
func (m Mutation) Applied() bool { return m.Code >= 200 && m.Code < 300 }

func (m Mutation) String() string {
	return fmt.Sprintf("%s %s %s/%s (uid %s) at %s: %d, run %q, step %q, audit id %s",
		m.Verb, m.Resource, m.Namespace, m.Name, m.UID, stamp(m.At), m.Code, m.Run, m.Step, m.ID)
}

// Keep writes the record as JSON into the folder that ALERTMEDIC_KEEP_LOGS
// names, if it does, for a look at what the report only counts.
func (r *Record) Keep(t testing.TB) {
	t.Helper()
	dir := os.Getenv(envKeep)
	if dir == "" {
		return
	}
	data, err := json.MarshalIndent(r, "", " ")
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, strings.ReplaceAll(t.Name(), "/", "_")+".json"), data, 0o600)
	}
	if err != nil {
		t.Log(err)
	}
}

// ReadStore adds what the store holds. Nothing may be working on it any more.
func (r *Record) ReadStore(ctx context.Context, s *store.Store) error {
	episodes := map[string]bool{}
	err := s.LogIter(ctx, store.LogFilter{}, func(en journal.Entry) error {
		r.Journal = append(r.Journal, en)
		if en.EpisodeID != "" {
			episodes[en.EpisodeID] = true
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("read the journal: %w", err)
	}
	if r.Unsealed, _, err = s.Unsealed(ctx); err != nil {
		return fmt.Errorf("count what is not sealed: %w", err)
	}
	for id := range episodes {
		cands, err := s.EpisodeCandidates(ctx, id)
		if err != nil {
			return fmt.Errorf("read the candidates of episode %s: %w", id, err)
		}
		r.Candidates = append(r.Candidates, cands...)
	}
	for page := (store.Page{Limit: 500}); ; {
		runs, next, err := s.Runs(ctx, store.RunFilter{}, page)
		if err != nil {
			return fmt.Errorf("read the runs: %w", err)
		}
		r.Runs = append(r.Runs, runs...)
		if next == "" {
			return nil
		}
		page.Cursor = next
	}
}

// ReadAudit adds the changes of the proxy's user from the audit log. Reviews
// and dry runs are left out: they change nothing.
func (r *Record) ReadAudit(cluster *testcluster.Cluster, user string, since time.Time) error {
	events, err := cluster.Mutations(since)
	if err != nil {
		return fmt.Errorf("read the audit log: %w", err)
	}
	for _, e := range events {
		if e.User.Username == user && e.ObjectRef != nil && !strings.HasSuffix(e.ObjectRef.Resource, "reviews") && !strings.Contains(e.RequestURI, "dryRun=") {
			r.Audit = append(r.Audit, mutation(e))
		}
	}
	return nil
}

func mutation(e auditv1.Event) Mutation {
	m := Mutation{ID: string(e.AuditID), At: e.RequestReceivedTimestamp.Time, Verb: e.Verb, UserAgent: e.UserAgent,
		Resource: e.ObjectRef.Resource, Namespace: e.ObjectRef.Namespace, Name: e.ObjectRef.Name}
	if e.ResponseStatus != nil {
		m.Code = int(e.ResponseStatus.Code)
	}
	if e.RequestObject != nil {
		m.Run, m.Step, m.UID = signature(e.RequestObject.Raw)
	}
	if m.UID == "" && e.ResponseObject != nil {
		var object struct {
			Metadata struct {
				UID string `json:"uid"`
			} `json:"metadata"`
		}
		if json.Unmarshal(e.ResponseObject.Raw, &object) == nil {
			m.UID = object.Metadata.UID
		}
	}
	return m
}

func stamp(t time.Time) string { return t.UTC().Format("15:04:05.000000") }
