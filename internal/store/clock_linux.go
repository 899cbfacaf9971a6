package store

import (
	"syscall"
	"time"
	"unsafe"
)

// steadyClock counts the time since the machine was started, sleep included:
// time that passed while it was suspended is no step of the wall clock.
func steadyClock() func() time.Duration {
	const bootTime = 7 // CLOCK_BOOTTIME
	read := func() (time.Duration, bool) {
		var ts syscall.Timespec
		_, _, errno := syscall.Syscall(syscall.SYS_CLOCK_GETTIME, bootTime, uintptr(unsafe.Pointer(&ts)), 0)
		return time.Duration(ts.Nano()), errno == 0
	}
	if _, ok := read(); !ok {
		return monotonic()
	}
	return func() time.Duration { d, _ := read(); return d }
}
