package playbooks

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"reflect"
	"strings"
	"time"

	"github.com/prometheus/alertmanager/matcher/parse"
	"github.com/prometheus/alertmanager/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/alertmedic/alertmedic/internal/action"
	"github.com/alertmedic/alertmedic/internal/guard"
)

// Defaults of the format. Everything else that is left out is decided by the
// configuration or by the action.
const (
	defaultVerifyTimeout = 15 * time.Minute
	defaultStableFor     = time.Minute
)

// build turns one document into a playbook. After an error, which the report
// has, the playbook is incomplete and must not be used.
func build(root *node, cat Catalogue, report *reporter) *Playbook {
	report.places[""] = root.pos
	var doc v1Document
	if !identify(root, report) {
		return nil
	}
	(&strict{report: report}).decode(root, reflect.ValueOf(&doc).Elem(), "", nil)
	c := &conversion{reporter: report, cat: cat}
	p := c.playbook(&doc)
	raw, err := root.canonical()
	if err != nil {
		report.errorf("", "%s", err)
		return p
	}
	sum := sha256.Sum256(raw)
	p.Doc, p.Hash, p.Line = raw, hex.EncodeToString(sum[:]), report.at("metadata.name").line
	return p
}

// identify checks that the document is a playbook of a known version before
// anything else is said about it: the fields of another kind are no errors.
func identify(root *node, report *reporter) bool {
	if root.kind != mapNode {
		report.errorf("", "must be a playbook (apiVersion: %s, kind: %s), not %s", APIVersion, Kind, root.kind.describe())
		return false
	}
	ok := true
	for _, want := range []struct{ field, value string }{{"apiVersion", APIVersion}, {"kind", Kind}} {
		got := root.get(want.field)
		if got == nil || got.kind != stringNode {
			continue // the decoder says what is wrong
		}
		if got.string != want.value {
			report.add(Problem{Line: got.pos.line, Column: got.pos.column, Path: want.field,
				Message: fmt.Sprintf("unknown %s %s; this version reads %s", want.field, quote(got.string), want.value), Suggestion: suggest(got.string, []string{want.value})})
			ok = false
		}
	}
	return ok
}

// conversion checks what the types of the format cannot say.
type conversion struct {
	*reporter
	cat Catalogue
}

func (c *conversion) playbook(doc *v1Document) *Playbook {
	spec := &doc.Spec
	c.metadata(&doc.Metadata)
	p := &Playbook{
		Name:               doc.Metadata.Name,
		Labels:             doc.Metadata.Labels,
		Description:        spec.Description,
		File:               c.file,
		Matchers:           c.matchers(spec.Matchers, "spec.matchers"),
		When:               c.condition(spec.When, "spec.when"),
		Priority:           spec.Priority,
		Exclusive:          spec.Exclusive == nil || *spec.Exclusive,
		ServiceAccountName: spec.ServiceAccountName,
		Target:             c.target(&spec.Target),
		Mode:               guard.Mode(spec.Mode),
		Limits:             c.limits(&spec.Limits.v1Caps, "spec.limits"),
		limitsAt:           c.limitPlaces(),
		Windows:            c.windows(spec.Windows),
		OnResolve:          cmp.Or(OnResolve(spec.OnResolve), KeepOnResolve),
		Notify:             Notify{SlackChannel: c.template(spec.Notify.Slack.Channel, "spec.notify.slack.channel")},
	}
	p.Limits.ExpireAfter = c.duration(spec.Limits.ExpireAfter, "spec.limits.expireAfter", 0)
	if c.has("spec.serviceAccountName") {
		c.dns(p.ServiceAccountName, "spec.serviceAccountName", validation.IsDNS1123Subdomain)
	}
	if p.When.never() {
		c.warnf("spec.when", "is never true: the playbook does nothing")
	}
	if c.has("spec.remedies") && len(spec.Remedies) == 0 {
		c.errorf("spec.remedies", "needs at least one remedy")
	}
	names := map[string]string{}
	for i := range spec.Remedies {
		path := fmt.Sprintf("spec.remedies[%d]", i)
		c.unique(names, spec.Remedies[i].Name, path+".name", "remedy")
		p.Remedies = append(p.Remedies, c.remedy(&spec.Remedies[i], p, path))
	}
	c.reachable(p)
	if p.OnResolve == RevertOnResolve && !c.anyReversible(spec.Remedies) {
		c.warnf("spec.onResolve", "none of the actions can be reverted: this is the same as Keep")
	}
	return p
}

// has reports whether the document holds something at path.
func (c *conversion) has(path string) bool { _, ok := c.places[path]; return ok }

func (c *conversion) metadata(m *v1Metadata) {
	if c.has("metadata.name") {
		c.dns(m.Name, "metadata.name", validation.IsDNS1123Label)
	}
	for key, value := range m.Labels {
		path := join("metadata.labels", clip(key))
		for _, e := range validation.IsQualifiedName(key) {
			c.errorf(path, "bad label name: %s", withoutPattern(e))
		}
		for _, e := range validation.IsValidLabelValue(value) {
			c.errorf(path, "bad label value: %s", withoutPattern(e))
		}
	}
}

