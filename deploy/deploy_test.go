// Package deploy_test checks what is shipped for installation: manifests,
// receiver, dashboard.
package deploy_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/kustomize/api/krusty"
	ktypes "sigs.k8s.io/kustomize/api/types"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"

	"github.com/alertmedic/alertmedic/internal/config"
	"github.com/alertmedic/alertmedic/internal/guard"
	"github.com/alertmedic/alertmedic/internal/rbac"
	"github.com/alertmedic/alertmedic/internal/testcluster"
	"github.com/alertmedic/alertmedic/k8sactions"
	"github.com/alertmedic/alertmedic/playbooks"
)

// Kinds of the Prometheus operator, as far as the manifests use them: its Go
// types would bring the operator's whole module along.
type (
	serviceMonitor struct {
		metav1.TypeMeta   `json:",inline"`
		metav1.ObjectMeta `json:"metadata"`
		Spec              struct {
			Selector          metav1.LabelSelector `json:"selector"`
			NamespaceSelector struct {
				MatchNames []string `json:"matchNames"`
			} `json:"namespaceSelector"`
			JobLabel  string `json:"jobLabel"`
			Endpoints []struct {
				Port     string `json:"port"`
				Path     string `json:"path"`
				Interval string `json:"interval"`
			} `json:"endpoints"`
		} `json:"spec"`
	}
	prometheusRule struct {
		metav1.TypeMeta   `json:",inline"`
		metav1.ObjectMeta `json:"metadata"`
		Spec              ruleGroups `json:"spec"`
	}
	ruleGroups struct {
		Groups []struct {
			Name  string           `json:"name"`
			Rules []map[string]any `json:"rules"`
		} `json:"groups"`
	}
)

// newObject returns the Go type of each kind that is shipped.
var newObject = map[string]func() any{
	"v1/Namespace":                                    func() any { return &corev1.Namespace{} },
	"v1/Service":                                      func() any { return &corev1.Service{} },
	"v1/ServiceAccount":                               func() any { return &corev1.ServiceAccount{} },
	"v1/ConfigMap":                                    func() any { return &corev1.ConfigMap{} },
	"v1/PersistentVolumeClaim":                        func() any { return &corev1.PersistentVolumeClaim{} },
	"apps/v1/Deployment":                              func() any { return &appsv1.Deployment{} },
	"policy/v1/PodDisruptionBudget":                   func() any { return &policyv1.PodDisruptionBudget{} },
	"networking.k8s.io/v1/NetworkPolicy":              func() any { return &networkingv1.NetworkPolicy{} },
	"rbac.authorization.k8s.io/v1/Role":               func() any { return &rbacv1.Role{} },
	"rbac.authorization.k8s.io/v1/RoleBinding":        func() any { return &rbacv1.RoleBinding{} },
	"rbac.authorization.k8s.io/v1/ClusterRole":        func() any { return &rbacv1.ClusterRole{} },
	"rbac.authorization.k8s.io/v1/ClusterRoleBinding": func() any { return &rbacv1.ClusterRoleBinding{} },
	"monitoring.coreos.com/v1/ServiceMonitor":         func() any { return &serviceMonitor{} },
	"monitoring.coreos.com/v1/PrometheusRule":         func() any { return &prometheusRule{} },
	"kustomize.config.k8s.io/v1beta1/Kustomization":   func() any { return &ktypes.Kustomization{} },
}

func glob(t *testing.T, pattern string) []string {
	t.Helper()
	found, err := filepath.Glob(pattern)
	require.NoError(t, err)
	require.NotEmpty(t, found, pattern)
	return found
}

func read(t *testing.T, file string) []byte {
	t.Helper()
	data, err := os.ReadFile(file)
	require.NoError(t, err)
	return data
}

func documents(data []byte) [][]byte {
	return bytes.Split(data, []byte("\n---\n"))
}

// decode refuses fields that the kind does not have.
func decode(data []byte) (any, error) {
	var meta metav1.TypeMeta
	if err := yaml.Unmarshal(data, &meta); err != nil {
		return nil, err
	}
	construct, known := newObject[meta.APIVersion+"/"+meta.Kind]
	if !known {
		return nil, fmt.Errorf("unknown kind %s/%s", meta.APIVersion, meta.Kind)
	}
	object := construct()
	return object, yaml.UnmarshalStrict(data, object)
}

// build runs kustomize over a folder and decodes what comes out.
func build(t *testing.T, folder string) []any {
	t.Helper()
	built, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), folder)
	require.NoError(t, err)
	out, err := built.AsYaml()
	require.NoError(t, err)
	var objects []any
	for _, doc := range documents(out) {
		object, err := decode(doc)
		require.NoError(t, err, string(doc))
		objects = append(objects, object)
	}
	return objects
}

