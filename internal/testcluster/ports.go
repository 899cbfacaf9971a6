package testcluster

import (
	"context"
	"fmt"
	"net"
	"strconv"
)

// freePorts returns n distinct free loopback ports. They are held together
// until all are known, then let go for the programs to take: one may be lost
// to another process in between, which shows as a program that ends at once.
func freePorts(n int) ([]int, error) {
	ports := make([]int, 0, n)
	for range n {
		l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
		if err != nil {
			return nil, fmt.Errorf("find a free port: %w", err)
		}
		defer l.Close()
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports, nil
}

func loopback(port int) string { return "127.0.0.1:" + strconv.Itoa(port) }
