package app

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/alertmedic/alertmedic/internal/action"
	"github.com/alertmedic/alertmedic/internal/config"
	"github.com/alertmedic/alertmedic/internal/kube"
	"github.com/alertmedic/alertmedic/internal/rbac"
	"github.com/alertmedic/alertmedic/playbooks"
)

// rightsEvery is how often the rights of the playbooks are looked at again, and
// rightsRetry how soon when they could not be.
const (
	rightsEvery = 10 * time.Minute
	rightsRetry = time.Minute
)

// rights are what playbooks lack, as the API server last said.
type rights struct {
	gauge *prometheus.GaugeVec
	due   chan struct{}

	mu      sync.Mutex
	missing map[string][]string // by playbook
}

func newRights(r prometheus.Registerer) (*rights, error) {
	out := &rights{due: make(chan struct{}, 1), gauge: prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: "alertmedic", Name: "playbook_missing_rights",
		Help: "Rights that the ServiceAccount of a playbook lacks, by playbook; see alertmedic rbac."}, []string{"playbook"})}
	if err := r.Register(out.gauge); err != nil {
		return nil, fmt.Errorf("register the metric of missing rights: %w", err)
	}
	return out, nil
}

// again asks for another look soon. It never blocks.
func (r *rights) again() {
	select {
	case r.due <- struct{}{}:
	default:
	}
}

// set keeps what was found and returns the playbooks about which it is news.
func (r *rights) set(missing map[string][]string) (news []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.gauge.Reset()
	for name, list := range missing {
		r.gauge.WithLabelValues(name).Set(float64(len(list)))
		if len(list) > 0 && !slices.Equal(r.missing[name], list) {
			news = append(news, name)
		}
	}
	r.missing = missing
	slices.Sort(news)
	return news
}

// err says which playbooks lack rights, for /-/ready.
func (r *rights) err() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var lacking []string
	for name, list := range r.missing {
		if len(list) > 0 {
			lacking = append(lacking, fmt.Sprintf("%s (%d)", name, len(list)))
		}
	}
	if len(lacking) == 0 {
		return nil
	}
	slices.Sort(lacking)
	return errors.New("playbooks lack rights, see the log and `alertmedic rbac`: " + strings.Join(lacking, ", "))
}

// reviewRights looks whether each playbook has the rights that its steps need:
// at start, after a reload and now and again, so that what is missing is known
// before the night in which it is needed.
func (a *app) reviewRights(ctx context.Context) error {
	for {
		next := time.NewTimer(a.reviewOnce(ctx))
		select {
		case <-ctx.Done():
			next.Stop()
			return nil
		case <-next.C:
		case <-a.rights.due:
			next.Stop()
		}
	}
}

// reviewOnce returns when to look again.
func (a *app) reviewOnce(ctx context.Context) time.Duration {
	missing := map[string][]string{}
	for _, pb := range a.playbooks.Current().All() {
		list, err := a.lacks(ctx, pb)
		if ctx.Err() != nil {
			return rightsEvery
		}
		if err != nil {
			// A cluster that is away says nothing about rights.
			a.log.Warn("the rights of the playbooks could not be looked at; trying again", "playbook", pb.Name, "err", err, "after", rightsRetry)
			return rightsRetry
		}
		missing[pb.Name] = list
	}
	for _, name := range a.rights.set(missing) {
		a.log.Error("a playbook lacks rights and cannot do all that it says: grant what `alertmedic rbac` prints", "playbook", name,
			"missing", strings.Join(missing[name], "; "))
	}
	return rightsEvery
}

// lacks asks, as the playbook's ServiceAccount, for every right of its steps.
func (a *app) lacks(ctx context.Context, pb *playbooks.Playbook) ([]string, error) {
	return lacks(ctx, a.kube, a.actions, pb, a.cfg.Kubernetes.DefaultServiceAccountName)
}

func lacks(ctx context.Context, k *kube.Client, cat rbac.Catalogue, pb *playbooks.Playbook, fallback string) ([]string, error) {
	var rules []action.Rule
	for _, remedy := range pb.Remedies {
		for _, step := range remedy.Steps {
			if spec, ok := cat.Lookup(step.Action); ok {
				rules = append(rules, spec.Rules(pb.Target.Kind)...)
			}
		}
	}
	namespaces := rbac.Namespaces(pb)
	if len(namespaces) == 0 {
		namespaces = []string{""}
	}
	var out []string
	for _, ns := range namespaces {
		missing, err := k.CheckRules(ctx, cmp.Or(pb.ServiceAccountName, fallback), ns, rules)
		if err != nil {
			return nil, fmt.Errorf("review the rights of %s: %w", pb.Name, err)
		}
		out = append(out, missing...)
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

// MissingRights asks the cluster that the configuration names which rights the
// playbooks lack, by playbook, as the service does when it starts.
func MissingRights(ctx context.Context, c config.Kubernetes, books []*playbooks.Playbook, cat rbac.Catalogue) (map[string][]string, error) {
	restConfig, err := restConfigOf(c)
	if err != nil {
		return nil, err
	}
	k, err := kube.New(kube.Options{Config: restConfig, Namespace: c.ServiceAccountNamespace, QPS: float32(c.QPS), Burst: c.Burst,
		UserAgent: "alertmedic/check", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, fmt.Errorf("connect to Kubernetes: %w", err)
	}
	defer k.Close()
	out := map[string][]string{}
	for _, pb := range books {
		missing, err := lacks(ctx, k, cat, pb, c.DefaultServiceAccountName)
		if err != nil {
			return nil, err
		}
		if len(missing) > 0 {
			out[pb.Name] = missing
		}
	}
	return out, nil
}
