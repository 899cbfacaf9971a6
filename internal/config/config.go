// Package config is the service's configuration: one YAML file, decoded
// strictly, with safe defaults, whose problems are all reported at once with
// file, line and column.
//
// Durations are Prometheus durations ("90s", "1h30m", "2d"). File names that
// are not absolute are relative to the directory of the configuration file.
package config

import (
	"time"

	"github.com/alertmedic/alertmedic/internal/guard"
)

// Config is the whole configuration. It is immutable after Load.
type Config struct {
	// Cluster is the name of the cluster that this service heals. Required: an
	// alert whose cluster label says otherwise is denied.
	Cluster    string     `yaml:"cluster"`
	Listen     Listen     `yaml:"listen"`
	Sources    []Source   `yaml:"sources"`
	Auth       Auth       `yaml:"auth"`
	Store      Store      `yaml:"store"`
	Playbooks  Playbooks  `yaml:"playbooks"`
	Kubernetes Kubernetes `yaml:"kubernetes"`
	Safety     Safety     `yaml:"safety"`
	Engine     Engine     `yaml:"engine"`
	Notify     Notify     `yaml:"notify"`
	Journal    Journal    `yaml:"journal"`
	Log        Log        `yaml:"log"`

	// File is where the configuration was read, "" for Default.
	File string `yaml:"-"`
	// Hash is the SHA-256 (hex) of the file, "" for Default. A reload that finds
	// the same hash changes nothing.
	Hash string `yaml:"-"`
}

// Listen says where the HTTP server listens.
type Listen struct {
	// Address is host:port, "127.0.0.1:9095" by default. An address that is not
	// loopback needs a token for every source and for the API.
	Address string `yaml:"address"`
	// WebConfigFile is a TLS configuration in the exporter-toolkit's format;
	// "" serves plain HTTP.
	WebConfigFile string `yaml:"webConfigFile"`
	// ExternalURL is how people reach the service, for links in reports; "" leaves
	// links out.
	ExternalURL string `yaml:"externalURL"`
	// MaxConnections is how many connections may be open at a time, 2048 by
	// default. Beyond it, the connection that has owed a request for longest is
	// closed for the new one, so that slow senders never keep quick ones out.
	MaxConnections int `yaml:"maxConnections"`
}

// Source is one authenticated sender of webhooks: an Alertmanager, or the
// replicas of one.
type Source struct {
	// Name identifies the source in the log. Required, unique.
	Name string `yaml:"name"`
	// TokenFile holds the bearer token that the source presents; "" accepts
	// webhooks without one, on loopback only and for one source only.
	TokenFile string `yaml:"tokenFile"`
	// Cluster is the cluster that the source's alerts are about; default: the
	// configuration's.
	Cluster string `yaml:"cluster"`
	// Namespaces and Playbooks are what alerts of the source may touch and start;
	// empty: all.
	Namespaces []string `yaml:"namespaces"`
	Playbooks  []string `yaml:"playbooks"`
	// Alertmanagers and Prometheuses are where the state of the source's alerts
	// is read. Auto mode requires one of each: silences live in the one, the
	// proof of a resolution in the other.
	Alertmanagers []Endpoint `yaml:"alertmanagers"`
	Prometheuses  []Endpoint `yaml:"prometheuses"`
	// Receivers are the names of Alertmanager's receivers that lead here,
	// ["alertmedic"] by default. When the state of alerts is read anew, alerts
	// that are routed to none of them are left alone.
	Receivers []string `yaml:"receivers"`
	// GroupInterval is the longest group_interval of the route that leads here,
	// 5m by default (Alertmanager's own default).
	GroupInterval time.Duration `yaml:"groupInterval"`
}

// Endpoint is one HTTP API that the service reads.
type Endpoint struct {
	// URL is http or https, without credentials. Required.
	URL string `yaml:"url"`
	// BearerTokenFile is read again at every request, so that it can rotate.
	BearerTokenFile string `yaml:"bearerTokenFile"`
	// CAFile holds the certificates to trust instead of the system's.
	CAFile string `yaml:"caFile"`
	// InsecureSkipVerify trusts any certificate: for trying only.
	InsecureSkipVerify bool `yaml:"insecureSkipVerify"`
}

