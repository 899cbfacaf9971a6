package store

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
)

// PutPlaybook keeps the snapshot of a playbook under its hash, which runs refer
// to. Putting it again says that it is in use: Prune keeps it for as long as a
// new one. Another document under the same hash is refused with ErrInvalid.
func (s *Store) PutPlaybook(ctx context.Context, hash string, doc []byte) error {
	if hash == "" {
		return s.wrap("keep the playbook", fmt.Errorf("%w: the hash is empty", ErrInvalid))
	}
	return s.inTx(ctx, "keep the playbook", func(t *txn) error {
		var have string
		err := t.QueryRowContext(ctx, `INSERT INTO playbooks (hash, doc, created_at) VALUES ($1, $2, $3)
			ON CONFLICT (hash) DO UPDATE SET created_at = excluded.created_at RETURNING doc`, hash, string(doc), micros(t.now)).Scan(&have)
		if err != nil {
			return err
		}
		if have != string(doc) {
			return fmt.Errorf("%w: another playbook (sha256 %s) has the hash %s already", ErrInvalid, shortSum(have), hash)
		}
		return nil
	})
}

func shortSum(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:6])
}

// GetPlaybook returns a snapshot; the error wraps ErrNotFound.
func (s *Store) GetPlaybook(ctx context.Context, hash string) ([]byte, error) {
	var doc string
	err := s.read.QueryRowContext(ctx, "SELECT doc FROM playbooks WHERE hash = $1", text(hash)).Scan(&doc)
	if err != nil {
		return nil, s.wrap("read the playbook", notFound(err, "the playbook snapshot %s", hash))
	}
	return []byte(doc), nil
}

// GetValue returns a small value that a part of the service keeps across
// restarts; the error wraps ErrNotFound.
func (s *Store) GetValue(ctx context.Context, key string) (string, error) {
	var v string
	err := s.read.QueryRowContext(ctx, "SELECT v FROM kv WHERE k = $1", text(key)).Scan(&v)
	return v, s.wrap("read the value", notFound(err, "the value %s", key))
}

// SetValue stores a small value; the last writer wins.
func (s *Store) SetValue(ctx context.Context, key, value string) error {
	return s.inTx(ctx, "store the value", func(t *txn) error {
		return t.exec(ctx, `INSERT INTO kv (k, v, updated_at) VALUES ($1, $2, $3)
			ON CONFLICT (k) DO UPDATE SET v = excluded.v, updated_at = excluded.updated_at`, text(key), text(value), micros(t.now))
	})
}
