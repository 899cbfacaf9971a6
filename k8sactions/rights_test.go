package k8sactions_test

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/alertmedic/alertmedic/internal/testcluster"
	"github.com/alertmedic/alertmedic/k8sactions"
)

// used keeps which action each namespace of a test is for. Every call of an
// action is made as a ServiceAccount that has exactly the declared rights, so
// nothing undeclared can be used; this is for the other direction.
var used struct {
	sync.Mutex
	cluster *testcluster.Cluster
	actions map[string]string // by namespace
}

func remember(c *testcluster.Cluster, ns, action string) {
	used.Lock()
	defer used.Unlock()
	if used.actions == nil {
		used.actions = map[string]string{}
	}
	used.cluster, used.actions[ns] = c, action
}

// checked runs the tests and then compares the declared rights with what the API
// server's audit log saw: a right that no test of an action used is one too many,
// or a test too few.
type checked struct{ tests interface{ Run() int } }

func (c checked) Run() int {
	code := c.tests.Run()
	if code != 0 || !whole() {
		return code
	}
	unused, err := unusedRights()
	if err != nil || len(unused) > 0 {
		fmt.Fprintln(os.Stderr, "rights that are declared and were never used:", strings.Join(unused, "; "), err)
		return 1
	}
	return code
}

// whole says that no flag left tests out.
func whole() bool {
	for _, name := range []string{"test.run", "test.skip", "test.list"} {
		if f := flag.Lookup(name); f != nil && f.Value.String() != "" {
			return false
		}
	}
	short := flag.Lookup("test.short")
	return short == nil || short.Value.String() != "true"
}

func unusedRights() ([]string, error) {
	used.Lock()
	defer used.Unlock()
	if used.cluster == nil {
		return nil, nil
	}
	events, err := used.cluster.AuditEvents(processStart)
	if err != nil {
		return nil, fmt.Errorf("read the audit log: %w", err)
	}
	seen := map[string]bool{}
	for _, e := range events {
		if e.ImpersonatedUser == nil || e.ObjectRef == nil {
			continue
		}
		parts := strings.Split(e.ImpersonatedUser.Username, ":")
		if len(parts) != 4 || parts[3] != serviceAccount {
			continue
		}
		resource := e.ObjectRef.Resource
		if e.ObjectRef.Subresource != "" {
			resource += "/" + e.ObjectRef.Subresource
		}
		seen[right(used.actions[parts[2]], e.Verb, e.ObjectRef.APIGroup, resource)] = true
	}
	tested := slices.Collect(maps.Values(used.actions))
	var out []string
	for _, spec := range k8sactions.Specs() {
		if !slices.Contains(tested, spec.Name) {
			out = append(out, spec.Name+" has no test at an API server")
			continue
		}
		for _, rule := range spec.RBAC {
			for _, group := range rule.APIGroups {
				for _, resource := range rule.Resources {
					for _, verb := range rule.Verbs {
						if r := right(spec.Name, verb, group, resource); !seen[r] {
							out = append(out, r)
						}
					}
				}
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

func right(action, verb, group, resource string) string {
	if group != "" {
		resource = group + "/" + resource
	}
	return action + ": " + verb + " " + resource
}
