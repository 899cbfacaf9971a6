package config_test

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alertmedic/alertmedic/internal/config"
	"github.com/alertmedic/alertmedic/internal/guard"
	"github.com/alertmedic/alertmedic/playbooks"
)

// opinion is what a playbook may say of one limit: tighter and looser values than
// middle's, and how the configuration calls them.
type opinion struct {
	tight, loose playbooks.Limits
	group, path  string
}

// opinions has a row for each field of playbooks.Limits.
func opinions() map[string]opinion {
	type l = playbooks.Limits
	const shorter, longer = 9 * time.Minute, 11 * time.Minute
	return map[string]opinion{
		"MaxConcurrentRuns":         {l{MaxConcurrentRuns: 9}, l{MaxConcurrentRuns: 11}, "maxConcurrentRuns", "maxConcurrentRuns"},
		"CooldownAfterSuccess":      {l{CooldownAfterSuccess: longer}, l{CooldownAfterSuccess: shorter}, "cooldown", "cooldown.afterSuccess"},
		"CooldownAfterFailure":      {l{CooldownAfterFailure: longer}, l{CooldownAfterFailure: shorter}, "cooldown", "cooldown.afterFailure"},
		"MaxAttempts":               {l{MaxAttempts: 9}, l{MaxAttempts: 11}, "attempts", "attempts.max"},
		"AttemptsWindow":            {l{AttemptsWindow: longer}, l{AttemptsWindow: shorter}, "attempts", "attempts.window"},
		"FiringFor":                 {l{FiringFor: longer}, l{FiringFor: shorter}, "firingFor", "firingFor"},
		"HumanActivity":             {l{HumanActivity: longer}, l{HumanActivity: shorter}, "humanActivity", "humanActivity"},
		"Rate.Burst":                {l{Rate: guard.Rate{Burst: 9}}, l{Rate: guard.Rate{Burst: 11}}, "rate", "rate.burst"},
		"Rate.Every":                {l{Rate: guard.Rate{Every: longer}}, l{Rate: guard.Rate{Every: shorter}}, "rate", "rate.every"},
		"GitOps":                    {l{GitOps: guard.GitOpsDeny}, l{GitOps: guard.GitOpsAllow}, "gitOps", "gitOps"},
		"MaxUnavailablePods":        {l{MaxUnavailablePods: 9}, l{MaxUnavailablePods: 11}, "pods", "maxUnavailablePods"},
		"MaxUnavailablePodsPercent": {l{MaxUnavailablePodsPercent: 9}, l{MaxUnavailablePodsPercent: 11}, "pods", "maxUnavailablePodsPercent"},
		"MaxUnhealthyNodes":         {l{MaxUnhealthyNodes: 9}, l{MaxUnhealthyNodes: 11}, "nodes", "maxUnhealthyNodes"},
		"MaxUnhealthyNodesPercent":  {l{MaxUnhealthyNodesPercent: 9}, l{MaxUnhealthyNodesPercent: 11}, "nodes", "maxUnhealthyNodesPercent"},
		"MaxNodesPerPool":           {l{MaxNodesPerPool: 9}, l{MaxNodesPerPool: 11}, "velocity", "velocity.maxNodesPerPool"},
		"MaxRemovePercent":          {l{MaxRemovePercent: 9}, l{MaxRemovePercent: 11}, "velocity", "velocity.maxRemovePercent"},
		"RemoveWindow":              {l{RemoveWindow: longer}, l{RemoveWindow: shorter}, "velocity", "velocity.window"},
		"MinReplicas":               {l{MinReplicas: 11}, l{MinReplicas: 9}, "velocity", "velocity.minReplicas"},
	}
}