func of[T any](objects []any) []*T {
	var out []*T
	for _, o := range objects {
		if typed, ok := o.(*T); ok {
			out = append(out, typed)
		}
	}
	return out
}

func TestManifestsDecodeStrictly(t *testing.T) {
	t.Parallel()
	for _, file := range glob(t, "manifests/*/*.yaml") {
		if filepath.Base(file) == "alertmedic.yaml" {
			continue // the service's own configuration
		}
		for i, doc := range documents(read(t, file)) {
			_, err := decode(doc)
			require.NoError(t, err, "%s, document %d", file, i+1)
		}
	}
}

func TestKustomizationsListEveryFile(t *testing.T) {
	t.Parallel()
	for _, file := range glob(t, "manifests/*/kustomization.yaml") {
		object, err := decode(read(t, file))
		require.NoError(t, err, file)
		k := object.(*ktypes.Kustomization)
		var listed, there []string
		for _, r := range k.Resources {
			if !strings.HasPrefix(r, "../") {
				listed = append(listed, r)
			}
		}
		for _, g := range k.ConfigMapGenerator {
			listed = append(listed, g.FileSources...)
		}
		for _, other := range glob(t, filepath.Join(filepath.Dir(file), "*.yaml")) {
			if name := filepath.Base(other); name != "kustomization.yaml" {
				there = append(there, name)
			}
		}
		require.ElementsMatch(t, there, listed, file)
	}
}

func TestInstallationsHoldTogether(t *testing.T) {
	t.Parallel()
	for _, folder := range []string{"manifests/sqlite", "manifests/postgresql"} {
		t.Run(filepath.Base(folder), func(t *testing.T) {
			t.Parallel()
			objects := build(t, folder)
			deployments := of[appsv1.Deployment](objects)
			require.Len(t, deployments, 1)
			d := deployments[0]
			pod := d.Spec.Template.Spec
			c := pod.Containers[0]

			require.Equal(t, d.Spec.Selector.MatchLabels["app.kubernetes.io/name"], d.Spec.Template.Labels["app.kubernetes.io/name"])
			require.True(t, *pod.SecurityContext.RunAsNonRoot)
			require.Equal(t, corev1.SeccompProfileTypeRuntimeDefault, pod.SecurityContext.SeccompProfile.Type)
			require.True(t, *c.SecurityContext.ReadOnlyRootFilesystem)
			require.False(t, *c.SecurityContext.AllowPrivilegeEscalation)
			require.Equal(t, []corev1.Capability{"ALL"}, c.SecurityContext.Capabilities.Drop)
			require.Equal(t, "/-/healthy", c.LivenessProbe.HTTPGet.Path)
			require.Equal(t, "/-/ready", c.ReadinessProbe.HTTPGet.Path)
			require.NotEmpty(t, c.Resources.Requests)
			require.NotEmpty(t, c.Resources.Limits)
			for _, toleration := range pod.Tolerations {
				require.EqualValues(t, 30, *toleration.TolerationSeconds)
			}

			accounts := map[string]bool{}
			for _, a := range of[corev1.ServiceAccount](objects) {
				accounts[a.Name] = true
			}
			require.True(t, accounts[pod.ServiceAccountName])
			for _, b := range of[rbacv1.ClusterRoleBinding](objects) {
				for _, s := range b.Subjects {
					require.True(t, accounts[s.Name], "%s binds unknown account %s", b.Name, s.Name)
					require.Equal(t, "alertmedic", s.Namespace, b.Name)
				}
			}
			if folder == "manifests/sqlite" {
				require.EqualValues(t, 1, *d.Spec.Replicas, "two replicas cannot share a SQLite file")
				require.Equal(t, appsv1.RecreateDeploymentStrategyType, d.Spec.Strategy.Type)
			} else {
				require.EqualValues(t, 2, *d.Spec.Replicas)
				require.Len(t, of[policyv1.PodDisruptionBudget](objects), 1)
			}
		})
	}
	t.Run("monitoring", func(t *testing.T) {
		t.Parallel()
		require.Len(t, build(t, "manifests/monitoring"), 2)
	})
	t.Run("tokenreview", func(t *testing.T) {
		t.Parallel()
		objects := build(t, "manifests/tokenreview")
		require.Len(t, objects, 2)
		bindings := of[rbacv1.ClusterRoleBinding](objects)
		require.Len(t, bindings, 1)
		require.Equal(t, of[rbacv1.ClusterRole](objects)[0].Name, bindings[0].RoleRef.Name)
		service := of[appsv1.Deployment](build(t, "manifests/sqlite"))[0].Spec.Template.Spec.ServiceAccountName
		require.Equal(t, []rbacv1.Subject{{Kind: "ServiceAccount", Name: service, Namespace: "alertmedic"}}, bindings[0].Subjects)
	})
}

