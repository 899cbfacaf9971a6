package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/alertmedic/alertmedic/internal/alert"
)

// shape makes alert number n: its labels.
type shape func(n int64) map[string]string

// podAlert is what a rule of the shipped library fires about a pod.
func podAlert(n int64) map[string]string {
	return map[string]string{
		"alertname": "KubePodCrashLooping", "namespace": "shop", "pod": fmt.Sprintf("web-7c9f8b6d5-%06d", n), "container": "app",
		"severity": "warning", "job": "kube-state-metrics", "prometheus": "monitoring/k8s", "reason": "CrashLoopBackOff",
	}
}

// alertStart is when the alerts began. See beganNow.
var alertStart = time.Now().Add(-5 * time.Minute).UTC().Format(time.RFC3339Nano)

// beganNow makes alerts begin after what they are about was made, as it is with
// real ones.
func beganNow() { alertStart = time.Now().UTC().Format(time.RFC3339Nano) }

// webhook is Alertmanager's payload for the alerts first to first+count-1.
func webhook(of shape, first, count int64) []byte {
	var out bytes.Buffer
	out.WriteString(`{"receiver":"alertmedic","status":"firing","alerts":[`)
	for i := range count {
		if i > 0 {
			out.WriteByte(',')
		}
		writeAlert(&out, of(first+i), first+i)
	}
	fmt.Fprintf(&out, `],"groupLabels":{"alertname":"KubePodCrashLooping"},"commonLabels":{"alertname":"KubePodCrashLooping","severity":"warning"},"commonAnnotations":{},"externalURL":"http://alertmanager.example.org:9093","version":"4","groupKey":"{}:{alertname=\"KubePodCrashLooping\"}","truncatedAlerts":0}`)
	return out.Bytes()
}

func writeAlert(out *bytes.Buffer, labels map[string]string, n int64) {
	doc, err := json.Marshal(labels)
	if err != nil {
		panic(err) // strings
	}
	out.WriteString(`{"status":"firing","labels":`)
	out.Write(doc)
	fmt.Fprintf(out, `,"annotations":{"summary":"Pod is crash looping.","description":"Pod shop/web-%d (app) is in waiting state (reason: CrashLoopBackOff).","runbook_url":"https://runbooks.example.org/KubePodCrashLooping"},"startsAt":%q,"endsAt":"0001-01-01T00:00:00Z","generatorURL":"http://prometheus.example.org:9090/graph?g0.expr=max_over_time&g0.tab=1","fingerprint":%q}`,
		n, alertStart, alert.Fingerprint(labels))
}

// outcome of a stretch of load.
type outcome struct {
	rate      float64         // answers 200 a second
	latencies []time.Duration // sorted
	refused   int64           // answers other than 200
}

// load posts new alerts, one a request, over as many connections as are given,
// each of which sends the next when it has the answer. The client is as lean as
// can be, since it shares the machine with the server: raw connections, and a
// response is read for its status and length alone.
func load(ctx context.Context, address string, of shape, next *atomic.Int64, connections int, d time.Duration) (outcome, error) {
	ctx, cancel := context.WithTimeout(ctx, d+10*time.Second)
	defer cancel()
	var mu sync.Mutex
	var out outcome
	var errs []error
	var wg sync.WaitGroup
	begin := time.Now()
	end := begin.Add(d)
	for range connections {
		wg.Go(func() {
			latencies, refused, err := drive(ctx, address, of, next, end)
			mu.Lock()
			defer mu.Unlock()
			out.latencies = append(out.latencies, latencies...)
			out.refused += refused
			if err != nil {
				errs = append(errs, err)
			}
		})
	}
	wg.Wait()
	out.rate = float64(len(out.latencies)) / time.Since(begin).Seconds()
	slices.Sort(out.latencies)
	return out, errors.Join(errs...)
}

func drive(ctx context.Context, address string, of shape, next *atomic.Int64, end time.Time) ([]time.Duration, int64, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, 0, err
	}
	defer conn.Close()
	in := bufio.NewReader(conn)
	latencies := make([]time.Duration, 0, 1<<14)
	refused := int64(0)
	var buf bytes.Buffer
	for time.Now().Before(end) {
		body := webhook(of, next.Add(1), 1)
		buf.Reset()
		fmt.Fprintf(&buf, "POST /api/v1/webhook HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n", len(body))
		buf.Write(body)
		began := time.Now()
		if _, err := conn.Write(buf.Bytes()); err != nil {
			return latencies, refused, err
		}
		status, err := answer(in)
		if err != nil {
			return latencies, refused, err
		}
		if status == 200 {
			latencies = append(latencies, time.Since(began))
		} else {
			refused++
		}
	}
	return latencies, refused, nil
}

// answer reads a response that gives its length.
func answer(in *bufio.Reader) (status int, err error) {
	line, err := in.ReadSlice('\n')
	if err != nil {
		return 0, err
	}
	if len(line) < 12 {
		return 0, fmt.Errorf("no HTTP response: %q", line)
	}
	if status, err = strconv.Atoi(string(line[9:12])); err != nil {
		return 0, err
	}
	length := -1
	for {
		if line, err = in.ReadSlice('\n'); err != nil {
			return 0, err
		}
		line = bytes.TrimRight(line, "\r\n")
		if len(line) == 0 {
			break
		}
		if name, value, ok := bytes.Cut(line, []byte(": ")); ok && bytes.EqualFold(name, []byte("Content-Length")) {
			if length, err = strconv.Atoi(string(value)); err != nil {
				return 0, err
			}
		}
	}
	if length < 0 {
		return 0, errors.New("the response has no Content-Length")
	}
	_, err = io.CopyN(io.Discard, in, int64(length))
	return status, err
}