// middle is a configuration with room on both sides of every limit.
func middle(t *testing.T) *config.Config {
	t.Helper()
	cfg, err := config.Parse("a.yaml", []byte(minimal+`safety:
  maxConcurrentRunsPerPlaybook: 10
  cooldown: {afterSuccess: 10m, afterFailure: 10m}
  attempts: {max: 10, window: 10m}
  firingFor: 10m
  humanActivity: {within: 10m}
  rate: {perPlaybook: {burst: 10, every: 10m}}
  gitOps: Approve
  pods: {maxUnavailable: 10, maxUnavailablePercent: 10}
  nodes: {maxUnhealthy: 10, maxUnhealthyPercent: 10}
  velocity: {maxNodesPerPool: 10, maxRemovePercent: 10, window: 10m, minReplicas: 10}
`))
	require.NoError(t, err)
	return cfg
}

// What a playbook sets is in force when it is tighter, and when it is looser only
// where the configuration says that it may be.
func TestAPlaybookOnlyTightens(t *testing.T) {
	t.Parallel()
	all := opinions()
	var walk func(prefix string, typ reflect.Type)
	walk = func(prefix string, typ reflect.Type) {
		for i := range typ.NumField() {
			f := typ.Field(i)
			if f.Type.Kind() == reflect.Struct {
				walk(f.Name+".", f.Type)
			} else if f.Name != "ExpireAfter" { // no limit of the guards: TestAPlaybookOnlyExpiresSooner
				require.Contains(t, all, prefix+f.Name, "a limit of playbooks without a row here")
			}
		}
	}
	walk("", reflect.TypeFor[playbooks.Limits]())

	for name, o := range all {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := middle(t)
			own := cfg.LimitsFor(nil, nil)
			field := func(l guard.Limits) any {
				first, second, nested := strings.Cut(strings.Replace(name, "Rate.", "RatePlaybook.", 1), ".")
				v := reflect.ValueOf(l).FieldByName(first)
				if nested {
					v = v.FieldByName(second)
				}
				return v.Interface()
			}
			said := func(l playbooks.Limits) any {
				first, second, nested := strings.Cut(name, ".")
				v := reflect.ValueOf(l).FieldByName(first)
				if nested {
					v = v.FieldByName(second)
				}
				return v.Interface()
			}
			tight, loose := &playbooks.Playbook{Limits: o.tight}, &playbooks.Playbook{Limits: o.loose}
			require.Equal(t, said(o.tight), field(cfg.LimitsFor(tight, nil)), "the tighter one is in force")
			require.Empty(t, cfg.LooserThan(tight))
			require.Equal(t, own, cfg.LimitsFor(loose, nil), "the looser one is not in force")
			refused := cfg.LooserThan(loose)
			require.Len(t, refused, 1)
			require.Equal(t, "spec.limits."+o.path, refused[0].Path)
			require.Contains(t, refused[0].Message, "name "+o.group+" in safety.allowLoosening")
			require.Contains(t, refused[0].Message, "stays in force")

			cfg.Safety.AllowLoosening = []string{"somethingElse"}
			require.Equal(t, own, cfg.LimitsFor(loose, nil), "another limit may be loosened")
			cfg.Safety.AllowLoosening = []string{o.group}
			require.Equal(t, said(o.loose), field(cfg.LimitsFor(loose, nil)), "this one may")
			require.Empty(t, cfg.LooserThan(loose))
			require.Equal(t, said(o.tight), field(cfg.LimitsFor(tight, nil)))
			require.NotEmpty(t, cfg.Safety.Warnings(), "the configuration's own warning")
		})
	}
}

