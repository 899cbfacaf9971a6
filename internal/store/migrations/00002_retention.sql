-- What retention looks for, oldest first.

-- +goose Up
CREATE INDEX episodes_closed ON episodes (closed_at) WHERE is_open = 0;

-- +goose Down
DROP INDEX episodes_closed;
