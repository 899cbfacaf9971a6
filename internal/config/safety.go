package config

import (
	"fmt"
	"path"
	"strings"
	"time"

	"github.com/alertmedic/alertmedic/internal/guard"
)

// Window is a freeze, inside which nothing is changed, or a maintenance window,
// outside which nothing is changed that it is for. When several maintenance
// windows are for a run, one that is open is enough.
type Window struct {
	// Name stands in the log and in messages. Required, unique.
	Name string `yaml:"name"`
	// Type is Freeze or Maintenance. Required.
	Type string `yaml:"type"`
	// Days on which it begins, such as [Sat, Sun]; empty: every day.
	Days []string `yaml:"days"`
	// Start and End are times of the day such as "22:00"; an end that is not later
	// lies on the next day. Without both it lasts the whole day.
	Start string `yaml:"start"`
	End   string `yaml:"end"`
	// From and Until bound it, for a freeze that comes once: RFC 3339, such as
	// "2026-12-21T00:00:00+01:00".
	From  string `yaml:"from"`
	Until string `yaml:"until"`
	// TimeZone is an IANA name such as Europe/Berlin; UTC by default.
	TimeZone string `yaml:"timeZone"`
	// Namespaces and Playbooks that it is for; empty: all. What has no namespace,
	// such as a node, belongs to windows without namespaces only.
	Namespaces []string `yaml:"namespaces"`
	Playbooks  []string `yaml:"playbooks"`
}

// HumanActivity leaves a target alone for a while after a person changed its
// spec, or that of its controller.
type HumanActivity struct {
	// Enabled is true by default.
	Enabled bool `yaml:"enabled"`
	// Within is for how long: 15m.
	Within time.Duration `yaml:"within"`
	// IgnoreManagers are further field managers that are no person, as patterns
	// such as "my-operator*". Those of Kubernetes, of clouds and of GitOps tools are
	// known.
	IgnoreManagers []string `yaml:"ignoreManagers"`
}

// Watchdog disarms mode Auto while the alert Watchdog, which always fires, is not
// heard of: then the way from the rules to Alertmanager is broken.
type Watchdog struct {
	// Enabled is true by default.
	Enabled bool `yaml:"enabled"`
	// MaxAge is how long ago Alertmanager may have heard of it: 10m.
	MaxAge time.Duration `yaml:"maxAge"`
}

// Rates bound how many runs begin to change something in a time.
type Rates struct {
	// Enabled is true by default.
	Enabled bool `yaml:"enabled"`
	// Global is for all runs, PerNamespace and PerPlaybook for each of theirs.
	Global       Rate `yaml:"global"`
	PerNamespace Rate `yaml:"perNamespace"`
	PerPlaybook  Rate `yaml:"perPlaybook"`
}

// Rate is a token bucket.
type Rate struct {
	// Burst is how many runs may begin at once.
	Burst int `yaml:"burst"`
	// Every is the time after which one more may.
	Every time.Duration `yaml:"every"`
}

// Pods is the unhealthy budget of a workload's pods, for actions on pods; the
// tighter of the two caps counts.
type Pods struct {
	// MaxUnavailable pods of a workload, the target included: 10.
	MaxUnavailable int `yaml:"maxUnavailable"`
	// MaxUnavailablePercent of its pods: 50, rounded down, at least one pod.
	MaxUnavailablePercent int `yaml:"maxUnavailablePercent"`
}

// Storm stops everything when very much breaks at once. More unhealthy nodes than
// nodes.maxUnhealthy are a storm as well.
type Storm struct {
	// Enabled is true by default; false stops counting runs, not nodes.
	Enabled bool `yaml:"enabled"`
	// MaxRuns that may come into being within Window: 30 within 10m.
	MaxRuns int           `yaml:"maxRuns"`
	Window  time.Duration `yaml:"window"`
	// Cooldown is how long it must have been calm: 10m.
	Cooldown time.Duration `yaml:"cooldown"`
}

// Velocity bounds how fast capacity is taken away.
type Velocity struct {
	// MaxNodesPerPool that are taken out of service within Window: 3 within 1h.
	MaxNodesPerPool int `yaml:"maxNodesPerPool"`
	// MaxRemovePercent of a workload's replicas that are removed within Window: 25,
	// at least one.
	MaxRemovePercent int           `yaml:"maxRemovePercent"`
	Window           time.Duration `yaml:"window"`
	// MinReplicas that must stay: 1.
	MinReplicas int `yaml:"minReplicas"`
}

