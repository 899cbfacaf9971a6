package testcluster

import "strings"

// program says where one program of the control plane comes from and which
// versions of it found on a machine may stand in for the pinned one.
type program struct {
	name    string
	module  string // folder under hack/cluster
	pkg     string
	version string // major.minor that fits
	flags   []string
}

const kubernetesVersion = "v1.37.2"

// programs lists everything that can be built, in the order in which a first
// build makes it: the cheap ones last, so that what takes longest is known
// first.
var programs = []program{
	{"kube-apiserver", "kubernetes", "k8s.io/kubernetes/cmd/kube-apiserver", "1.37", []string{"--version"}},
	{"kube-controller-manager", "kubernetes", "k8s.io/kubernetes/cmd/kube-controller-manager", "1.37", []string{"--version"}},
	{"kube-scheduler", "kubernetes", "k8s.io/kubernetes/cmd/kube-scheduler", "1.37", []string{"--version"}},
	{"kubectl", "kubernetes", "k8s.io/kubernetes/cmd/kubectl", "1.37", []string{"version", "--client"}},
	{"etcd", "etcd", "go.etcd.io/etcd/server/v3", "3.7", []string{"--version"}},
	{"kwok", "kwok", "sigs.k8s.io/kwok/cmd/kwok", "0.8", []string{"--version"}},
	{"kube-state-metrics", "kube-state-metrics", "k8s.io/kube-state-metrics/v2", "2.15", []string{"version"}},
	{"prometheus", "prometheus", "github.com/prometheus/prometheus/cmd/prometheus", "3.13", []string{"--version"}},
	{"promtool", "prometheus", "github.com/prometheus/prometheus/cmd/promtool", "3.13", []string{"--version"}},
	{"alertmanager", "alertmanager", "github.com/prometheus/alertmanager/cmd/alertmanager", "0.31", []string{"--version"}},
	{"amtool", "alertmanager", "github.com/prometheus/alertmanager/cmd/amtool", "0.31", []string{"--version"}},
}

// controlPlane and monitoringPrograms are what Start and StartMonitoring run.
var (
	controlPlane       = []string{"kube-apiserver", "kube-controller-manager", "kube-scheduler", "etcd", "kwok"}
	monitoringPrograms = []string{"kube-state-metrics", "prometheus", "alertmanager"}
)

// ProgramNames lists the programs that [Binaries.Ensure] knows.
func ProgramNames() []string {
	names := make([]string, 0, len(programs))
	for _, p := range programs {
		names = append(names, p.name)
	}
	return names
}

func findProgram(name string) (program, bool) {
	for _, p := range programs {
		if p.name == name {
			return p, true
		}
	}
	return program{}, false
}

// stamps give a program the version that it would otherwise report as unknown
// or empty; by module.
var stamps = map[string]string{
	"kubernetes":         "k8s.io/component-base/version.gitVersion=" + kubernetesVersion,
	"kube-state-metrics": "github.com/prometheus/common/version.Version=2.15.0",
	"prometheus":         "github.com/prometheus/common/version.Version=3.13.5",
	"alertmanager":       "github.com/prometheus/common/version.Version=0.31.1",
}

// ldflags strips the symbols, which halves the size, and stamps the version.
func (p program) ldflags() string {
	if stamp := stamps[p.module]; stamp != "" {
		return "-s -w -X " + stamp
	}
	return "-s -w"
}

// fits reports whether the output of the program's version flag names the
// wanted major.minor version.
func (p program) fits(output string) bool {
	for _, field := range strings.FieldsFunc(output, func(r rune) bool {
		return r == ' ' || r == '\n' || r == '\t' || r == ',' || r == '(' || r == ')' || r == '"'
	}) {
		v := strings.TrimPrefix(field, "v")
		if v == p.version || strings.HasPrefix(v, p.version+".") {
			return true
		}
		// The first word that looks like a version is the program's own;
		// later ones are its Go version and the like.
		if looksLikeVersion(v) {
			return false
		}
	}
	return false
}

func looksLikeVersion(s string) bool {
	major, rest, ok := strings.Cut(s, ".")
	if !ok || major == "" || rest == "" || rest[0] < '0' || rest[0] > '9' {
		return false
	}
	return strings.Trim(major, "0123456789") == ""
}
