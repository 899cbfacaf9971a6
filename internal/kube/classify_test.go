package kube

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/alertmedic/alertmedic/internal/action"
)

func TestClassify(t *testing.T) {
	t.Parallel()
	pods := schema.GroupResource{Resource: "pods"}
	status := func(code int32, reason metav1.StatusReason, message string, causes ...metav1.StatusCause) error {
		return &apierrors.StatusError{ErrStatus: metav1.Status{
			Code: code, Reason: reason, Message: message,
			Details: &metav1.StatusDetails{Kind: "pods", Name: "web", Causes: causes},
		}}
	}
	transport := func(err error) error { return &url.Error{Op: "Patch", URL: "https://cluster", Err: err} }
	dial := &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}

	for name, tc := range map[string]struct {
		err        error
		sent, read action.Reason // as a change that was sent, and as a read
	}{
		"not found":                 {apierrors.NewNotFound(pods, "web"), action.ReasonGone, action.ReasonGone},
		"no such API":               {apierrors.NewGenericServerResponse(404, "get", schema.GroupResource{}, "", "404 page not found", 0, true), action.ReasonUnsupported, action.ReasonUnsupported},
		"conflict":                  {apierrors.NewConflict(pods, "web", errors.New("the object has been modified")), action.ReasonDrift, action.ReasonDrift},
		"uid precondition":          {apierrors.NewConflict(pods, "web", errors.New("Precondition failed: UID in precondition: a, UID in object meta: b")), action.ReasonGone, action.ReasonGone},
		"uid precondition, storage": {apierrors.NewConflict(pods, "web", errors.New("the UID in the precondition (a) does not match the UID in record (b)")), action.ReasonGone, action.ReasonGone},
		"already exists":            {apierrors.NewAlreadyExists(pods, "web"), action.ReasonDrift, action.ReasonDrift},
		"failed patch test":         {apierrors.NewGenericServerResponse(422, "", schema.GroupResource{}, "", "testing value /metadata/uid failed: test failed", 0, false), action.ReasonDrift, action.ReasonDrift},
		"validation": {apierrors.NewInvalid(schema.GroupKind{Kind: "Pod"}, "web", field.ErrorList{field.Invalid(field.NewPath("spec"), 1, "no")}),
			action.ReasonInvalid, action.ReasonInvalid},
		"bad request":   {apierrors.NewBadRequest("no"), action.ReasonInvalid, action.ReasonInvalid},
		"too large":     {apierrors.NewRequestEntityTooLargeError("10 MiB"), action.ReasonInvalid, action.ReasonInvalid},
		"rbac":          {apierrors.NewForbidden(pods, "web", errors.New(`User "a" cannot delete resource "pods"`)), action.ReasonForbidden, action.ReasonForbidden},
		"unauthorized":  {apierrors.NewUnauthorized("who?"), action.ReasonForbidden, action.ReasonForbidden},
		"terminating":   {status(403, metav1.StatusReasonForbidden, "being terminated", metav1.StatusCause{Type: corev1.NamespaceTerminatingCause}), action.ReasonTerminating, action.ReasonTerminating},
		"quota":         {apierrors.NewForbidden(pods, "web", errors.New("exceeded quota: q, requested: pods=1")), action.ReasonBlocked, action.ReasonBlocked},
		"webhook":       {status(403, metav1.StatusReasonForbidden, `admission webhook "w" denied the request`), action.ReasonInvalid, action.ReasonInvalid},
		"pod security":  {apierrors.NewForbidden(pods, "web", errors.New(`violates PodSecurity "restricted"`)), action.ReasonInvalid, action.ReasonInvalid},
		"budget":        {status(429, metav1.StatusReasonTooManyRequests, "Cannot evict pod", metav1.StatusCause{Type: policyv1.DisruptionBudgetCause}), action.ReasonBlocked, action.ReasonBlocked},
		"throttled":     {apierrors.NewTooManyRequests("slow down", 7), action.ReasonThrottled, action.ReasonThrottled},
		"two budgets":   {status(500, metav1.StatusReasonInternalError, "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support."), action.ReasonRefused, action.ReasonRefused},
		"not supported": {apierrors.NewMethodNotSupported(pods, "patch"), action.ReasonUnsupported, action.ReasonUnsupported},
		"internal":      {apierrors.NewInternalError(errors.New("oops")), action.ReasonUnclear, action.ReasonUnavailable},
		"webhook down":  {apierrors.NewInternalError(errors.New(`failed calling webhook "w": context deadline exceeded`)), action.ReasonUnavailable, action.ReasonUnavailable},
		"unavailable":   {apierrors.NewServiceUnavailable("not ready"), action.ReasonUnclear, action.ReasonUnavailable},

		"storage timed out": {apierrors.NewInternalError(errors.New("etcdserver: request timed out")), action.ReasonUnclear, action.ReasonUnavailable},
		"server timeout":    {apierrors.NewServerTimeout(pods, "patch", 0), action.ReasonUnclear, action.ReasonUnavailable},
		"gateway timeout":   {apierrors.NewTimeoutError("no answer", 0), action.ReasonUnclear, action.ReasonUnavailable},
		"bad gateway":       {apierrors.NewGenericServerResponse(http.StatusBadGateway, "patch", pods, "web", "", 0, true), action.ReasonUnclear, action.ReasonUnavailable},

		"refused":        {transport(dial), action.ReasonUnavailable, action.ReasonUnavailable},
		"dial timeout":   {transport(&net.OpError{Op: "dial", Err: os.ErrDeadlineExceeded}), action.ReasonUnavailable, action.ReasonUnavailable},
		"no such host":   {transport(&net.DNSError{Err: "no such host", IsNotFound: true}), action.ReasonUnavailable, action.ReasonUnavailable},
		"bad authority":  {transport(x509.UnknownAuthorityError{}), action.ReasonUnavailable, action.ReasonUnavailable},
		"rate limiter":   {fmt.Errorf("client rate limiter Wait returned an error: %w", context.DeadlineExceeded), action.ReasonThrottled, action.ReasonThrottled},
		"eof":            {transport(io.EOF), action.ReasonUnclear, action.ReasonUnavailable},
		"cut body":       {io.ErrUnexpectedEOF, action.ReasonUnclear, action.ReasonUnavailable},
		"reset":          {transport(&net.OpError{Op: "read", Err: os.NewSyscallError("read", syscall.ECONNRESET)}), action.ReasonUnclear, action.ReasonUnavailable},
		"deadline":       {transport(context.DeadlineExceeded), action.ReasonUnclear, action.ReasonUnavailable},
		"cancelled":      {transport(context.Canceled), action.ReasonUnclear, action.ReasonUnavailable},
		"something else": {errors.New("garbled answer"), action.ReasonUnclear, action.ReasonInternal},
		"classified":     {fmt.Errorf("around: %w", action.Errorf(action.ReasonBlocked, "budget")), action.ReasonBlocked, action.ReasonBlocked},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := Classify(tc.err, true)
			require.Equal(t, tc.sent, got.Reason, got.Message)
			require.NotEmpty(t, got.Message)
			got = Classify(tc.err, false)
			require.Equal(t, tc.read, got.Reason, got.Message)
		})
	}
	require.Nil(t, Classify(nil, true))
	require.Equal(t, 7*time.Second, Classify(apierrors.NewTooManyRequests("slow down", 7), true).RetryAfter)
}

// A change that was sent and whose fate is not known must never look retryable.
func TestClassifyUnclearIsNotRetryable(t *testing.T) {
	t.Parallel()
	require.False(t, Classify(io.EOF, true).Reason.Retryable())
	require.True(t, Classify(io.EOF, false).Reason.Retryable())
}
