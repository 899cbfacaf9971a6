package pod

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"

	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/alertmedic/alertmedic/internal/action"
	"github.com/alertmedic/alertmedic/internal/kube"
	"github.com/alertmedic/alertmedic/k8sactions/contract"
)

// Eviction asks for one pod to be evicted.
type Eviction struct {
	Pod    action.Ref
	Grace  *int64
	DryRun bool
}

// Send asks the API server to evict the pod of that UID and no other. It
// returns nil when the eviction was accepted, target-gone when the pod or its
// UID is gone, blocked with the budget's name when a PodDisruptionBudget says
// not now, throttled when the API server itself is busy, and refused when it
// will never say yes.
func (e Eviction) Send(ctx context.Context, s contract.Session) error {
	uid := types.UID(e.Pod.UID)
	options := &metav1.DeleteOptions{GracePeriodSeconds: e.Grace, Preconditions: &metav1.Preconditions{UID: &uid}}
	if e.DryRun {
		options.DryRun = []string{metav1.DryRunAll}
	}
	err := s.Typed().PolicyV1().Evictions(e.Pod.Namespace).Evict(ctx, &policyv1.Eviction{
		ObjectMeta:    metav1.ObjectMeta{Namespace: e.Pod.Namespace, Name: e.Pod.Name},
		DeleteOptions: options,
	})
	if err == nil {
		return nil
	}
	return refusal(e.Pod, err, !e.DryRun)
}

// refusal explains a failed eviction.
func refusal(ref action.Ref, err error, sent bool) *action.Error {
	if apierrors.IsNotFound(err) {
		return &action.Error{Reason: action.ReasonGone, Message: ref.String() + " is not there any more", Err: err}
	}
	out := kube.Classify(err, sent)
	switch out.Reason {
	case action.ReasonBlocked:
		if detail, ok := apierrors.StatusCause(err, policyv1.DisruptionBudgetCause); ok {
			out.Message = fmt.Sprintf("PodDisruptionBudget %s does not let %s go now: %s",
				budgetOf(ref.Namespace, detail.Message), ref, strings.TrimSuffix(detail.Message, "."))
		}
	case action.ReasonRefused:
		if strings.Contains(err.Error(), "more than one PodDisruptionBudget") {
			out.Message = fmt.Sprintf("%s is selected by more than one PodDisruptionBudget and can never be evicted: leave it to one of them", ref)
		}
	}
	return out
}

// budget finds the name in what the API server says of a budget; it is not
// given on its own.
var budget = regexp.MustCompile(`[Tt]he disruption budget (\S+) `)

func budgetOf(namespace, message string) string {
	m := budget.FindStringSubmatch(message)
	if m == nil {
		return "in " + namespace
	}
	return namespace + "/" + m[1]
}

// isGone reports that there is nothing left to take away.
func isGone(err error) bool {
	var e *action.Error
	return errors.As(err, &e) && e.Reason == action.ReasonGone
}
