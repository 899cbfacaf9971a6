package pod

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/alertmedic/alertmedic/internal/action"
)

// TestRefusal tells a budget's no from an overloaded API server: both are 429.
func TestRefusal(t *testing.T) {
	t.Parallel()
	ref := action.Ref{Kind: action.KindPod, Namespace: "shop", Name: "web-1", UID: "u1"}
	budget := func(message string) error {
		err := apierrors.NewTooManyRequests("Cannot evict pod as it would violate the pod's disruption budget.", 10)
		err.ErrStatus.Details.Causes = append(err.ErrStatus.Details.Causes, metav1.StatusCause{Type: policyv1.DisruptionBudgetCause, Message: message})
		return err
	}
	for name, row := range map[string]struct {
		err   error
		want  action.Reason
		text  string
		after time.Duration
	}{
		"a budget": {budget("The disruption budget web-pdb needs 2 healthy pods and has 2 currently"), action.ReasonBlocked,
			"PodDisruptionBudget shop/web-pdb does not let Pod/shop/web-1 go now: The disruption budget web-pdb needs 2 healthy pods and has 2 currently", 10 * time.Second},
		"a budget not counted yet": {budget("The disruption budget web-pdb is still being processed by the server."), action.ReasonBlocked, "shop/web-pdb does not let", 10 * time.Second},
		"a budget in other words":  {budget("no"), action.ReasonBlocked, "PodDisruptionBudget in shop does not let", 10 * time.Second},
		"overload":                 {apierrors.NewTooManyRequests("slow down", 3), action.ReasonThrottled, "slow down", 3 * time.Second},
		"several budgets": {apierrors.NewGenericServerResponse(http.StatusInternalServerError, "post", schema.GroupResource{Resource: "pods"}, "web-1",
			"This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.", 0, true), action.ReasonRefused, "can never be evicted", 0},
		"gone":     {apierrors.NewNotFound(schema.GroupResource{Resource: "pods"}, "web-1"), action.ReasonGone, "Pod/shop/web-1 is not there any more", 0},
		"deadline": {context.DeadlineExceeded, action.ReasonUnclear, "deadline", 0},
	} {
		got := refusal(ref, row.err, true)
		require.Equal(t, row.want, got.Reason, "%s: %s", name, got.Message)
		require.Contains(t, got.Message, row.text, name)
		require.Equal(t, row.after, got.RetryAfter, name)
		require.ErrorIs(t, got, row.err, name)
	}
	require.True(t, isGone(refusal(ref, apierrors.NewNotFound(schema.GroupResource{}, "web-1"), true)))
	require.False(t, isGone(errors.New("x")))
	require.False(t, isGone(nil))
}
