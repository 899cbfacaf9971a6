package config_test

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alertmedic/alertmedic/internal/config"
	"github.com/alertmedic/alertmedic/internal/guard"
	"github.com/alertmedic/alertmedic/playbooks"
)

var update = flag.Bool("update", false, "rewrite the golden files")

const minimal = "cluster: c\nsources: [{name: a, alertmanagers: [{url: http://am:9093}], prometheuses: [{url: http://prom:9090}]}]\n"

// Every bad fixture has a golden file with all of its problems, word for word.
func TestLoad_bad(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/bad/*.yaml")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			t.Parallel()
			cfg, err := config.Load(file)
			require.Nil(t, cfg)
			var problems *config.Error
			require.ErrorAs(t, err, &problems)
			for _, p := range problems.Problems {
				require.Positive(t, p.Line, "%s", p)
				require.Positive(t, p.Column, "%s", p)
			}
			require.NotContains(t, err.Error(), "hunter2", "a password must not be quoted")
			golden := strings.TrimSuffix(file, ".yaml") + ".txt"
			if *update {
				require.NoError(t, os.WriteFile(golden, []byte(err.Error()+"\n"), 0o644))
			}
			want, readErr := os.ReadFile(golden)
			require.NoError(t, readErr)
			require.Equal(t, string(want), err.Error()+"\n")
		})
	}
}

func TestLoad_full(t *testing.T) {
	t.Parallel()
	cfg, err := config.Load("testdata/full.yaml")
	require.NoError(t, err)
	source := cfg.Sources[0]
	require.Equal(t, "prod-eu2", source.Cluster)
	require.Equal(t, 10*time.Minute, source.GroupInterval)
	require.Equal(t, "testdata/am-token", source.Alertmanagers[0].BearerTokenFile, "relative to the configuration")
	require.Equal(t, "/etc/alertmedic/tokens/alertmanager", source.TokenFile)
	require.Equal(t, []string{"testdata/books", "/etc/books"}, cfg.Playbooks.Paths)
	require.Equal(t, "/var/lib/alertmedic/a.db", cfg.Store.DSN)
	require.Equal(t, guard.Approve, cfg.Safety.Mode)
	require.Equal(t, 48*time.Hour, cfg.Safety.Attempts.Window)
	require.InDelta(t, 12.5, cfg.Kubernetes.QPS, 0)
	require.Equal(t, 70*time.Second, cfg.Kubernetes.RequestTimeout)
	require.Len(t, cfg.Hash, 64)

	// No field of the file may be left at its default, or the decoder does not
	// know it; those that exclude each other are excepted.
	except := map[string]bool{"Notify.Slack.WebhookURLFile": true, "Store.DSNFile": true}
	requireDiffer(t, "", reflect.ValueOf(*config.Default()), reflect.ValueOf(*cfg), except)
}

func requireDiffer(t *testing.T, path string, a, b reflect.Value, except map[string]bool) {
	t.Helper()
	for i := range a.NumField() {
		name := strings.TrimPrefix(path+"."+a.Type().Field(i).Name, ".")
		if a.Field(i).Kind() == reflect.Struct {
			requireDiffer(t, name, a.Field(i), b.Field(i), except)
			continue
		}
		if !except[name] {
			require.NotEqual(t, a.Field(i).Interface(), b.Field(i).Interface(), name)
		}
	}
}

func TestParse_defaults(t *testing.T) {
	t.Parallel()
	cfg, err := config.Parse("a.yaml", []byte(minimal+"safety:\nengine: {workers: null}\n"))
	require.NoError(t, err)
	require.Equal(t, "c", cfg.Sources[0].Cluster)
	require.Equal(t, 5*time.Minute, cfg.Sources[0].GroupInterval)
	require.Equal(t, config.Default().Safety, cfg.Safety)
	require.Equal(t, config.Default().Engine, cfg.Engine)
	require.True(t, cfg.LoopbackOnly())
	require.False(t, cfg.Auth.Configured())
	require.Equal(t, "alertmedic.db", cfg.Store.DSN)
}

func TestLoad_unreadable(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	huge := filepath.Join(dir, "huge.yaml")
	require.NoError(t, os.WriteFile(huge, make([]byte, 10<<20), 0o600))
	deep := filepath.Join(dir, "deep.yaml")
	require.NoError(t, os.WriteFile(deep, []byte(strings.Repeat("[", 1<<17)), 0o600))
	for path, want := range map[string]string{
		filepath.Join(dir, "none.yaml"): "there is no such file: name the configuration with --config",
		dir:                             "is a directory: name the file in it",
		huge:                            "is larger than 262144 bytes: this is not a configuration file",
		deep:                            "is nested too deeply",
	} {
		_, err := config.Load(path)
		var problems *config.Error
		require.True(t, errors.As(err, &problems), path)
		require.Contains(t, err.Error(), path+":")
		require.Contains(t, err.Error(), want)
	}
}

func TestLimitsFor(t *testing.T) {
	t.Parallel()
	cfg := config.Default()
	want := guard.Defaults()
	require.Equal(t, want, cfg.LimitsFor(nil, nil))
	require.Equal(t, want, cfg.LimitsFor(&playbooks.Playbook{}, nil))

	looser := playbooks.Limits{MaxConcurrentRuns: 9, CooldownAfterSuccess: time.Minute, CooldownAfterFailure: time.Minute,
		MaxAttempts: 99, AttemptsWindow: time.Minute, ExpireAfter: 9 * time.Hour}
	require.Equal(t, want, cfg.LimitsFor(&playbooks.Playbook{Limits: looser}, nil), "a playbook cannot loosen")

	cfg.Safety.MaxConcurrentRunsPerPlaybook = 4
	tighter := playbooks.Limits{MaxConcurrentRuns: 2, CooldownAfterSuccess: time.Hour, CooldownAfterFailure: 2 * time.Hour,
		MaxAttempts: 1, AttemptsWindow: 48 * time.Hour, ExpireAfter: time.Minute}
	got := cfg.LimitsFor(&playbooks.Playbook{Limits: tighter}, nil)
	require.Equal(t, 2, got.MaxConcurrentRuns)
	require.Equal(t, time.Hour, got.CooldownAfterSuccess)
	require.Equal(t, 2*time.Hour, got.CooldownAfterFailure)
	require.Equal(t, 1, got.MaxAttempts)
	require.Equal(t, 48*time.Hour, got.AttemptsWindow)

	wider := playbooks.Limits{FiringFor: time.Nanosecond, HumanActivity: time.Minute, Rate: guard.Rate{Burst: 99, Every: time.Second},
		GitOps: guard.GitOpsAllow, MaxUnavailablePods: 99, MaxUnhealthyNodes: 99}
	cfg = config.Default()
	loosened := cfg.LimitsFor(&playbooks.Playbook{Limits: wider}, nil)
	loosened.FiringFor = want.FiringFor // which is none, so that any is tighter
	require.Equal(t, want, loosened, "a playbook cannot loosen")
	stricter := playbooks.Limits{FiringFor: time.Minute, HumanActivity: time.Hour, Rate: guard.Rate{Burst: 1, Every: time.Hour}, MaxUnavailablePods: 1, MaxUnhealthyNodes: 1}
	got = cfg.LimitsFor(&playbooks.Playbook{Limits: stricter}, nil)
	require.Equal(t, []any{time.Minute, time.Hour, guard.Rate{Burst: 1, Every: time.Hour}, 1, 1},
		[]any{got.FiringFor, got.HumanActivity, got.RatePlaybook, got.MaxUnavailablePods, got.MaxUnhealthyNodes})
	cfg.Safety.GitOps = guard.GitOpsApprove
	require.Equal(t, guard.GitOpsDeny, cfg.LimitsFor(&playbooks.Playbook{Limits: playbooks.Limits{GitOps: guard.GitOpsDeny}}, nil).GitOps)
}

// No cap may be zero out of the box, nor be switched off by writing zero.
func TestDefault_nonZero(t *testing.T) {
	t.Parallel()
	// What is more than a cap: rules wait before they fire, and windows and
	// further controllers are the user's own.
	optional := map[string]bool{"safety.FiringFor": true, "safety.Windows": true, "safety.AllowLoosening": true, "safety.ParsedWindows": true, "safety.HumanActivity.IgnoreManagers": true}
	var walk func(path string, v reflect.Value)
	walk = func(path string, v reflect.Value) {
		for i := range v.NumField() {
			name := path + "." + v.Type().Field(i).Name
			if f := v.Field(i); f.Kind() == reflect.Struct {
				walk(name, f)
			} else if !optional[name] {
				require.False(t, f.IsZero(), name)
			}
		}
	}
	walk("safety", reflect.ValueOf(config.Default().Safety))
	walk("engine", reflect.ValueOf(config.Default().Engine))
}

// What the operator switches off is off for the guards, named in a warning, and
// never the meaning of a zero.
func TestWhatIsSwitchedOffIsWarnedOf(t *testing.T) {
	t.Parallel()
	require.Empty(t, config.Default().Safety.Warnings())
	cfg, err := config.Parse("a.yaml", []byte(minimal+`safety:
  humanActivity: {enabled: false}
  watchdog: {enabled: false}
  rate: {enabled: false}
  storm: {enabled: false}
  gitOps: Allow
`))
	require.NoError(t, err)
	require.Len(t, cfg.Safety.Warnings(), 5)
	l := cfg.LimitsFor(nil, nil)
	off := guard.Rate{Burst: guard.Off}
	require.Equal(t, []any{time.Duration(guard.Off), time.Duration(guard.Off), guard.Off, off, off, off, guard.GitOpsAllow},
		[]any{l.HumanActivity, l.WatchdogAge, l.StormRuns, l.RateGlobal, l.RateNamespace, l.RatePlaybook, l.GitOps})
}

func TestWindowsReachTheGuards(t *testing.T) {
	t.Parallel()
	cfg, err := config.Parse("a.yaml", []byte(minimal+`safety:
  windows:
  - {name: nights, type: Maintenance, days: [Fri], start: "22:00", end: "05:00", timeZone: Europe/Berlin, playbooks: [pb]}
  - {name: holidays, type: Freeze, from: "2026-12-21T00:00:00+01:00", until: "2027-01-04T00:00:00+01:00"}
`))
	require.NoError(t, err)
	windows := cfg.LimitsFor(nil, nil).Windows
	require.Len(t, windows, 2)
	inside, err := windows[0].Contains(time.Date(2026, 11, 28, 3, 59, 0, 0, time.UTC)) // Saturday, 04:59 in Berlin
	require.NoError(t, err)
	require.True(t, inside)
	require.False(t, windows[0].Freeze)
	require.True(t, windows[0].For("pb", ""))
	require.True(t, windows[1].Freeze)
	inside, err = windows[1].Contains(time.Date(2026, 12, 24, 18, 0, 0, 0, time.UTC))
	require.NoError(t, err)
	require.True(t, inside)
}

func TestStore_ResolveDSN(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "dsn")
	require.NoError(t, os.WriteFile(file, []byte("postgres://u:p@db/alertmedic\n"), 0o600))
	dsn, err := config.Store{DSN: "a.db", DSNFile: file}.ResolveDSN()
	require.NoError(t, err)
	require.Equal(t, "postgres://u:p@db/alertmedic", dsn)
	_, err = config.Store{DSNFile: filepath.Join(dir, "none")}.ResolveDSN()
	require.ErrorContains(t, err, "there is no such file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	_, err = config.Store{DSNFile: file}.ResolveDSN()
	require.ErrorContains(t, err, "is empty")
}
