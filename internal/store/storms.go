package store

import (
	"context"
	"fmt"
	"time"

	"github.com/alertmedic/alertmedic/internal/guard"
	"github.com/alertmedic/alertmedic/internal/journal"
)

// Storms returns the last storm of each scope that ever had one, by scope.
func (s *Store) Storms(ctx context.Context) ([]guard.Storm, error) {
	out, err := collect(ctx, s.read, scanStorm, "SELECT scope, since, last_seen FROM guard_storms ORDER BY scope")
	return out, s.wrap("read the storms", err)
}

// RunCounts are numbers of runs.
type RunCounts struct {
	Live      int             // queued or active, whatever they wait for
	Ended     map[Outcome]int // by outcome
	Mutations int             // of the ended and live ones, those that changed something
}

// CountStorm counts the runs that live, and those that ended since the storm
// began. Runs are looked for that were created up to a day before it.
func (s *Store) CountStorm(ctx context.Context, st guard.Storm) (RunCounts, error) {
	out := RunCounts{Ended: map[Outcome]int{}}
	type row struct {
		phase, outcome string
		n, mutated     int64
	}
	rows, err := collect(ctx, s.read, func(sc scanner) (row, error) {
		var r row
		err := sc.Scan(&r.phase, &r.outcome, &r.n, &r.mutated)
		return r, err
	}, `SELECT phase, outcome, count(*), COALESCE(SUM(CASE WHEN intent_at > 0 THEN 1 ELSE 0 END), 0)
		FROM runs WHERE created_at >= $1 AND (phase <> 'done' OR ended_at >= $2) GROUP BY phase, outcome`,
		micros(st.Since.Add(-24*time.Hour)), micros(st.Since))
	if err != nil {
		return out, s.wrap("count the runs of a storm", err)
	}
	for _, r := range rows {
		if Phase(r.phase) == Done {
			out.Ended[Outcome(r.outcome)] += int(r.n)
		} else {
			out.Live += int(r.n)
		}
		out.Mutations += int(r.mutated)
	}
	return out, nil
}

// Tell records that something is so, and says it, unless that is what was said
// last under the key: of many replicas that see the same, one tells. It reports
// whether this call was the one.
func (s *Store) Tell(ctx context.Context, key, value string, entry journal.Entry, msgs ...Message) (bool, error) {
	told := false
	err := s.inTx(ctx, "tell "+key, func(t *txn) error {
		n, err := t.affected(ctx, `INSERT INTO kv (k, v, updated_at) VALUES ($1, $2, $3)
			ON CONFLICT (k) DO UPDATE SET v = excluded.v, updated_at = excluded.updated_at WHERE kv.v <> excluded.v`, text(key), text(value), micros(t.now))
		if err != nil {
			return fmt.Errorf("remember what was told: %w", err)
		}
		if told = n > 0; !told {
			return nil
		}
		if err := t.append(ctx, entry); err != nil {
			return err
		}
		t.wakes = true
		return t.post(ctx, "", msgs)
	})
	return told && err == nil, err
}
