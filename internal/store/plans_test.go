package store_test

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alertmedic/alertmedic/internal/store"
)

// A claim takes the few that are due longest, and neither collects nor sorts the
// thousands that wait, also when the database has no statistics of them yet.
func TestAClaimReadsNoBacklog(t *testing.T) {
	contract(t, func(t *testing.T, f *fixture) {
		plans := &planner{explain: "EXPLAIN "}
		if f.Dialect() == "sqlite" {
			plans.explain = "EXPLAIN QUERY PLAN "
		}
		require.NoError(t, f.Close())
		o := f.options()
		inner := o.Wrap
		o.Wrap = func(to driver.Connector) driver.Connector {
			if inner != nil {
				to = inner(to)
			}
			return planned{to, plans}
		}
		s, err := store.Open(tctx, o)
		require.NoError(t, err)
		defer func() { require.NoError(t, s.Close()) }()
		for round := range 3 {
			var batch store.Batch
			for i := range 1000 {
				batch.Observations = append(batch.Observations, firing(fmt.Sprintf("%08x%08x", round, i), playbook("restart", 0)))
			}
			_, err := s.Accept(tctx, batch)
			require.NoError(t, err)
		}
		got, err := s.ClaimCandidates(tctx, "w", time.Minute, 8)
		require.NoError(t, err)
		require.Len(t, got, 8)
		for _, c := range got {
			res, err := s.ResolveCandidate(tctx, c, template(c, deployment("web-"+c.Episode.Signal.Fingerprint)))
			require.NoError(t, err)
			require.True(t, res.Created)
		}
		runs, err := s.ClaimRuns(tctx, "w", time.Minute, 4)
		require.NoError(t, err)
		require.Len(t, runs, 4)
		for table, index := range map[string]string{"candidates": "candidates_due", "runs": "runs_due"} {
			plan := plans.of("UPDATE " + table)
			require.Contains(t, plan, index)
			for _, all := range []string{"Sort", "Bitmap", "FOR ORDER BY"} {
				require.NotContains(t, plan, all)
			}
		}
	})
}

// planner keeps the plans of claims.
type planner struct {
	explain string
	mu      sync.Mutex
	plans   map[string]string
}

func (p *planner) of(part string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	for query, plan := range p.plans {
		if strings.Contains(query, part) {
			return plan
		}
	}
	return ""
}

// planned makes connections that explain each claim before it is made, on the same
// connection and in the same transaction.
type planned struct {
	driver.Connector
	p *planner
}

func (k planned) Connect(ctx context.Context) (driver.Conn, error) {
	conn, err := k.Connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	return &plannedConn{countedConn{fullConn: conn.(fullConn), c: &counter{}}, k.p}, nil
}

type plannedConn struct {
	countedConn
	p *planner
}

func (k *plannedConn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	if strings.HasPrefix(query, "WITH due") {
		plan, err := k.plan(ctx, query, args)
		if err != nil {
			return nil, err
		}
		k.p.mu.Lock()
		if k.p.plans == nil {
			k.p.plans = map[string]string{}
		}
		k.p.plans[query] = plan
		k.p.mu.Unlock()
	}
	return k.countedConn.QueryContext(ctx, query, args)
}

func (k *plannedConn) plan(ctx context.Context, query string, args []driver.NamedValue) (string, error) {
	rows, err := k.fullConn.QueryContext(ctx, k.p.explain+query, args)
	if err != nil {
		return "", fmt.Errorf("explain: %w", err)
	}
	defer rows.Close()
	var out strings.Builder
	values := make([]driver.Value, len(rows.Columns()))
	for {
		switch err := rows.Next(values); {
		case errors.Is(err, io.EOF):
			return out.String(), nil
		case err != nil:
			return "", fmt.Errorf("read the plan: %w", err)
		}
		fmt.Fprintln(&out, values)
	}
}
