package app

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"

	"github.com/alertmedic/alertmedic/internal/journal"
	"github.com/alertmedic/alertmedic/internal/testcluster"
)

const restartPlaybook = `apiVersion: alertmedic.io/v1alpha1
kind: Playbook
metadata: {name: restart}
spec:
  matchers: [alertname = KubePodCrashLooping]
  target: {kind: Workload}
  mode: Auto
  remedies:
  - name: restart
    steps: [{name: restart, action: workload.restart}]
    verify: {timeout: 5m, stableFor: 3s}
`

// From the webhook to the change, a restart found from a pod's label reads each
// object once: pod, ReplicaSet, Deployment and namespace, and then changes the
// Deployment.
func TestARestartReadsEachObjectOnce(t *testing.T) {
	t.Parallel()
	s := start(t, restartPlaybook)
	pods := s.deploy(t, "web", 1)
	require.NoError(t, s.cluster.SetPodFault(t.Context(), s.ns, pods[0].Name, testcluster.PodCrashLoop))
	s.until(t, journal.StepDone)
	made := s.requests(t)
	patch := slices.Index(made, "patch deployments")
	require.NotEqual(t, -1, patch, made)
	made = made[:patch+1]
	t.Log(strings.Join(made, ", "))
	// A guard may hold the run back for a moment, such as while Alertmanager does
	// not show the alert yet: each look plans and gathers evidence anew. So does
	// the first one when, on a busy machine, what found the target is too old.
	looks := 0
	for _, m := range made {
		if m == "get namespaces" {
			looks++
		}
	}
	require.Positive(t, looks, made)
	if looks == 1 && len(made) == 5 {
		require.Equal(t, []string{"get pods", "get replicasets", "get deployments", "get namespaces", "patch deployments"}, made)
	}
	require.LessOrEqual(t, len(made), 3+3*looks+1, made)
}

// requests are what alertmedic asked of the API server about the test's
// namespace, in order, without Events and reviews.
func (s *service) requests(t *testing.T) []string {
	t.Helper()
	events, err := s.cluster.AuditEvents(time.Time{})
	require.NoError(t, err)
	slices.SortStableFunc(events, func(a, b auditv1.Event) int {
		return a.RequestReceivedTimestamp.Compare(b.RequestReceivedTimestamp.Time)
	})
	var out []string
	for _, e := range events {
		if strings.HasPrefix(e.UserAgent, "alertmedic/") && e.ObjectRef != nil && e.ObjectRef.Namespace == s.ns && e.ObjectRef.Resource != "events" {
			out = append(out, e.Verb+" "+e.ObjectRef.Resource)
		}
	}
	return out
}
