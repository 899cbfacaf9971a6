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
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%s: %w", what, err)
	}
	for _, own := range []error{ErrFenced, ErrNotFound, ErrNewerSchema, ErrBusy, ErrNoApproval, ErrPlanChanged, ErrUnavailable, ErrCorrupt, ErrBadCursor, ErrAmbiguous, ErrInvalid} {
		if errors.Is(err, own) {
			return fmt.Errorf("%s: %w", what, err)
		}
	}
	switch s.dialect.fault(err) {
	case faultBusy:
		return fmt.Errorf("%s: %w (%s): stop the other process, SQLite serves one only: %w", what, ErrBusy, s.loc.shown, err)
	case faultCorrupt:
		return fmt.Errorf("%s: %w", what, s.corrupt(err))
	case faultFull:
		return fmt.Errorf("%s: %w: the disk of %s is full, free some space: %w", what, ErrUnavailable, s.loc.shown, err)
	case faultReadOnly:
		return fmt.Errorf("%s: %w: %s cannot be written, check the owner and mode of the file and its directory: %w", what, ErrUnavailable, s.loc.shown, err)
	case faultUnavailable, faultRetry:
		return fmt.Errorf("%s: %w (%s), check that it runs and can be reached: %w", what, ErrUnavailable, s.loc.shown, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}

// corrupt says that the file is damaged and how to get out of it.
func (s *Store) corrupt(err error) error {
	return fmt.Errorf("%w: %s: stop this process, keep a copy of the file, then restore a backup or recover what is readable with "+
		"`sqlite3 %s .recover | sqlite3 recovered.db`; with the file moved away the service starts with an empty one: %w",
		ErrCorrupt, s.loc.shown, s.loc.shown, err)
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
