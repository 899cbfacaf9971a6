package main

import (
	"context"
	"database/sql"
	"fmt"
	"strings"
	"time"

	_ "modernc.org/sqlite" // the driver "sqlite"

	"github.com/alertmedic/alertmedic/internal/store"
)

// open opens the store, which makes its tables.
func open(ctx context.Context, dsn string) (*store.Store, error) {
	return store.Open(ctx, store.Options{DSN: dsn, FlapDwell: 2 * time.Minute})
}

// fill puts runs that ended and entries of the journal into a database, in
// plausible shapes: twenty entries a run, a few values that most rows have and
// some that few have. The hashes are none: nothing here verifies the chain.
func fill(ctx context.Context, dsn string, runs, entries int) error {
	s, err := open(ctx, dsn)
	if err != nil {
		return err
	}
	if err := s.Close(); err != nil {
		return err
	}
	driver, number, padded, settle := "sqlite", "", "printf('%012d', i)", []string{"PRAGMA wal_checkpoint(TRUNCATE)"}
	if strings.HasPrefix(dsn, "postgres") {
		// A million rows of a moment ago are not the store that is meant: the server
		// would still be marking and writing them.
		driver, number, padded, settle = "pgx", "::bigint", "lpad(i::text, 12, '0')", []string{"VACUUM ANALYZE", "CHECKPOINT"}
	}
	db, err := sql.Open(driver, dsn)
	if err != nil {
		return err
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	now := time.Now().UnixMicro()
	const second = 1_000_000
	series := func(n int) string {
		return fmt.Sprintf("WITH RECURSIVE n (i) AS (SELECT 1%s UNION ALL SELECT i + 1 FROM n WHERE i < %d) ", number, n)
	}
	id := func(kind string) string { return "'0197" + kind + "00-0000-7000-8000-' || " + padded }
	// Ten seconds between two runs; the last one ended just now.
	ago := fmt.Sprintf("(%d - (%d - i) * 10 * %d)", now, runs, second)
	target := `'{"cluster":"bench","group":"apps","kind":"Deployment","namespace":"ns-' || (i % 20) || '","name":"app-' || (i % 2000) || '","uid":"uid-' || (i % 2000) || '"}'`
	labels := `'{"status":"firing","labels":{"alertname":"Alert' || (i % 30) || '","namespace":"ns-' || (i % 20) || '","pod":"app-' || i || '"},"startsAt":"2026-01-01T00:00:00Z","fingerprint":"' || ` + padded + ` || '"}'`
	statements := []string{
		series(runs) + "INSERT INTO signals (source, fingerprint, episode_id) SELECT 'am', 'f' || " + padded + ", " + id("e") + " FROM n",
		series(runs) + "INSERT INTO episodes (id, source, fingerprint, cluster, alert, is_open, opened_at, closed_at, last_seen) SELECT " +
			id("e") + ", 'am', 'f' || " + padded + ", 'bench', " + labels + ", 0, " + ago + ", " + ago + ", " + ago + " FROM n",
		series(runs) + "INSERT INTO candidates (id, episode_id, playbook, playbook_hash, priority, exclusive, phase, outcome, run_id, created_at, due_at, expires_at) SELECT " +
			id("c") + ", " + id("e") + ", 'playbook-' || (i % 50), 'hash', 0, 1, 'done', 'joined', " + id("a") + ", " + ago + ", " + ago + ", " + ago + " FROM n",
		series(runs) + `INSERT INTO runs (id, playbook, playbook_hash, priority, exclusive, source, target, target_key, attempt_key, lock_key, alertname, namespace,
				target_kind, target_name, phase, wait, outcome, reason, message, remedy, step, disruptive, state, created_at, due_at, expires_at, admitted_at,
				intent_at, ended_at, fired_at) SELECT ` + id("a") + ", 'playbook-' || (i % 50), 'hash', 0, 1, 'am', " + target + `,
				'key-' || (i % 2000), 'key-' || (i % 2000), 'key-' || (i % 2000), 'Alert' || (i % 30), 'ns-' || (i % 20), 'Deployment', 'app-' || (i % 2000), 'done', '',
				CASE WHEN i % 100 = 0 THEN 'escalated' WHEN i % 10 = 0 THEN 'suppressed' ELSE 'healed' END, CASE WHEN i % 10 = 0 THEN 'cooldown' ELSE '' END, '', 0, 0, 1, '{}', ` +
			ago + ", " + ago + ", " + ago + ", " + ago + ", " + ago + ", " + ago + ", " + ago + " FROM n",
	}
	if entries > 0 {
		statements = append(statements, entryStatement(series(entries), id, padded, target, entries, runs, now),
			// As the sealer would have counted them.
			"INSERT INTO journal_blocks (block, min_at, max_at, last_seq) SELECT seq / 1000, MIN(at), MAX(at), MAX(seq) FROM journal GROUP BY seq / 1000")
	}
	indexes, err := journalIndexes(ctx, db, driver)
	if err != nil {
		return err
	}
	for _, ix := range indexes {
		if _, err := db.ExecContext(ctx, "DROP INDEX "+ix.name); err != nil {
			return err
		}
	}
	for _, q := range statements {
		if _, err := db.ExecContext(ctx, q); err != nil {
			return fmt.Errorf("fill (%.60s…): %w", q, err)
		}
	}
	for _, ix := range indexes { // later is faster
		if _, err := db.ExecContext(ctx, ix.definition); err != nil {
			return err
		}
	}
	for _, q := range settle {
		if _, err := db.ExecContext(ctx, q); err != nil {
			return fmt.Errorf("settle what was filled in (%s): %w", q, err)
		}
	}
	return nil
}

// entryStatement inserts the sealed journal.
func entryStatement(series string, id func(string) string, padded, target string, entries, runs int, now int64) string {
	each := entries / runs
	run := fmt.Sprintf("(1 + (i - 1) / %d)", each)
	ofRun := strings.NewReplacer("(i % ", "("+run+" % ")
	at := fmt.Sprintf("(%d - (%d - i) * %d)", now, entries, 10*1_000_000/each)
	kind := `CASE i % 20 WHEN 1 THEN 'episode.opened' WHEN 2 THEN 'candidate.created' WHEN 3 THEN 'candidate.resolved' WHEN 4 THEN 'run.created' WHEN 5 THEN 'run.admitted'
		WHEN 6 THEN 'step.intent' WHEN 7 THEN 'step.done' WHEN 8 THEN 'verify.healed' WHEN 9 THEN 'run.ended' ELSE 'step.progress' END`
	action := "CASE WHEN i % 20 IN (6, 7) THEN 'workload.restart' WHEN i % 20 > 9 THEN 'pod.delete' ELSE '' END"
	outcome := "CASE i % 20 WHEN 7 THEN 'done' WHEN 9 THEN CASE WHEN i % 4000 = 9 THEN 'outcome-unknown' ELSE 'healed' END ELSE '' END"
	reason := "CASE WHEN i = 777777 OR i = 7777 THEN 'revert-conflict' WHEN i % 20 = 5 THEN 'cooldown' ELSE '' END"
	var runID string
	if strings.HasPrefix(padded, "printf") {
		runID = "'0197a00-0000-7000-8000-' || printf('%012d', " + run + ")"
	} else {
		runID = "'0197a00-0000-7000-8000-' || lpad(" + run + "::text, 12, '0')"
	}
	doc := `'{"id":"' || ` + id("b") + ` || '","at":"2026-01-01T00:00:00.000000Z","kind":"step.progress","cluster":"bench","source":"am","runID":"' || ` + runID +
		` || '","playbook":"playbook-1","action":"pod.delete","target":' || ` + ofRun.Replace(target) + ` || ',"message":"waiting for the pod to be replaced: 1 of 3 is ready","actor":"alertmedic-1-0a1b2c3d"}'`
	return series + `INSERT INTO journal (id, recorded, ord, seq, prev_hash, hash, at, kind, run_id, episode_id, fingerprint, alertname, playbook, namespace,
		target_kind, target_name, action, outcome, reason, doc) SELECT ` + id("b") + ", " + at + ", i, i, 'p', 'h', " + at + ", " + kind + ", " + runID + `,
		'', '', 'Alert' || (` + run + ` % 30), 'playbook-' || (` + run + ` % 50), 'ns-' || (` + run + ` % 20), 'Deployment', 'app-' || (` + run + " % 2000), " +
		action + ", " + outcome + ", " + reason + ", " + doc + " FROM n"
}

type index struct{ name, definition string }

// journalIndexes are those that can be made again.
func journalIndexes(ctx context.Context, db *sql.DB, driver string) ([]index, error) {
	query := "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND tbl_name = 'journal' AND sql IS NOT NULL"
	if driver == "pgx" {
		query = "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = current_schema() AND tablename = 'journal' AND indexname NOT LIKE '%pkey'"
	}
	rows, err := db.QueryContext(ctx, query)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out []index
	for rows.Next() {
		var ix index
		if err := rows.Scan(&ix.name, &ix.definition); err != nil {
			return nil, err
		}
		out = append(out, ix)
	}
	return out, rows.Err()
}