// The configuration's expireAfter is a cap: a run that waits for longer than its
// operator allows would act on what was true long ago.
func TestAPlaybookOnlyExpiresSooner(t *testing.T) {
	t.Parallel()
	cfg := config.Default()
	with := func(d time.Duration) *playbooks.Playbook {
		return &playbooks.Playbook{Limits: playbooks.Limits{ExpireAfter: d}}
	}
	require.Equal(t, time.Hour, cfg.ExpireAfterFor(nil))
	require.Equal(t, time.Hour, cfg.ExpireAfterFor(with(0)))
	require.Equal(t, time.Minute, cfg.ExpireAfterFor(with(time.Minute)))
	require.Empty(t, cfg.LooserThan(with(time.Minute)))
	require.Equal(t, time.Hour, cfg.ExpireAfterFor(with(8*time.Hour)), "longer is not in force")
	refused := cfg.LooserThan(with(8 * time.Hour))
	require.Len(t, refused, 1)
	require.Equal(t, "spec.limits.expireAfter", refused[0].Path)
	require.Contains(t, refused[0].Message, "the configuration's 1h (safety.expireAfter), which stays in force")
	cfg.Safety.AllowLoosening = []string{"expireAfter"}
	require.Equal(t, 8*time.Hour, cfg.ExpireAfterFor(with(8*time.Hour)))
	require.Empty(t, cfg.LooserThan(with(8*time.Hour)))
}

// What a remedy sets is in force, for it alone, when it is tighter than what holds
// for its playbook; it loosens nothing, whatever the configuration lets playbooks
// loosen.
func TestARemedyOnlyTightens(t *testing.T) {
	t.Parallel()
	for name, o := range opinions() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := middle(t)
			pb := &playbooks.Playbook{Remedies: []playbooks.Remedy{{Name: "tight", Limits: o.tight}, {Name: "loose", Limits: o.loose}, {Name: "none"}}}
			own, asPlaybook := cfg.LimitsFor(nil, nil), cfg.LimitsFor(&playbooks.Playbook{Limits: o.tight}, nil)
			require.NotEqual(t, own, asPlaybook)
			for _, allowed := range [][]string{nil, {o.group}} {
				cfg.Safety.AllowLoosening = allowed
				require.Equal(t, own, cfg.LimitsFor(pb, nil), "a remedy's limit is not its playbook's")
				require.Equal(t, asPlaybook, cfg.LimitsFor(pb, &pb.Remedies[0]), "the tighter one is in force")
				require.Equal(t, own, cfg.LimitsFor(pb, &pb.Remedies[1]), "the looser one is not in force")
				require.Equal(t, own, cfg.LimitsFor(pb, &pb.Remedies[2]), "what is left out is the playbook's")
				refused := cfg.LooserThan(pb)
				require.Len(t, refused, 1)
				require.Equal(t, "spec.remedies[1].limits."+o.path, refused[0].Path)
				require.Contains(t, refused[0].Message, "a remedy may only tighten it")
			}
			cfg.Safety.AllowLoosening = nil

			// The playbook is what it is measured against.
			pb = &playbooks.Playbook{Limits: o.tight, Remedies: []playbooks.Remedy{{Name: "loose", Limits: o.loose}}}
			require.Equal(t, asPlaybook, cfg.LimitsFor(pb, &pb.Remedies[0]))
			require.Len(t, cfg.LooserThan(pb), 1)
		})
	}
}

// A cap that the operator switched off is looser than any of a playbook.
func TestAPlaybookTightensWhatIsOff(t *testing.T) {
	t.Parallel()
	cfg := config.Default()
	cfg.Safety.Rate.Enabled, cfg.Safety.HumanActivity.Enabled = false, false
	own := playbooks.Limits{HumanActivity: time.Minute, Rate: guard.Rate{Burst: 3, Every: time.Hour}}
	got := cfg.LimitsFor(&playbooks.Playbook{Limits: own}, nil)
	require.Equal(t, time.Minute, got.HumanActivity)
	require.Equal(t, own.Rate, got.RatePlaybook)
	require.Equal(t, guard.Off, got.RateGlobal.Burst)
	for _, half := range []guard.Rate{{Burst: 3}, {Every: time.Hour}} {
		got := cfg.LimitsFor(&playbooks.Playbook{Limits: playbooks.Limits{Rate: half}}, nil)
		require.Equal(t, guard.Rate{Burst: guard.Off}, got.RatePlaybook, "half a rate is none")
	}
}

