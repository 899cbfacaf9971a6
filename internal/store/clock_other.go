//go:build !linux

package store

import "time"

func steadyClock() func() time.Duration { return monotonic() }