// defaultSafety is guard.Defaults in the words of the configuration.
func defaultSafety() Safety {
	l := guard.Defaults()
	rate := func(r guard.Rate) Rate { return Rate{Burst: r.Burst, Every: r.Every} }
	return Safety{
		Mode:                          guard.Auto,
		MaxConcurrentRuns:             l.MaxConcurrentGlobal,
		MaxConcurrentRunsPerNamespace: l.MaxConcurrentPerNamespace,
		MaxConcurrentRunsPerPlaybook:  l.MaxConcurrentRuns,
		Cooldown:                      Cooldown{AfterSuccess: l.CooldownAfterSuccess, AfterFailure: l.CooldownAfterFailure},
		Attempts:                      Attempts{Max: l.MaxAttempts, Window: l.AttemptsWindow},
		ExpireAfter:                   time.Hour,
		Nodes: Nodes{MaxUnhealthy: l.MaxUnhealthyNodes, MaxUnhealthyPercent: l.MaxUnhealthyNodesPercent, Settle: l.Settle,
			MaxConcurrentPerPool: l.MaxConcurrentPerPool, MaxConcurrentPerZone: l.MaxConcurrentPerZone, MaxZones: l.MaxZones, ControlPlane: l.ControlPlane},
		Pods:                Pods{MaxUnavailable: l.MaxUnavailablePods, MaxUnavailablePercent: l.MaxUnavailablePodsPercent},
		FiringFor:           l.FiringFor,
		HumanActivity:       HumanActivity{Enabled: true, Within: l.HumanActivity},
		GitOps:              l.GitOps,
		Watchdog:            Watchdog{Enabled: true, MaxAge: l.WatchdogAge},
		FailoverDwell:       l.FailoverDwell,
		Rate:                Rates{Enabled: true, Global: rate(l.RateGlobal), PerNamespace: rate(l.RateNamespace), PerPlaybook: rate(l.RatePlaybook)},
		Storm:               Storm{Enabled: true, MaxRuns: l.StormRuns, Window: l.StormWindow, Cooldown: l.StormCooldown},
		Velocity:            Velocity{MaxNodesPerPool: l.MaxNodesPerPool, MaxRemovePercent: l.MaxRemovePercent, Window: l.RemoveWindow, MinReplicas: l.MinReplicas},
		ProtectedNamespaces: []string{"kube-system", "kube-public", "kube-node-lease"},
		ProtectedSelectors:  []string{"app.kubernetes.io/name in (alertmedic, alertmanager, prometheus)"},
	}
}

// Warnings name the caps that are switched off.
func (s Safety) Warnings() []string {
	var out []string
	off := func(enabled bool, what, risk string) {
		if !enabled {
			out = append(out, what+" is off: "+risk)
		}
	}
	off(s.HumanActivity.Enabled, "safety.humanActivity", "a person who works on an object is not waited for")
	off(s.Watchdog.Enabled, "safety.watchdog", "mode Auto goes on while no rule is evaluated or no alert arrives")
	off(s.Rate.Enabled, "safety.rate", "nothing bounds how many runs begin in a time")
	off(s.Storm.Enabled, "safety.storm", "many alerts at once are not taken for a storm")
	if len(s.AllowLoosening) > 0 {
		out = append(out, "safety.allowLoosening lets any playbook loosen "+strings.Join(s.AllowLoosening, ", "))
	}
	off(s.GitOps != guard.GitOpsAllow, "safety.gitOps", "fields that Argo CD, Flux or Helm own are written all the same")
	return out
}

