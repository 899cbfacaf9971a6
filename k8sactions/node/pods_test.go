package node

import (
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestFateOf(t *testing.T) {
	t.Parallel()
	owned := func(kind string) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			yes := true
			p.OwnerReferences = []metav1.OwnerReference{{Kind: kind, Name: "own", Controller: &yes}}
		}
	}
	emptyDir := func(p *corev1.Pod) {
		p.Spec.Volumes = []corev1.Volume{{VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
	}
	static := func(p *corev1.Pod) { p.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "x"} }
	ended := func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }
	onlyOwned := func(p *corev1.Pod) { p.OwnerReferences = []metav1.OwnerReference{{Kind: "ReplicaSet", Name: "own"}} }
	for name, row := range map[string]struct {
		params DrainParams
		make   []func(*corev1.Pod)
		want   fate
	}{
		"of a Deployment":                  {DrainParams{}, []func(*corev1.Pod){owned("ReplicaSet")}, evict},
		"of a DaemonSet":                   {DrainParams{Force: true}, []func(*corev1.Pod){owned("DaemonSet")}, daemonSet},
		"of a DaemonSet, with emptyDir":    {DrainParams{}, []func(*corev1.Pod){owned("DaemonSet"), emptyDir}, daemonSet},
		"of a DaemonSet, ended":            {DrainParams{}, []func(*corev1.Pod){owned("DaemonSet"), ended}, evict},
		"static":                           {DrainParams{Force: true}, []func(*corev1.Pod){static}, mirror},
		"static and ended":                 {DrainParams{Force: true}, []func(*corev1.Pod){static, ended}, mirror},
		"unmanaged":                        {DrainParams{}, nil, refused},
		"owned but not controlled":         {DrainParams{}, []func(*corev1.Pod){onlyOwned}, refused},
		"unmanaged, forced":                {DrainParams{Force: true}, nil, evict},
		"unmanaged, ended":                 {DrainParams{}, []func(*corev1.Pod){ended}, evict},
		"emptyDir":                         {DrainParams{}, []func(*corev1.Pod){owned("ReplicaSet"), emptyDir}, refused},
		"emptyDir, forced":                 {DrainParams{Force: true}, []func(*corev1.Pod){owned("ReplicaSet"), emptyDir}, refused},
		"emptyDir, given up":               {DrainParams{DeleteEmptyDirData: true}, []func(*corev1.Pod){owned("ReplicaSet"), emptyDir}, evict},
		"emptyDir, ended":                  {DrainParams{}, []func(*corev1.Pod){owned("Job"), emptyDir, ended}, evict},
		"emptyDir, given up but unmanaged": {DrainParams{DeleteEmptyDirData: true}, []func(*corev1.Pod){emptyDir}, refused},
	} {
		p := &corev1.Pod{}
		for _, change := range row.make {
			change(p)
		}
		got, why := fateOf(p, &row.params)
		require.Equal(t, row.want, got, name)
		require.Equal(t, got != evict || p.Status.Phase == corev1.PodSucceeded, why != "", name)
	}
}
