package kube

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	authorizationv1 "k8s.io/api/authorization/v1"
)

// A right that was there is not asked for again for a while; another one, or
// another ServiceAccount's, is.
func TestGrantedRightsAreRemembered(t *testing.T) {
	t.Parallel()
	var answers accessAnswers
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	patch := accessQuestion{"medic-shop", authorizationv1.ResourceAttributes{Verb: "patch", Resource: "deployments", Namespace: "shop"}}
	require.False(t, answers.granted(patch, now))
	answers.grant(patch, now)
	require.True(t, answers.granted(patch, now.Add(accessFor-time.Second)))
	require.False(t, answers.granted(patch, now.Add(accessFor)))
	other := patch
	other.serviceAccount = "medic-pay"
	require.False(t, answers.granted(other, now))
	other = patch
	other.Namespace = "pay"
	require.False(t, answers.granted(other, now))
}
