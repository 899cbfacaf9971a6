package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
)

// health is what is known of whether the database can be written. The zero value
// knows nothing bad. Safe for concurrent use.
type health struct {
	mu sync.Mutex
	// failed is how the last write failed because of the database, nil after one
	// that did not.
	failed error
	// damaged is set once, when a page of an SQLite file turns out to be damaged.
	// Nothing is written after that: it would make the damage worse, and what is
	// acknowledged might not be read again. A restart checks the whole file first.
	damaged error
	// files are what SQLite has open, by the path that a restart would look at.
	files []openFile
}

type openFile struct {
	path string
	info os.FileInfo
	fix  string
}

// watch remembers the file behind a path as the one that is open; fix says what
// to do when it is not there any more.
func (h *health) watch(path, fix string) error {
	info, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("look at what was opened: %w", err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.files = append(h.files, openFile{path, info, fix})
	return nil
}

// writable says why nothing may be committed: SQLite goes on in a file without a
// name when its own is deleted or replaced, and what it writes there is gone
// with the process. It asks the file system once for each file.
func (h *health) writable() error {
	h.mu.Lock()
	damaged, files := h.damaged, h.files
	h.mu.Unlock()
	if damaged != nil {
		return damaged
	}
	for _, f := range files {
		now, err := os.Stat(f.path)
		if err == nil && os.SameFile(now, f.info) {
			continue
		}
		what := "was replaced"
		if errors.Is(err, os.ErrNotExist) {
			what = "was deleted"
		} else if err != nil {
			what = fmt.Sprintf("cannot be looked at (%v)", err)
		}
		return fmt.Errorf("%w: %s %s while this process works on it, so what it wrote would be lost: %s", ErrUnavailable, f.path, what, f.fix)
	}
	return nil
}

// wrote takes note of how a write ended and tells when that changes.
func (h *health) wrote(err error, log *slog.Logger) {
	bad := errors.Is(err, ErrUnavailable) || errors.Is(err, ErrCorrupt) || errors.Is(err, ErrBusy)
	if err != nil && !bad {
		return // fenced, cancelled and the like say nothing about the database
	}
	h.mu.Lock()
	before := h.failed
	h.failed = err
	h.mu.Unlock()
	switch {
	case bad && before == nil:
		log.Error("the database cannot be written: webhooks are answered 503 and nothing is changed until it can; this goes on by itself when the cause is gone", "err", err)
	case !bad && before != nil:
		log.Info("the database can be written again")
	}
}

// lastFailure is how the last write failed, nil if it did not.
func (h *health) lastFailure() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.failed
}

// found notes a damage, the first one for good, and reports whether this is it.
func (h *health) found(err error) (first bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.damaged != nil {
		return false
	}
	h.damaged = err
	return true
}

// damage is what was found, nil if nothing was.
func (h *health) damage() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.damaged
}

// checkThere refuses to make a new database where one has been: whatever was
// acknowledged would be forgotten, cooldowns too, without anybody being told.
func (s *Store) checkThere() error {
	info, err := os.Stat(s.loc.file)
	what := "is empty"
	switch {
	case errors.Is(err, os.ErrNotExist):
		what = "is gone"
	case err != nil:
		return fmt.Errorf("look at the database: %w", err)
	case info.Size() > 0:
		return nil
	}
	const fix = "restore a backup (alertmedic restore), or put the file back"
	if _, err := os.Stat(s.loc.file + "-wal"); err == nil {
		return fmt.Errorf("%w: %s %s and its log %s-wal is still there: %s; to start with an empty database, move %s* away",
			ErrCorrupt, s.loc.file, what, s.loc.file, fix, s.loc.file)
	}
	marked, err := s.lock.marked()
	if err != nil || !marked {
		return err
	}
	return fmt.Errorf("%w: there was a database %s, and it %s: %s; to start with an empty one, which knows no cooldown and no run, remove %s.lock",
		ErrCorrupt, s.loc.file, what, fix, s.loc.file)
}

// watchFiles makes sure of noticing when the open files lose their names. One
// connection stays open until the end: if all of them went at once, SQLite would
// remove its log and begin another.
func (s *Store) watchFiles(ctx context.Context) error {
	var err error
	if s.anchor, err = s.read.Conn(ctx); err != nil {
		return fmt.Errorf("keep a connection: %w", err)
	}
	var n int
	if err := s.anchor.QueryRowContext(ctx, "SELECT count(*) FROM clock").Scan(&n); err != nil { // opens the log
		return fmt.Errorf("open the log: %w", err)
	}
	return errors.Join(
		s.health.watch(s.loc.file, "put the file back; or, since this process still reads what was in it, take a backup from it (alertmedic backup), stop it, restore the backup and start it"),
		s.health.watch(s.loc.file+"-wal", "stop this process in order (SIGTERM), which writes the log that it still has into the database, and start it again"))
}

// Ping reports whether webhooks can be accepted: the database answers, its file
// is the one that was opened, and it can be written as far as is known. After a
// write that failed it tries another, so that a process which gets no more work
// because it is not ready finds out that it could do some.
func (s *Store) Ping(ctx context.Context) error {
	var one int
	if err := s.read.QueryRowContext(ctx, "SELECT 1 FROM clock UNION SELECT 1").Scan(&one); err != nil {
		return s.wrap("ask the database", err)
	}
	if err := s.health.writable(); err != nil {
		return s.wrap("ask the database", err)
	}
	if s.health.lastFailure() == nil {
		return nil
	}
	return s.inTx(ctx, "try to write", func(t *txn) error {
		return t.exec(ctx, `INSERT INTO kv (k, v, updated_at) VALUES ('store.tried', '', $1)
			ON CONFLICT (k) DO UPDATE SET updated_at = excluded.updated_at`, micros(t.now))
	})
}
