package kube

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/alertmedic/alertmedic/internal/action"
)

// CanI asks the API server whether the session's identity may do what
// attributes say.
func (s *Session) CanI(ctx context.Context, attributes authorizationv1.ResourceAttributes) (bool, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	review := &authorizationv1.SelfSubjectAccessReview{
		Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &attributes},
	}
	answer, err := s.typed.AuthorizationV1().SelfSubjectAccessReviews().Create(ctx, review, metav1.CreateOptions{})
	if err != nil {
		return false, fmt.Errorf("kube: access review as ServiceAccount %q: %w", s.serviceAccount, Classify(err, false))
	}
	return answer.Status.Allowed, nil
}

// accessFor is for how long a right that was there is taken to be there still.
// One that is taken away meanwhile is refused by the API server when it is used;
// a refusal is never remembered.
const accessFor = time.Minute

type accessQuestion struct {
	serviceAccount string
	authorizationv1.ResourceAttributes
}

// accessAnswers remembers rights that were there, so that a storm does not ask
// for the same few thousands of times. The zero value is empty. Safe for
// concurrent use.
type accessAnswers struct {
	mu    sync.Mutex
	until map[accessQuestion]time.Time
}

func (k *accessAnswers) granted(q accessQuestion, now time.Time) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return now.Before(k.until[q])
}

func (k *accessAnswers) grant(q accessQuestion, now time.Time) {
	const most = 10_000
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.until == nil || len(k.until) >= most {
		k.until = map[accessQuestion]time.Time{}
	}
	k.until[q] = now.Add(accessFor)
}

// CheckRules asks, before the first mutation of a run, whether the
// ServiceAccount has every right that the rules list, in the namespace or, for
// a cluster-scoped rule, everywhere. It returns what is missing, sorted, such
// as "delete pods in namespace shop"; an error means that it could not be told.
func (c *Client) CheckRules(ctx context.Context, serviceAccount, namespace string, rules []action.Rule) ([]string, error) {
	session, err := c.As(serviceAccount)
	if err != nil {
		return nil, err
	}
	ctx, cancel := bounded(ctx)
	defer cancel()

	var missing []string
	for _, a := range accessOf(namespace, rules) {
		question := accessQuestion{serviceAccount, a}
		if c.access.granted(question, c.now()) {
			continue
		}
		allowed, err := session.CanI(ctx, a)
		if err != nil {
			return nil, err
		}
		if !allowed {
			missing = append(missing, describeAccess(a))
			continue
		}
		c.access.grant(question, c.now())
	}
	slices.Sort(missing)
	return missing, nil
}

// accessOf expands rules to single questions, each asked once.
func accessOf(namespace string, rules []action.Rule) []authorizationv1.ResourceAttributes {
	var out []authorizationv1.ResourceAttributes
	seen := make(map[authorizationv1.ResourceAttributes]bool)
	for _, rule := range rules {
		for _, group := range rule.APIGroups {
			for _, resource := range rule.Resources {
				for _, verb := range rule.Verbs {
					a := authorizationv1.ResourceAttributes{Group: group, Verb: verb, Namespace: namespace}
					a.Resource, a.Subresource, _ = strings.Cut(resource, "/")
					if rule.ClusterScoped {
						a.Namespace = ""
					}
					if !seen[a] {
						seen[a] = true
						out = append(out, a)
					}
				}
			}
		}
	}
	return out
}

func describeAccess(a authorizationv1.ResourceAttributes) string {
	var b strings.Builder
	b.WriteString(a.Verb + " " + a.Resource)
	if a.Group != "" {
		b.WriteString("." + a.Group)
	}
	if a.Subresource != "" {
		b.WriteString("/" + a.Subresource)
	}
	if a.Namespace == "" {
		b.WriteString(" in the cluster")
	} else {
		b.WriteString(" in namespace " + a.Namespace)
	}
	return b.String()
}
