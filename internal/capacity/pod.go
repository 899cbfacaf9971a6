package capacity

import (
	"cmp"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	resources "k8s.io/component-helpers/resource"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
)

// info is a pod with what its constraints need, parsed once.
type info struct {
	pod      *corev1.Pod
	requests map[corev1.ResourceName]int64 // thousandths for CPU, whole units otherwise
	ports    []port
	affinity []term
	anti     []term
	spread   []spread
	required nodeaffinity.RequiredNodeAffinity
}

type port struct {
	ip, protocol string
	number       int32
}

// term is a required term of pod affinity or anti-affinity.
type term struct {
	key        string
	selector   labels.Selector
	namespaces map[string]bool
	// among selects further namespaces by label, nil selects none.
	among labels.Selector
}

// parse prepares a pod. The error names what cannot be understood.
func parse(pod *corev1.Pod) (*info, error) {
	out := &info{pod: pod, requests: requests(pod), ports: ports(pod), required: nodeaffinity.GetRequiredNodeAffinity(pod)}
	if a := pod.Spec.Affinity; a != nil {
		var err error
		if a.PodAffinity != nil {
			if out.affinity, err = terms(pod, a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution); err != nil {
				return nil, fmt.Errorf("its pod affinity: %w", err)
			}
		}
		if a.PodAntiAffinity != nil {
			if out.anti, err = terms(pod, a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution); err != nil {
				return nil, fmt.Errorf("its pod anti-affinity: %w", err)
			}
		}
	}
	var err error
	if out.spread, err = spreads(pod); err != nil {
		return nil, fmt.Errorf("its topology spread constraints: %w", err)
	}
	return out, nil
}

// requests is what a pod takes of a node; one that is being resized takes the
// larger of what it has and what it is to have.
func requests(pod *corev1.Pod) map[corev1.ResourceName]int64 {
	list := resources.PodRequests(pod, resources.PodResourcesOptions{
		UseStatusResources: true, InPlacePodLevelResourcesVerticalScalingEnabled: true, UseDRANodeAllocatableResourceClaimStatus: true,
	})
	out := make(map[corev1.ResourceName]int64, len(list))
	for name, q := range list {
		out[name] = amount(list, name)
		if q.IsZero() {
			delete(out, name)
		}
	}
	return out
}

func amount(list corev1.ResourceList, name corev1.ResourceName) int64 {
	q := list[name]
	if name == corev1.ResourceCPU {
		return q.MilliValue()
	}
	return q.Value()
}

func ports(pod *corev1.Pod) []port {
	var out []port
	add := func(c *corev1.Container) {
		for _, p := range c.Ports {
			if p.HostPort > 0 {
				out = append(out, port{cmp.Or(p.HostIP, anyAddress), cmp.Or(string(p.Protocol), string(corev1.ProtocolTCP)), p.HostPort})
			}
		}
	}
	for i := range pod.Spec.Containers {
		add(&pod.Spec.Containers[i])
	}
	for i := range pod.Spec.InitContainers {
		if c := &pod.Spec.InitContainers[i]; c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			add(c)
		}
	}
	return out
}

const anyAddress = "0.0.0.0"

func (p port) conflicts(o port) bool {
	return p.number == o.number && p.protocol == o.protocol && (p.ip == o.ip || p.ip == anyAddress || o.ip == anyAddress)
}

// terms parses affinity terms. The API server has merged matchLabelKeys and
// mismatchLabelKeys into the label selector already.
func terms(pod *corev1.Pod, list []corev1.PodAffinityTerm) ([]term, error) {
	var out []term
	for i := range list {
		t := &list[i]
		selector, err := metav1.LabelSelectorAsSelector(t.LabelSelector)
		if err != nil {
			return nil, err
		}
		parsed := term{key: t.TopologyKey, selector: selector, namespaces: map[string]bool{}}
		for _, n := range t.Namespaces {
			parsed.namespaces[n] = true
		}
		if t.NamespaceSelector != nil {
			if parsed.among, err = metav1.LabelSelectorAsSelector(t.NamespaceSelector); err != nil {
				return nil, err
			}
		} else if len(t.Namespaces) == 0 {
			parsed.namespaces[pod.Namespace] = true
		}
		out = append(out, parsed)
	}
	return out, nil
}

// matches reports whether the term means the pod. Namespaces whose labels are
// not known are said to be meant if unknown is true.
func (t *term) matches(pod *corev1.Pod, namespaces map[string]map[string]string, unknown bool) bool {
	if !t.selector.Matches(labels.Set(pod.Labels)) {
		return false
	}
	if t.namespaces[pod.Namespace] {
		return true
	}
	if t.among == nil {
		return false
	}
	if t.among.Empty() {
		return true
	}
	set, ok := namespaces[pod.Namespace]
	if !ok {
		return unknown
	}
	return t.among.Matches(labels.Set(set))
}

// selective reports whether the term needs the labels of namespaces.
func (t *term) selective() bool { return t.among != nil && !t.among.Empty() }

// NeedsNamespaces reports whether any required affinity or anti-affinity among
// the pods chooses namespaces by their labels.
func NeedsNamespaces(pods []corev1.Pod) bool {
	chooses := func(list []corev1.PodAffinityTerm) bool {
		for i := range list {
			if s := list[i].NamespaceSelector; s != nil && (len(s.MatchLabels) > 0 || len(s.MatchExpressions) > 0) {
				return true
			}
		}
		return false
	}
	for i := range pods {
		a := pods[i].Spec.Affinity
		if a == nil {
			continue
		}
		if a.PodAffinity != nil && chooses(a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution) ||
			a.PodAntiAffinity != nil && chooses(a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution) {
			return true
		}
	}
	return false
}

// unevaluated says which hard constraints of a pod are beyond this package.
func (i *info) unevaluated(namespaces map[string]map[string]string) []string {
	var out []string
	s := &i.pod.Spec
	if s.SchedulerName != "" && s.SchedulerName != corev1.DefaultSchedulerName {
		out = append(out, "is placed by the scheduler "+s.SchedulerName)
	}
	if len(s.ResourceClaims) > 0 {
		out = append(out, "claims devices (resourceClaims)")
	}
	if len(s.SchedulingGates) > 0 {
		out = append(out, "waits behind the scheduling gate "+s.SchedulingGates[0].Name)
	}
	if s.SchedulingGroup != nil {
		out = append(out, "is placed together with its group (schedulingGroup)")
	}
	if namespaces == nil {
		for _, t := range append(append([]term{}, i.affinity...), i.anti...) {
			if t.selective() {
				out = append(out, "chooses namespaces by labels, and namespaces could not be listed")
				break
			}
		}
	}
	return out
}

func ended(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
}

func key(p *corev1.Pod) string { return p.Namespace + "/" + p.Name }
