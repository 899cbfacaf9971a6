-- A range of time in the log is found by blocks of its entries: each tells the
-- first and the last time in it, and up to which seq it was counted. The sealer
-- writes them; an index of the time of every entry is no longer needed.

-- +goose Up
CREATE TABLE journal_blocks (
    block    BIGINT PRIMARY KEY,
    min_at   BIGINT NOT NULL,
    max_at   BIGINT NOT NULL,
    last_seq BIGINT NOT NULL
);

INSERT INTO journal_blocks (block, min_at, max_at, last_seq)
    SELECT seq / 1000, MIN(at), MAX(at), MAX(seq) FROM journal WHERE seq IS NOT NULL GROUP BY seq / 1000;

DROP INDEX journal_at;

-- +goose Down
CREATE INDEX journal_at ON journal (at, seq) WHERE seq IS NOT NULL;
DROP TABLE journal_blocks;