// Auth says who may use the API. A token of a source authorises nothing here.
type Auth struct {
	Tokens      []Token     `yaml:"tokens"`
	TokenReview TokenReview `yaml:"tokenReview"`
}

// The roles of the API. Each includes nothing of another.
const (
	RoleView    = "view"    // read log, runs and playbooks
	RoleApprove = "approve" // approve and reject plans
	RoleAdmin   = "admin"   // pause, resume, reload
)

// Token is one static credential of the API.
type Token struct {
	// Name is who the log says acted. Required, unique.
	Name string `yaml:"name"`
	// Roles are some of view, approve and admin; none includes another.
	Roles []string `yaml:"roles"`
	// TokenFile holds the bearer token. Required.
	TokenFile string `yaml:"tokenFile"`
}

// TokenReview lets the cluster's own identities in, by group.
type TokenReview struct {
	// Enabled asks the API server about bearer tokens that are not listed here.
	Enabled bool `yaml:"enabled"`
	// Roles are what the groups of those identities may do.
	Roles []GroupRole `yaml:"roles"`
}

// GroupRole gives the members of a Kubernetes group some roles.
type GroupRole struct {
	// Group is a Kubernetes group, such as system:serviceaccounts:monitoring.
	Group string `yaml:"group"`
	// Roles are some of view, approve and admin.
	Roles []string `yaml:"roles"`
}

// Store is the database.
type Store struct {
	// DSN is a SQLite file ("alertmedic.db" by default, relative to the working
	// directory) or a postgres:// URL.
	DSN string `yaml:"dsn"`
	// DSNFile holds the DSN instead, for one with a password in it.
	DSNFile string `yaml:"dsnFile"`
	// FlapDwell is how long an episode that resolved can be reopened by the same
	// signal instead of a new one beginning; 2m by default.
	FlapDwell time.Duration `yaml:"flapDwell"`
	// Retention says for how long things are kept after they have ended.
	Retention Retention `yaml:"retention"`
}

// Playbooks says where playbooks are read.
type Playbooks struct {
	// Paths are files and directories, ["playbooks"] by default.
	Paths []string `yaml:"paths"`
	// Watch reloads them when they change; true by default.
	Watch bool `yaml:"watch"`
}

// Kubernetes is the connection to the API server.
type Kubernetes struct {
	// Kubeconfig is a file; "" means in-cluster, then KUBECONFIG, then the
	// user's default.
	Kubeconfig string `yaml:"kubeconfig"`
	// Context of the kubeconfig; "" is its current one.
	Context string `yaml:"context"`
	// ServiceAccountNamespace is where the ServiceAccounts that playbooks name
	// live, "alertmedic" by default.
	ServiceAccountNamespace string `yaml:"serviceAccountNamespace"`
	// DefaultServiceAccountName is impersonated for playbooks that name none;
	// "" uses the service's own identity.
	DefaultServiceAccountName string `yaml:"defaultServiceAccountName"`
	// RequestTimeout is the API server's own --request-timeout: 60s. A change that
	// got no answer is not called absent before it is over.
	RequestTimeout time.Duration `yaml:"requestTimeout"`
	// QPS and Burst limit the requests to the API server: 20 and 40 by default.
	QPS   float64 `yaml:"qps"`
	Burst int     `yaml:"burst"`
}

