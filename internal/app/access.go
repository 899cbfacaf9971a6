package app

import (
	"context"
	"errors"
	"fmt"

	"github.com/alertmedic/alertmedic/internal/action"
	"github.com/alertmedic/alertmedic/internal/auth"
	"github.com/alertmedic/alertmedic/internal/engine"
	"github.com/alertmedic/alertmedic/internal/kube"
	"github.com/alertmedic/alertmedic/internal/notify"
	"github.com/alertmedic/alertmedic/internal/store"
	"github.com/alertmedic/alertmedic/k8sactions/contract"
)

// authenticator reads the tokens of sources and of people. Without any, whoever
// reaches the loopback listener may do everything.
func (a *app) authenticator() (*auth.Authenticator, error) {
	var specs []auth.TokenSpec
	var opts []auth.Option
	for _, s := range a.cfg.Sources {
		if s.TokenFile != "" {
			specs = append(specs, auth.TokenSpec{Name: "source " + s.Name, File: s.TokenFile, Roles: []auth.Role{auth.Ingest}, Source: s.Name})
		}
	}
	anonymous := auth.Identity{Name: "anonymous (loopback)"}
	for _, s := range a.cfg.Sources {
		if s.TokenFile == "" {
			anonymous.Roles, anonymous.Source = append(anonymous.Roles, auth.Ingest), s.Name
		}
	}
	for _, t := range a.cfg.Auth.Tokens {
		specs = append(specs, auth.TokenSpec{Name: t.Name, File: t.TokenFile, Roles: roles(t.Roles)})
	}
	if !a.cfg.Auth.Configured() {
		anonymous.Roles = append(anonymous.Roles, auth.View, auth.Approve, auth.Admin)
	}
	if len(anonymous.Roles) > 0 {
		opts = append(opts, auth.WithAnonymous(anonymous))
	}
	if tr := a.cfg.Auth.TokenReview; tr.Enabled {
		mapping := auth.Mapping{Groups: map[string][]auth.Role{}}
		for _, g := range tr.Roles {
			mapping.Groups[g.Group] = roles(g.Roles)
		}
		session, err := a.kube.As("")
		if err != nil {
			return nil, fmt.Errorf("auth.tokenReview: %w", err)
		}
		opts = append(opts, auth.WithReviewer(auth.NewKubernetesReviewer(session.Typed().AuthenticationV1().TokenReviews()), mapping))
	}
	out, err := auth.Load(specs, opts...)
	if err != nil {
		return nil, err
	}
	return out, auth.CheckListen(a.cfg.Listen.Address, len(anonymous.Roles) == 0)
}

func roles(names []string) []auth.Role {
	out := make([]auth.Role, 0, len(names))
	for _, n := range names {
		out = append(out, auth.Role(n))
	}
	return out
}

// clients lends kube's impersonating sessions to the actions.
type clients struct{ kube *kube.Client }

func (c clients) For(serviceAccount string) (contract.Session, error) {
	return c.kube.As(serviceAccount)
}

// reporter adapts the engine's report to the notifier's update.
type reporter struct{ notify.Reporter }

func (r reporter) Messages(rep engine.Report) []store.Message {
	u := notify.Update{Run: rep.Run, Alerts: rep.Alerts, Steps: rep.Steps, Rungs: rep.Rungs, Event: rep.Event, Message: rep.Message,
		PlanHash: rep.PlanHash, SlackChannel: rep.SlackChannel, At: rep.At}
	return r.Reporter.Messages(u)
}

func (r reporter) StormMessages(s engine.Storm) []store.Message {
	return r.Reporter.StormMessages(notify.StormUpdate{Scope: s.Scope, Since: s.Since, Event: s.Event, Message: s.Message, At: s.At})
}

// emitter lends kube's Events to the notifier.
type emitter struct{ kube *kube.Client }

func (e emitter) EmitEvent(ctx context.Context, id string, r notify.EventReport) error {
	err := e.kube.EmitEvent(ctx, kube.Event{ID: id, Target: r.Target, Type: r.Type, Reason: r.Reason, Message: r.Message, RunID: r.RunID, At: r.At})
	switch action.ReasonOf(err) {
	case action.ReasonGone, action.ReasonTerminating, action.ReasonInvalid:
		// The namespace is gone or going, or the API server will never take it.
		return &notify.PermanentError{Err: err}
	}
	return err
}

// values lends the store's small values to the notifier.
type values struct{ store *store.Store }

func (v values) GetKV(ctx context.Context, key string) (string, bool, error) {
	value, err := v.store.GetValue(ctx, key)
	if errors.Is(err, store.ErrNotFound) {
		return "", false, nil
	}
	return value, err == nil, err
}

func (v values) SetKV(ctx context.Context, key, value string) error {
	return v.store.SetValue(ctx, key, value)
}

// outbox is the store with the names that the notifier uses.
type outbox struct {
	*store.Store
	values
}

// newReporter says what is told to whom.
func (a *app) newReporter() engine.Reporter {
	r := notify.Reporter{Events: a.cfg.Notify.Events, ExternalURL: a.cfg.Listen.ExternalURL}
	if a.cfg.Notify.Slack.Enabled() {
		r.SlackChannel = a.cfg.Notify.Slack.Channel
	}
	return reporter{r}
}

// newDeliverer sends what the reporter put into the outbox.
func (a *app) newDeliverer() (*notify.Deliverer, error) {
	var senders []notify.Sender
	if s := a.cfg.Notify.Slack; s.Enabled() {
		slack, err := notify.NewSlackSender(notify.SlackOptions{TokenFile: s.TokenFile, WebhookURLFile: s.WebhookURLFile, APIURL: s.APIURL, KV: values{a.store}})
		if err != nil {
			return nil, err
		}
		senders = append(senders, slack)
	}
	if a.cfg.Notify.Events {
		senders = append(senders, &notify.EventSender{Emitter: emitter{a.kube}})
	}
	return notify.NewDeliverer(notify.Options{Outbox: outbox{a.store, values{a.store}}, Senders: senders, Owner: a.owner, Changed: a.store.Changed,
		Logger: a.log, Registerer: a.registry})
}
