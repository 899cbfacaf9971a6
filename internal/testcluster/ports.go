package testcluster

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
)

// The ports of programs lie below those that the kernel gives to whoever asks
// for any, as listeners and connections of tests do all the time: a program that
// is slow to start, or is killed and started again, finds its port free.
const firstPort, lastPort = 15000, 29999

// freePorts returns n distinct free loopback ports. They are held together
// until all are known, then let go for the programs to take. Another process may
// choose one of them in between, by one chance in thousands, which shows as a
// program that ends at once.
func freePorts(n int) ([]int, error) {
	ports := make([]int, 0, n)
	for range 100 * n {
		port := 0 // any
		if reserved() {
			port = firstPort + rand.IntN(lastPort-firstPort+1)
		}
		l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", loopback(port))
		if err != nil {
			if port == 0 {
				return nil, fmt.Errorf("find a free port: %w", err)
			}
			continue // taken
		}
		defer l.Close()
		if ports = append(ports, l.Addr().(*net.TCPAddr).Port); len(ports) == n {
			return ports, nil
		}
	}
	return nil, fmt.Errorf("find %d free ports between %d and %d: only %d were found", n, firstPort, lastPort, len(ports))
}

// reserved reports whether the kernel leaves the range of ours alone.
func reserved() bool {
	data, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	if err != nil {
		return false // not Linux
	}
	var low, high int
	_, err = fmt.Sscan(string(data), &low, &high)
	return err == nil && (low > lastPort || high < firstPort)
}

func loopback(port int) string { return "127.0.0.1:" + strconv.Itoa(port) }
