package config

import (
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/labels"

	"github.com/alertmedic/alertmedic/internal/guard"
)

// validate checks what types cannot say.
func (d *decoder) validate(c *Config) {
	if c.Cluster == "" {
		d.addAt("cluster", `is required: write the name of this cluster, such as "prod-eu1"`)
	}
	d.validateListen(c)
	d.validateSources(c)
	d.validateAuth(c)
	d.validateStore(c)
	if len(c.Playbooks.Paths) == 0 {
		d.addAt("playbooks.paths", `is empty: write the files or directories of the playbooks, such as "playbooks"`)
	}
	for i, p := range c.Playbooks.Paths {
		d.required(fmt.Sprintf("playbooks.paths[%d]", i), p, "a file or directory")
	}
	if !(c.Kubernetes.QPS > 0) {
		d.addAt("kubernetes.qps", "must be greater than 0: write how many requests a second the API server may get, such as 20")
	}
	d.positive("kubernetes.burst", c.Kubernetes.Burst, 40)
	d.required("kubernetes.serviceAccountNamespace", c.Kubernetes.ServiceAccountNamespace, "the namespace of the ServiceAccounts that playbooks name")
	d.validateSafety(c)
	d.validateEngine(c)
	d.validateSlack(c.Notify.Slack)
	d.lasting("journal.checkpointInterval", c.Journal.CheckpointInterval, "1m")
	d.oneOf("log.level", c.Log.Level, "debug", "info", "warn", "error")
	d.oneOf("log.format", c.Log.Format, "logfmt", "json")
}

