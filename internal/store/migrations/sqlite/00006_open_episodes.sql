-- An index by signal is written at a place of its own for each new alert, and a
-- page there costs more than all else of the alert's row. That a signal has one
-- open episode follows here from the signal's row, which one writer reads and
-- writes in the same transaction.

-- +goose Up
DROP INDEX episodes_one_open;
CREATE INDEX episodes_open ON episodes (id) WHERE is_open = 1;

-- +goose Down
DROP INDEX episodes_open;
CREATE UNIQUE INDEX episodes_one_open ON episodes (source, fingerprint) WHERE is_open = 1;