// withoutPattern cuts the examples and the regular expression off a message of
// Kubernetes' validation: the sentence before them says the same.
func withoutPattern(message string) string {
	message, _, _ = strings.Cut(message, " (e.g.")
	return message
}

// dns checks a name with one of Kubernetes' rules. Wrong types have been
// reported already and leave an empty name behind.
func (c *conversion) dns(name, path string, rule func(string) []string) {
	if name == "" && c.reported(path) {
		return
	}
	for _, e := range rule(name) {
		c.errorf(path, "bad name %s: %s", quote(name), withoutPattern(e))
	}
}

// reported reports whether a problem at path is known already.
func (c *conversion) reported(path string) bool { return c.wrong[path] }

func (c *conversion) unique(seen map[string]string, name, path, what string) {
	if !c.has(path) {
		return
	}
	c.dns(name, path, validation.IsDNS1123Label)
	if first, dup := seen[name]; dup && name != "" {
		c.errorf(path, "duplicate %s name %s: %s has it already", what, quote(name), first)
		return
	}
	seen[name] = path
}

func (c *conversion) matchers(sources []string, path string) labels.Matchers {
	if !c.has(path) {
		return nil // required, or of the wrong type
	}
	if len(sources) == 0 {
		if !c.reported(path) {
			c.errorf(path, "needs at least one matcher: without one it would match every alert")
		}
		return nil
	}
	var out labels.Matchers
	var paths []string
	bad := false
	for i, source := range sources {
		at := fmt.Sprintf("%s[%d]", path, i)
		if c.reported(at) {
			bad = true
			continue
		}
		m, err := parseMatcher(source)
		if err != nil {
			c.errorf(at, "bad matcher %s: %s", quote(source), err)
			bad = true
			continue
		}
		out, paths = append(out, m), append(paths, at)
	}
	if bad {
		return out
	}
	required := map[string]bool{} // labels that an alert must have
	for _, m := range out {
		if !m.Matches("") {
			required[m.Name] = true
		}
	}
	if len(required) == 0 {
		c.errorf(path, "would match every alert: an alert without these labels matches all of them; name at least one label that must be there")
		return out
	}
	for i, m := range out {
		negative := m.Type == labels.MatchNotEqual || m.Type == labels.MatchNotRegexp
		if negative && !required[m.Name] && m.Matches("") {
			c.warnf(paths[i], `also admits alerts that have no label %s; add the matcher %s!="" if those are not meant`, m.Name, m.Name)
		}
	}
	return out
}

// parseMatcher parses one matcher as Alertmanager's configuration does; without
// its fallback to the classic syntax, which accepts text that it then reads
// differently.
func parseMatcher(source string) (*labels.Matcher, error) {
	trimmed := strings.TrimSpace(source)
	if strings.HasPrefix(trimmed, "{") || strings.HasSuffix(trimmed, "}") {
		return nil, fmt.Errorf("write one matcher an item, without braces")
	}
	return parse.Matcher(source)
}

func (c *conversion) condition(source, path string) *Condition {
	if !c.has(path) || c.reported(path) {
		return nil
	}
	cond, err := CompileCondition(source)
	if err != nil {
		c.errorf(path, "CEL: %s", err)
		return nil
	}
	return cond
}

func (c *conversion) template(source, path string) *Template {
	if !c.has(path) || c.reported(path) {
		return nil
	}
	if source == "" {
		c.errorf(path, "is empty: give it a value or leave it out")
		return nil
	}
	t, err := CompileTemplate(source)
	if err != nil {
		c.errorf(path, "template: %s", err)
		return nil
	}
	return t
}

func (c *conversion) target(t *v1Target) TargetSpec {
	out := TargetSpec{
		Kind:      action.Kind(t.Kind),
		Name:      c.template(t.Name, "spec.target.name"),
		Namespace: c.template(t.Namespace, "spec.target.namespace"),
	}
	if c.has("spec.target.kind") && !c.reported("spec.target.kind") {
		var kinds []string
		for _, k := range action.Kinds() {
			kinds = append(kinds, string(k))
		}
		if !(&strict{report: c.reporter}).allowed(t.Kind, kinds, "spec.target.kind") {
			out.Kind = "" // so that no action is measured against it
		}
	}
	if out.Name != nil && out.Name.Static() {
		c.dns(t.Name, "spec.target.name", validation.IsDNS1123Subdomain)
	}
	switch {
	case out.Namespace == nil:
	case out.Kind.ClusterScoped():
		c.errorf("spec.target.namespace", "a %s has no namespace", out.Kind)
	case out.Namespace.Static():
		c.dns(t.Namespace, "spec.target.namespace", validation.IsDNS1123Label)
	}
	return out
}

