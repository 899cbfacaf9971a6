package durability

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/alertmedic/alertmedic/receiver"
)

// Relay hands webhooks of Alertmanager on to one of several replicas, as a
// Service would, and remembers each acknowledgement. With a seed it also does
// what networks do: it sends some webhooks twice, and it loses some answers, so
// that Alertmanager sends again what was accepted. Safe for concurrent use.
type Relay struct {
	// URL is the webhook's address.
	URL    string
	server *httptest.Server
	client *http.Client

	mu       sync.Mutex
	targets  []string
	random   *rand.Rand // nil: everything once
	accepted []Acceptance
	answers  map[int]int // HTTP status, 0 for none, to how often
	lost     int
	twice    int
}

// Acceptance is one webhook that was answered with 200.
type Acceptance struct {
	At     time.Time       `json:"at"`   // when the answer was here
	Sent   time.Time       `json:"sent"` // when the request left
	URL    string          `json:"url"`
	Alerts []AcceptedAlert `json:"alerts"`
	Answer receiver.Answer `json:"answer"`
}

// AcceptedAlert is one alert of an accepted webhook.
type AcceptedAlert struct {
	Fingerprint string            `json:"fingerprint"`
	Status      string            `json:"status"`
	StartsAt    time.Time         `json:"startsAt"`
	EndsAt      time.Time         `json:"endsAt"`
	Labels      map[string]string `json:"labels"`
}

// NewRelay listens until the test ends. seed 0 is a faithful relay.
func NewRelay(t testing.TB, seed uint64) *Relay {
	t.Helper()
	r := &Relay{answers: map[int]int{}, client: &http.Client{Timeout: 15 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 16}}}
	if seed != 0 {
		r.random = rand.New(rand.NewPCG(seed, 1))
	}
	r.server = httptest.NewServer(r)
	r.URL = r.server.URL + "/api/v1/webhook"
	t.Cleanup(func() {
		r.server.Close()
		r.client.CloseIdleConnections()
	})
	return r
}

// To sets the base URLs of the replicas.
func (r *Relay) To(urls ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.targets = urls
}

// Accepted are the acknowledgements so far.
func (r *Relay) Accepted() []Acceptance {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]Acceptance(nil), r.accepted...)
}

// Answers counts the answers of the replicas by HTTP status; 0 is no answer.
func (r *Relay) Answers() map[int]int {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := map[int]int{}
	for k, v := range r.answers {
		out[k] = v
	}
	return out
}

// ServeHTTP implements http.Handler.
func (r *Relay) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(io.LimitReader(req.Body, 8<<20))
	if err != nil {
		return
	}
	r.mu.Lock()
	var first, second string
	n, lose, again := len(r.targets), false, false
	if n > 0 {
		i := 0
		if r.random != nil {
			i = r.random.IntN(n)
			lose, again = r.random.IntN(20) == 0, r.random.IntN(10) == 0
		}
		first, second = r.targets[i], r.targets[(i+1)%n]
	}
	r.mu.Unlock()
	if n == 0 {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	if again {
		r.locked(func() { r.twice++ })
		var both sync.WaitGroup
		defer both.Wait()
		both.Go(func() { r.post(req.Context(), second, body) })
	}
	status, answer := r.post(req.Context(), first, body)
	switch {
	case lose:
		r.locked(func() { r.lost++ })
		panic(http.ErrAbortHandler)
	case status == 0:
		w.WriteHeader(http.StatusBadGateway)
	default:
		w.WriteHeader(status)
		w.Write(answer)
	}
}

func (r *Relay) locked(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f()
}

// post sends one webhook once and records the answer.
func (r *Relay) post(ctx context.Context, base string, body []byte) (int, []byte) {
	sent := time.Now()
	status, answer, err := r.send(ctx, base, body)
	if err != nil {
		status = 0 // an answer that did not arrive whole is none
	}
	r.locked(func() { r.answers[status]++ })
	if status != http.StatusOK {
		return status, answer
	}
	a := Acceptance{At: time.Now(), Sent: sent, URL: base}
	var payload struct {
		Alerts []AcceptedAlert `json:"alerts"`
	}
	if json.Unmarshal(answer, &a.Answer) != nil || json.Unmarshal(body, &payload) != nil {
		return 0, nil // nothing that a receiver of ours answers
	}
	a.Alerts = payload.Alerts
	r.locked(func() { r.accepted = append(r.accepted, a) })
	return status, answer
}

func (r *Relay) send(ctx context.Context, base string, body []byte) (int, []byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, base+"/api/v1/webhook", bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := r.client.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	return resp.StatusCode, answer, err
}
