-- Admission locks its scopes by PostgreSQL's advisory locks, which leave nothing
-- behind; a row for each was kept for ever. A replica of the version before admits
-- nothing from here on: the two would not see each other's locks.

-- +goose Up
DROP TABLE guard_scopes;

-- +goose Down
CREATE TABLE guard_scopes (
    scope TEXT PRIMARY KEY
);