func (d *decoder) validateGuards(s *Safety) {
	d.positive("safety.nodes.maxConcurrentPerPool", s.Nodes.MaxConcurrentPerPool, 1)
	d.positive("safety.nodes.maxConcurrentPerZone", s.Nodes.MaxConcurrentPerZone, 1)
	d.positive("safety.nodes.maxZones", s.Nodes.MaxZones, 1)
	d.oneOf("safety.nodes.controlPlane", string(s.Nodes.ControlPlane), string(guard.ControlPlaneProtect), string(guard.ControlPlaneOneAtATime))
	d.positive("safety.pods.maxUnavailable", s.Pods.MaxUnavailable, 10)
	d.percent("safety.pods.maxUnavailablePercent", s.Pods.MaxUnavailablePercent, 50)
	d.switched("safety.humanActivity", s.HumanActivity.Enabled, func() {
		d.lasting("safety.humanActivity.within", s.HumanActivity.Within, "15m")
	})
	for i, p := range s.HumanActivity.IgnoreManagers {
		if _, err := path.Match(p, ""); err != nil || p == "" || strings.Trim(p, "*") == "" {
			d.addAt(fmt.Sprintf("safety.humanActivity.ignoreManagers[%d]", i), "%q is no pattern of field managers such as \"my-operator*\"; it must name something", p)
		}
	}
	d.oneOf("safety.gitOps", string(s.GitOps), string(guard.GitOpsDeny), string(guard.GitOpsApprove), string(guard.GitOpsAllow))
	d.switched("safety.watchdog", s.Watchdog.Enabled, func() { d.lasting("safety.watchdog.maxAge", s.Watchdog.MaxAge, "10m") })
	d.lasting("safety.failoverDwell", s.FailoverDwell, "5m")
	d.switched("safety.rate", s.Rate.Enabled, func() {
		for name, r := range map[string]Rate{"global": s.Rate.Global, "perNamespace": s.Rate.PerNamespace, "perPlaybook": s.Rate.PerPlaybook} {
			d.positive("safety.rate."+name+".burst", r.Burst, 5)
			d.lasting("safety.rate."+name+".every", r.Every, "5m")
		}
	})
	d.switched("safety.storm", s.Storm.Enabled, func() { d.positive("safety.storm.maxRuns", s.Storm.MaxRuns, 30) })
	d.lasting("safety.storm.window", s.Storm.Window, "10m")
	d.lasting("safety.storm.cooldown", s.Storm.Cooldown, "10m")
	d.positive("safety.velocity.maxNodesPerPool", s.Velocity.MaxNodesPerPool, 3)
	d.percent("safety.velocity.maxRemovePercent", s.Velocity.MaxRemovePercent, 25)
	d.lasting("safety.velocity.window", s.Velocity.Window, "1h")
	d.positive("safety.velocity.minReplicas", s.Velocity.MinReplicas, 1)
	for i, name := range s.AllowLoosening {
		d.oneOf(fmt.Sprintf("safety.allowLoosening[%d]", i), name, looseable()...)
	}
	seen := map[string]int{}
	for i, w := range s.Windows {
		at := fmt.Sprintf("safety.windows[%d]", i)
		d.unique(at+".name", w.Name, seen, i, "a name, which stands in the log")
		s.ParsedWindows = append(s.ParsedWindows, d.window(at, w))
	}
}

// switched checks a cap that may be switched off, unless it is.
func (d *decoder) switched(path string, enabled bool, check func()) {
	before := len(d.problems)
	if enabled {
		check()
	}
	for i := before; i < len(d.problems); i++ {
		d.problems[i].Message = strings.ReplaceAll(d.problems[i].Message, "because a limit cannot be switched off", path+".enabled: false switches it off")
		d.problems[i].Message = strings.ReplaceAll(d.problems[i].Message, "because it cannot be switched off", path+".enabled: false switches it off")
	}
}

func (d *decoder) percent(path string, n, fallback int) {
	d.positive(path, n, fallback)
	if n > 100 {
		d.addAt(path, "must be at most 100: write a percentage such as %d", fallback)
	}
}

// window reads a window; what is wrong with it is reported below at.
func (d *decoder) window(at string, w Window) guard.Window {
	out, problems := guard.WindowSpec{Name: w.Name, Type: w.Type, Days: w.Days, Start: w.Start, End: w.End, From: w.From, Until: w.Until,
		TimeZone: w.TimeZone, Namespaces: w.Namespaces}.Window()
	out.Playbooks = w.Playbooks
	for _, p := range problems {
		path, known := at, p.Known
		if p.Field != "" {
			path = join(at, p.Field)
		}
		if p.Field == "timeZone" {
			known = zones()
		}
		d.addAt(path, "%s%s", p.Message, didYouMean(p.Got, known))
	}
	d.items(at+".namespaces", w.Namespaces)
	d.items(at+".playbooks", w.Playbooks)
	return out
}
