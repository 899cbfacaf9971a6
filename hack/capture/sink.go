package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/alertmedic/alertmedic/internal/testcluster"
)

// record is one webhook: a line of a captured file.
type record struct {
	At       time.Time       `json:"at"`
	Until    time.Time       `json:"until"` // when it was answered
	Answered int             `json:"answered"`
	Body     json.RawMessage `json:"body"`

	payload payload
}

type payload struct {
	Status          string  `json:"status"`
	ExternalURL     string  `json:"externalURL"`
	TruncatedAlerts int     `json:"truncatedAlerts"`
	Alerts          []alert `json:"alerts"`
}

type alert struct {
	Status      string            `json:"status"`
	Labels      map[string]string `json:"labels"`
	StartsAt    time.Time         `json:"startsAt"`
	Fingerprint string            `json:"fingerprint"`
}

// has reports whether the webhook holds an alert of that status and name.
func (r record) has(status, name string) bool { return r.count(status, name) > 0 }

func (r record) count(status, name string) int {
	n := 0
	for _, a := range r.payload.Alerts {
		if a.Status == status && a.Labels["alertname"] == name {
			n++
		}
	}
	return n
}

func (r record) summary() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %d %s", r.At.Format("15:04:05.000"), r.Answered, r.payload.Status)
	for _, a := range r.payload.Alerts {
		fmt.Fprintf(&b, " [%s %s %s %s]", a.Status, a.Labels["alertname"], a.Fingerprint[:4], a.StartsAt.Format("05.000"))
	}
	return b.String()
}

// sink records webhooks and answers them as the scenario says.
type sink struct {
	server *http.Server
	served chan error // how serving ended
	url    string

	mu     sync.Mutex
	got    []record
	answer func(n int, r record) (code int, after time.Duration) // n counts from 0
}

func openSink(ctx context.Context) (*sink, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &sink{url: "http://" + l.Addr().String() + "/", served: make(chan error, 1)}
	s.server = &http.Server{Handler: s, ReadHeaderTimeout: 5 * time.Second}
	go func() { s.served <- s.server.Serve(l) }()
	return s, nil
}

func (s *sink) close() error {
	err := s.server.Close()
	if served := <-s.served; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return err
}

func (s *sink) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	r := record{At: time.Now().UTC(), Answered: http.StatusOK}
	body, err := io.ReadAll(io.LimitReader(req.Body, 16<<20))
	if err == nil {
		err = json.Unmarshal(body, &r.payload)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	r.Body = bytes.TrimSpace(body)
	s.mu.Lock()
	n := len(s.got)
	var after time.Duration
	if s.answer != nil {
		r.Answered, after = s.answer(n, r)
	}
	s.got = append(s.got, r)
	s.mu.Unlock()

	// A slow receiver goes on after the sender has hung up.
	time.Sleep(after)
	if r.Answered == http.StatusTooManyRequests {
		w.Header().Set("Retry-After", "1")
	}
	w.WriteHeader(r.Answered)
	s.mu.Lock()
	s.got[n].Until = time.Now().UTC()
	s.mu.Unlock()
}

func (s *sink) records() []record {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]record(nil), s.got...)
}

// wait returns when check accepts a webhook that arrived at index from or later,
// and its index.
func (s *sink) wait(ctx context.Context, what string, from int, check func(record) bool) (int, error) {
	at := 0
	err := testcluster.Poll(ctx, func(context.Context) (bool, error) {
		for i, r := range s.records() {
			if i >= from && !r.Until.IsZero() && check(r) {
				at = i
				return true, nil
			}
		}
		return false, nil
	})
	if err != nil {
		return 0, fmt.Errorf("wait for %s: %w", what, err)
	}
	return at, nil
}

func write(path string, records []record) error {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false) // the bodies stay as they were sent
	for _, r := range records {
		if err := enc.Encode(r); err != nil {
			return err
		}
	}
	return os.WriteFile(path, b.Bytes(), 0o644)
}
