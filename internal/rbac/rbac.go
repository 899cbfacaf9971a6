// Package rbac derives the least rights that playbooks need from the actions of
// their steps and the kinds of their targets.
package rbac

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/prometheus/alertmanager/pkg/labels"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/alertmedic/alertmedic/internal/action"
	"github.com/alertmedic/alertmedic/playbooks"
)

// Catalogue tells about actions by name.
type Catalogue interface {
	Lookup(name string) (action.Spec, bool)
}

// Options name what the rights are bound to.
type Options struct {
	// Namespace of the ServiceAccounts that playbooks name; "alertmedic" when empty.
	Namespace string
	// Default is the ServiceAccount of playbooks that name none; without one they
	// act as Self.
	Default string
	// Self is the service's own ServiceAccount, which impersonates the others;
	// "alertmedic" when empty.
	Self string
}

// Derived are the objects that grant the rights, and what is worth a second look.
type Derived struct {
	// Objects are Roles, ClusterRoles and their bindings, by account.
	Objects []any
	// Warnings name rights that are worth as much as much wider ones.
	Warnings []Warning
}

// Warning is a right that is equivalent to escalation.
type Warning struct {
	ServiceAccount string   `json:"serviceAccount"`
	Playbooks      []string `json:"playbooks"`
	Right          string   `json:"right"` // "patch deployments.apps in every namespace"
	Why            string   `json:"why"`
}

// String is the warning in a line.
func (w Warning) String() string {
	return fmt.Sprintf("%s (%s) may %s: %s", w.ServiceAccount, strings.Join(w.Playbooks, ", "), w.Right, w.Why)
}

// verbs are the verbs by group and resource.
type verbs map[string]map[string]bool

func (v verbs) add(rule action.Rule) {
	for _, group := range rule.APIGroups {
		for _, resource := range rule.Resources {
			key := group + "/" + resource
			if v[key] == nil {
				v[key] = map[string]bool{}
			}
			for _, verb := range rule.Verbs {
				v[key][verb] = true
			}
		}
	}
}

// without leaves out what wide grants already.
func (v verbs) without(wide verbs) verbs {
	out := verbs{}
	for key, own := range v {
		for verb := range own {
			if !wide[key][verb] {
				if out[key] == nil {
					out[key] = map[string]bool{}
				}
				out[key][verb] = true
			}
		}
	}
	return out
}

func (v verbs) rules() []rbacv1.PolicyRule {
	var out []rbacv1.PolicyRule
	for _, key := range slices.Sorted(maps.Keys(v)) {
		group, resource, _ := strings.Cut(key, "/")
		out = append(out, rbacv1.PolicyRule{APIGroups: []string{group}, Resources: []string{resource}, Verbs: slices.Sorted(maps.Keys(v[key]))})
	}
	return out
}

// account is what one ServiceAccount needs: everywhere, and in namespaces.
type account struct {
	cluster    verbs
	namespaced map[string]verbs
	playbooks  map[string]bool
	usedBy     map[string]map[string]bool // playbooks by "key verb"
}

// For derives the rights of the playbooks. Where a playbook's namespaces are
// written in it (target.namespace, or an equality matcher on namespace), it gets
// Roles in these; otherwise a ClusterRole. The error names an action that the
// catalogue does not have.
func For(books []*playbooks.Playbook, cat Catalogue, o Options) (Derived, error) {
	o.Namespace, o.Self = cmp.Or(o.Namespace, "alertmedic"), cmp.Or(o.Self, "alertmedic")
	accounts := map[string]*account{}
	for _, pb := range books {
		name := cmp.Or(pb.ServiceAccountName, o.Default, o.Self)
		a := accounts[name]
		if a == nil {
			a = &account{cluster: verbs{}, namespaced: map[string]verbs{}, playbooks: map[string]bool{}, usedBy: map[string]map[string]bool{}}
			accounts[name] = a
		}
		a.playbooks[pb.Name] = true
		if err := a.addPlaybook(pb, cat); err != nil {
			return Derived{}, err
		}
	}
	var out Derived
	var impersonated []string
	for _, name := range slices.Sorted(maps.Keys(accounts)) {
		a := accounts[name]
		out.Objects = append(out.Objects, a.objects(name, o)...)
		out.Warnings = append(out.Warnings, a.warnings(name)...)
		if name != o.Self {
			impersonated = append(impersonated, name)
		}
	}
	if len(impersonated) > 0 {
		out.Objects = append(out.Objects, impersonation(impersonated, o)...)
	}
	return out, nil
}

