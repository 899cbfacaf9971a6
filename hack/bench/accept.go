package main

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"sync/atomic"
	"time"
)

// stretch is how long one measurement of load lasts.
const stretch = 2500 * time.Millisecond

// accept compares the durable webhook, with no engine at work, with a handler
// that stores nothing.
func accept(ctx context.Context, b *bench) error {
	bare, err := b.child(ctx, "bare", "")
	if err != nil {
		return err
	}
	servers := map[string]*child{}
	for _, kind := range databaseKinds {
		dsn, err := b.database(ctx, kind)
		if err != nil {
			return err
		}
		if servers[kind], err = b.child(ctx, "durable", dsn); err != nil {
			return err
		}
	}
	var n atomic.Int64
	for _, connections := range []int{16, 256} {
		rates, ratios, p99 := map[string][]float64{}, map[string][]float64{}, map[string][]float64{}
		for range b.rounds {
			base, err := load(ctx, bare.address, podAlert, &n, connections, stretch)
			if err != nil {
				return fmt.Errorf("bare handler: %w", err)
			}
			rates["bare"] = append(rates["bare"], base.rate)
			for _, kind := range databaseKinds {
				got, err := load(ctx, servers[kind].address, podAlert, &n, connections, stretch)
				if err != nil {
					return fmt.Errorf("%s: %w", kind, err)
				}
				if got.refused > 0 {
					return fmt.Errorf("%s: %d webhooks were refused", kind, got.refused)
				}
				rates[kind] = append(rates[kind], got.rate)
				ratios[kind] = append(ratios[kind], got.rate/base.rate)
				p99[kind] = append(p99[kind], ms(percentile(got.latencies, 0.99)))
			}
		}
		b.figure(fmt.Sprintf("bare handler, %d connections", connections), "requests/s", rates["bare"], 0, true, "")
		for _, kind := range databaseKinds {
			b.figure(fmt.Sprintf("%s, %d connections", kind, connections), "requests/s", rates[kind], 0, true, "")
			b.figure(fmt.Sprintf("%s, %d connections, against the bare handler", kind, connections), "ratio", ratios[kind], 0.25, true, "")
			target := 0.0
			if connections == 16 {
				target = 25
			}
			b.figure(fmt.Sprintf("%s, %d connections, p99", kind, connections), "ms", p99[kind], target, false, "")
		}
	}
	return nil
}

// batch posts webhooks of 1,000 new alerts.
func batch(ctx context.Context, b *bench) error {
	for _, kind := range databaseKinds {
		dsn, err := b.database(ctx, kind)
		if err != nil {
			return err
		}
		server, err := b.child(ctx, "durable", dsn)
		if err != nil {
			return err
		}
		var took []float64
		for i := range int64(4 + 5*b.rounds) {
			body := webhook(podAlert, 1_000_000+i*1000, 1000)
			began := time.Now()
			resp, err := post(ctx, "http://"+server.address, body)
			if err != nil {
				return err
			}
			if resp != http.StatusOK {
				return fmt.Errorf("%s: answered %d", kind, resp)
			}
			if i >= 4 { // the first ones prepare statements and grow the heap
				took = append(took, ms(time.Since(began)))
			}
		}
		b.figure("a webhook of 1,000 new alerts, "+kind, "ms", took, 60, false, "")
	}
	return nil
}

// post sends a webhook and returns the status of the answer.
func post(ctx context.Context, url string, body []byte) (int, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/api/v1/webhook", bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	return resp.StatusCode, resp.Body.Close()
}
