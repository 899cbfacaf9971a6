package pod

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/alertmedic/alertmedic/internal/action"
	"github.com/alertmedic/alertmedic/k8sactions/contract"
)

// session is a contract.Session of typed clients alone.
type session struct{ typed kubernetes.Interface }

func (s session) Typed() kubernetes.Interface { return s.typed }
func (s session) Dynamic() dynamic.Interface  { return nil }

// A conflict means that the pod was replaced only when it is about the UID; any
// other leaves the pod where it is, and must not be called done.
func TestDeleteConflict(t *testing.T) {
	t.Parallel()
	pods := schema.GroupResource{Resource: "pods"}
	for name, row := range map[string]struct {
		err  error
		done bool
		want action.Reason
	}{
		"another pod of the name": {apierrors.NewConflict(pods, "web-1", errString("Precondition failed: UID in precondition: u1, UID in object meta: u2")), true, ""},
		"gone":                    {apierrors.NewNotFound(pods, "web-1"), true, ""},
		"something else":          {apierrors.NewConflict(pods, "web-1", errString("the object has been modified")), false, action.ReasonDrift},
	} {
		yes := true
		api := fake.NewClientset(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web-1", UID: "u1",
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "web", UID: "r", Controller: &yes}}}})
		api.PrependReactor("delete", "pods", func(clienttesting.Action) (bool, runtime.Object, error) { return true, nil, row.err })
		before, err := json.Marshal(planned{Pod: action.Ref{Kind: action.KindPod, Namespace: "shop", Name: "web-1", UID: "u1"}})
		require.NoError(t, err)
		res, err := Delete{}.Apply(t.Context(), session{api}, contract.Call{Plan: action.Plan{Before: before, Request: action.Request{Params: []byte(`{}`)}}})
		require.Equal(t, row.done, res.Done, "%s: %v", name, err)
		if !row.done {
			require.Equal(t, row.want, action.ReasonOf(err), name)
		}
	}
}

type errString string

func (e errString) Error() string { return string(e) }