// The accounts that the service may act as are those of the library, and it
// may do nothing else than read, write Events and act as them.
func TestServiceMayImpersonateItsPlaybooksOnly(t *testing.T) {
	t.Parallel()
	objects := build(t, "manifests/base")
	var named []string
	for _, file := range glob(t, "../playbooks/library/*.yaml") {
		var p struct {
			Spec struct {
				ServiceAccountName string `json:"serviceAccountName"`
			} `json:"spec"`
		}
		require.NoError(t, yaml.Unmarshal(read(t, file), &p), file)
		require.NotEmpty(t, p.Spec.ServiceAccountName, file)
		named = append(named, p.Spec.ServiceAccountName)
	}
	for _, role := range of[rbacv1.Role](objects) {
		require.Equal(t, "alertmedic-impersonate", role.Name)
		require.Len(t, role.Rules, 1)
		require.Equal(t, []string{"impersonate"}, role.Rules[0].Verbs)
		require.ElementsMatch(t, named, role.Rules[0].ResourceNames)
	}
	for _, role := range of[rbacv1.ClusterRole](objects) {
		for _, rule := range role.Rules {
			require.NotContains(t, rule.Resources, "secrets", role.Name)
			for _, star := range [][]string{rule.APIGroups, rule.Resources, rule.Verbs} {
				require.NotContains(t, star, "*", role.Name)
			}
			if role.Name != "alertmedic" || slices.Equal(rule.Resources, []string{"events"}) {
				continue
			}
			require.Subset(t, []string{"get", "list", "watch"}, rule.Verbs)
		}
	}
}

func TestAlertmanagerAcceptsReceiver(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("-short: amtool may have to be built first")
	}
	programs, err := testcluster.Binaries{}.Ensure(t.Context(), "amtool")
	require.NoError(t, err)
	out, err := exec.CommandContext(t.Context(), programs["amtool"], "check-config", "alertmanager/receiver.yaml").CombinedOutput()
	require.NoError(t, err, string(out))
}

func TestReceiverLosesNothing(t *testing.T) {
	t.Parallel()
	var c struct {
		Receivers []struct {
			Name     string `json:"name"`
			Webhooks []struct {
				URL          string `json:"url"`
				SendResolved bool   `json:"send_resolved"`
				MaxAlerts    *int   `json:"max_alerts"`
				HTTP         struct {
					Authorization struct {
						CredentialsFile string `json:"credentials_file"`
					} `json:"authorization"`
				} `json:"http_config"`
			} `json:"webhook_configs"`
		} `json:"receivers"`
	}
	require.NoError(t, yaml.Unmarshal(read(t, "alertmanager/receiver.yaml"), &c))
	for _, r := range c.Receivers {
		if r.Name != "alertmedic" {
			continue
		}
		require.Len(t, r.Webhooks, 1)
		hook := r.Webhooks[0]
		require.True(t, strings.HasSuffix(hook.URL, ":9095/api/v1/webhook"), hook.URL)
		require.True(t, hook.SendResolved)
		require.Zero(t, *hook.MaxAlerts)
		require.NotEmpty(t, hook.HTTP.Authorization.CredentialsFile)
		return
	}
	t.Fatal("receiver alertmedic not found")
}

// metrics are the names that the service exposes.
var metrics = []string{"webhook_requests_total", "alerts_received_total", "alerts_rejected_total", "candidates_total", "runs",
	"runs_started_total", "runs_ended_total", "actions_total", "action_duration_seconds", "guard_decisions_total", "verdicts_total",
	"time_to_heal_seconds", "approvals_total", "notifications_total", "outbox_messages", "journal_sealed_seq",
	"journal_unsealed_entries", "store_up", "playbooks_loaded", "playbooks_last_reload_successful",
	"playbooks_last_reload_success_timestamp_seconds", "playbooks_hash", "alert_state_reads_total", "build_info"}

var (
	ownMetric  = regexp.MustCompile(`alertmedic_[a-z_]+`)
	histograms = regexp.MustCompile(`_seconds_(bucket|sum|count)$`)
)

func requireKnownMetrics(t *testing.T, where, expr string) {
	t.Helper()
	for _, name := range ownMetric.FindAllString(expr, -1) {
		short := histograms.ReplaceAllString(strings.TrimPrefix(name, "alertmedic_"), "_seconds")
		require.Contains(t, metrics, short, "%s: %s", where, name)
	}
}

