package kube

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"strings"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/alertmedic/alertmedic/internal/action"
)

// Classify turns the error of a call to the API server into the contract's
// error. sent says that the call was a change that may have left this process:
// then a failure after which nobody can tell whether it was applied becomes
// outcome-unknown; for a read, or before sending, the same failure is merely
// unavailable. A nil err gives nil.
func Classify(err error, sent bool) *action.Error {
	if err == nil {
		return nil
	}
	var known *action.Error
	if errors.As(err, &known) {
		return known
	}
	var status apierrors.APIStatus
	if errors.As(err, &status) {
		return classifyStatus(err, status.Status(), sent)
	}
	return classifyTransport(err, sent)
}

func classified(reason action.Reason, err error, advice string) *action.Error {
	message := err.Error()
	if advice != "" {
		message += "; " + advice
	}
	return &action.Error{Reason: reason, Message: message, Err: err}
}

// unclear is what a failure after sending means: unknown for a change,
// unavailable for everything that changed nothing.
func unclear(sent bool) action.Reason {
	if sent {
		return action.ReasonUnclear
	}
	return action.ReasonUnavailable
}

func classifyStatus(err error, s metav1.Status, sent bool) *action.Error {
	out := statusReason(err, s, sent)
	if s.Details != nil && s.Details.RetryAfterSeconds > 0 {
		out.RetryAfter = time.Duration(s.Details.RetryAfterSeconds) * time.Second
	}
	return out
}

func statusReason(err error, s metav1.Status, sent bool) *action.Error {
	switch {
	case apierrors.IsNotFound(err):
		if s.Details == nil || s.Details.Name == "" {
			return classified(action.ReasonUnsupported, err, "the cluster does not serve this API")
		}
		return classified(action.ReasonGone, err, "")
	case apierrors.IsAlreadyExists(err):
		return classified(action.ReasonDrift, err, "an object of that name is there already")
	case apierrors.IsConflict(err):
		// Two layers of the API server check preconditions, in different words.
		if strings.Contains(s.Message, "UID in precondition") || strings.Contains(s.Message, "UID in the precondition") {
			return classified(action.ReasonGone, err, "the object was replaced by another one of the same name")
		}
		return classified(action.ReasonDrift, err, "the object changed after the plan was made")
	case apierrors.IsInvalid(err):
		if failedPatchTest(s) {
			return classified(action.ReasonDrift, err, "a field that the plan relies on has changed, or the object was replaced")
		}
		return classified(action.ReasonInvalid, err, "")
	case apierrors.IsForbidden(err):
		return forbidden(err, s)
	case apierrors.IsUnauthorized(err):
		return classified(action.ReasonForbidden, err, "the API server does not accept alertmedic's credentials")
	case apierrors.IsTooManyRequests(err):
		if apierrors.HasStatusCause(err, policyv1.DisruptionBudgetCause) {
			return classified(action.ReasonBlocked, err, "")
		}
		return classified(action.ReasonThrottled, err, "")
	case apierrors.IsMethodNotSupported(err), apierrors.IsNotAcceptable(err), apierrors.IsUnsupportedMediaType(err):
		return classified(action.ReasonUnsupported, err, "")
	case apierrors.IsTimeout(err), apierrors.IsServerTimeout(err):
		return classified(unclear(sent), err, "")
	}
	switch {
	case strings.Contains(s.Message, "more than one PodDisruptionBudget"):
		return classified(action.ReasonRefused, err, "leave the pod to a single budget")
	case s.Code >= 500 && strings.Contains(s.Message, "failed calling webhook"):
		// Admission comes before storage: nothing was changed.
		return classified(action.ReasonUnavailable, err, "")
	case s.Code >= 500:
		// A proxy, or the API server's own storage, may have lost the answer after
		// the change was made.
		return classified(unclear(sent), err, "")
	case s.Code >= 400:
		return classified(action.ReasonInvalid, err, "")
	}
	return classified(unclear(sent), err, "")
}

// failedPatchTest tells a JSON Patch that could not be applied to the live
// object, for a failed test or a missing path, from an object that a validation
// rejected: only the latter names the resource or the offending fields.
func failedPatchTest(s metav1.Status) bool {
	return s.Details == nil || s.Details.Kind == "" && s.Details.Name == "" && len(s.Details.Causes) == 0
}

// forbidden tells the kinds of 403 apart: RBAC is only one of them.
func forbidden(err error, s metav1.Status) *action.Error {
	switch {
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return classified(action.ReasonTerminating, err, "")
	case strings.Contains(s.Message, "exceeded quota"):
		return classified(action.ReasonBlocked, err, "raise the quota, or wait until others free it")
	case strings.Contains(s.Message, "admission webhook"), strings.Contains(s.Message, "violates PodSecurity"):
		return classified(action.ReasonInvalid, err, "")
	}
	return classified(action.ReasonForbidden, err, "grant the right to the playbook's ServiceAccount")
}

func classifyTransport(err error, sent bool) *action.Error {
	if strings.Contains(err.Error(), "client rate limiter Wait") {
		// client-go gave up before it sent anything.
		return classified(action.ReasonThrottled, err, "alertmedic's own limit of calls to the API server is reached")
	}
	if errors.Is(err, errNotSent) {
		return classified(action.ReasonUnavailable, err, "")
	}
	if neverConnected(err) {
		return classified(action.ReasonUnavailable, err, "the API server cannot be reached")
	}
	var netErr net.Error
	switch {
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		// A read that was given up says that the API server is slow, or that the
		// lease is unsure: no reason to give up the step, let alone to climb on.
		return classified(unclear(sent), err, "")
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF),
		errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE),
		errors.As(err, &netErr):
		return classified(unclear(sent), err, "")
	}
	if sent {
		return classified(action.ReasonUnclear, err, "")
	}
	return classified(action.ReasonInternal, err, "")
}

// neverConnected reports errors from before the first byte of a request.
func neverConnected(err error) bool {
	if errors.Is(err, syscall.ECONNREFUSED) {
		return true
	}
	var dns *net.DNSError
	var op *net.OpError
	var authority x509.UnknownAuthorityError
	var hostname x509.HostnameError
	var invalid x509.CertificateInvalidError
	var verification *tls.CertificateVerificationError
	switch {
	case errors.As(err, &dns):
		return true
	case errors.As(err, &op) && op.Op == "dial":
		return true
	case errors.As(err, &verification), errors.As(err, &authority), errors.As(err, &hostname), errors.As(err, &invalid):
		return true
	}
	return false
}
