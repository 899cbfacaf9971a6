-- Portable between SQLite and PostgreSQL. Times are BIGINT, microseconds since
-- 1970 in UTC, 0 for none; booleans are SMALLINT, 0 or 1; documents are JSON in
-- TEXT; '' stands for "no value", so that a filter never has to think of NULL.

-- +goose Up
CREATE TABLE clock (
    id         SMALLINT PRIMARY KEY,
    high_water BIGINT NOT NULL
);

CREATE TABLE playbooks (
    hash       TEXT PRIMARY KEY,
    doc        TEXT NOT NULL,
    created_at BIGINT NOT NULL
);

-- One row for each signal ever seen: what folding locks.
CREATE TABLE signals (
    source      TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    episode_id  TEXT NOT NULL DEFAULT '',
    orphaned_at BIGINT NOT NULL DEFAULT 0,
    PRIMARY KEY (source, fingerprint)
);

CREATE TABLE episodes (
    id          TEXT PRIMARY KEY,
    source      TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    cluster     TEXT NOT NULL,
    alert       TEXT NOT NULL,
    is_open     SMALLINT NOT NULL,
    opened_at   BIGINT NOT NULL,
    closed_at   BIGINT NOT NULL DEFAULT 0,
    last_seen   BIGINT NOT NULL
);
CREATE UNIQUE INDEX episodes_one_open ON episodes (source, fingerprint) WHERE is_open = 1;

CREATE TABLE candidates (
    id            TEXT PRIMARY KEY,
    episode_id    TEXT NOT NULL REFERENCES episodes (id),
    playbook      TEXT NOT NULL,
    playbook_hash TEXT NOT NULL,
    priority      BIGINT NOT NULL,
    exclusive     SMALLINT NOT NULL,
    phase         TEXT NOT NULL,
    outcome       TEXT NOT NULL DEFAULT '',
    reason        TEXT NOT NULL DEFAULT '',
    run_id        TEXT NOT NULL DEFAULT '',
    attached      SMALLINT NOT NULL DEFAULT 0,
    deferred      SMALLINT NOT NULL DEFAULT 0,
    attempts      BIGINT NOT NULL DEFAULT 0,
    created_at    BIGINT NOT NULL,
    due_at        BIGINT NOT NULL,
    expires_at    BIGINT NOT NULL,
    lease_owner   TEXT NOT NULL DEFAULT '',
    lease_epoch   BIGINT NOT NULL DEFAULT 0,
    lease_until   BIGINT NOT NULL DEFAULT 0,
    UNIQUE (episode_id, playbook)
);
CREATE INDEX candidates_due ON candidates (due_at) WHERE phase = 'queued';
CREATE INDEX candidates_run ON candidates (run_id);

CREATE TABLE runs (
    id            TEXT PRIMARY KEY,
    playbook      TEXT NOT NULL,
    playbook_hash TEXT NOT NULL,
    priority      BIGINT NOT NULL,
    exclusive     SMALLINT NOT NULL,
    source        TEXT NOT NULL,
    target        TEXT NOT NULL,
    target_key    TEXT NOT NULL,
    attempt_key   TEXT NOT NULL,
    lock_key      TEXT NOT NULL,
    alertname     TEXT NOT NULL,
    namespace     TEXT NOT NULL,
    target_kind   TEXT NOT NULL,
    target_name   TEXT NOT NULL,
    phase         TEXT NOT NULL,
    wait          TEXT NOT NULL,
    outcome       TEXT NOT NULL,
    reason        TEXT NOT NULL,
    message       TEXT NOT NULL,
    remedy        BIGINT NOT NULL,
    step          BIGINT NOT NULL,
    disruptive    SMALLINT NOT NULL,
    state         TEXT NOT NULL,
    created_at    BIGINT NOT NULL,
    due_at        BIGINT NOT NULL,
    expires_at    BIGINT NOT NULL,
    admitted_at   BIGINT NOT NULL,
    intent_at     BIGINT NOT NULL,
    ended_at      BIGINT NOT NULL,
    fired_at      BIGINT NOT NULL,
    lease_owner   TEXT NOT NULL DEFAULT '',
    lease_epoch   BIGINT NOT NULL DEFAULT 0,
    lease_until   BIGINT NOT NULL DEFAULT 0,
    lease_ttl     BIGINT NOT NULL DEFAULT 0,
    taken_over    SMALLINT NOT NULL DEFAULT 0
);
-- Joining: at most one live run of a playbook on a target.
CREATE UNIQUE INDEX runs_one_live ON runs (playbook, target_key) WHERE phase <> 'done';
CREATE INDEX runs_due ON runs (due_at) WHERE phase <> 'done';
CREATE INDEX runs_active ON runs (playbook) WHERE phase = 'active';
CREATE INDEX runs_past ON runs (attempt_key, ended_at) WHERE intent_at > 0;
CREATE INDEX runs_created ON runs (created_at, id);

CREATE TABLE steps (
    run_id TEXT NOT NULL REFERENCES runs (id),
    remedy BIGINT NOT NULL,
    step   BIGINT NOT NULL,
    status TEXT NOT NULL,
    doc    TEXT NOT NULL,
    PRIMARY KEY (run_id, remedy, step)
);

