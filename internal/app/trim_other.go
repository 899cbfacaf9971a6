//go:build !linux

package app

import "runtime/debug"

// trim gives memory back that only the start has needed.
func trim() error {
	debug.FreeOSMemory()
	return nil
}
