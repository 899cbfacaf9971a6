package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
)

// fault is what kind of trouble a driver's error means.
type fault int

const (
	faultOther       fault = iota
	faultRetry             // serialization failure, deadlock: the transaction may be run again
	faultUnique            // a unique constraint
	faultBusy              // another process holds the file
	faultCorrupt           // the file is damaged
	faultFull              // no space
	faultReadOnly          // no permission to write
	faultUnavailable       // the server or the disk does not answer
)

// wrap adds what was tried and what to do about it. It keeps the store's own
// errors, and those of contexts, visible to errors.Is.
func (s *Store) wrap(what string, err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, context.Canceled) {
		return fmt.Errorf("%s: %w", what, err)
	}
	for _, own := range []error{ErrFenced, ErrJoined, ErrNotFound, ErrNewerSchema, ErrBusy, ErrNoApproval, ErrPlanChanged, ErrUnavailable, ErrCorrupt, ErrBadCursor, ErrAmbiguous, ErrInvalid} {
		if errors.Is(err, own) {
			return fmt.Errorf("%s: %w", what, err)
		}
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%s: %w: %s did not answer in time, look at its load and, if there is one, the network between: %w", what, ErrUnavailable, s.loc.shown, err)
	}
	f := s.dialect.fault(err)
	if s.loc.url != "" {
		return s.wrapServer(what, f, err)
	}
	switch f {
	case faultBusy:
		return fmt.Errorf("%s: %w (%s): stop the other process, SQLite serves one only: %w", what, ErrBusy, s.loc.shown, err)
	case faultCorrupt:
		err = s.corrupt(err)
		s.foundDamage(err)
		return fmt.Errorf("%s: %w", what, err)
	case faultFull:
		return fmt.Errorf("%s: %w: the disk of %s is full, free some space: %w", what, ErrUnavailable, s.loc.shown, err)
	case faultReadOnly:
		return fmt.Errorf("%s: %w: %s cannot be written, check the owner and mode of the file and its directory, "+
			"and whether the file system is mounted read-only: %w", what, ErrUnavailable, s.loc.shown, err)
	case faultUnavailable, faultRetry:
		return fmt.Errorf("%s: %w: %s cannot be read or written, look for errors of the disk in the kernel's log (dmesg), and for a limit on the size of files: %w",
			what, ErrUnavailable, s.loc.shown, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}

// wrapServer is wrap for what a database server says.
func (s *Store) wrapServer(what string, f fault, err error) error {
	switch f {
	case faultCorrupt:
		return fmt.Errorf("%s: %w (%s): PostgreSQL reports damaged data; stop all replicas, then restore the server's backup or alertmedic's (alertmedic restore): %w",
			what, ErrCorrupt, s.loc.shown, err)
	case faultFull:
		return fmt.Errorf("%s: %w: the disk of the server of %s is full, free some space there: %w", what, ErrUnavailable, s.loc.shown, err)
	case faultReadOnly:
		return fmt.Errorf("%s: %w: %s does not take writes: it is a standby, or default_transaction_read_only is set; "+
			"lead the DSN to the primary (with several hosts in it, add target_session_attrs=read-write): %w", what, ErrUnavailable, s.loc.shown, err)
	case faultUnavailable, faultRetry, faultBusy:
		return fmt.Errorf("%s: %w (%s), check that it runs and can be reached: %w", what, ErrUnavailable, s.loc.shown, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}

// corrupt says that the file is damaged and how to get out of it.
func (s *Store) corrupt(err error) error {
	if errors.Is(err, errDamagedLog) {
		return fmt.Errorf("%w: %s: keep a copy of %s and %s-wal, then restore a backup with `alertmedic restore --force`; "+
			"or give up what was committed after the damage, with `sqlite3 %s 'PRAGMA wal_checkpoint(TRUNCATE)'`, and start again: %w",
			ErrCorrupt, s.loc.shown, s.loc.shown, s.loc.shown, s.loc.shown, err)
	}
	return fmt.Errorf("%w: %s: stop this process, keep a copy of the file, then restore a backup with `alertmedic restore --force`, or recover what is readable with "+
		"`sqlite3 %s .recover | sqlite3 recovered.db`; to start with an empty database, move %s* away: %w",
		ErrCorrupt, s.loc.shown, s.loc.shown, s.loc.shown, err)
}

// notFound turns the absence of a row into ErrNotFound.
func notFound(err error, format string, args ...any) error {
	if errors.Is(err, sql.ErrNoRows) {
		return fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), ErrNotFound)
	}
	return err
}

// text makes untrusted text storable: PostgreSQL refuses the zero byte and what
// is no UTF-8.
func text(s string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
}

func flag(b bool) int64 {
	if b {
		return 1
	}
	return 0
}