// Safety holds the caps. Zero is refused; what can be switched off has a setting
// for it, and `alertmedic check` warns about it.
type Safety struct {
	// Mode is the loosest mode that any playbook may have, and the mode of those
	// that name none: Auto by default.
	Mode guard.Mode `yaml:"mode"`
	// Concurrent admitted runs: 5 in all, 2 in a namespace, 1 of a playbook.
	MaxConcurrentRuns             int      `yaml:"maxConcurrentRuns"`
	MaxConcurrentRunsPerNamespace int      `yaml:"maxConcurrentRunsPerNamespace"`
	MaxConcurrentRunsPerPlaybook  int      `yaml:"maxConcurrentRunsPerPlaybook"`
	Cooldown                      Cooldown `yaml:"cooldown"`
	Attempts                      Attempts `yaml:"attempts"`
	// ExpireAfter is how long after its alert a run may still start, and how long
	// after its last change one may be held back; playbooks may set less: 1h.
	ExpireAfter time.Duration `yaml:"expireAfter"`
	// FiringFor is how long an alert must have fired before anything is changed,
	// the hysteresis of a flapping one; no wait by default, since rules have one.
	FiringFor time.Duration `yaml:"firingFor"`
	// Windows are freezes and maintenance windows.
	Windows []Window `yaml:"windows"`
	Nodes   Nodes    `yaml:"nodes"`
	Pods    Pods     `yaml:"pods"`
	Rate    Rates    `yaml:"rate"`
	Storm   Storm    `yaml:"storm"`
	// GitOps says what becomes of a change to a spec that Argo CD, Flux or Helm
	// owns: Deny, which is the default, Approve or Allow.
	GitOps        guard.GitOpsPolicy `yaml:"gitOps"`
	HumanActivity HumanActivity      `yaml:"humanActivity"`
	Watchdog      Watchdog           `yaml:"watchdog"`
	// FailoverDwell is how long an alert must have fired before traffic is moved to
	// a standby, which a person approves in any case: 5m.
	FailoverDwell time.Duration `yaml:"failoverDwell"`
	Velocity      Velocity      `yaml:"velocity"`
	// ProtectedNamespaces are left alone unless a playbook's matchers or target
	// name them: kube-system, kube-public and kube-node-lease by default.
	ProtectedNamespaces []string `yaml:"protectedNamespaces"`
	// ProtectedSelectors are label selectors of pods whose nodes are protected:
	// by default alertmedic, Alertmanager and Prometheus.
	ProtectedSelectors []string `yaml:"protectedSelectors"`

	// AllowLoosening names limits that a playbook may loosen, such as [attempts];
	// none by default. Elsewhere the tighter of the two is in force.
	AllowLoosening []string `yaml:"allowLoosening"`

	// ParsedWindows are Windows as the guards know them.
	ParsedWindows []guard.Window `yaml:"-"`
}

// Cooldown is the least time between two attempts on one target: 15m after a
// success, 1h after a failure.
type Cooldown struct {
	// AfterSuccess is how long a target is left alone after a run that healed it.
	AfterSuccess time.Duration `yaml:"afterSuccess"`
	// AfterFailure is the same after one that changed something and did not.
	AfterFailure time.Duration `yaml:"afterFailure"`
}

// Attempts bounds attempts on one target: 3 within 24h.
type Attempts struct {
	// Max attempts on one target, counted by its top controller.
	Max int `yaml:"max"`
	// Window is the time in which they are counted.
	Window time.Duration `yaml:"window"`
}

// Nodes is the unhealthy budget of nodes; the tighter of the two caps counts.
type Nodes struct {
	// MaxUnhealthy nodes, the target included: 2.
	MaxUnhealthy int `yaml:"maxUnhealthy"`
	// MaxUnhealthyPercent of the nodes: 20, rounded down, at least one node.
	MaxUnhealthyPercent int `yaml:"maxUnhealthyPercent"`
	// Settle is how long the number of unhealthy nodes must not have grown: 1m.
	Settle time.Duration `yaml:"settle"`
	// Runs on nodes of one pool and of one zone at a time, and the zones in which
	// nodes are worked on at a time: 1 each.
	MaxConcurrentPerPool int `yaml:"maxConcurrentPerPool"`
	MaxConcurrentPerZone int `yaml:"maxConcurrentPerZone"`
	MaxZones             int `yaml:"maxZones"`
	// ControlPlane says whether nodes of the control plane may be worked on:
	// Protect, which is the default, or OneAtATime while the quorum is known to hold.
	ControlPlane guard.ControlPlanePolicy `yaml:"controlPlane"`
}