func (d *decoder) validateListen(c *Config) {
	host, port, err := net.SplitHostPort(c.Listen.Address)
	if err != nil {
		d.addAt("listen.address", `must be host:port, such as "127.0.0.1:9095": %v`, err)
		return
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil {
		d.addAt("listen.address", "the port must be a number from 0 to 65535, not %q", port)
	} else if n == 0 && host == "" {
		d.addAt("listen.address", `names neither a host nor a port: write both, such as "127.0.0.1:9095"`)
	}
	d.positive("listen.maxConnections", c.Listen.MaxConnections, 2048)
	if c.Listen.ExternalURL != "" {
		d.httpURL("listen.externalURL", c.Listen.ExternalURL)
	}
	if c.LoopbackOnly() {
		return
	}
	for i, s := range c.Sources {
		if s.TokenFile == "" {
			d.addAt(fmt.Sprintf("sources[%d].tokenFile", i),
				"is required because listen.address %s is not loopback: write the file of the token that the Alertmanager presents, or listen on 127.0.0.1", c.Listen.Address)
		}
	}
	if !c.Auth.Configured() {
		d.addAt("auth", "is required because listen.address %s is not loopback: write auth.tokens, set auth.tokenReview.enabled, or listen on 127.0.0.1", c.Listen.Address)
	}
}

// Configured reports whether anyone can prove who they are. When not, the API
// is open, which only a loopback listener may be.
func (a Auth) Configured() bool { return len(a.Tokens) > 0 || a.TokenReview.Enabled }

// LoopbackOnly reports whether only processes of the same machine can connect.
func (c *Config) LoopbackOnly() bool {
	host, _, err := net.SplitHostPort(c.Listen.Address)
	if err != nil {
		return false
	}
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

func (d *decoder) validateSources(c *Config) {
	if len(c.Sources) == 0 {
		d.addAt("sources", "is required: write at least one source, such as - {name: alertmanager-main, tokenFile: /etc/alertmedic/tokens/alertmanager}")
	}
	names, tokens := map[string]int{}, map[string]int{}
	for i, s := range c.Sources {
		path := fmt.Sprintf("sources[%d]", i)
		d.unique(path+".name", s.Name, names, i, "the name that the log gives to the source")
		if first, twice := tokens[s.TokenFile]; twice {
			what := "has the token file of"
			if s.TokenFile == "" {
				what = "accepts webhooks without a token, like"
			}
			d.addAt(path+".tokenFile", "%s sources[%d]: webhooks of the two could not be told apart, give each a token of its own", what, first)
		} else {
			tokens[s.TokenFile] = i
		}
		d.items(path+".namespaces", s.Namespaces)
		d.items(path+".playbooks", s.Playbooks)
		d.endpoints(path+".alertmanagers", s.Alertmanagers)
		d.endpoints(path+".prometheuses", s.Prometheuses)
		d.lasting(path+".groupInterval", s.GroupInterval, "5m")
		if c.Safety.Mode == guard.Auto {
			for _, reader := range []struct {
				field string
				list  []Endpoint
				why   string
			}{
				{"alertmanagers", s.Alertmanagers, "a silence could not be seen"},
				{"prometheuses", s.Prometheuses, "a resolution could not be proved"},
			} {
				if len(reader.list) == 0 {
					d.addAt(path+"."+reader.field, "is required in Auto mode, because without it %s: write - {url: http://...}, or safety.mode: Approve", reader.why)
				}
			}
		}
	}
}

func (d *decoder) endpoints(path string, list []Endpoint) {
	seen := map[string]int{}
	for i, e := range list {
		item := fmt.Sprintf("%s[%d]", path, i)
		if first, twice := seen[e.URL]; twice && e.URL != "" {
			d.addAt(item+".url", "is also %s[%d]: remove one", path, first)
		}
		seen[e.URL] = i
		d.httpURL(item+".url", e.URL)
		if e.CAFile != "" && e.InsecureSkipVerify {
			d.addAt(item+".insecureSkipVerify", "contradicts caFile: remove one of them")
		}
	}
}

// httpURL never quotes the URL: it may hold a password.
func (d *decoder) httpURL(path, text string) {
	u, err := url.Parse(text)
	switch {
	case text == "":
		d.addAt(path, "is required: write a URL such as http://alertmanager.monitoring:9093")
	case err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "":
		d.addAt(path, "must be an http or https URL with a host, such as http://alertmanager.monitoring:9093")
	case u.User != nil:
		d.addAt(path, "must not hold credentials: this file is not a secret; use a token file")
	case u.RawQuery != "" || u.Fragment != "":
		d.addAt(path, "must not have a query or a fragment: write scheme, host and path only")
	}
}

func (d *decoder) validateAuth(c *Config) {
	names := map[string]int{}
	for i, t := range c.Auth.Tokens {
		path := fmt.Sprintf("auth.tokens[%d]", i)
		d.unique(path+".name", t.Name, names, i, "who the log says acted")
		d.roles(path+".roles", t.Roles)
		d.required(path+".tokenFile", t.TokenFile, "the file that holds the token")
		for j, s := range c.Sources {
			if t.TokenFile != "" && t.TokenFile == s.TokenFile {
				d.addAt(path+".tokenFile", "is also the token of sources[%d]: a webhook's token must not authorise anything else, make another", j)
			}
		}
	}
	if c.Auth.TokenReview.Enabled && len(c.Auth.TokenReview.Roles) == 0 {
		d.addAt("auth.tokenReview.roles", "is required when tokenReview is enabled: write - {group: sre, roles: [view, approve]}")
	}
	for i, r := range c.Auth.TokenReview.Roles {
		path := fmt.Sprintf("auth.tokenReview.roles[%d]", i)
		d.required(path+".group", r.Group, "a group of the cluster's users")
		d.roles(path+".roles", r.Roles)
	}
}

func (d *decoder) roles(path string, roles []string) {
	if len(roles) == 0 {
		d.addAt(path, "is required: write some of view, approve and admin")
	}
	for i, r := range roles {
		d.oneOf(fmt.Sprintf("%s[%d]", path, i), r, RoleView, RoleApprove, RoleAdmin)
	}
}

func (d *decoder) validateStore(c *Config) {
	_, dsnWritten := d.where["store.dsn"]
	if c.Store.DSNFile != "" && dsnWritten {
		d.addAt("store.dsnFile", "contradicts store.dsn: remove one of them")
	}
	if c.Store.DSNFile == "" {
		d.required("store.dsn", c.Store.DSN, `a SQLite file such as "alertmedic.db", or a postgres:// URL`)
	}
	d.lasting("store.flapDwell", c.Store.FlapDwell, "2m")
	d.validateRetention(c.Store.Retention)
}

func (d *decoder) validateSafety(c *Config) {
	s := c.Safety
	d.oneOf("safety.mode", string(s.Mode), string(guard.Observe), string(guard.Approve), string(guard.Auto))
	d.positive("safety.maxConcurrentRuns", s.MaxConcurrentRuns, 5)
	d.positive("safety.maxConcurrentRunsPerNamespace", s.MaxConcurrentRunsPerNamespace, 2)
	d.positive("safety.maxConcurrentRunsPerPlaybook", s.MaxConcurrentRunsPerPlaybook, 1)
	d.lasting("safety.cooldown.afterSuccess", s.Cooldown.AfterSuccess, "15m")
	d.lasting("safety.cooldown.afterFailure", s.Cooldown.AfterFailure, "1h")
	d.positive("safety.attempts.max", s.Attempts.Max, 3)
	d.lasting("safety.attempts.window", s.Attempts.Window, "24h")
	d.lasting("safety.expireAfter", s.ExpireAfter, "1h")
	d.positive("safety.nodes.maxUnhealthy", s.Nodes.MaxUnhealthy, 2)
	d.positive("safety.nodes.maxUnhealthyPercent", s.Nodes.MaxUnhealthyPercent, 20)
	if s.Nodes.MaxUnhealthyPercent > 100 {
		d.addAt("safety.nodes.maxUnhealthyPercent", "must be at most 100: write a percentage such as 20")
	}
	d.lasting("safety.nodes.settle", s.Nodes.Settle, "1m")
	d.validateGuards(&c.Safety)
	d.items("safety.protectedNamespaces", s.ProtectedNamespaces)
	for i, text := range s.ProtectedSelectors {
		path := fmt.Sprintf("safety.protectedSelectors[%d]", i)
		selector, err := labels.Parse(text)
		switch {
		case err != nil:
			d.addAt(path, "is not a label selector such as app=web or app in (web, api): %v", err)
		case selector.Empty():
			d.addAt(path, "is empty and would protect every node: write a label selector such as app=prometheus")
		}
	}
}

func (d *decoder) validateEngine(c *Config) {
	e := c.Engine
	d.lasting("kubernetes.requestTimeout", c.Kubernetes.RequestTimeout, "60s")
	d.positive("engine.workers", e.Workers, 8)
	d.lasting("engine.lease", e.Lease, "3s")
	if e.Lease > 0 && e.Lease < time.Second {
		d.addAt("engine.lease", "must be at least 1s: a process that only pauses for a moment would lose its runs to another")
	}
	d.lasting("engine.poll", e.Poll, "1s")
	d.lasting("engine.resyncInterval", e.ResyncInterval, "1m")
	d.lasting("engine.callTimeout", e.CallTimeout, "20s")
	d.lasting("engine.unknownExtension", e.UnknownExtension, "5m")
	d.lasting("engine.drainTimeout", e.DrainTimeout, "30s")
}

func (d *decoder) validateSlack(s Slack) {
	if s.TokenFile != "" && s.WebhookURLFile != "" {
		d.addAt("notify.slack.webhookURLFile", "contradicts notify.slack.tokenFile: keep the bot token, which can update its messages, or the webhook")
	}
	if s.Enabled() {
		d.required("notify.slack.channel", s.Channel, `the channel for playbooks that name none, such as "#alerts"`)
	}
	if s.APIURL != "" {
		d.httpURL("notify.slack.apiURL", s.APIURL)
	}
}

func (d *decoder) required(path, value, what string) {
	if strings.TrimSpace(value) == "" {
		d.addAt(path, "is required: write %s", what)
	}
}

func (d *decoder) unique(path, value string, seen map[string]int, i int, what string) {
	d.required(path, value, what)
	if first, twice := seen[value]; twice && value != "" {
		d.addAt(path, "%q is already the name of item %d of the list: names are unique", value, first)
		return
	}
	seen[value] = i
}

func (d *decoder) items(path string, list []string) {
	for i, v := range list {
		d.required(fmt.Sprintf("%s[%d]", path, i), v, "a name, or remove the item")
	}
}

func (d *decoder) positive(path string, n, fallback int) {
	if n <= 0 {
		d.addAt(path, "must be greater than 0, because a limit cannot be switched off: write a number such as %d, or leave it out for the default", fallback)
	}
}

func (d *decoder) lasting(path string, v time.Duration, fallback string) {
	if v <= 0 {
		d.addAt(path, "must be longer than 0, because it cannot be switched off: write a duration such as %s, or leave it out for the default", fallback)
	}
}

func (d *decoder) oneOf(path, value string, allowed ...string) {
	if !slices.Contains(allowed, value) {
		d.addAt(path, "must be one of %s, not %q%s", strings.Join(allowed, ", "), value, didYouMean(value, allowed))
	}
}
