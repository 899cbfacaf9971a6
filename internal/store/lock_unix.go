//go:build unix

package store

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// fileLock keeps a second process off an SQLite file: two engines on one file
// would each believe to be alone. The kernel drops the lock when the process
// ends, however it ends. It lies beside the database, in a file of its own,
// because SQLite's own locks on the database file must not be disturbed.
type fileLock struct{ f *os.File }

// lockFile takes the lock or returns ErrBusy at once.
func lockFile(path string) (*fileLock, error) {
	f, err := os.OpenFile(path+".lock", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the lock file beside the database: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		if errors.Is(err, syscall.EWOULDBLOCK) {
			err = fmt.Errorf("%w (%s): stop the other process; SQLite serves one replica only, PostgreSQL serves several", ErrBusy, path)
		} else {
			err = fmt.Errorf("lock %s.lock; its file system must support flock: %w", path, err)
		}
		return nil, errors.Join(err, f.Close())
	}
	return &fileLock{f: f}, nil
}

// lockMark is written into the lock file once there is a database beside it.
const lockMark = "alertmedic locks this file while it works on the database beside it.\nThat there is text in it says that the database was there.\n"

// mark says that there is a database now; see marked.
func (l *fileLock) mark() error {
	if marked, err := l.marked(); marked || err != nil {
		return err
	}
	if _, err := l.f.WriteAt([]byte(lockMark), 0); err != nil {
		return fmt.Errorf("mark the lock file: %w", err)
	}
	if err := l.f.Sync(); err != nil {
		return fmt.Errorf("mark the lock file: %w", err)
	}
	return nil
}

// marked reports whether there was a database before.
func (l *fileLock) marked() (bool, error) {
	info, err := l.f.Stat()
	if err != nil {
		return false, fmt.Errorf("look at the lock file: %w", err)
	}
	return info.Size() > 0, nil
}

// suspectMark follows lockMark when the database was found to be damaged.
const suspectMark = "It was found to be damaged: all of it is checked before it is used again.\n"

// suspect makes the next process check the whole database before it uses it. It
// does nothing where none has been used yet.
func (l *fileLock) suspect() error {
	if marked, err := l.marked(); !marked || err != nil {
		return err
	}
	if _, err := l.f.WriteAt([]byte(suspectMark), int64(len(lockMark))); err != nil {
		return fmt.Errorf("note the damage in the lock file: %w", err)
	}
	if err := l.f.Sync(); err != nil {
		return fmt.Errorf("note the damage in the lock file: %w", err)
	}
	return nil
}

// suspected reports whether suspect was called since the last clear.
func (l *fileLock) suspected() (bool, error) {
	info, err := l.f.Stat()
	if err != nil {
		return false, fmt.Errorf("look at the lock file: %w", err)
	}
	return info.Size() > int64(len(lockMark)), nil
}

// clear takes back what suspect noted: the whole database was checked.
func (l *fileLock) clear() error {
	if suspected, err := l.suspected(); !suspected || err != nil {
		return err
	}
	if err := l.f.Truncate(int64(len(lockMark))); err != nil {
		return fmt.Errorf("take back the note of a damage in the lock file: %w", err)
	}
	return nil
}

// release drops the lock. The file stays: removing it would let a third process
// lock a new file while a second one holds the old.
func (l *fileLock) release() error {
	// Not by Close alone: a child process that is just being started holds a copy
	// of the descriptor for a moment, and with it the lock.
	if err := errors.Join(syscall.Flock(int(l.f.Fd()), syscall.LOCK_UN), l.f.Close()); err != nil {
		return fmt.Errorf("release the lock of the database: %w", err)
	}
	return nil
}