// Engine tunes the worker loop.
type Engine struct {
	// Workers is how many runs are worked on at a time: 8.
	Workers int `yaml:"workers"`
	// Lease is how long a run stays with a replica that gives no sign of life:
	// 3s. Then another replica takes it over.
	Lease time.Duration `yaml:"lease"`
	// Poll is the longest time until due work is noticed: 1s.
	Poll time.Duration `yaml:"poll"`
	// ResyncInterval is how often the state of alerts is read anew: 1m.
	ResyncInterval time.Duration `yaml:"resyncInterval"`
	// CallTimeout bounds one call to the API server: 20s.
	CallTimeout time.Duration `yaml:"callTimeout"`
	// UnknownExtension is how long a verification whose verdict is unknown is
	// extended, once: 5m.
	UnknownExtension time.Duration `yaml:"unknownExtension"`
	// DrainTimeout bounds a graceful stop: 30s.
	DrainTimeout time.Duration `yaml:"drainTimeout"`
}

// Notify says where reports of runs go.
type Notify struct {
	Slack Slack `yaml:"slack"`
	// Events writes Kubernetes Events on targets; true by default.
	Events bool `yaml:"events"`
}

// Slack is configured by a bot token or by an incoming webhook; with neither
// it is off.
type Slack struct {
	// TokenFile holds a bot token with the chat:write scope.
	TokenFile string `yaml:"tokenFile"`
	// WebhookURLFile holds the URL of an incoming webhook, which cannot update
	// its messages: only approvals and ends are posted.
	WebhookURLFile string `yaml:"webhookURLFile"`
	// Channel for playbooks that name none: "#alerts".
	Channel string `yaml:"channel"`
	// APIURL replaces Slack's own API, for a proxy.
	APIURL string `yaml:"apiURL"`
}

// Enabled reports whether Slack is configured.
func (s Slack) Enabled() bool { return s.TokenFile != "" || s.WebhookURLFile != "" }

// Journal configures the checkpoints of the remediation log.
type Journal struct {
	// CheckpointKeyFile holds the Ed25519 private key (PEM) that signs
	// checkpoints; "" makes a key for the life of the process.
	CheckpointKeyFile string `yaml:"checkpointKeyFile"`
	// CheckpointFile receives the checkpoints, one a line; "" writes them to the
	// log only.
	CheckpointFile string `yaml:"checkpointFile"`
	// CheckpointInterval is the time between two checkpoints: 1m.
	CheckpointInterval time.Duration `yaml:"checkpointInterval"`
}

// Log configures the process's own log on stderr.
type Log struct {
	Level  string `yaml:"level"`  // debug, info (default), warn or error
	Format string `yaml:"format"` // logfmt (default) or json
}

// Default returns the defaults. It is not a valid configuration yet: cluster
// and sources have none.
func Default() *Config {
	return &Config{
		Listen:     Listen{Address: "127.0.0.1:9095", MaxConnections: 2048},
		Store:      Store{DSN: "alertmedic.db", FlapDwell: 2 * time.Minute, Retention: Retention{Runs: defaultRetention}},
		Playbooks:  Playbooks{Paths: []string{"playbooks"}, Watch: true},
		Kubernetes: Kubernetes{ServiceAccountNamespace: "alertmedic", RequestTimeout: time.Minute, QPS: 20, Burst: 40},
		Safety:     defaultSafety(),
		Engine: Engine{
			Workers:          8,
			Lease:            3 * time.Second,
			Poll:             time.Second,
			ResyncInterval:   time.Minute,
			CallTimeout:      20 * time.Second,
			UnknownExtension: 5 * time.Minute,
			DrainTimeout:     30 * time.Second,
		},
		Notify:  Notify{Slack: Slack{Channel: "#alerts"}, Events: true},
		Journal: Journal{CheckpointInterval: time.Minute},
		Log:     Log{Level: "info", Format: "logfmt"},
	}
}

// setDefaults gives an item of a list its defaults before it is decoded.
func (s *Source) setDefaults() {
	s.GroupInterval = 5 * time.Minute
	s.Receivers = []string{"alertmedic"}
}