// limits reads those of a playbook or remedy, written at path.
func (c *conversion) limits(l *v1Caps, path string) Limits {
	return Limits{
		MaxConcurrentRuns:    c.count(l.MaxConcurrentRuns, path+".maxConcurrentRuns"),
		CooldownAfterSuccess: c.duration(l.Cooldown.AfterSuccess, path+".cooldown.afterSuccess", 0),
		CooldownAfterFailure: c.duration(l.Cooldown.AfterFailure, path+".cooldown.afterFailure", 0),
		MaxAttempts:          c.count(l.Attempts.Max, path+".attempts.max"),
		AttemptsWindow:       c.duration(l.Attempts.Window, path+".attempts.window", 0),
		FiringFor:            c.duration(l.FiringFor, path+".firingFor", 0),
		HumanActivity:        c.duration(l.HumanActivity, path+".humanActivity", 0),
		Rate: guard.Rate{Burst: c.count(l.Rate.Burst, path+".rate.burst"),
			Every: c.duration(l.Rate.Every, path+".rate.every", 0)},
		GitOps:                    guard.GitOpsPolicy(l.GitOps),
		MaxUnavailablePods:        c.count(l.MaxUnavailable, path+".maxUnavailablePods"),
		MaxUnavailablePodsPercent: c.percent(l.MaxUnavailablePct, path+".maxUnavailablePodsPercent"),
		MaxUnhealthyNodes:         c.count(l.MaxUnhealthy, path+".maxUnhealthyNodes"),
		MaxUnhealthyNodesPercent:  c.percent(l.MaxUnhealthyPct, path+".maxUnhealthyNodesPercent"),
		MaxNodesPerPool:           c.count(l.Velocity.MaxNodesPerPool, path+".velocity.maxNodesPerPool"),
		MaxRemovePercent:          c.percent(l.Velocity.MaxRemovePercent, path+".velocity.maxRemovePercent"),
		RemoveWindow:              c.duration(l.Velocity.Window, path+".velocity.window", 0),
		MinReplicas:               c.count(l.Velocity.MinReplicas, path+".velocity.minReplicas"),
	}
}

// windows reads them as the configuration reads its own.
func (c *conversion) windows(all []v1Window) []guard.Window {
	var out []guard.Window
	names := map[string]string{}
	for i, w := range all {
		at := fmt.Sprintf("spec.windows[%d]", i)
		if name := at + ".name"; c.has(name) && !c.reported(name) {
			if first, twice := names[w.Name]; twice {
				c.errorf(name, "duplicate window name %s: %s has it already", quote(w.Name), first)
			} else if strings.TrimSpace(w.Name) == "" {
				c.errorf(name, "is empty: write a name, which stands in the log")
			}
			names[w.Name] = name
		}
		for j, ns := range w.Namespaces {
			c.dns(ns, fmt.Sprintf("%s.namespaces[%d]", at, j), validation.IsDNS1123Label)
		}
		window, problems := guard.WindowSpec(w).Window()
		var fresh []Problem
		for _, p := range problems {
			path := at
			if p.Field != "" {
				path = join(at, p.Field)
			}
			if c.wrongAt(path) || p.Field == "type" && !c.has(path) {
				continue
			}
			fresh = append(fresh, Problem{Path: path, Message: p.Message, Suggestion: suggest(p.Got, p.Known)})
		}
		for _, p := range fresh { // only now: one at the window as a whole hides no other
			c.add(p)
		}
		out = append(out, window)
	}
	return out
}

// wrongAt reports whether a problem at path, or at one above it, is known already.
func (c *conversion) wrongAt(path string) bool {
	for ; path != ""; path = path[:max(0, strings.LastIndexAny(path, ".["))] {
		if c.reported(path) {
			return true
		}
	}
	return false
}

// anyReversible reports whether a step has an action that can be reverted, or one
// that is not known.
func (c *conversion) anyReversible(remedies []v1Remedy) bool {
	for _, r := range remedies {
		for _, s := range r.Steps {
			if spec, ok := c.cat.Lookup(s.Action); !ok || spec.Reversible {
				return true
			}
		}
	}
	return false
}

// limitPlaces keeps where limits were written, for those who compare them with
// the configuration's.
func (c *conversion) limitPlaces() map[string]position {
	out := map[string]position{}
	for path, at := range c.places {
		if strings.HasPrefix(path, "spec.") && strings.Contains(path, "limits.") {
			out[path] = at
		}
	}
	return out
}

func (c *conversion) percent(n *int, path string) int {
	if n != nil && *n > 100 && !c.reported(path) {
		c.errorf(path, "must be at most 100: it is a percentage")
	}
	return c.count(n, path)
}

// count and duration refuse an explicit zero: it would silently mean the
// default where its author meant none, or no limit.
func (c *conversion) count(n *int, path string) int {
	if n == nil {
		return 0
	}
	if *n < 1 && !c.reported(path) {
		c.errorf(path, "must be at least 1; leave it out for the default")
	}
	return *n
}

func (c *conversion) duration(d *action.Duration, path string, fallback time.Duration) time.Duration {
	if d == nil {
		return fallback
	}
	if *d <= 0 {
		if !c.reported(path) {
			c.errorf(path, "must be longer than 0; leave it out for the default")
		}
		return fallback
	}
	return d.Std()
}