// Every limit of the guards is reached by a setting of its own.
func TestEveryLimitHasASetting(t *testing.T) {
	t.Parallel()
	cfg, err := config.Load("testdata/full.yaml")
	require.NoError(t, err)
	cfg.Safety.Rate.Enabled, cfg.Safety.Storm.Enabled, cfg.Safety.HumanActivity.Enabled, cfg.Safety.Watchdog.Enabled = true, true, true, true
	requireDiffer(t, "", reflect.ValueOf(config.Default().LimitsFor(nil, nil)), reflect.ValueOf(cfg.LimitsFor(nil, nil)), map[string]bool{"PlaybookWindows": true})
}

// A playbook's windows come on top of the configuration's.
func TestAPlaybookHasWindowsOfItsOwn(t *testing.T) {
	t.Parallel()
	cfg, err := config.Parse("a.yaml", []byte(minimal+`safety: {windows: [{name: theirs, type: Freeze, days: [Sat]}]}`+"\n"))
	require.NoError(t, err)
	pb := &playbooks.Playbook{Windows: []guard.Window{{Name: "own"}}}
	l := cfg.LimitsFor(pb, nil)
	require.Equal(t, "theirs", l.Windows[0].Name)
	require.Equal(t, pb.Windows, l.PlaybookWindows)
	require.Empty(t, cfg.LimitsFor(nil, nil).PlaybookWindows)
}

// A window is of the wall clock of its zone, in summer and in winter, over the
// hour that is left out and the one that comes twice.
func TestWindowsKnowTheirZone(t *testing.T) {
	t.Parallel()
	cfg, err := config.Parse("a.yaml", []byte(minimal+`safety:
  windows:
  - {name: berlin, type: Freeze, start: "02:00", end: "03:00", timeZone: Europe/Berlin}
  - {name: new-york, type: Freeze, days: [Sun], start: "22:00", end: "01:30", timeZone: America/New_York}
  - {name: kathmandu, type: Freeze, start: "06:00", end: "07:00", timeZone: Asia/Kathmandu}
  - {name: utc, type: Freeze, start: "06:00", end: "07:00"}
`))
	require.NoError(t, err)
	w := cfg.LimitsFor(nil, nil).Windows
	for _, c := range []struct {
		window int
		at     string
		inside bool
	}{
		{0, "2026-01-10T01:30:00Z", true}, // 02:30, winter
		{0, "2026-01-10T00:30:00Z", false},
		{0, "2026-07-10T00:30:00Z", true}, // 02:30, summer
		{0, "2026-07-10T01:30:00Z", false},
		{0, "2026-03-29T00:59:59Z", false}, // 01:59:59; the next second is 03:00
		{0, "2026-03-29T01:00:00Z", false},
		{0, "2026-10-25T00:30:00Z", true}, // 02:30 for the first time
		{0, "2026-10-25T01:30:00Z", true}, // and for the second
		{0, "2026-10-25T02:00:00Z", false},
		{1, "2026-01-12T03:00:00Z", true},  // Sunday 22:00
		{1, "2026-01-12T06:29:59Z", true},  // Monday 01:29:59
		{1, "2026-01-12T06:30:00Z", false}, // Monday 01:30
		{1, "2026-01-11T03:00:00Z", false}, // Saturday 22:00
		{2, "2026-01-12T00:15:00Z", true},  // 06:00 at +05:45
		{2, "2026-01-12T00:14:59Z", false},
		{3, "2026-07-12T06:00:00Z", true},
		{3, "2026-07-12T07:00:00Z", false},
	} {
		at, err := time.Parse(time.RFC3339, c.at)
		require.NoError(t, err)
		inside, err := w[c.window].Contains(at)
		require.NoError(t, err)
		require.Equal(t, c.inside, inside, "%s at %s", w[c.window].Name, c.at)
		require.NotNil(t, w[c.window].Location, "no decision reads a file")
	}
}
