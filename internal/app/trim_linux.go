package app

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
)

// trim gives memory back that only the start has needed: what is free in the
// heap, and the pages of the program file. Kubernetes' API types and clients,
// CEL and SQLite touch 50 MiB of it as they initialise themselves and a fraction
// later; the kernel maps again what is used, from its page cache.
func trim() error {
	debug.FreeOSMemory()
	self, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return fmt.Errorf("find the program file: %w", err)
	}
	maps, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		return fmt.Errorf("read the mappings of the program: %w", err)
	}
	for _, m := range ofFile(maps, self) {
		if _, _, errno := syscall.Syscall(syscall.SYS_MADVISE, m.from, m.to-m.from, syscall.MADV_DONTNEED); errno != 0 {
			return fmt.Errorf("give back the pages %x-%x of the program: %w", m.from, m.to, errno)
		}
	}
	return nil
}

// mapping is a range of addresses.
type mapping struct{ from, to uintptr }

// ofFile returns the mappings of a file, from the text of /proc/PID/smaps, of
// which every page can be read from it again: nobody may write to them, and none
// is a copy that was written to before (a dynamic linker does that).
func ofFile(smaps []byte, file string) []mapping {
	var out []mapping
	candidate := false
	lines := bufio.NewScanner(bytes.NewReader(smaps))
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		switch {
		case len(fields) >= 2 && fields[0] == "Anonymous:" && fields[1] != "0":
			if candidate {
				out = out[:len(out)-1]
			}
			candidate = false
		case len(fields) >= 5 && !strings.HasSuffix(fields[0], ":"):
			var m mapping
			if candidate = len(fields) == 6 && fields[5] == file && !strings.Contains(fields[1], "w") && m.parse(fields[0]); candidate {
				out = append(out, m)
			}
		}
	}
	return out
}

// parse reads from-to in hexadecimal.
func (m *mapping) parse(text string) bool {
	from, to, _ := strings.Cut(text, "-")
	first, err := strconv.ParseUint(from, 16, strconv.IntSize)
	end, err2 := strconv.ParseUint(to, 16, strconv.IntSize)
	m.from, m.to = uintptr(first), uintptr(end)
	return err == nil && err2 == nil && m.from < m.to
}
