-- How often a candidate was queued again because its target was lost, and for when
-- the last time: attempts to find the target are counted apart, and what was created
-- before that time may be what the alert is about by now. And how many workers in a
-- row were lost to a run without having given it back once. A candidate that no run
-- has yet, as each one is at first, is in no index of runs.

-- +goose Up
ALTER TABLE candidates ADD COLUMN requeues BIGINT NOT NULL DEFAULT 0;
ALTER TABLE candidates ADD COLUMN requeued_at BIGINT NOT NULL DEFAULT 0;
ALTER TABLE runs ADD COLUMN workers_lost BIGINT NOT NULL DEFAULT 0;
DROP INDEX candidates_run;
CREATE INDEX candidates_run ON candidates (run_id) WHERE run_id <> '';

-- +goose Down
DROP INDEX candidates_run;
CREATE INDEX candidates_run ON candidates (run_id);
ALTER TABLE runs DROP COLUMN workers_lost;
ALTER TABLE candidates DROP COLUMN requeued_at;
ALTER TABLE candidates DROP COLUMN requeues;
