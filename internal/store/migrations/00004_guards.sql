-- What admission counts by beyond runs: token buckets and storms, each of a
-- scope that admission locks, and how much a reservation weighs. Tokens are
-- millionths.

-- +goose Up
CREATE TABLE guard_buckets (
    scope  TEXT PRIMARY KEY,
    tokens BIGINT NOT NULL,
    at     BIGINT NOT NULL
);

CREATE TABLE guard_storms (
    scope     TEXT PRIMARY KEY,
    since     BIGINT NOT NULL,
    last_seen BIGINT NOT NULL
);

ALTER TABLE reservations ADD COLUMN weight BIGINT NOT NULL DEFAULT 0;
CREATE INDEX reservations_created ON reservations (created_at);

-- +goose Down
DROP INDEX reservations_created;
ALTER TABLE reservations DROP COLUMN weight;
DROP TABLE guard_storms;
DROP TABLE guard_buckets;
