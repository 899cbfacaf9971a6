-- How often a candidate was queued again because its target was lost, and for when
-- the last time: attempts to find the target are counted apart, and what was created
-- before that time may be what the alert is about by now. And how many workers in a
-- row were lost to a run without having given it back once.

-- +goose Up
ALTER TABLE candidates ADD COLUMN requeues BIGINT NOT NULL DEFAULT 0;
ALTER TABLE candidates ADD COLUMN requeued_at BIGINT NOT NULL DEFAULT 0;
ALTER TABLE runs ADD COLUMN workers_lost BIGINT NOT NULL DEFAULT 0;

-- +goose Down
ALTER TABLE runs DROP COLUMN workers_lost;
ALTER TABLE candidates DROP COLUMN requeued_at;
ALTER TABLE candidates DROP COLUMN requeues;
