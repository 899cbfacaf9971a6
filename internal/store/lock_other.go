//go:build !unix

package store

import "errors"

type fileLock struct{}

func lockFile(string) (*fileLock, error) {
	return nil, errors.New("SQLite needs flock, which this operating system lacks: use PostgreSQL")
}

func (*fileLock) release() error           { return nil }
func (*fileLock) mark() error              { return nil }
func (*fileLock) marked() (bool, error)    { return false, nil }
func (*fileLock) suspect() error           { return nil }
func (*fileLock) suspected() (bool, error) { return false, nil }
func (*fileLock) clear() error             { return nil }
