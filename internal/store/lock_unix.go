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

// release drops the lock. The file stays: removing it would let a third process
// lock a new file while a second one holds the old.
func (l *fileLock) release() error {
	if err := l.f.Close(); err != nil {
		return fmt.Errorf("release the lock of the database: %w", err)
	}
	return nil
}
