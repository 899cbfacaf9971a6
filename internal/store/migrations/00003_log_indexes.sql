-- The log is read when it is sealed: an entry that waits for its seal is in one
-- index alone, and an empty column is in none. Every column that the log can be
-- filtered by has an index.

-- +goose Up
DROP INDEX journal_at;
DROP INDEX journal_run;
DROP INDEX journal_episode;
DROP INDEX journal_fingerprint;
DROP INDEX journal_alertname;
DROP INDEX journal_playbook;
DROP INDEX journal_namespace;
DROP INDEX journal_seq;
CREATE UNIQUE INDEX journal_seq ON journal (seq) WHERE seq IS NOT NULL;
CREATE INDEX journal_at ON journal (at, seq) WHERE seq IS NOT NULL;
CREATE INDEX journal_kind ON journal (kind, seq) WHERE seq IS NOT NULL;
CREATE INDEX journal_run ON journal (run_id, seq) WHERE seq IS NOT NULL AND run_id <> '';
CREATE INDEX journal_episode ON journal (episode_id, seq) WHERE seq IS NOT NULL AND episode_id <> '';
CREATE INDEX journal_fingerprint ON journal (fingerprint, seq) WHERE seq IS NOT NULL AND fingerprint <> '';
CREATE INDEX journal_alertname ON journal (alertname, seq) WHERE seq IS NOT NULL AND alertname <> '';
CREATE INDEX journal_playbook ON journal (playbook, seq) WHERE seq IS NOT NULL AND playbook <> '';
CREATE INDEX journal_namespace ON journal (namespace, seq) WHERE seq IS NOT NULL AND namespace <> '';
CREATE INDEX journal_target_kind ON journal (target_kind, seq) WHERE seq IS NOT NULL AND target_kind <> '';
CREATE INDEX journal_target_name ON journal (target_name, seq) WHERE seq IS NOT NULL AND target_name <> '';
CREATE INDEX journal_action ON journal (action, seq) WHERE seq IS NOT NULL AND action <> '';
CREATE INDEX journal_outcome ON journal (outcome, seq) WHERE seq IS NOT NULL AND outcome <> '';
CREATE INDEX journal_reason ON journal (reason, seq) WHERE seq IS NOT NULL AND reason <> '';

-- +goose Down
DROP INDEX journal_reason;
DROP INDEX journal_outcome;
DROP INDEX journal_action;
DROP INDEX journal_target_name;
DROP INDEX journal_target_kind;
DROP INDEX journal_namespace;
DROP INDEX journal_playbook;
DROP INDEX journal_alertname;
DROP INDEX journal_fingerprint;
DROP INDEX journal_episode;
DROP INDEX journal_run;
DROP INDEX journal_kind;
DROP INDEX journal_at;
DROP INDEX journal_seq;
CREATE UNIQUE INDEX journal_seq ON journal (seq);
CREATE INDEX journal_at ON journal (at, seq);
CREATE INDEX journal_run ON journal (run_id, seq);
CREATE INDEX journal_episode ON journal (episode_id, seq);
CREATE INDEX journal_fingerprint ON journal (fingerprint, seq);
CREATE INDEX journal_alertname ON journal (alertname, seq);
CREATE INDEX journal_playbook ON journal (playbook, seq);
CREATE INDEX journal_namespace ON journal (namespace, seq);
