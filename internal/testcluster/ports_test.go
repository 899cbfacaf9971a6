package testcluster

import (
	"net"
	"testing"

	"github.com/stretchr/testify/require"
)

// Ports are distinct and free, and nobody who asks the kernel for any port is
// given one of them.
func TestFreePortsAreLeftAlone(t *testing.T) {
	t.Parallel()
	ports, err := freePorts(50)
	require.NoError(t, err)
	require.Len(t, ports, 50)
	seen := map[int]bool{}
	for _, p := range ports {
		require.False(t, seen[p], "%d twice", p)
		seen[p] = true
		if reserved() {
			require.GreaterOrEqual(t, p, firstPort)
			require.LessOrEqual(t, p, lastPort)
		}
	}
	l, err := net.Listen("tcp", loopback(ports[0]))
	require.NoError(t, err)
	require.NoError(t, l.Close())
}
