package kube

import (
	"context"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"github.com/alertmedic/alertmedic/internal/action"
)

// answering is a client of a server that answers every request with a status and
// asks for another try, and counts what arrives.
func answering(t *testing.T, code int, seen ...func(n int64)) (*Session, *atomic.Int64) {
	var got atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		n := got.Add(1)
		for _, fn := range seen {
			fn(n)
		}
		w.Header().Set("Retry-After", "0")
		w.WriteHeader(code)
	}))
	t.Cleanup(server.Close)
	c, err := New(Options{Config: &rest.Config{Host: server.URL}, Namespace: "medic", QPS: 1000, Burst: 1000})
	require.NoError(t, err)
	t.Cleanup(c.Close)
	s, err := c.As("")
	require.NoError(t, err)
	return s, &got
}

func TestAChangeIsSentOnceForEachCall(t *testing.T) {
	t.Parallel()
	for _, code := range []int{http.StatusTooManyRequests, http.StatusInternalServerError, http.StatusServiceUnavailable} {
		reading, enough := context.WithCancel(t.Context())
		defer enough()
		s, got := answering(t, code, func(n int64) {
			if n == 4 {
				enough()
			}
		})
		pods := s.Typed().CoreV1().Pods("shop")
		_, err := pods.Patch(t.Context(), "web", types.JSONPatchType, []byte("[]"), metav1.PatchOptions{})
		require.Error(t, err)
		require.EqualValues(t, 1, got.Load(), "PATCH after %d", code)
		require.Error(t, pods.Delete(t.Context(), "web", metav1.DeleteOptions{}))
		require.EqualValues(t, 2, got.Load(), "DELETE after %d", code)
		_, err = pods.Get(reading, "web", metav1.GetOptions{})
		require.Error(t, err)
		require.GreaterOrEqual(t, got.Load(), int64(4), "a read is tried again after %d", code)
	}
}

// lateContext has a deadline that has passed, and a timer that has not fired, as
// in a process that was stopped and has just gone on.
type lateContext struct{ context.Context }

func (lateContext) Deadline() (time.Time, bool) { return time.Now().Add(-time.Millisecond), true }

func TestAChangeIsNotSentAfterItsDeadline(t *testing.T) {
	t.Parallel()
	s, got := answering(t, http.StatusOK)
	req, err := http.NewRequestWithContext(lateContext{t.Context()}, http.MethodDelete, s.Config().Host, nil)
	require.NoError(t, err)
	resp, err := s.http.Do(req)
	if err == nil {
		_ = resp.Body.Close()
	}
	require.ErrorIs(t, err, errNotSent)
	require.Zero(t, got.Load())
	require.Equal(t, action.ReasonUnavailable, Classify(err, true).Reason)
}