CREATE TABLE run_locks (
    lock_key TEXT PRIMARY KEY,
    run_id   TEXT NOT NULL REFERENCES runs (id),
    taken_at BIGINT NOT NULL
);
CREATE INDEX run_locks_run ON run_locks (run_id);

CREATE TABLE reservations (
    run_id      TEXT NOT NULL REFERENCES runs (id),
    scope       TEXT NOT NULL,
    target_key  TEXT NOT NULL,
    created_at  BIGINT NOT NULL,
    released_at BIGINT NOT NULL DEFAULT 0,
    PRIMARY KEY (run_id, scope, target_key)
);
CREATE INDEX reservations_released ON reservations (released_at);

-- Rows that admission locks, in sorted order; they hold nothing.
CREATE TABLE guard_scopes (
    scope TEXT PRIMARY KEY
);

CREATE TABLE pauses (
    scope     TEXT NOT NULL,
    value     TEXT NOT NULL,
    by_whom   TEXT NOT NULL,
    why       TEXT NOT NULL,
    at        BIGINT NOT NULL,
    PRIMARY KEY (scope, value)
);

CREATE TABLE approvals (
    run_id     TEXT NOT NULL REFERENCES runs (id),
    remedy     BIGINT NOT NULL,
    plan_hash  TEXT NOT NULL,
    target_uid TEXT NOT NULL,
    status     TEXT NOT NULL,
    asked_at   BIGINT NOT NULL,
    decided_at BIGINT NOT NULL,
    by_whom    TEXT NOT NULL,
    why        TEXT NOT NULL,
    PRIMARY KEY (run_id, remedy, plan_hash)
);
CREATE UNIQUE INDEX approvals_one_pending ON approvals (run_id) WHERE status = 'pending';
CREATE INDEX approvals_status ON approvals (status, asked_at);

CREATE TABLE outbox (
    id          TEXT PRIMARY KEY,
    channel     TEXT NOT NULL,
    run_id      TEXT NOT NULL,
    order_key   TEXT NOT NULL,
    payload     TEXT NOT NULL,
    recorded    BIGINT NOT NULL,
    ord         BIGINT NOT NULL,
    status      TEXT NOT NULL,
    error       TEXT NOT NULL DEFAULT '',
    attempts    BIGINT NOT NULL DEFAULT 0,
    due_at      BIGINT NOT NULL,
    lease_owner TEXT NOT NULL DEFAULT '',
    lease_epoch BIGINT NOT NULL DEFAULT 0,
    lease_until BIGINT NOT NULL DEFAULT 0
);
CREATE INDEX outbox_head ON outbox (channel, order_key, recorded, ord, id) WHERE status = 'pending';
CREATE INDEX outbox_due ON outbox (channel, due_at) WHERE status = 'pending';

-- (recorded, ord, id) is the order in which entries are sealed; seq is NULL
-- until then. doc is the entry without seq and hashes; the other columns are
-- copies to filter by.
CREATE TABLE journal (
    id          TEXT PRIMARY KEY,
    recorded    BIGINT NOT NULL,
    ord         BIGINT NOT NULL,
    seq         BIGINT,
    prev_hash   TEXT NOT NULL DEFAULT '',
    hash        TEXT NOT NULL DEFAULT '',
    at          BIGINT NOT NULL,
    kind        TEXT NOT NULL,
    run_id      TEXT NOT NULL,
    episode_id  TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    alertname   TEXT NOT NULL,
    playbook    TEXT NOT NULL,
    namespace   TEXT NOT NULL,
    target_kind TEXT NOT NULL,
    target_name TEXT NOT NULL,
    action      TEXT NOT NULL,
    outcome     TEXT NOT NULL,
    reason      TEXT NOT NULL,
    doc         TEXT NOT NULL
);
CREATE UNIQUE INDEX journal_seq ON journal (seq);
CREATE INDEX journal_unsealed ON journal (recorded, ord, id) WHERE seq IS NULL;
CREATE INDEX journal_at ON journal (at, seq);
CREATE INDEX journal_run ON journal (run_id, seq);
CREATE INDEX journal_episode ON journal (episode_id, seq);
CREATE INDEX journal_fingerprint ON journal (fingerprint, seq);
CREATE INDEX journal_alertname ON journal (alertname, seq);
CREATE INDEX journal_playbook ON journal (playbook, seq);
CREATE INDEX journal_namespace ON journal (namespace, seq);

CREATE TABLE leases (
    name        TEXT PRIMARY KEY,
    owner       TEXT NOT NULL,
    lease_until BIGINT NOT NULL
);

CREATE TABLE kv (
    k          TEXT PRIMARY KEY,
    v          TEXT NOT NULL,
    updated_at BIGINT NOT NULL
);

-- +goose Down
DROP TABLE kv;
DROP TABLE leases;
DROP TABLE journal;
DROP TABLE outbox;
DROP TABLE approvals;
DROP TABLE pauses;
DROP TABLE guard_scopes;
DROP TABLE reservations;
DROP TABLE run_locks;
DROP TABLE steps;
DROP TABLE runs;
DROP TABLE candidates;
DROP TABLE episodes;
DROP TABLE signals;
DROP TABLE playbooks;
DROP TABLE clock;