func TestDashboardsUseMetricsThatExist(t *testing.T) {
	t.Parallel()
	for _, file := range glob(t, "dashboards/*.json") {
		type panel struct {
			ID      int            `json:"id"`
			Title   string         `json:"title"`
			Type    string         `json:"type"`
			GridPos map[string]int `json:"gridPos"`
			Targets []struct {
				Expr string `json:"expr"`
			} `json:"targets"`
		}
		var d struct {
			Title         string  `json:"title"`
			UID           string  `json:"uid"`
			SchemaVersion int     `json:"schemaVersion"`
			Panels        []panel `json:"panels"`
		}
		require.NoError(t, json.Unmarshal(read(t, file), &d), file)
		require.NotEmpty(t, d.Title, file)
		require.NotEmpty(t, d.UID, file)
		require.GreaterOrEqual(t, d.SchemaVersion, 39, file)
		seen := map[int]bool{}
		for _, p := range d.Panels {
			require.False(t, seen[p.ID], "%s: two panels with id %d", file, p.ID)
			seen[p.ID] = true
			require.LessOrEqual(t, p.GridPos["x"]+p.GridPos["w"], 24, "%s: %s is too wide", file, p.Title)
			if p.Type == "row" {
				continue
			}
			require.NotEmpty(t, p.Targets, "%s: %s", file, p.Title)
			for _, target := range p.Targets {
				require.NotEmpty(t, ownMetric.FindString(target.Expr), "%s: %s", file, p.Title)
				requireKnownMetrics(t, file+": "+p.Title, target.Expr)
			}
		}
	}
}

func TestRulesUseMetricsThatExist(t *testing.T) {
	t.Parallel()
	for _, file := range glob(t, "../rules/*.yaml") {
		var f ruleGroups
		require.NoError(t, yaml.Unmarshal(read(t, file), &f))
		for _, g := range f.Groups {
			for _, r := range g.Rules {
				requireKnownMetrics(t, file, r["expr"].(string))
			}
		}
	}
}

var update = flag.Bool("update", os.Getenv("UPDATE") != "", "rewrite generated files")

// The library, the rights that it needs, and the rules are manifests too.
// `make generate` rewrites those.
func TestGeneratedManifests(t *testing.T) {
	t.Parallel()
	library := corev1.ConfigMap{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"},
		ObjectMeta: metav1.ObjectMeta{Name: "alertmedic-playbooks", Namespace: "alertmedic"}, Data: map[string]string{}}
	for _, file := range glob(t, "../playbooks/library/*.yaml") {
		library.Data[filepath.Base(file)] = string(read(t, file))
	}
	rules := prometheusRule{TypeMeta: metav1.TypeMeta{APIVersion: "monitoring.coreos.com/v1", Kind: "PrometheusRule"},
		ObjectMeta: metav1.ObjectMeta{Name: "alertmedic", Namespace: "alertmedic", Labels: map[string]string{
			"app.kubernetes.io/name": "alertmedic", "app.kubernetes.io/part-of": "alertmedic"}}}
	for _, file := range glob(t, "../rules/*.yaml") {
		var f ruleGroups
		require.NoError(t, yaml.UnmarshalStrict(read(t, file), &f), file)
		rules.Spec.Groups = append(rules.Spec.Groups, f.Groups...)
	}
	generated(t, "manifests/base/playbooks.yaml", library)
	generated(t, "manifests/monitoring/prometheusrule.yaml", rules)
	generated(t, "manifests/base/rbac-playbooks.yaml", playbookRoles(t)...)
}

// generated compares a file with what it should hold, and rewrites it first
// when asked to.
func generated(t *testing.T, file string, objects ...any) {
	t.Helper()
	want := []byte("# Generated from rules, library and actions by `make generate`. Do not edit.\n")
	for i, object := range objects {
		body, err := yaml.Marshal(object)
		require.NoError(t, err)
		if i > 0 {
			want = append(want, "---\n"...)
		}
		want = append(want, body...)
	}
	if *update {
		require.NoError(t, os.WriteFile(file, want, 0o644))
	}
	require.Equal(t, string(want), string(read(t, file)), "%s is out of date: run make generate", file)
}

// playbookRoles gives the account of each playbook the rules that its actions
// declare, and no more: what `alertmedic rbac` prints.
func playbookRoles(t *testing.T) []any {
	t.Helper()
	catalogue, err := k8sactions.New(nil, k8sactions.Options{})
	require.NoError(t, err)
	set, problems := playbooks.Load([]string{"../playbooks/library"}, playbooks.LoadOptions{Catalogue: catalogue})
	require.NoError(t, problems.Err())
	derived, err := rbac.For(set.All(), catalogue, rbac.Options{})
	require.NoError(t, err)
	return derived.Objects
}

// The shipped configurations are valid, and begin without changing anything.
func TestShippedConfigurationsAreValid(t *testing.T) {
	t.Parallel()
	for _, file := range glob(t, "manifests/*/alertmedic.yaml") {
		c, err := config.Load(file)
		require.NoError(t, err, file)
		require.Equal(t, guard.Observe, c.Safety.Mode, file)
	}
}
