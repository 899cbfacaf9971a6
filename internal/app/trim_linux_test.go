package app

import (
	"os"
	"regexp"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestOnlyPagesThatCanBeReadAgainAreGivenBack(t *testing.T) {
	t.Parallel()
	const smaps = `00400000-00c00000 r-xp 00000000 08:01 1 /bin/medic
Rss:                 100 kB
Anonymous:             0 kB
VmFlags: rd ex mr mw me
00c00000-01000000 r--p 00800000 08:01 1 /bin/medic
Rss:                 100 kB
Anonymous:             4 kB
01000000-01400000 rw-p 00c00000 08:01 1 /bin/medic
Anonymous:             0 kB
01400000-01800000 r--p 00c00000 08:01 1 /bin/medic
Anonymous:             0 kB
01800000-01c00000 rw-p 00000000 00:00 0
Anonymous:             8 kB
7f0000000000-7f0000400000 r-xp 00000000 08:01 2 /lib/libc.so
Anonymous:             0 kB
7f0000400000-7f0000800000 r--p 00000000 08:01 1 [vvar]
Anonymous:             0 kB
`
	require.Equal(t, []mapping{{0x400000, 0xc00000}, {0x1400000, 0x1800000}}, ofFile([]byte(smaps), "/bin/medic"))
	require.Empty(t, ofFile([]byte("nonsense\n"), "/bin/medic"))
}

// The program goes on after it: this test does.
func TestTrimGivesPagesOfTheProgramBack(t *testing.T) { //nolint:paralleltest // others would touch pages meanwhile
	before := fileRSS(t)
	require.NoError(t, trim())
	require.Less(t, fileRSS(t), before, "KiB of the program file")
}

func fileRSS(t *testing.T) int {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	require.NoError(t, err)
	m := regexp.MustCompile(`RssFile:\s+(\d+) kB`).FindSubmatch(status)
	require.NotNil(t, m)
	kib, err := strconv.Atoi(string(m[1]))
	require.NoError(t, err)
	return kib
}