func (a *account) addPlaybook(pb *playbooks.Playbook, cat Catalogue) error {
	namespaces := Namespaces(pb)
	for _, remedy := range pb.Remedies {
		for _, step := range remedy.Steps {
			spec, ok := cat.Lookup(step.Action)
			if !ok {
				return fmt.Errorf("playbook %s: there is no action %s", pb.Name, step.Action)
			}
			for _, rule := range spec.Rules(pb.Target.Kind) {
				a.use(pb.Name, rule)
				if rule.ClusterScoped || len(namespaces) == 0 {
					a.cluster.add(rule)
					continue
				}
				for _, ns := range namespaces {
					if a.namespaced[ns] == nil {
						a.namespaced[ns] = verbs{}
					}
					a.namespaced[ns].add(rule)
				}
			}
		}
	}
	return nil
}

func (a *account) use(playbook string, rule action.Rule) {
	v := verbs{}
	v.add(rule)
	for key, own := range v {
		for verb := range own {
			if a.usedBy[key+" "+verb] == nil {
				a.usedBy[key+" "+verb] = map[string]bool{}
			}
			a.usedBy[key+" "+verb][playbook] = true
		}
	}
}

// Namespaces are those that the playbook itself says it acts in, sorted; none
// means that its alerts decide. Matchers narrow alerts and so the objects that
// their labels name; a template for the namespace is not narrowed by them.
func Namespaces(pb *playbooks.Playbook) []string {
	if pb.Target.Namespace != nil {
		if pb.Target.Namespace.Static() {
			return []string{pb.Target.Namespace.String()}
		}
		return nil
	}
	for _, m := range pb.Matchers {
		if m.Name == "namespace" && m.Type == labels.MatchEqual && m.Value != "" {
			return []string{m.Value}
		}
	}
	return nil
}

func meta(kind, namespace, name string) (metav1.TypeMeta, metav1.ObjectMeta) {
	return metav1.TypeMeta{APIVersion: rbacv1.SchemeGroupVersion.String(), Kind: kind}, metav1.ObjectMeta{Name: name, Namespace: namespace}
}

func (a *account) objects(name string, o Options) []any {
	var out []any
	role := name
	if name == o.Self {
		role = name + "-playbooks" // its own reads have a role already
	}
	if rules := a.cluster.rules(); len(rules) > 0 {
		t, m := meta("ClusterRole", "", role)
		bt, bm := meta("ClusterRoleBinding", "", role)
		out = append(out, rbacv1.ClusterRole{TypeMeta: t, ObjectMeta: m, Rules: rules},
			rbacv1.ClusterRoleBinding{TypeMeta: bt, ObjectMeta: bm, RoleRef: ref("ClusterRole", role), Subjects: subjects(name, o.Namespace)})
	}
	for _, ns := range slices.Sorted(maps.Keys(a.namespaced)) {
		rules := a.namespaced[ns].without(a.cluster).rules()
		if len(rules) == 0 {
			continue
		}
		t, m := meta("Role", ns, role)
		bt, bm := meta("RoleBinding", ns, role)
		out = append(out, rbacv1.Role{TypeMeta: t, ObjectMeta: m, Rules: rules},
			rbacv1.RoleBinding{TypeMeta: bt, ObjectMeta: bm, RoleRef: ref("Role", role), Subjects: subjects(name, o.Namespace)})
	}
	return out
}

func ref(kind, name string) rbacv1.RoleRef {
	return rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: kind, Name: name}
}

func subjects(name, namespace string) []rbacv1.Subject {
	return []rbacv1.Subject{{Kind: "ServiceAccount", Name: name, Namespace: namespace}}
}

// impersonation lets the service act as these accounts, by name, and as no other.
func impersonation(names []string, o Options) []any {
	name := o.Self + "-impersonate"
	t, m := meta("Role", o.Namespace, name)
	bt, bm := meta("RoleBinding", o.Namespace, name)
	return []any{
		rbacv1.Role{TypeMeta: t, ObjectMeta: m, Rules: []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"serviceaccounts"},
			Verbs: []string{"impersonate"}, ResourceNames: names}}},
		rbacv1.RoleBinding{TypeMeta: bt, ObjectMeta: bm, RoleRef: ref("Role", name), Subjects: subjects(o.Self, o.Namespace)},
	}
}
